"""The Blobs of another node, as if they were here.

Small calls are pipelined with all others; bodies stream on a connection of their own, a chunk's length and its
bytes in one system call from the caller's worker thread, or from the holder's disk to whoever moves the reader's socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from discloud.core.model import KIB, BlobId, Label, NodeId, Seal, Stored
from discloud.core.records import from_record
from discloud.errors import DiscloudError, PeerDown, TooSlow, Unavailable
from discloud.peer.body import ABANDONED, CHUNK_LIMIT, LENGTH
from discloud.peer.handshake import ANYBODY
from discloud.peer.links import Links, Target
from discloud.peer.methods import CREATE, OPEN, Method, methods_of
from discloud.peer.pages import pages
from discloud.peer.streams import Stream, expect
from discloud.peer.wire import ANSWER, COMMIT, END, FAILED, Message, error_of
from discloud.ports import BlobReader, BlobWriter, FileSource, SocketSource, Usage
from discloud.transfer.pace import Pace

_CALLS = methods_of("blobs")
_STEP = 1.0  # seconds to wait for the frame that ends a stream whose bytes have all come


FIRST_ANSWER = 5.0
"""Seconds within which a holder must begin to answer a read."""


class PeerBlobs:
    """Blobs behind ``address`` (``host:port``), which must be ``node``'s. Every wait is bounded by ``pace``."""

    def __init__(self, links: Links, address: str, pace: Pace, node: NodeId = ANYBODY) -> None:
        self._links = links
        self._target = Target(address, node)
        self._pace = pace

    @asynccontextmanager
    async def create(
        self, blob: BlobId, label: Label, length: int | None = None
    ) -> AsyncIterator[BlobWriter]:
        """As Blobs: left without ``commit``, the holder is told to give it up, or sees the connection closed."""
        arguments = CREATE.pack(blob, label, length)
        async with self._links.exchange(self._target, CREATE.name, arguments, self._wait()) as (stream, _):
            writer = _Writer(stream, self._pace)
            try:
                yield writer
            finally:
                await writer.abandon()

    async def put(self, blob: BlobId, label: Label, data: bytes, hash: bytes) -> Stored:
        """As Blobs; the holder's disk compares nothing, the frame's seal covers the bytes."""
        stored: Stored = await self._call(_CALLS["put"], len(data), blob, label, data, hash)
        return stored

    @asynccontextmanager
    async def open(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> AsyncIterator[BlobReader]:
        """As Blobs: ``source`` is the connection itself where it is in the clear."""
        arguments = OPEN.pack(blob, offset, length, trust)
        async with self._links.exchange(self._target, OPEN.name, arguments, self._first_answer()) as (
            stream,
            found,
        ):
            reader = _Reader(stream, found, self._pace)
            yield reader
            stream.in_step = await reader.ended()

    async def fetch(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> bytes:
        """As Blobs."""
        packed = _CALLS["fetch"].pack(blob, offset, length, trust)
        answer = await self._links.call(self._target, "blobs.fetch", packed, self._first_answer())
        data: bytes = _CALLS["fetch"].unpack_result(answer)
        return data

    async def stat(self, blob: BlobId) -> Stored:
        """As Blobs."""
        stored: Stored = await self._call(_CALLS["stat"], 0, blob)
        return stored

    async def delete(self, blob: BlobId) -> None:
        """As Blobs."""
        await self._call(_CALLS["delete"], 0, blob)

    async def seal(self, seals: Sequence[Seal]) -> None:
        """As Blobs."""
        await self._call(_CALLS["seal"], 0, tuple(seals))

    def walk(self, after: BlobId | None = None) -> AsyncIterator[Stored]:
        """As Blobs, in pages."""
        return pages(self._links, self._target, _CALLS["walk"], self._wait(), after)

    def unsealed(self, before: float) -> AsyncIterator[Stored]:
        """As Blobs, in pages."""
        return pages(self._links, self._target, _CALLS["unsealed"], self._wait(), before)

    async def usage(self) -> Usage:
        """As Blobs."""
        usage: Usage = await self._call(_CALLS["usage"], 0)
        return usage

    async def _call(self, method: Method, length: int, *arguments: object) -> Any:
        packed = method.pack(*arguments)
        return method.unpack_result(
            await self._links.call(self._target, method.name, packed, self._wait(length))
        )

    def _first_answer(self) -> float:
        """A read has other holders to turn to: it does not wait as long as a write that is under way."""
        return min(FIRST_ANSWER, self._pace.deadline(0))

    def _wait(self, length: int = 0) -> float:
        return self._pace.deadline(length)


class _Writer:
    """A blob on its way to another node (``BlobWriter``, ``Breakable``)."""

    def __init__(self, stream: Stream, pace: Pace) -> None:
        self._stream = stream
        self._pace = pace
        self._length = 0
        self._between_chunks = True

    def write(self, data: memoryview) -> None:
        """As BlobWriter; the holder's early refusal (its disk is full) is found before the next chunk is sent."""
        view = memoryview(data).cast("B")
        for start in range(0, len(view), CHUNK_LIMIT):
            self._write_chunk(view[start : start + CHUNK_LIMIT])

    async def commit(self, hash: bytes) -> Stored:
        """As BlobWriter. Waits as long as the whole blob may take: the holder may have much to flush."""
        patience = self._pace.deadline(self._length)
        self._between_chunks = False
        try:
            await self._stream.send_bytes(LENGTH.pack(0), patience)
            await self._stream.send([COMMIT, 0, hash], patience)
        except PeerDown as lost:
            raise await self._why(lost) from lost
        answer = expect(self._stream, await self._stream.receive(patience), ANSWER, FAILED)
        self._stream.in_step = True
        if answer[0] == FAILED:
            raise error_of(answer)
        try:
            return from_record(Stored, answer[2])
        except ValueError as error:
            raise Unavailable(f"the answer of {self._stream.name} cannot be read: {error}") from error

    def break_off(self) -> None:
        """As Breakable. The descriptor stays open until the writer is left: a thread may be waiting for it."""
        with suppress(OSError):
            self._stream.channel.sock.shutdown(socket.SHUT_RDWR)

    async def abandon(self) -> None:
        """Make the holder forget an uncommitted blob, and wait until it did. Where that cannot be done the connection is closed."""
        if not self._between_chunks:
            return
        self._between_chunks = False
        with suppress(PeerDown, TooSlow):
            await self._stream.send_bytes(LENGTH.pack(ABANDONED), _STEP)
            self._stream.in_step = (await self._stream.receive(_STEP))[0] == ANSWER

    def _write_chunk(self, chunk: memoryview) -> None:
        if self._stream.pending() is not None:
            self._between_chunks = False
            raise self._why_blocking(PeerDown(f"{self._stream.name} ended the transfer"))
        self._between_chunks = False
        try:
            self._give(chunk)
        except PeerDown as lost:
            raise self._why_blocking(lost) from lost
        self._between_chunks = True
        self._length += len(chunk)

    def _give(self, chunk: memoryview) -> None:
        try:
            self._stream.channel.give(LENGTH.pack(len(chunk)), chunk, self._pace.deadline(len(chunk)))
        except OSError as error:
            raise PeerDown(f"the connection with {self._stream.name} is lost: {error}") from error

    async def _why(self, lost: PeerDown) -> DiscloudError:
        """What the holder said before it stopped taking bytes; ``lost`` where it said nothing."""
        try:
            return _reason(await self._stream.receive(_STEP), lost)
        except (PeerDown, TooSlow):
            return lost

    def _why_blocking(self, lost: PeerDown) -> DiscloudError:
        try:
            return _reason(self._stream.receive_blocking(_STEP), lost)
        except (PeerDown, TooSlow):
            return lost


class _Reader:
    """A blob on its way from another node; exactly ``length`` bytes of the socket are the caller's."""

    def __init__(self, stream: Stream, length: Any, pace: Pace) -> None:
        if not isinstance(length, int):
            raise PeerDown(f"{stream.name} told no length")
        self.length = length
        self.source: FileSource | SocketSource | None = stream.channel.source(length)
        self._stream = stream
        self._pace = pace
        self._given = 0

    async def read(self, limit: int) -> bytes:
        """As BlobReader."""
        wanted = min(limit, self.length - self._given)
        if not wanted:
            return b""
        try:
            async with asyncio.timeout(self._pace.deadline(wanted)):
                data = await self._stream.channel.receive(wanted)
        except TimeoutError as error:
            raise TooSlow(f"{self._stream.name} sent nothing of a blob") from error
        except OSError as error:
            raise PeerDown(f"the connection with {self._stream.name} is lost: {error}") from error
        if not data:
            raise PeerDown(f"{self._stream.name} stopped after {self._given} of {self.length} bytes")
        self._given += len(data)
        return data

    async def ended(self) -> bool:
        """Whether all bytes were taken, by ``read`` or from the source: then the next thing there is the END frame."""
        if 0 < self._given < self.length:
            return False
        try:
            message = await self._stream.receive(_STEP, limit=KIB)
        except (PeerDown, TooSlow):
            return False
        return bool(message[0] == END)


def _reason(message: Message, lost: PeerDown) -> DiscloudError:
    return error_of(message) if message[0] == FAILED else lost
