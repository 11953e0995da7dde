"""A stream connection: one transfer at a time, messages and raw bytes in turns.

Messages are framed and sealed as everywhere (wire.py); raw bytes go between them, moved by the kernel or by a worker
thread, as many as the message before them announced. ``in_step`` is the whole of its state: true only
between two transfers, when both sides know that the next bytes are a frame. Whoever leaves it false closes it.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from discloud.errors import Invalid, PeerDown, TooSlow
from discloud.peer.channel import Channel
from discloud.peer.handshake import Session
from discloud.peer.wire import FRAME_LIMIT, HEAD, Incoming, Message, Outgoing, body_length


class Stream:
    """Owns the channel. One user at a time; ``name`` tells the other node in messages of errors."""

    def __init__(self, channel: Channel, session: Session, name: str) -> None:
        self.channel = channel
        self.session = session
        self.name = name
        self.in_step = True
        self.since = 0.0
        self._outgoing = Outgoing(session.send_key)
        self._incoming = Incoming(session.receive_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def send(self, message: Message, seconds: float) -> None:
        """Send one message. Raises: PeerDown, TooSlow, TooLarge (then nothing was sent)."""
        await self.send_bytes(self._outgoing.frame(message), seconds)

    async def send_bytes(self, data: bytes, seconds: float) -> None:
        """Send raw bytes from the loop: small ones. Raises: PeerDown, TooSlow."""
        try:
            async with asyncio.timeout(seconds):
                await self.channel.send(data)
        except TimeoutError as error:
            raise TooSlow(f"{self.name} took no message within {seconds:.1f} s") from error
        except OSError as error:
            raise self._lost(error) from error

    async def receive(self, seconds: float | None, limit: int = FRAME_LIMIT) -> Message:
        """The next message, of at most ``limit`` bytes. Raises: PeerDown (also where it cannot be believed), TooSlow."""
        try:
            async with asyncio.timeout(seconds):
                head = await self._exactly(HEAD.size)
                return self._open(head, await self._exactly(self._length(head, limit)))
        except TimeoutError as error:
            raise TooSlow(f"{self.name} sent no message within {seconds:.1f} s") from error
        except OSError as error:
            raise self._lost(error) from error

    def receive_blocking(self, seconds: float) -> Message:
        """As ``receive``, for a worker thread."""
        head = bytearray(HEAD.size)
        self.channel.fill(head, seconds)
        body = bytearray(self._length(head))
        self.channel.fill(body, seconds)
        return self._open(bytes(head), body)

    def pending(self) -> bytes | None:
        """What lies unread at the front: a byte, ``b""`` when the other side left, None when nothing came."""
        return self.channel.pending()

    def close(self) -> None:
        """Close the connection: the other side takes an unfinished transfer for failed."""
        self.channel.close()

    async def _exactly(self, count: int) -> bytearray:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            got = await self.channel.receive_into(rest)
            if not got:
                raise PeerDown(f"{self.name} closed the connection")
            rest = rest[got:]
        return data

    def _length(self, head: bytearray, limit: int = FRAME_LIMIT) -> int:
        try:
            return body_length(head, limit)
        except Invalid as error:
            raise self._lost(error) from error

    def _open(self, head: bytes | bytearray, body: bytearray) -> Message:
        try:
            return self._incoming.open(bytes(head), body)
        except Invalid as error:
            raise self._lost(error) from error

    def _lost(self, error: Exception) -> PeerDown:
        return PeerDown(f"the connection with {self.name} is lost: {error}")


def expect(stream: Stream, message: Message, *kinds: int) -> Message:
    """The message, if it is of one of these kinds. Raises: PeerDown: the other side follows another protocol."""
    if message[0] not in kinds or len(message) < 3:
        raise PeerDown(f"{stream.name} sent a message of kind {message[0]!r} out of turn")
    return message
