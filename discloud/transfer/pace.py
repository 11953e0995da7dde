"""How slow the other side of a transfer may be before it is given up.

The rule is ``grace`` seconds plus the time that the bytes would take at ``min_rate``. It is applied to the time
spent waiting for that side, never to the time this node itself needs.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from discloud.core.model import MIB
from discloud.errors import TooSlow

WINDOW = MIB
"""Bytes after which a side's account begins anew: a fast start is no credit for a later standstill."""
LOOK = 1.0
"""Seconds after which a wait looks again at how far the other side came and whether it still lives."""


class Pace:
    """``grace`` in seconds, ``min_rate`` in bytes per second; shared by all transfers of a node."""

    def __init__(self, grace: float, min_rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.grace = grace
        self.min_rate = min_rate
        self.clock = clock

    def deadline(self, length: int) -> float:
        """Seconds that moving ``length`` bytes may take."""
        return self.grace + length / self.min_rate


class Patience:
    """The account of one side of one transfer: what it moved against how long it was waited for.

    Used by one task at a time. ``who`` names the side in the message of the error.
    """

    def __init__(self, pace: Pace, who: str) -> None:
        self._pace = pace
        self._who = who
        self._mark: int | None = None
        self._spent = 0.0

    async def wait(self, ready: Callable[[float], Awaitable[bool]], moved: Callable[[], int]) -> None:
        """Wait until ``ready(seconds)`` answers True; it answers False when the seconds passed.

        ``moved`` tells how many bytes the other side has taken or given so far, from whatever start.
        Raises: TooSlow when the account is overdrawn; what ``ready`` raises.
        """
        while True:
            left = self._left(moved())
            began = self._pace.clock()
            done = await ready(min(left, LOOK))
            self._spent += self._pace.clock() - began
            if done:
                return

    def _left(self, moved: int) -> float:
        if self._mark is None or moved - self._mark >= WINDOW:
            self._mark, self._spent = moved, 0.0
        count = max(0, moved - self._mark)
        left = self._pace.deadline(count) - self._spent
        if left <= 0:
            raise TooSlow(
                f"{self._who} moved {count} bytes in {self._spent:.1f} s",
                f"At least {self._pace.min_rate:.0f} bytes/s after {self._pace.grace:.0f} s are needed "
                "(limits.min_rate, limits.grace)",
            )
        return left
