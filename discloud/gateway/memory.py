"""The memory that bodies under way may take, all requests together (``limits.body_memory``).

Invariant I11: whoever holds bytes of a body in memory holds as much of this budget. A request that finds it used up waits a
little for others to end and is refused with 503 after that: the process never grows instead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from discloud.errors import Unavailable

PATIENCE = 5.0
"""Seconds that a request waits for its share."""


class BodyMemory:
    """A budget in bytes, granted in the order of asking. Runs on the event loop."""

    def __init__(self, limit: int, patience: float = PATIENCE) -> None:
        self._limit = limit
        self._free = limit
        self._patience = patience
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, length: int) -> AsyncIterator[None]:
        """Hold ``length`` bytes (at most the whole budget) while the context lasts. Raises: Unavailable."""
        share = min(length, self._limit)
        if self._waiting or share > self._free:
            await self._wait(share)
        else:
            self._free -= share
        try:
            yield
        finally:
            self._free += share
            self._grant()

    async def _wait(self, share: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (share, turn)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._patience):
                await turn
        except (asyncio.CancelledError, TimeoutError) as error:
            if turn.done() and not turn.cancelled():
                # Granted in the very moment in which the waiter left: the share goes back.
                self._free += share
                self._grant()
            if isinstance(error, asyncio.CancelledError):
                raise
            raise Unavailable(
                "the node holds as many bodies in memory as it may",
                "repeat in a moment; the limit is limits.body_memory",
            ) from error
        finally:
            self._leave(entry)

    def _leave(self, entry: tuple[int, asyncio.Future[None]]) -> None:
        """Stop waiting: the share of who left without it goes to the next."""
        if entry in self._waiting:
            self._waiting.remove(entry)
            self._grant()

    def _grant(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            share, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= share
                turn.set_result(None)
