"""The way in: the body of one request, handed to a sink in a worker thread.

    known length, plain TCP, Linux               received from the socket itself, past aiohttp (a takeover)
    chunked, TLS, other systems, kernel=False    through aiohttp's content

Both give the same bytes and the same errors. The sink holds the sender back: nothing is received while it works,
beyond the kernel's and aiohttp's own buffers.
"""

from __future__ import annotations

from functools import partial

from aiohttp import hdrs
from aiohttp.http import HttpVersion11
from aiohttp.web import BaseRequest

from discloud.core.model import KIB
from discloud.errors import ClientGone, TooLarge
from discloud.transfer.connection import (
    Takeover,
    check_open,
    close_after_answer,
    declared_length,
    may_take_over,
    read_arrived,
    read_some,
)
from discloud.transfer.pace import Pace, Patience
from discloud.transfer.readiness import readable, unread
from discloud.transfer.receive import LOW_WATER, Sink, give, receive_quantum, wake_at
from discloud.transfer.threads import Threads

TAKEN_OVER = 256 * KIB
"""Bytes still to come from which a takeover pays."""


class Intake:
    """A request's body, to be read once: by ``small``, or by ``pump``, or by ``small`` and then ``pump``.

    After an error the answer says ``Connection: close``, and the connection ends behind it.
    """

    def __init__(
        self, request: BaseRequest, threads: Threads, pace: Pace, *, limit: int, kernel: bool = True
    ) -> None:
        self.length = declared_length(request)
        """Bytes of the body as declared; None when only its end will tell."""
        self._request = request
        self._content = request.content
        self._threads = threads
        self._limit = limit
        self._kernel = kernel
        self._patience = Patience(pace, "the client")
        self._arrived = 0
        self._held: list[bytes] = []
        self._begun = False

    async def small(self, limit: int) -> bytes | None:
        """The whole body if it ends within ``limit`` bytes, else None; then ``pump`` still gives all of it.

        Raises: TooLarge (over the intake's own limit), ClientGone, TooSlow, Invalid (broken framing).
        """
        if self.length is not None and self.length > limit:
            return None
        try:
            if self._content.is_eof():
                body = self._take_arrived()  # the usual small request: all of it came with its head
            else:
                body = await self._read_up_to(limit)
        except BaseException:
            close_after_answer(self._request)
            raise
        self._held = [body]
        return body if len(body) <= limit else None

    async def pump(self, sink: Sink) -> int:
        """Give the body to ``sink`` in a worker thread, one call at a time; return its length.

        A call gets at most 1 MiB, in a buffer that is used again when the sink has returned. What arrived before
        the body was cut has reached the sink. Raises: as ``small``, and whatever the sink raises.
        """
        try:
            self._check_limit(self.length or 0)
            self._begin()
            await self._pump_arrived(sink)
            await self._pump_content(sink)
        except BaseException:
            close_after_answer(self._request)
            raise
        return self._arrived

    def _begin(self) -> None:
        """Ask for the body if the client waits to be asked (RFC 9110 section 10.1.1)."""
        if self._begun:
            return
        self._begun = True
        request = self._request
        if (
            request.version == HttpVersion11
            and request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
            and not (self._content.total_bytes or self._content.is_eof())
        ):
            check_open(request.transport).write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_limit(self, length: int) -> None:
        if length > self._limit:
            raise TooLarge(
                f"the body has more than {self._limit} bytes", "Send less, or raise limits.max_object"
            )

    # ------------------------------------------------------------ from the socket

    async def _pump_arrived(self, sink: Sink) -> None:
        """Give the sink what was read before; take the connection over if enough is still to come.

        Between the last byte of ``content`` and the takeover nothing may be awaited.
        """
        early = self._take_arrived()
        rest = 0 if self.length is None or not self._kernel else self.length - self._arrived
        if rest < TAKEN_OVER or self._content.is_eof() or not may_take_over(self._request):
            self._held = [early]
            return
        with Takeover(self._request, rest) as way:
            if early:
                await self._threads.run(partial(give, sink, early))
            await self._receive(way, sink)
        self._arrived += rest

    async def _receive(self, way: Takeover, sink: Sink) -> None:
        came = self._arrived + way.rest

        async def ready(seconds: float) -> bool:
            way.check_open()
            return await readable(way.connection.fileno(), seconds)

        def moved() -> int:
            return came - way.rest + unread(way.connection.fileno())

        try:
            while way.rest:
                way.check_open()
                if await self._threads.run(partial(receive_quantum, way, sink)) and way.rest:
                    wake_at(way.connection, min(LOW_WATER, way.rest))
                    await self._patience.wait(ready, moved)
        finally:
            wake_at(way.connection, 1)

    # ------------------------------------------------------------ through aiohttp

    def _take_arrived(self) -> bytes:
        """What ``small`` and aiohttp hold, to the last byte that the loop has read."""
        held, self._held = self._held, []
        try:
            while chunk := read_arrived(self._request):
                self._note(chunk)
                held.append(chunk)
        except ClientGone:  # raised again when more is asked for
            if not held:
                raise
        return b"".join(held)

    async def _read_up_to(self, limit: int) -> bytes:
        """The body, or more than ``limit`` bytes of it."""
        self._begin()
        parts, self._held = self._held, []
        while self._arrived <= limit and (chunk := await self._next()):
            parts.append(chunk)
        return b"".join(parts)

    async def _pump_content(self, sink: Sink) -> None:
        while batch := await self._batch():
            await self._threads.run(partial(give, sink, batch))

    async def _batch(self) -> bytes:
        """The next LOW_WATER bytes or somewhat more; fewer before the end or a cut; b"" at the end."""
        parts, self._held = self._held, []
        size = sum(map(len, parts))
        try:
            while size < LOW_WATER and (chunk := await self._next()):
                parts.append(chunk)
                size += len(chunk)
        except ClientGone:
            if not size:
                raise
        return b"".join(parts)

    async def _next(self) -> bytes:
        """What has arrived, at least one byte; b"" at the end."""
        chunk = b""

        async def arrived(seconds: float) -> bool:
            nonlocal chunk
            answer = await read_some(self._request, seconds)
            chunk = answer or b""
            return answer is not None

        await self._patience.wait(arrived, lambda: self._arrived)
        self._note(chunk)
        return chunk

    def _note(self, chunk: bytes) -> None:
        self._arrived += len(chunk)
        self._check_limit(self._arrived)


def intake_of(
    request: BaseRequest, threads: Threads, pace: Pace, *, limit: int, kernel: bool = True
) -> Intake:
    """The body of ``request``, of at most ``limit`` bytes; ``kernel=False`` forces the copy path.

    The application's expect handler must not answer: the intake asks for the body when it is wanted.
    """
    return Intake(request, threads, pace, limit=limit, kernel=kernel)
