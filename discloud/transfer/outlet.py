"""The way out: moves the bytes of blobs to one receiver, by the kernel where it can.

    a client over plain TCP on Linux, a peer's raw socket    sendfile, splice
    TLS (to clients and to peers), other systems, kernel=False   read and write

Both give the same bytes and the same errors. ``sent`` says exactly how many bytes of this outlet left, so that a
caller whose source failed goes on with another one at the same offset. Worker threads are held for a quantum only;
a receiver or a source that is not ready is waited for in the loop's selector.
"""

from __future__ import annotations

import asyncio
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from discloud.core.model import KIB
from discloud.errors import ClientGone, PeerDown, TooSlow
from discloud.ports import BlobReader, FileSource, SocketSource
from discloud.transfer.connection import check_open, duplicate, plain_tcp, wait_drained, wait_empty
from discloud.transfer.pace import Pace, Patience
from discloud.transfer.readiness import KERNEL, readable, unsent, writable
from discloud.transfer.sendfile import FileMove
from discloud.transfer.splice import Side, SocketMove, release, take_pipe
from discloud.transfer.threads import Threads

COPIED = 256 * KIB
"""Bytes that the copy path asks of a reader at once: what an outlet holds in memory, with the write buffer."""


class Outlet(ABC):
    """One receiver. Calls follow each other, never at once; after an error only ``sent`` is of use."""

    def __init__(self, *, kernel: bool) -> None:
        self.kernel = kernel
        """Whether the kernel moves the bytes; False for TLS, on other systems than Linux, or forced."""
        self.sent = 0
        """Bytes of this outlet that the receiver's connection took over, in order."""

    async def move(self, reader: BlobReader, offset: int, length: int) -> None:
        """Move the next ``length`` bytes of the reader; ``offset`` = bytes of it that were moved before.

        Offsets must follow each other, except where the reader offers a file.
        Raises: ClientGone (the receiver left, or is slower than the pace); Corrupt, PeerDown, TooSlow, Unavailable
        (the source failed: ``sent`` is exact, another source may go on).
        """
        assert 0 <= offset <= offset + length <= reader.length
        await self._copy(reader, length)

    @abstractmethod
    async def write(self, data: bytes) -> None:
        """Send ``data`` (framing, small bodies) in order with the rest. Raises: ClientGone."""

    async def _copy(self, reader: BlobReader, length: int) -> None:
        while length:
            data = await reader.read(min(length, COPIED))
            if not data:
                raise PeerDown(f"the source ended with {length} bytes to come")
            await self.write(data)
            length -= len(data)

    def _count(self, moved: int) -> None:
        self.sent += moved


class TransportOutlet(Outlet):
    """The copy path: through the transport of an aiohttp connection."""

    def __init__(self, transport: asyncio.Transport, pace: Pace) -> None:
        super().__init__(kernel=False)
        self._transport = transport
        self._patience = Patience(pace, "the client")

    async def write(self, data: bytes) -> None:
        """As Outlet."""
        check_open(self._transport).write(data)
        self._count(len(data))
        try:
            await wait_drained(self._transport, self._patience, self._taken)
        except TooSlow as slow:
            raise ClientGone(slow.detail, slow.hint) from slow

    def _taken(self) -> int:
        return self.sent - _under_way(self._transport)


