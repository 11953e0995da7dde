"""``discloud ls rm mv cp``: objects by name, without their bytes."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any

import click

from discloud.cli.batch import each, run
from discloud.cli.client import HOPELESS, Client
from discloud.cli.listing import below
from discloud.cli.options import as_json, jobs, on_mesh, quiet
from discloud.cli.output import emit, human, moment, name, say_error, table, told
from discloud.cli.profile import Profile
from discloud.cli.remote import ANY, OBJECT, Remote
from discloud.errors import DiscloudError, NoSuchKey


@click.command(short_help="List buckets, or the objects of one.")
@click.argument("folder", metavar="[BUCKET[/PREFIX]]", type=ANY, required=False)
@click.option("-r", "--recursive", is_flag=True, help="List what is below folders too.")
@as_json
@on_mesh
def ls(profile: Profile, folder: Remote | None, recursive: bool, as_json: bool) -> None:
    """List the buckets, or the objects whose names begin with PREFIX: size, date and key.

    \b
    Examples:
      discloud ls
      discloud ls files
      discloud ls -r files/photos/ --json
    """
    if folder is None:
        run(_list_buckets(profile, as_json))
    else:
        run(_list_objects(profile, folder, "" if recursive else "/", as_json))


async def _list_buckets(profile: Profile, as_json: bool) -> None:
    async with Client(profile) as client:
        buckets = (await client.call("GET", "/v1/buckets", "list of buckets"))["buckets"]
    if as_json:
        for bucket in buckets:
            emit(bucket)
        return
    rows = [(moment(each["created"]), f"{each['name']}/", each.get("layout") or "") for each in buckets]
    if rows:
        table(rows)


async def _list_objects(profile: Profile, folder: Remote, delimiter: str, as_json: bool) -> None:
    shown = 0
    async with Client(profile) as client:
        async for page in client.pages(await _descend(client, folder, delimiter), delimiter):
            entries = [(item["key"], item) for item in page["objects"]]
            entries += [(prefix, None) for prefix in page["prefixes"]]
            for key, item in sorted(entries, key=_by_bytes):
                _show_entry(key, item, as_json)
            shown += len(entries)
    if not shown and folder.key:
        raise NoSuchKey(
            f"nothing in {folder.bucket} begins with {folder.key!r}", f'see "discloud ls {folder.bucket}"'
        )


def _by_bytes(entry: tuple[str, object]) -> bytes:
    return entry[0].encode()


async def _descend(client: Client, folder: Remote, delimiter: str) -> Remote:
    """``files/photos`` means what is in ``files/photos/`` when nothing else begins like that."""
    if folder.is_folder or not delimiter:
        return folder
    query = {"prefix": folder.key, "delimiter": delimiter, "limit": "2"}
    page = await client.call("GET", f"/v1/files/{folder.bucket}", f"bucket {folder.bucket}", query)
    alone = page["prefixes"] == [f"{folder.key}/"] and not page["objects"] and page["after"] is None
    return folder.folder if alone else folder


def _show_entry(key: str, item: Mapping[str, Any] | None, as_json: bool) -> None:
    if as_json:
        emit({"prefix": key} if item is None else item)
    elif item is None:
        click.echo(f"{'-':>9}  {'folder':<19}  {name(key)}")
    else:
        click.echo(f"{human(item['size']):>9}  {moment(item['modified']):<19}  {name(key)}")


@click.command(short_help="Remove objects.")
@click.argument("targets", metavar="BUCKET/KEY...", type=ANY, nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Remove everything below a folder or in a bucket.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@jobs
@as_json
@quiet
@on_mesh
def rm(
    profile: Profile,
    targets: tuple[Remote, ...],
    recursive: bool,
    yes: bool,
    jobs: int,
    as_json: bool,
    quiet: bool,
) -> None:
    """Remove objects, or with -r everything below a folder (it asks first on a terminal).

    \b
    Examples:
      discloud rm files/photo.jpg
      discloud rm -r files/photos --yes
    """
    if not recursive and (
        folder := next((each for each in targets if each.is_folder and not each.key), None)
    ):
        raise click.UsageError(f"{folder} is a bucket; to remove all that is in it add -r")
    if recursive and not yes and sys.stdin.isatty():
        names = ", ".join(map(str, targets))
        if not click.confirm(f"Remove everything in {names}?", err=True):
            raise DiscloudError("nothing was removed")
    removed, failed = run(_remove(profile, targets, recursive, jobs, as_json))
    if not quiet and (recursive or len(targets) > 1):
        objects = "1 object" if removed == 1 else f"{removed} objects"
        click.echo(f"removed {objects}" + (f", {failed} failed" if failed else ""), err=True)
    if failed:
        raise click.exceptions.Exit(1)


async def _remove(
    profile: Profile, targets: tuple[Remote, ...], recursive: bool, jobs: int, as_json: bool
) -> tuple[int, int]:
    """Counts of the removed and of those that could not be."""
    counts = [0, 0]

    async def items() -> AsyncIterator[Remote]:
        for target in targets:
            if not recursive:
                yield target
                continue
            found = False
            async for remote in _everything(client, target):
                found = True
                yield remote
            if not found and target.key:
                say_error(told(NoSuchKey(f"nothing in {target.bucket} is below {target.key!r}")))
                counts[1] += 1

    async def one(target: Remote) -> None:
        try:
            await client.call("DELETE", target.path, str(target))
        except HOPELESS:
            raise
        except DiscloudError as error:
            say_error(told(error))
            counts[1] += 1
            return
        counts[0] += 1
        if as_json:
            emit({"bucket": target.bucket, "key": target.key, "removed": True})

    async with Client(profile, jobs) as client:
        await each(items(), one, jobs)
    return counts[0], counts[1]


async def _everything(client: Client, target: Remote) -> AsyncIterator[Remote]:
    async for remote, _, _ in below(client, target):
        yield remote


@click.command(short_help="Rename an object within its bucket.")
@click.argument("source", metavar="BUCKET/KEY", type=OBJECT)
@click.argument("target", metavar="BUCKET/NEW-KEY", type=ANY)
@as_json
@on_mesh
def mv(profile: Profile, source: Remote, target: Remote, as_json: bool) -> None:
    """Rename an object; its bytes stay where they are. A target that ends in a slash keeps the file's name.

    \b
    Examples:
      discloud mv files/draft.txt files/final.txt
      discloud mv files/photo.jpg files/2026/
    """
    if source.bucket != target.bucket:
        raise click.UsageError(
            "an object is renamed within its bucket; to move it to another use cp, then rm"
        )
    target = _named(source, target)
    moved = run(_call(profile, "PATCH", source, content={"key": target.key}))
    _show_pair(source, target, moved, as_json)


@click.command(short_help="Copy an object inside the mesh.")
@click.argument("source", metavar="BUCKET/KEY", type=OBJECT)
@click.argument("target", metavar="BUCKET/KEY", type=ANY)
@as_json
@on_mesh
def cp(profile: Profile, source: Remote, target: Remote, as_json: bool) -> None:
    """Copy an object; the bytes move between the nodes only. For local files see put and get.

    \b
    Examples:
      discloud cp files/photo.jpg archive/2026/photo.jpg
      discloud cp files/photo.jpg archive/
    """
    target = _named(source, target)
    copied = run(_call(profile, "POST", target, {"copy": str(source)}))
    _show_pair(source, target, copied, as_json)


def _named(source: Remote, target: Remote) -> Remote:
    return target / source.file_name if target.is_folder else target


def _show_pair(source: Remote, target: Remote, answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        emit(answer)
    else:
        click.echo(f"{name(str(source))} -> {name(str(target))}", err=True)


async def _call(
    profile: Profile,
    method: str,
    remote: Remote,
    query: Mapping[str, str] | None = None,
    content: object = None,
) -> dict[str, Any]:
    async with Client(profile) as client:
        return await client.call(method, remote.path, str(remote), query, content)
