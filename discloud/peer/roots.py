"""Calls that any root can answer: to the best one known, and at once to the next when it does not.

What may be sent again is sent again: a call that was lost on its way may have happened, so only calls that are
idempotent are repeated, and where the outcome matters and stays unknown the caller is told exactly that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from discloud.core.model import NodeId
from discloud.errors import DiscloudError, OutcomeUnknown, PeerDown, TooSlow, Unavailable
from discloud.peer.calls import AnswerLost
from discloud.peer.handshake import Session
from discloud.peer.known_roots import KnownRoots
from discloud.peer.links import Links, Target
from discloud.peer.methods import Method, methods_of
from discloud.peer.pages import pages

COMING_BACK = 1.2
"""Seconds for which a call that was not sent waits for a root: longer than an address that failed is left alone."""
PAUSE = 0.05
BEAT = 0.5
"""Seconds that a root has for a heartbeat before the next one is asked."""
RESERVE = 0.15
"""Seconds that a root which lives and does not answer leaves for the next one."""
SILENT = 0.25
"""Seconds without an answer after which a root is asked whether it lives."""
ALIVE = 0.4
"""Seconds within which it must say so; then what waits for it goes to the next root."""
_LEAVE = methods_of("membership")["leave"]
_NOBODY = _LEAVE.pack(NodeId(""))


class Roots:
    """The roots as one. ``patience``: seconds that a call may take in all, shared by the roots that are tried.

    ``beats``: for heartbeats, which a living root answers at once.
    """

    def __init__(
        self,
        links: Links,
        known: Sequence[str] | KnownRoots,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        beats: bool = False,
    ) -> None:
        self.known = known if isinstance(known, KnownRoots) else KnownRoots(known, clock)
        self._links = links
        self._patience = patience
        self._clock = clock
        self._beats = beats
        self._probes: dict[Target, asyncio.Task[bool]] = {}

    async def greet(self) -> Session:
        """The first root that answers. Raises: Unavailable (none does); a refusal as it is (Links.greet)."""
        failures: list[str] = []
        for target in self.known.order():
            try:
                session = await self._links.greet(target)
            except Unavailable as error:
                self.known.failed(target)
                failures.append(str(error))
                continue
            self.known.answered(target)
            return session
        raise _none_answers(failures)

    async def call(
        self,
        method: Method,
        arguments: Sequence[object],
        *,
        repeat: bool,
        settle: bool,
        work: float = 0.0,
    ) -> Any:
        """The result. ``repeat``: a lost call may be sent again. ``settle``: whether it happened matters.

        ``work``: seconds that a root needs for it beyond the patience.

        Raises: what the root raises; Unavailable (no root answers: nothing is known); OutcomeUnknown (with
        ``settle``: it was sent and no answer came).
        """
        packed = method.pack(*arguments)
        end = self._clock() + self._patience + work
        coming_back = min(end, self._clock() + COMING_BACK)
        while True:
            failures: list[str] = []
            lost = False
            for target, budget, again in self._tries(end):
                if again and not lost:
                    break  # all roots said no by themselves: the same question has the same answer
                try:
                    value = await self._try(target, method, packed, budget, watched=repeat)
                except Unavailable as error:
                    self.known.failed(target)
                    failures.append(str(error))
                    unsettled = isinstance(error, AnswerLost | OutcomeUnknown | TooSlow)
                    lost = lost or unsettled
                    if unsettled and not repeat:
                        break
                    continue
                self.known.answered(target)
                return method.unpack_result(value)
            if lost and settle:
                raise OutcomeUnknown(f"{method.name} was sent and its answer was lost: {'; '.join(failures)}")
            if lost or self._clock() >= coming_back:
                raise _none_answers(failures)
            await asyncio.sleep(PAUSE)

    async def pages(self, method: Method, arguments: Sequence[object]) -> AsyncIterator[Any]:
        """Each result; from the next root only while nothing was given out. Raises: as ``call``, also in the middle."""
        failures: list[str] = []
        for target in self.known.order():
            begun = False
            try:
                async for item in pages(self._links, target, method, self._patience, *arguments):
                    begun = True
                    yield item
            except Unavailable as error:
                self.known.failed(target)
                if begun:
                    raise
                failures.append(str(error))
                continue
            self.known.answered(target)
            return
        raise _none_answers(failures)

    def _tries(self, end: float) -> Iterator[tuple[Target, float, bool]]:
        """The roots to ask, the seconds that each has, and whether it is asked again.

        The only root is asked twice. A heartbeat gives each root a short while, then each its share of what is left: far away
        the first connection takes longer. Other calls wait for a root that lives nearly as long as they can.
        """
        order = self.known.order(beat=self._beats)
        for number, target in enumerate(order):
            left = end - self._clock()
            share = left / (len(order) - number)
            if len(order) == 1:
                yield target, left / 2, False
            elif left > 0:
                yield target, min(BEAT, share) if self._beats else max(share, left - RESERVE), False
        if len(order) == 1 or self._beats:
            for number, target in enumerate(order):
                yield target, (end - self._clock()) / (len(order) - number), True

    async def _try(
        self, target: Target, method: Method, packed: list[Any], seconds: float, *, watched: bool
    ) -> Any:
        """Ask one root; where another one could be asked instead, not longer than it shows life. Raises: as Links.call."""
        if not watched or self._beats or len(self.known) == 1:
            return await self._links.call(target, method.name, packed, seconds)
        try:
            async with _Watch(partial(self._probe, target)):
                return await self._links.call(target, method.name, packed, seconds)
        except TimeoutError as error:
            raise AnswerLost(f"{target} fell silent during {method.name}") from error

    def _probe(self, target: Target) -> asyncio.Task[bool]:
        """The look after a root that is under way, or a new one: one serves all that wait."""
        if target not in self._probes:
            probe = asyncio.create_task(self._lives(target))
            self._probes[target] = probe
            probe.add_done_callback(lambda _: self._probes.pop(target))
        return self._probes[target]

    async def _lives(self, target: Target) -> bool:
        """Whether the root answers now to a call that changes nothing and waits for nothing: nobody leaves."""
        try:
            await self._links.call(target, _LEAVE.name, _NOBODY, ALIVE)
        except (PeerDown, TooSlow):
            self.known.failed(target)
            return False
        except DiscloudError:
            return True
        return True


class _Watch:
    """Ends what runs inside with TimeoutError when the root that it waits for does not live any more."""

    def __init__(self, probe: Callable[[], asyncio.Task[bool]]) -> None:
        self._probe = probe
        self._loop = asyncio.get_running_loop()
        self._scope = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        self._timer = self._loop.call_later(SILENT, self._look)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._scope.__aexit__(kind, error, trace)

    def _look(self) -> None:
        self._probe().add_done_callback(self._conclude)

    def _conclude(self, probe: asyncio.Task[bool]) -> None:
        if self._timer is None:
            return  # the answer came meanwhile
        if probe.cancelled() or probe.result():
            self._timer = self._loop.call_later(SILENT, self._look)
        else:
            self._scope.reschedule(self._loop.time())


def _none_answers(failures: list[str]) -> Unavailable:
    return Unavailable(f"no root answers ({'; '.join(failures)})", "repeat it when a root is up again")
