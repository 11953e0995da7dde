"""``discloud get`` and ``discloud cat``: objects to files, folders and standard output."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import click

from discloud.cli.batch import each, run
from discloud.cli.client import HOPELESS, Client
from discloud.cli.download import Fetch
from discloud.cli.landing import PartFile, Stream
from discloud.cli.listing import below
from discloud.cli.options import SizeType, as_json, jobs, on_mesh, quiet
from discloud.cli.output import emit, human, say_error, told
from discloud.cli.profile import Profile
from discloud.cli.progress import FileProgress, Progress
from discloud.cli.remote import ANY, OBJECT, Remote
from discloud.cli.telling import telling
from discloud.cli.tree import Tree
from discloud.errors import DiscloudError, Invalid


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options of a get say."""

    jobs: int
    as_json: bool
    query: dict[str, str]


@click.command(short_help="Fetch objects into files; a cut transfer is resumed.")
@click.argument("source", metavar="BUCKET/KEY", type=ANY)
@click.argument("target", metavar="[FILE|FOLDER|-]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="Fetch everything below a folder or in a bucket.")
@click.option("--max-size", type=SizeType(), help="Refuse an object larger than this (such as 100 MiB).")
@jobs
@as_json
@quiet
@on_mesh
def get(
    profile: Profile,
    source: Remote,
    target: str | None,
    recursive: bool,
    max_size: int | None,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fetch an object into a file, or with -r everything below a folder.

    Bytes grow in FILE.part and get their name when all are there and their digest is right; after a cut the same
    command goes on where it stopped. With -r names that would leave FOLDER, or that would be one file on some
    systems, are refused one by one.

    \b
    Examples:
      discloud get files/photo.jpg                  into ./photo.jpg
      discloud get files/photo.jpg holiday.jpg
      discloud get files/backup.tar - | tar x       to standard output
      discloud get -r files/photos ./photos         what is below photos/ into ./photos
    """
    wish = Wish(jobs, as_json, {} if max_size is None else {"max-size": str(max_size)})
    if not recursive and source.is_folder:
        raise click.UsageError(f"{source} is not an object; to fetch what is below it add -r")
    if recursive and target == "-":
        raise click.UsageError("many objects cannot go to standard output; name a folder")
    if recursive and target and Path(target).exists() and not Path(target).is_dir():
        raise click.UsageError(f"{target!r} is not a folder; what is below {source} needs one")
    with Progress("got", quiet=quiet or target == "-") as progress:
        if recursive:
            run(_get_tree(profile, source, Path(target or source.file_name), wish, progress))
        else:
            run(_get_one(profile, source, target, wish, progress))
    if progress.failed:
        raise click.exceptions.Exit(1)


@click.command(short_help="Write objects to standard output.")
@click.argument("sources", metavar="BUCKET/KEY...", type=OBJECT, nargs=-1, required=True)
@on_mesh
def cat(profile: Profile, sources: tuple[Remote, ...]) -> None:
    """Write objects to standard output, one after the other.

    \b
    Examples:
      discloud cat files/notes.txt
      discloud cat files/part1 files/part2 > whole
    """
    if not run(_cat(profile, sources)):
        raise click.exceptions.Exit(1)


async def _cat(profile: Profile, sources: tuple[Remote, ...]) -> bool:
    whole = True
    silent = Progress("", quiet=True)
    async with Client(profile) as client:
        for source in sources:
            try:
                landing = Stream(sys.stdout.buffer, str(source))
                await Fetch(client, source, landing, FileProgress(silent, 0), {}).run()
            except DiscloudError as error:
                say_error(told(error))
                whole = False
    return whole


async def _get_one(
    profile: Profile, source: Remote, target: str | None, wish: Wish, progress: Progress
) -> None:
    async with Client(profile) as client:
        if target == "-":
            landing = Stream(sys.stdout.buffer, str(source))
            await Fetch(client, source, landing, FileProgress(progress, 0), wish.query).run()
            return
        path = Path(target or source.file_name)
        if path.is_dir() or (target or "").endswith("/"):
            path = Tree(path).claim(source.file_name)
        elif not target:
            path = Tree(Path()).claim(source.file_name)
        if not path.parent.is_dir():
            raise Invalid(f"there is no folder {path.parent} here", "make it first, or name another")
        progress.expect(0)  # the answer will tell
        progress.all_known()
        await _get_file(client, source, path, 0, wish, progress)


async def _get_file(
    client: Client, source: Remote, path: Path, size: int, wish: Wish, progress: Progress
) -> None:
    watch = FileProgress(progress, size)
    if path.exists() and not path.is_file():
        with telling("write", path), path.open("wb") as device:
            fetched = await Fetch(client, source, Stream(device, str(path)), watch, wish.query).run()
    else:
        with PartFile(path) as landing:
            fetched = await Fetch(client, source, landing, watch, wish.query).run()
    if wish.as_json:
        emit(
            {
                "bucket": source.bucket,
                "key": source.key,
                "path": str(path),
                "size": fetched.size,
                "etag": fetched.etag,
                "resumed": fetched.resumed,
                "verified": fetched.verified,
            }
        )
    resumed = f", {human(fetched.resumed)} were there" if fetched.resumed else ""
    progress.finished(f"{source} -> {path} ({human(fetched.size)}{resumed})")


async def _get_tree(profile: Profile, source: Remote, folder: Path, wish: Wish, progress: Progress) -> None:
    tree = Tree(folder)

    async def one(item: tuple[Remote, str, int]) -> None:
        remote, relative, size = item
        try:
            if _is_mark(relative, size):
                await asyncio.to_thread(tree.make_room, tree.claim(relative[:-1]) / "mark")
                return
            path = tree.claim(relative)
            await asyncio.to_thread(tree.make_room, path)
            await _get_file(client, remote, path, size, wish, progress)
        except HOPELESS:
            raise
        except DiscloudError as error:
            progress.fail(error)

    async def items() -> AsyncIterator[tuple[Remote, str, int]]:
        found = False
        async for remote, relative, entry in below(client, source):
            found = True
            if not _is_mark(relative, entry["size"]):
                progress.expect(entry["size"])
            yield remote, relative, entry["size"]
        progress.all_known()
        if not found and source.key:
            raise Invalid(
                f"nothing in {source.bucket} is below {source.key!r}", f'see "discloud ls {source.bucket}"'
            )

    async with Client(profile, wish.jobs) as client:
        await each(items(), one, wish.jobs)


def _is_mark(relative: str, size: int) -> bool:
    """True for the mark of an empty folder, as S3 tools leave them."""
    return relative.endswith("/") and not size
