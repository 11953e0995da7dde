"""Asking holders for the same bytes: the nearest first, another one when that is late, and the first answer counts.

A second question is a hedge (Dean, Barroso: The Tail at Scale, 2013): sent when the first was not answered in the time that
nearly all answers of that holder take, and paid for from a budget of ``SHARE`` of the reads, so that a mesh that is slow as a
whole is not asked twice as much. To leave a holder that has let several questions down for one that has not is free. The
question that lost is cancelled. Nodes that are down are asked only when nothing else is left; this node's disk is never hedged.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from discloud import metrics
from discloud.cluster import Cluster
from discloud.core.model import NodeId
from discloud.errors import DiscloudError

T = TypeVar("T")
SHARE = 0.1
"""Hedges for each read, on the long run."""
BURST = 20.0
"""Hedges that may be saved up."""
Ask = Callable[[NodeId], Awaitable[T]]
"""Puts the question to one holder. Raises DiscloudError when that one cannot answer."""
Drop = Callable[[T], Awaitable[None]]
"""Gives back an answer that came second."""


class Hedges:
    """The budget of one gateway. ``clock``: seconds of a clock that only grows."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._cluster = cluster
        self._saved = BURST

    async def first_answer(self, holders: deque[NodeId], ask: Ask[T], drop: Drop[T]) -> T:
        """The first answer of ``holders`` (at least one), asked in their order.

        Takes out of ``holders`` whom it asked; one that was only late comes back at the end. Raises: what the last holder did.
        """
        self._saved = min(BURST, self._saved + SHARE)
        return await self.next_answer(holders, ask, drop)

    async def next_answer(self, holders: deque[NodeId], ask: Ask[T], drop: Drop[T]) -> T:
        """As ``first_answer``, for a read that has been counted."""
        while True:
            node = holders.popleft()
            try:
                if not holders or node == self._cluster.me:
                    return await ask(node)
                return await _Race(self, node, holders, ask, drop).run()
            except DiscloudError:
                if not holders:
                    raise

    def patience(self, node: NodeId) -> float:
        """Seconds after which an answer of ``node`` is late."""
        return self._cluster.rtt.patience(node)

    def missed(self, node: NodeId) -> None:
        """``node`` was late and another one answered."""
        metrics.HEDGES.add(1, "won")
        self._cluster.rtt.missed(node, self.clock())

    def allow(self, late: NodeId, following: NodeId) -> bool:
        """Whether ``following`` may be asked beside ``late``, which counts as done."""
        silent = self._cluster.rtt.silent
        if not self._cluster.serving(following):
            return False
        if late not in silent or following in silent:
            if self._saved < 1:
                metrics.HEDGES.add(1, "refused")
                return False
            self._saved -= 1
        metrics.HEDGES.add(1, "sent")
        return True


class _Race(Generic[T]):
    """One holder asked in this task, and those behind it in another one as soon as the first is late.

    The usual case, an answer in time, costs a timer and no task.
    """

    def __init__(
        self, hedges: Hedges, node: NodeId, holders: deque[NodeId], ask: Ask[T], drop: Drop[T]
    ) -> None:
        self._hedges = hedges
        self._node = node
        self._holders = holders
        self._ask = ask
        self._drop = drop
        self._loop = asyncio.get_running_loop()
        self._waiting = asyncio.timeout(None)
        self._alarm: asyncio.TimerHandle | None = None
        self._others: asyncio.Task[T] | None = None
        self._following = node

    async def run(self) -> T:
        """The first answer. Raises: what the last of those asked did."""
        self._set_alarm()
        answered = False
        try:
            async with self._waiting:
                value = await self._ask(self._node)
                answered = True
        except TimeoutError:
            self._hedges.missed(self._node)
            self._holders.append(self._node)
            value = await self._take_others()
        except DiscloudError:
            self._stop_alarm()
            if self._others is None:
                raise
            value = await self._take_others()
        finally:
            self._stop_alarm()
            await self._end_others()
            if answered and self._following != self._node:
                self._holders.append(self._following)
        return value

    def _set_alarm(self) -> None:
        self._alarm = self._loop.call_later(self._hedges.patience(self._node), self._late)

    def _stop_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        if self._others is not None:
            self._others.remove_done_callback(self._others_ended)

    def _late(self) -> None:
        following = self._holders[0]
        if not self._hedges.allow(self._node, following):
            self._set_alarm()  # it may be found silent meanwhile: then leaving it is free
            return
        self._following = following
        self._others = self._loop.create_task(self._hedges.next_answer(self._holders, self._ask, self._drop))
        self._others.add_done_callback(self._others_ended)

    def _others_ended(self, others: asyncio.Task[T]) -> None:
        """Stop waiting for the first when the others have an answer; when they failed it is the last hope."""
        if not others.cancelled() and others.exception() is None:
            self._waiting.reschedule(self._loop.time())

    async def _take_others(self) -> T:
        assert self._others is not None, "the wait ends early only for an answer of theirs"
        value = await self._others
        self._others = None
        return value

    async def _end_others(self) -> None:
        """Cancel the others, and give back an answer of theirs that nobody took."""
        if self._others is None:
            return
        self._others.cancel()
        await asyncio.wait({self._others})
        if not self._others.cancelled() and self._others.exception() is None:
            await self._drop(self._others.result())
