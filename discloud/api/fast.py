"""The short path: plain small GETs are answered from ``data_received``, without aiohttp's parser and its task.

An object that lies here and is known at once is answered on the spot; for one that lies elsewhere a short coroutine asks the
other nodes while the connection's next bytes wait. Whatever is not certainly plain goes to aiohttp, unchanged: a request with a query, a Range, a condition or a body, one that is
not alone and whole on an idle connection, an object that is not small. So the short path may
always say no and both paths answer alike (tests/api/test_fast.py compares them on generated requests). It uses private
names of aiohttp's ``RequestHandler``; aiohttp is pinned for that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, cast

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from discloud import logs
from discloud.api.headers import SERVER
from discloud.api.problem import problem
from discloud.errors import DiscloudError, Invalid

HEAD_END = b"\r\n\r\n"
FIRST = b"GET /v1/files/"
LAST = b" HTTP/1.1"
BUFFERED = 64 * 1024
"""Bytes waiting in the transport above which the slow path (with its back-pressure) takes over."""

Later = Coroutine[Any, Any, bytes | None]
ShortCut = Callable[[bytes, bytes], bytes | Later | None]
"""Answers (raw target behind ``/v1/files/``, header block) with the bytes to send, with a coroutine that gives them, or
with None = not plain; the coroutine may still find that out."""


class FastHandler(RequestHandler):
    """One client connection. ``full``: the node has too many; it is closed at once."""

    __slots__ = (
        "_clean",
        "_full",
        "_head_seconds",
        "_head_timer",
        "_held",
        "_later",
        "_parser_seen",
        "_short_cut",
    )

    def __init__(
        self,
        manager: web.Server,
        loop: asyncio.AbstractEventLoop,
        short_cut: ShortCut | None,
        *,
        full: bool,
        head: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **kwargs)
        self._short_cut = short_cut
        self._full = full
        self._head_seconds = head
        self._head_timer: asyncio.TimerHandle | None = None
        self._later: asyncio.Task[None] | None = None
        self._held = b""
        self._clean = True
        self._parser_seen: object = self._parser

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept, or close a connection over the limit."""
        super().connection_made(transport)
        if self._full:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget with the connection what was under way for it."""
        self._stop_head_timer()
        if self._later is not None:
            self._later.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Answer on the short path what is plain; hand everything else to aiohttp."""
        if self._later is not None:
            self._hold(data)
            return
        if self._short_cut is not None and self._idle() and data.endswith(HEAD_END) and self._answer(data):
            return
        self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        """Give bytes to aiohttp's parser."""
        idle = self._waiter is not None and not self._waiter.done()
        super().data_received(data)
        # At a message's end the parser holds nothing: only then may a later request be taken from under it.
        self._clean = data.endswith(HEAD_END)
        if idle and self._waiter is not None and not self._waiter.done():
            self._start_head_timer()
        else:
            self._stop_head_timer()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp refuses by itself (a head that is no HTTP), told as everything else is; the connection ends."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("an answer had begun")
        logs.info("malformed_request", status=status, reason=str(message or exc)[:200])
        response = problem(Invalid(f"the request is no HTTP/1.1: {message or exc}"[:300], "look at its head"))
        response.headers["Server"] = SERVER
        response.force_close()
        return response

    def _idle(self) -> bool:
        """Nothing under way, nothing half parsed: the next byte begins a request."""
        if self._parser is not self._parser_seen:
            # transfer/ took the body over and left a fresh parser behind it.
            self._parser_seen, self._clean = self._parser, True
        return (
            self._clean
            and self._waiter is not None
            and not self._waiter.done()
            and not self._messages
            and self._current_request is None
            and not self._close
            and not self._force_close
            and self.transport is not None
            and not self.transport.is_closing()
        )

    def _answer(self, data: bytes) -> bool:
        """Answer every request in ``data`` if the first is plain; what follows a request that is not goes to aiohttp."""
        assert self._short_cut is not None
        # uvloop's transports do not inherit from asyncio's.
        transport = cast("asyncio.Transport", self.transport)
        if transport.get_write_buffer_size() > BUFFERED:
            return False
        answers = []
        for request in data.split(HEAD_END)[:-1]:
            answer = self._one(request)
            if isinstance(answer, bytes):
                answers.append(answer)
                continue
            if answer is not None:
                self._begin_later(answer, request + HEAD_END)
            break
        if answers:
            transport.write(answers[0] if len(answers) == 1 else b"".join(answers))
            self._keep_alive()
        rest = data.split(HEAD_END, len(answers))[len(answers)]
        if self._later is not None:
            self._held = rest.partition(HEAD_END)[2]
        elif answers and rest:
            self._clean = False
            super().data_received(rest)
            self._clean = True
        return bool(answers) or self._later is not None

    def _keep_alive(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        self._keepalive = True

    def _begin_later(self, work: Later, request: bytes) -> None:
        self._keep_alive()
        self._later = self._loop.create_task(self._finish(work, request))

    async def _finish(self, work: Later, request: bytes) -> None:
        """Answer a request that had to ask other nodes; what it cannot answer is aiohttp's, as is telling errors."""
        try:
            answer = await work
        except DiscloudError:
            answer = None
        self._later = None
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if answer is None:
            self._hand_over(request)
        else:
            transport.write(answer)
            self._keep_alive()
        held, self._held = self._held, b""
        if len(held) > BUFFERED:
            transport.resume_reading()
        if held:
            self.data_received(held)

    def _hold(self, data: bytes) -> None:
        """Keep what comes before the answer; a client that sends much ahead is not read from meanwhile."""
        self._held += data
        if len(self._held) > BUFFERED:
            cast("asyncio.Transport", self.transport).pause_reading()

    def _one(self, request: bytes) -> bytes | Later | None:
        line, _, headers = request.partition(b"\r\n")
        if not (line.startswith(FIRST) and line.endswith(LAST)):
            return None
        assert self._short_cut is not None
        return self._short_cut(line[len(FIRST) : -len(LAST)], headers)

    def _start_head_timer(self) -> None:
        """A request's head has begun and is not whole: it gets ``head`` seconds (slow clients hold nothing for long)."""
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._head_seconds, self.force_close)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
