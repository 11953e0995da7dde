"""Calls that any root can answer: to the one that answered last, and at once to the next when it does not.

What may be sent again is sent again: a call that was lost on its way may have happened, so only calls that are
idempotent are repeated, and where the outcome matters and stays unknown the caller is told exactly that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from discloud.errors import Invalid, OutcomeUnknown, TooSlow, Unavailable
from discloud.peer.calls import AnswerLost
from discloud.peer.handshake import Session
from discloud.peer.links import Links, Target
from discloud.peer.methods import Method
from discloud.peer.pages import pages

COMING_BACK = 1.2
"""Seconds for which a call that was not sent waits for a root: longer than an address that failed is left alone."""
PAUSE = 0.05


class Roots:
    """The roots as one. ``patience``: seconds that a call may take in all, shared by the roots that are tried."""

    def __init__(
        self,
        links: Links,
        addresses: Sequence[str],
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not addresses:
            raise Invalid("no root is known", "name at least one: --roots HOST:7072")
        self._links = links
        self._targets = [Target(address) for address in addresses]
        self._patience = patience
        self._clock = clock

    async def greet(self) -> Session:
        """The first root that answers. Raises: Unavailable (none does); a refusal as it is (Links.greet)."""
        failures: list[str] = []
        for target in self._order():
            try:
                session = await self._links.greet(target)
            except Unavailable as error:
                failures.append(str(error))
                continue
            self._prefer(target)
            return session
        raise _none_answers(failures)

    async def call(self, method: Method, arguments: Sequence[object], *, repeat: bool, settle: bool) -> Any:
        """The result. ``repeat``: a lost call may be sent again. ``settle``: whether it happened matters.

        Raises: what the root raises; Unavailable (no root answers: nothing is known); OutcomeUnknown (with
        ``settle``: it was sent and no answer came).
        """
        packed = method.pack(*arguments)
        end = self._clock() + self._patience
        coming_back = min(end, self._clock() + COMING_BACK)
        while True:
            failures: list[str] = []
            lost = False
            for target, tries_left in self._tries():
                if failures and not tries_left and len(self._targets) == 1 and not lost:
                    break  # the only root said no by itself: the same question has the same answer
                budget = (end - self._clock()) / (tries_left + 1)
                try:
                    value = await self._links.call(target, method.name, packed, budget)
                except Unavailable as error:
                    failures.append(str(error))
                    unsettled = isinstance(error, AnswerLost | OutcomeUnknown | TooSlow)
                    lost = lost or unsettled
                    if unsettled and not repeat:
                        break
                    continue
                self._prefer(target)
                return method.unpack_result(value)
            if lost and settle:
                raise OutcomeUnknown(f"{method.name} was sent and its answer was lost: {'; '.join(failures)}")
            if lost or self._clock() >= coming_back:
                raise _none_answers(failures)
            await asyncio.sleep(PAUSE)

    async def pages(self, method: Method, arguments: Sequence[object]) -> AsyncIterator[Any]:
        """Each result; from the next root only while nothing was given out. Raises: as ``call``, also in the middle."""
        failures: list[str] = []
        for target in self._order():
            begun = False
            try:
                async for item in pages(self._links, target, method, self._patience, *arguments):
                    begun = True
                    yield item
            except Unavailable as error:
                if begun:
                    raise
                failures.append(str(error))
                continue
            self._prefer(target)
            return
        raise _none_answers(failures)

    def _order(self) -> list[Target]:
        return list(self._targets)

    def _tries(self) -> Iterator[tuple[Target, int]]:
        """Each root once, the only one twice; with the number of tries that are left after it."""
        tries = self._order() if len(self._targets) > 1 else self._order() * 2
        return ((target, len(tries) - 1 - number) for number, target in enumerate(tries))

    def _prefer(self, target: Target) -> None:
        while self._targets[0] != target:
            self._targets.append(self._targets.pop(0))


def _none_answers(failures: list[str]) -> Unavailable:
    return Unavailable(f"no root answers ({'; '.join(failures)})", "repeat it when a root is up again")
