"""The answering end of a connection for calls.

Every call is a task of its own, a bounded number of them at once; the others wait unparsed in the sender's
window: reading stops while that many run or while the peer does not read its answers.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import cast

from discloud import logs
from discloud.errors import DiscloudError, Invalid
from discloud.peer.dispatch import Dispatch, Request
from discloud.peer.handshake import Session
from discloud.peer.outbox import Outbox
from discloud.peer.wire import Incoming, Message, Outgoing, failure

AT_ONCE = 64
"""Calls of one connection that run at once."""


class ServedCalls(asyncio.Protocol):
    """One connection after its handshake; ``gone`` is set when it ended. ``calls`` runs the tasks."""

    def __init__(self, session: Session, dispatch: Dispatch, calls: asyncio.TaskGroup) -> None:
        self.gone = asyncio.Event()
        self._dispatch = dispatch
        self._calls = calls
        self._peer = session.node
        self._outgoing = Outgoing(session.send_key)
        self._incoming = Incoming(session.receive_key)
        self._waiting: deque[Message] = deque()
        self._running = 0
        self._stopping = False
        self._room = asyncio.Event()
        self._room.set()
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox | None = None

    def close(self) -> None:
        """End the connection now."""
        self._waiting.clear()
        if self._transport is not None:
            self._transport.abort()

    def stop(self) -> None:
        """Take no more calls, answer those that run, then close."""
        self._stopping = True
        self._waiting.clear()
        self._steer()

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        self._outbox = Outbox(self._transport, asyncio.get_running_loop())

    def data_received(self, data: bytes) -> None:
        """Called by the loop. A frame that cannot be believed ends the connection."""
        try:
            self._waiting += self._incoming.feed(data)
            self._begin()
        except Invalid as error:
            logs.warn("peer_connection_broken", peer=self._peer, reason=str(error))
            self.close()

    def pause_writing(self) -> None:
        """Called by the loop when the peer does not read its answers."""
        self._room.clear()
        self._steer()

    def resume_writing(self) -> None:
        """Called by the loop when it reads again."""
        self._room.set()
        self._begin()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """Called by the loop. What runs goes on: a commit whose answer nobody reads is still a commit."""
        self._waiting.clear()
        self._room.set()
        self.gone.set()

    # ---- inside

    def _begin(self) -> None:
        while self._waiting and self._running < AT_ONCE and self._room.is_set():
            request = Request.of(self._waiting.popleft())
            self._running += 1
            self._calls.create_task(self._serve(request))
        self._steer()

    async def _serve(self, request: Request) -> None:
        request.enter()
        try:
            answer = await self._dispatch.answer(request)
            while not self._room.is_set():  # whoever wakes up first may fill the buffer again
                await self._room.wait()
            self._write(request, answer)
        finally:
            self._running -= 1
            self._continue()

    def _continue(self) -> None:
        try:
            self._begin()
        except Invalid as error:
            logs.warn("peer_connection_broken", peer=self._peer, reason=str(error))
            self.close()

    def _write(self, request: Request, answer: Message) -> None:
        if self._outbox is None:
            return
        try:
            frame = self._outgoing.frame(answer)
        except DiscloudError as error:
            frame = self._outgoing.frame(failure(request.number, error))
        self._outbox.send(frame)

    def _steer(self) -> None:
        """Read while there is room for more calls; close when stopped and nothing is left to do."""
        if self._transport is None or self._transport.is_closing():
            return
        if self._stopping and not self._running:
            if self._outbox is not None:
                self._outbox.flush()
            self._transport.close()
        elif self._stopping or self._waiting or self._running >= AT_ONCE or not self._room.is_set():
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
