"""Everything below a folder of a bucket, the way ``get -r`` and ``rm -r`` mean it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from discloud.cli.client import Client, Request
from discloud.cli.remote import Remote
from discloud.core.keys import check_key
from discloud.errors import NotFound


async def below(client: Client, source: Remote) -> AsyncIterator[tuple[Remote, str, dict[str, Any]]]:
    """Every object below ``source``, with its name relative to it; ``source`` itself where it is an object too.

    ``files/a`` means ``files/a`` and ``files/a/...`` but not ``files/ab``. Listed as it is consumed.
    Raises: as Client.send.
    """
    if not source.is_folder and (size := await _size(client, source)) is not None:
        yield source, source.file_name, {"key": source.key, "size": size}
    folder = source.folder if source.key else source
    async for entry in client.objects(folder):
        key = check_key(entry["key"])
        relative = key[len(folder.key) :]
        if relative:  # the mark of the folder itself is no file
            yield Remote(source.bucket, key), relative, entry


async def _size(client: Client, source: Remote) -> int | None:
    """The object's size; None when there is definitely no such object."""
    try:
        async with client.send(Request("HEAD", source.path, str(source))) as answer:
            return int(answer.headers.get("Content-Length", 0))
    except NotFound:
        return None
