"""A file or standard input into the mesh: streamed, hashed on the way, sent again when the mesh says "later"."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import select
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3

from discloud.cli.client import Body, Client, MeshDown, Request
from discloud.cli.landing import parse_digest
from discloud.cli.remote import Remote
from discloud.cli.telling import telling
from discloud.core.model import MIB
from discloud.errors import Conflict, Corrupt, DiscloudError, Unavailable

PAUSES = (0.2, 1.0, 3.0)
"""Seconds before a file is sent again after an answer that says "later"."""

_WHOLE = 256 * 1024  # bytes up to which a file is sent in one piece, without asking first
_WAKE = 0.25  # seconds after which a thread that waits for standard input looks whether it is still wanted
_AFTER_END = 0.1  # seconds in which a Ctrl-C that ended the whole pipeline reaches us as well
_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


@dataclass(frozen=True, slots=True)
class Upload:
    """One file to be stored; ``source`` None = standard input. ``size`` is for display."""

    source: Path | None
    target: Remote
    size: int = 0


def guess_type(name: str) -> str:
    """The media type that a name suggests."""
    kind, packed = mimetypes.guess_type(name, strict=False)
    if packed:
        return _PACKED.get(packed, "application/octet-stream")
    return kind or "application/octet-stream"


class FileBody:
    """The bytes of an open file, as many as it had when it was opened; begins anew each time it is iterated."""

    def __init__(self, file: BinaryIO, shown: str, size: int, watch: Callable[[int], None]) -> None:
        self._file = file
        self._shown = shown
        self._size = size
        self._watch = watch
        self._sent = 0
        self.hash = blake3()
        self.failure: DiscloudError | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.rewind()
        return self._chunks()

    def rewind(self) -> None:
        """Nothing counts as sent any more."""
        self._watch(-self._sent)
        self._sent = 0
        self.hash.reset()

    async def _chunks(self) -> AsyncIterator[bytes]:
        while self._sent < self._size:
            chunk = await asyncio.to_thread(self._read)
            self._sent += len(chunk)
            self._watch(len(chunk))
            yield chunk

    def _read(self) -> bytes:
        """The next piece. An error is kept: aiohttp would hide it behind one of its own."""
        try:
            with telling("read", self._shown):
                chunk = os.pread(self._file.fileno(), min(MIB, self._size - self._sent), self._sent)
            if not chunk:
                raise Conflict(
                    f"{self._shown} became shorter while it was read", "store it when nobody writes to it"
                )
        except DiscloudError as error:
            self.failure = error
            raise
        self.hash.update(chunk)
        return chunk


class PipeBody:
    """Standard input until its end; can be read once only."""

    def __init__(self, descriptor: int, watch: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._watch = watch
        self._begun = False
        self._unwanted = False
        self.hash = blake3()
        self.failure: DiscloudError | None = None

    def __aiter__(self) -> AsyncIterator[bytes]:
        if self._begun:
            self.failure = Unavailable(
                "standard input was cut off in the middle of sending", "run the command again"
            )
            raise self.failure
        return self._chunks()

    def rewind(self) -> None:
        """Impossible, and needed only where nothing was read."""

    async def _chunks(self) -> AsyncIterator[bytes]:
        self._begun = True
        try:
            while chunk := await asyncio.to_thread(self._read):
                self._watch(len(chunk))
                yield chunk
            # Ctrl-C ends the program that wrote to us too: its end must not look like the end of what it had to say
            await asyncio.sleep(_AFTER_END)
        finally:
            self._unwanted = True

    def _read(self) -> bytes:
        """The next bytes; looks up now and then, so that Ctrl-C need not wait for somebody to type."""
        try:
            with telling("read", "standard input"):
                while not select.select([self._descriptor], [], [], _WAKE)[0]:
                    if self._unwanted:
                        return b""
                chunk = os.read(self._descriptor, MIB)
        except DiscloudError as error:
            self.failure = error
            raise
        self.hash.update(chunk)
        return chunk


def _opened(path: Path) -> BinaryIO:
    """The file, opened at once and not in a thread: a cancelled wait would leave it open."""
    with telling("read", path):
        return path.open("rb")


class Sender:
    """Stores files of one command: the same query and headers for all of them."""

    def __init__(
        self, client: Client, query: Mapping[str, str], content_type: str | None, only_new: bool
    ) -> None:
        self._client = client
        self._query = query
        self._content_type = content_type
        self._only_new = only_new

    async def send_file(self, path: Path, target: Remote, watch: Callable[[int], None]) -> dict[str, Any]:
        """Store a file; the server's answer. Raises: DiscloudError."""
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            body = FileBody(file, str(path), size, watch)
            for pause in PAUSES:
                try:
                    return await self._send(body, target, size)
                except MeshDown:
                    raise
                except Unavailable:
                    if self._only_new or body.failure:  # a lost answer would make the repetition fail
                        raise
                body.rewind()
                await asyncio.sleep(pause)
            return await self._send(body, target, size)

    async def send_pipe(
        self, descriptor: int, target: Remote, watch: Callable[[int], None]
    ) -> dict[str, Any]:
        """Store what comes from ``descriptor``; the server's answer. Raises: DiscloudError."""
        return await self._send(PipeBody(descriptor, watch), target, None)

    async def _send(self, body: FileBody | PipeBody, target: Remote, size: int | None) -> dict[str, Any]:
        headers = {"Content-Type": self._content_type or guess_type(target.key)}
        small: bytes | None = None
        if size is not None:
            headers["Content-Length"] = str(size)
            small = b"".join([chunk async for chunk in body]) if size <= _WHOLE else None
        if self._only_new:
            headers["If-None-Match"] = "*"

        def source() -> Body:
            return body if small is None else small

        request = Request(
            "PUT", target.path, str(target), self._query, headers, source, ask_first=small is None
        )
        try:
            async with self._client.send(request) as answer:
                written = await answer.content()
        except Unavailable as error:
            raise body.failure or error from error
        digest = parse_digest(str(written.get("digest", "")))
        if digest and digest != body.hash.hexdigest():
            raise Corrupt(f"{target}: what was stored is not what was read", "store it again")
        return written