class SocketOutlet(Outlet):
    """The kernel's path: to a non-blocking socket that nobody else writes to meanwhile.

    ``check`` raises ClientGone when the connection is known to be lost, although the descriptor does not say so.
    """

    def __init__(self, fd: int, threads: Threads, pace: Pace, check: Callable[[], object]) -> None:
        super().__init__(kernel=KERNEL)
        self._fd = fd
        self._threads = threads
        self._check = check
        self._pace = pace
        self._receiver = Patience(pace, "the receiver")

    async def move(self, reader: BlobReader, offset: int, length: int) -> None:
        """As Outlet."""
        assert 0 <= offset <= offset + length <= reader.length
        source = reader.source if self.kernel else None
        if isinstance(source, FileSource):
            await self._send_file(source, offset, length)
        elif isinstance(source, SocketSource):
            await self._splice(source, length)
        else:
            await self._copy(reader, length)

    async def write(self, data: bytes) -> None:
        """As Outlet."""
        rest = memoryview(data)
        while rest:
            self._check()
            try:
                count = os.write(self._fd, rest)
            except BlockingIOError:
                await self._wait_receiver()
                continue
            except OSError as lost:
                raise ClientGone(f"the receiver left: {lost}") from lost
            self._count(count)
            rest = rest[count:]

    async def _send_file(self, source: FileSource, offset: int, length: int) -> None:
        move = FileMove(self._fd, source, offset, length, self._count)
        while not move.done:
            self._check()
            if await self._threads.run(move.quantum):
                await self._wait_receiver()

    async def _splice(self, source: SocketSource, length: int) -> None:
        patience = Patience(self._pace, Side.SOURCE.value)
        pipe = take_pipe()
        try:
            move = SocketMove(self._fd, source, length, pipe, self._count)
            while not move.done:
                self._check()
                side = await self._threads.run(move.quantum)
                if side is Side.RECEIVER:
                    await self._wait_receiver()
                elif side is Side.SOURCE:
                    await self._wait_source(source, patience, move)
        finally:
            release(pipe)

    async def _wait_receiver(self) -> None:
        async def ready(seconds: float) -> bool:
            self._check()
            return await writable(self._fd, seconds)

        try:
            await self._receiver.wait(ready, lambda: self.sent - unsent(self._fd))
        except TooSlow as slow:
            raise ClientGone(slow.detail, slow.hint) from slow

    async def _wait_source(self, source: SocketSource, patience: Patience, move: SocketMove) -> None:
        async def ready(seconds: float) -> bool:
            self._check()
            return await readable(source.fd, seconds)

        await patience.wait(ready, lambda: move.taken)


class SealedOutlet(SocketOutlet):
    """The copy path to a socket whose bytes are sealed first; ``sent`` counts them as they go over the socket."""

    def __init__(
        self,
        fd: int,
        threads: Threads,
        pace: Pace,
        check: Callable[[], object],
        seal: Callable[[bytes], bytes],
    ) -> None:
        super().__init__(fd, threads, pace, check)
        self.kernel = False
        self._seal = seal

    async def write(self, data: bytes) -> None:
        """As Outlet."""
        await super().write(await self._threads.run(partial(self._seal, data)))


@asynccontextmanager
async def open_outlet(
    transport: asyncio.Transport, threads: Threads, pace: Pace, *, kernel: bool = True
) -> AsyncIterator[Outlet]:
    """The way out to the client of an aiohttp connection whose response headers were written.

    Nothing else may write to the transport until it is left. ``kernel=False`` forces the copy path.
    Raises: ClientGone (also when the client does not take what was written before), Unavailable (no descriptor).
    """
    check_open(transport)
    if not kernel or plain_tcp(transport) is None:
        yield TransportOutlet(transport, pace)
        return
    try:
        await wait_empty(transport, Patience(pace, "the client"), lambda: -_under_way(transport))
    except TooSlow as slow:
        raise ClientGone(slow.detail, slow.hint) from slow
    fd = duplicate(transport)
    try:
        yield SocketOutlet(fd, threads, pace, lambda: check_open(transport))
    finally:
        os.close(fd)


def outlet_of_socket(
    sock: socket.socket, threads: Threads, pace: Pace, seal: Callable[[bytes], bytes] | None = None
) -> Outlet:
    """The way out to a peer: a connected non-blocking socket that no transport has. It stays the caller's.

    ``seal`` turns bytes into what goes over the socket (TLS), in a worker thread; then bodies are copied.
    """

    def check() -> None:
        if sock.fileno() < 0:
            raise ClientGone("the connection to the other node was closed")

    if seal is not None:
        return SealedOutlet(sock.fileno(), threads, pace, check, seal)
    return SocketOutlet(sock.fileno(), threads, pace, check)


def _under_way(transport: asyncio.Transport) -> int:
    """Bytes that were written and did not arrive yet."""
    connection: socket.socket = transport.get_extra_info("socket")
    return transport.get_write_buffer_size() + unsent(connection.fileno())
