"""The receiving end of a streamed body: chunks of u32 length + bytes; a length of 0 ends it, one of ABANDONED gives it up.

A worker thread takes what has arrived, a quantum at most, hashes it and gives it to the local writer from the same buffer;
then the socket waits in the loop's selector. No thread of the holder ever waits for another node.
"""

from __future__ import annotations

import struct
import threading
from functools import partial

from blake3 import blake3

from discloud.core.model import KIB, MIB
from discloud.errors import PeerDown
from discloud.peer.channel import Channel
from discloud.ports import BlobWriter
from discloud.transfer.pace import Pace, Patience
from discloud.transfer.readiness import readable
from discloud.transfer.threads import Threads

LENGTH = struct.Struct("!I")
"""Before each chunk; 0 = the body ends."""
ABANDONED = (1 << 32) - 1
"""In place of a length: nothing of the body shall be kept."""
CHUNK_LIMIT = ABANDONED - 1
"""Bytes of one chunk at most."""

_QUANTUM = 8 * MIB  # after that many bytes the thread goes to somebody else's transfer
_BUFFER = MIB
_WAKE = 256 * KIB  # a slow sender does not wake the pool for crumbs
_SLACK = 64  # a writer's pace is its client's, cut by the layout's width: the gateway judges it, this is the last resort

_buffers = threading.local()


class Body:
    """One body on its way from ``channel`` into ``writer``. Used once."""

    def __init__(self, channel: Channel, writer: BlobWriter, pace: Pace, sender: str) -> None:
        self.length = 0
        self._channel = channel
        self._writer = writer
        self._patience = Patience(Pace(pace.grace * 4, pace.min_rate / _SLACK, pace.clock), sender)
        self._sender = sender
        self._hasher = blake3()
        self._head = b""
        self._left = 0
        self._ended = False
        self._abandoned = False
        self._wake = 1

    async def receive(self, threads: Threads) -> bytes | None:
        """Take the whole body; the BLAKE3 of what arrived, None if it was given up.

        Raises: PeerDown, TooSlow, and what the writer raises.
        """
        while True:
            drained = await threads.run(self._take)
            if self._ended:
                return None if self._abandoned else self._hasher.digest()
            if not drained:
                continue
            await self._patience.wait(partial(readable, self._channel.sock.fileno()), lambda: self.length)

    def _take(self) -> bool:
        """In a worker thread: what is there, at most a quantum; True when nothing is there any more."""
        stop = self.length + _QUANTUM
        try:
            self._wake_at(1)
            while not self._ended and self.length < stop:
                if self._left:
                    self._pass_on()
                else:
                    self._begin_chunk()
        except BlockingIOError:
            self._wake_at(min(self._left, _WAKE) or 1)
            return True
        except OSError as error:
            raise PeerDown(f"the connection with {self._sender} is lost: {error}") from error
        return False

    def _begin_chunk(self) -> None:
        head = _buffer()[: LENGTH.size - len(self._head)]
        count = self._channel.take_into(head)
        if not count:
            raise self._cut()
        self._head += head[:count]
        if len(self._head) == LENGTH.size:
            (self._left,) = LENGTH.unpack(self._head)
            self._head = b""
            self._abandoned = self._left == ABANDONED
            self._ended = self._abandoned or not self._left

    def _pass_on(self) -> None:
        data = self._fill(_buffer()[: min(self._left, _BUFFER)])
        self._hasher.update(data)
        self._writer.write(data)
        self._left -= len(data)
        self.length += len(data)

    def _fill(self, buffer: memoryview) -> memoryview:
        """The buffer as far as it could be filled now. Raises: BlockingIOError (not at all), PeerDown."""
        filled = 0
        while filled < len(buffer):
            try:
                count = self._channel.take_into(buffer[filled:])
            except BlockingIOError:
                if not filled:
                    raise
                break
            if not count:
                raise self._cut()
            filled += count
        return buffer[:filled]

    def _cut(self) -> PeerDown:
        return PeerDown(f"{self._sender} closed the connection after {self.length} bytes of a body")

    def _wake_at(self, count: int) -> None:
        if count != self._wake:
            self._wake = count
            self._channel.wake_at(count)


def _buffer() -> memoryview:
    """This thread's buffer: as many buffers as threads, however many bodies arrive."""
    if not hasattr(_buffers, "view"):
        _buffers.view = memoryview(bytearray(_BUFFER))
    view: memoryview = _buffers.view
    return view
