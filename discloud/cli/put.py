"""``discloud put``: files, folders and standard input into the mesh."""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from discloud.cli.batch import each, run
from discloud.cli.client import HOPELESS, Client
from discloud.cli.options import as_json, jobs, on_mesh, quiet
from discloud.cli.output import emit, human
from discloud.cli.profile import Profile
from discloud.cli.progress import Progress
from discloud.cli.remote import ANY, Remote, parse_remote
from discloud.cli.upload import Sender, Upload
from discloud.errors import DiscloudError, Invalid

_LAYOUT = (
    click.option("--copies", metavar="N|all", help="Copies of each byte."),
    click.option("--layout", metavar="LAYOUT", help="mirror:N, mirror:all, stripe:N or stripe:NxR."),
    click.option("--nodes", metavar="NAME,...", help="The nodes that hold it; self = the one that answers."),
    click.option("--regions", metavar="NAME,...", help="At least one copy in each of these regions."),
    click.option("--ack", metavar="N|all", help="Copies that are durable before the command succeeds."),
)


def _laid_out(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options that say how a file is laid out; they reach the command as ``**layout``."""
    for option in reversed(_LAYOUT):
        command = option(command)
    return command


@dataclass(frozen=True, slots=True)
class Wish:
    """What the options of a put say."""

    jobs: int
    as_json: bool
    content_type: str | None
    only_new: bool
    query: dict[str, str]


@click.command(short_help="Store files, folders or standard input.")
@click.argument("sources", metavar="FILE|FOLDER|-...", nargs=-1, required=True)
@click.argument("target", metavar="BUCKET/KEY", type=ANY)
@click.option("-r", "--recursive", is_flag=True, help="Store folders with all that is below them.")
@_laid_out
@click.option("--content-type", metavar="TYPE", help="Media type; guessed from the name otherwise.")
@click.option("--if-none-match", "only_new", is_flag=True, help="Fail where an object of that name exists.")
@jobs
@as_json
@quiet
@on_mesh
def put(
    profile: Profile,
    /,
    sources: tuple[str, ...],
    target: Remote,
    recursive: bool,
    content_type: str | None,
    only_new: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
    **layout: str | None,
) -> None:
    """Store files, or with -r folders, or standard input (-).

    A target that ends in a slash, or is a bucket, gets the name of the source appended; a folder stored to a bucket
    alone puts what is in it at the top of the bucket.

    \b
    Examples:
      discloud put photo.jpg files/                      as files/photo.jpg
      discloud put ./dir files/backup -r --copies 3      ./dir/a as files/backup/a
      discloud put *.iso files/images/ --layout stripe:5
      pg_dump shop | discloud put - files/shop.sql
    """
    wish = Wish(jobs, as_json, content_type, only_new, {name: text for name, text in layout.items() if text})
    _check(sources, target, recursive)
    if content_type is not None and not re.fullmatch(r"[!-~]+/[ -~]+", content_type):
        raise click.UsageError(f"{content_type!r} is not a media type; write it like image/png")
    with Progress("stored", quiet=quiet) as progress:
        uploads = list(_plan(sources, target, progress))
        run(_put_all(profile, uploads, wish, progress))
    if progress.failed:
        raise click.exceptions.Exit(1)


def _check(sources: tuple[str, ...], target: Remote, recursive: bool) -> None:
    """What can be said before anything is sent. Raises: click.UsageError."""
    if len(sources) > 1 and not target.is_folder:
        raise click.UsageError(f"several sources need a folder as target: write {target}/")
    if "-" in sources and target.is_folder:
        raise click.UsageError(f"standard input has no name: write one, like {target.folder / 'name'}")
    for source in sources:
        if source == "-":
            continue
        if not os.path.lexists(source):
            raise click.UsageError(f"there is no {source!r} here")
        if Path(source).is_dir() and not recursive:
            raise click.UsageError(f"{source!r} is a folder; to store all that is below it add -r")


def _plan(sources: tuple[str, ...], target: Remote, progress: Progress) -> list[Upload]:
    """Every file with its name in the mesh; those that cannot be stored are reported at once."""
    uploads: list[Upload] = []
    for source in sources:
        if source == "-":
            uploads.append(Upload(None, target))
        elif Path(source).is_dir():
            _plan_folder(Path(source), target, len(sources) > 1, uploads, progress)
        else:
            path = Path(source)
            _plan_file(path, str(target / path.name if target.is_folder else target), uploads, progress)
    return _without_doubles(uploads, progress)


def _without_doubles(uploads: list[Upload], progress: Progress) -> list[Upload]:
    """The first of each name; a second one would silently take its place."""
    first: dict[Remote, Upload] = {}
    for upload in uploads:
        if upload.target in first:
            other = first[upload.target].source or "-"
            progress.fail(
                Invalid(f"cannot store {upload.source or '-'}: {other} goes to {upload.target} too")
            )
            continue
        first[upload.target] = upload
        progress.expect(upload.size)
    progress.all_known()
    return list(first.values())


def _plan_folder(folder: Path, target: Remote, many: bool, uploads: list[Upload], progress: Progress) -> None:
    """Files below ``folder``, in the order of their names; links to folders are not followed."""
    named = target.is_folder and (target.key or many)
    top = target / folder.resolve().name if named else target

    def unreadable(error: OSError) -> None:
        progress.fail(DiscloudError(f"cannot read {error.filename}: {error.strerror}"))

    for parent, folders, names in os.walk(folder, onerror=unreadable):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            _plan_file(path, f"{top}/{path.relative_to(folder).as_posix()}", uploads, progress)


def _plan_file(path: Path, target: str, uploads: list[Upload], progress: Progress) -> None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Invalid(f"{path} is not a file", "pipes can be stored with -")
        uploads.append(Upload(path, parse_remote(target), status.st_size))
    except DiscloudError as error:
        progress.fail(
            Invalid(f"cannot store {path}: {error.detail}", "rename it here, or store it alone as BUCKET/KEY")
        )
    except OSError as error:
        progress.fail(Invalid(f"cannot read {path}: {error.strerror}"))


async def _put_all(profile: Profile, uploads: list[Upload], wish: Wish, progress: Progress) -> None:
    async def items() -> AsyncIterator[Upload]:
        for upload in uploads:
            yield upload

    async def one(upload: Upload) -> None:
        try:
            _show(upload, await _send(sender, upload, progress), wish, progress)
        except HOPELESS:
            raise
        except DiscloudError as error:
            progress.fail(error)

    async with Client(profile, wish.jobs) as client:
        sender = Sender(client, wish.query, wish.content_type, wish.only_new)
        await each(items(), one, wish.jobs)


async def _send(sender: Sender, upload: Upload, progress: Progress) -> dict[str, Any]:
    if upload.source is None:
        return await sender.send_pipe(sys.stdin.fileno(), upload.target, progress.moved)
    return await sender.send_file(upload.source, upload.target, progress.moved)


def _show(upload: Upload, written: dict[str, Any], wish: Wish, progress: Progress) -> None:
    for warning in written.get("warnings") or ():
        progress.warn(f"{upload.target}: {warning}")
    if wish.as_json:
        emit({"source": str(upload.source or "-"), **written})
    size, layout = human(written.get("size", upload.size)), written.get("layout", "")
    progress.finished(f"{upload.source or '-'} -> {upload.target} ({size}, {layout})")
