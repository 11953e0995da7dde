"""The calling end of a connection for calls: many at once, answered in any order.

A call's future waits under its number until the answer, its deadline or the end of the connection, whichever is
first; a cancelled call is forgotten and its late answer dropped. While the write buffer is high no new call
is written: a slow peer cannot fill this node's memory.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from discloud import logs
from discloud.errors import Invalid, PeerDown
from discloud.peer.handshake import Session
from discloud.peer.outbox import Outbox
from discloud.peer.wire import ANSWER, CALL, FAILED, Incoming, Message, Outgoing, error_of


class AnswerLost(PeerDown):
    """A call was sent and its answer was lost or is late: it may have happened. To most callers it is a PeerDown."""


class CallConnection(asyncio.Protocol):
    """One connection after its handshake. Lives on one loop; any number of tasks may call."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self._outgoing = Outgoing(session.send_key)
        self._incoming = Incoming(session.receive_key)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._number = 0
        self._open = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None
        self._received = 0
        self._silent = False

    @property
    def load(self) -> int:
        """Calls that wait for their answer."""
        return len(self._waiting)

    @property
    def usable(self) -> bool:
        """Whether a call may still be written, and an answer hoped for."""
        return not self._silent and not self.closed

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._transport is None or self._transport.is_closing()

    async def call(self, method: str, arguments: list[Any], seconds: float) -> Any:
        """Send a call and wait for its answer, ``seconds`` at most.

        Raises: the error that the other node raised; PeerDown (it was not sent); AnswerLost (it was); TooLarge.
        """
        end = self._loop.time() + seconds
        while not self._open.is_set():  # whoever wakes up first may fill the buffer again
            await self._room(method, end - self._loop.time())
        self._number += 1
        number, left = self._number, end - self._loop.time()
        self._write([CALL, number, method, arguments, int(left * 1000), logs.REQUEST.get(), logs.TRACE.get()])
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting[number] = answer
        alarm = self._loop.call_later(left, self._expire, number, method, seconds, self._received)
        try:
            return await answer
        finally:
            alarm.cancel()
            self._waiting.pop(number, None)
            if answer.done() and not answer.cancelled():
                answer.exception()  # seen, also where the caller was cancelled in the same moment

    def close(self) -> None:
        """End the connection; calls that wait fail."""
        if self._transport is not None:
            self._transport.abort()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        self._outbox = Outbox(self._transport, self._loop)
        self._open.set()

    def data_received(self, data: bytes) -> None:
        """Called by the loop: hands every answer to whoever waits for it."""
        self._received += 1
        self._silent = False
        try:
            for message in self._incoming.feed(data):
                self._settle(message)
        except (Invalid, ValueError, TypeError) as error:
            logs.warn("peer_connection_broken", peer=self.name, reason=str(error))
            self.close()

    def pause_writing(self) -> None:
        """Called by the loop when the write buffer is high."""
        self._open.clear()

    def resume_writing(self) -> None:
        """Called by the loop when the write buffer is low again."""
        self._open.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop: every waiting call fails at once."""
        self._open.set()
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    AnswerLost(f"the connection with {self.name} was lost: {exc or 'closed'}")
                )

    # ---- inside

    async def _room(self, method: str, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._open.wait()
        except TimeoutError as error:
            raise PeerDown(f"{self.name} took no call of {method} within {seconds:.1f} s") from error

    def _write(self, message: Message) -> None:
        if self._outbox is None or self.closed:
            raise PeerDown(f"the connection with {self.name} is closed")
        self._outbox.send(self._outgoing.frame(message))

    def _settle(self, message: Message) -> None:
        kind, number, *rest = message
        answer = self._waiting.get(number)
        if answer is None or answer.done():
            return
        if kind == ANSWER:
            answer.set_result(rest[0])
        elif kind == FAILED:
            answer.set_exception(error_of(message))

    def _expire(self, number: int, method: str, seconds: float, received: int) -> None:
        # A connection on which nothing came since then may be dead without a word (a machine that vanished, a
        # firewall that forgot it): the next call gets a new one, unless this one shows life first.
        self._silent = self._silent or received == self._received
        answer = self._waiting.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(AnswerLost(f"{self.name} did not answer {method} within {seconds:.1f} s"))
