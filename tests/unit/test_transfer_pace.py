"""How slow the other side may be: decided on a clock of our own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.errors import TooSlow
from discloud.transfer.pace import WINDOW, Pace, Patience


class Side:
    """Gives ``rate`` bytes per second, in steps that take ``step`` seconds, and is waited for on its own clock."""

    def __init__(self, rate: float, step: float, start: int) -> None:
        self.rate, self.step, self.start = rate, step, start
        self.now = 0.0
        self.due = step

    def clock(self) -> float:
        return self.now

    def moved(self) -> int:
        return self.start + int(self.rate * self.now)

    async def ready(self, seconds: float) -> bool:
        left = self.due - self.now
        if left > seconds:
            self.now += seconds
            return False
        self.now, self.due = self.due, self.due + self.step
        return True

    async def wait(self, patience: Patience, until: float) -> None:
        while self.now < until:
            await patience.wait(self.ready, self.moved)


def test_deadline() -> None:
    assert Pace(30, 1000).deadline(5000) == 35


@given(start=st.integers(-(10**9), 10**9), step=st.floats(0.01, 60), rate=st.floats(1050, 1e7))
async def test_never_too_slow_at_the_rate(start: int, step: float, rate: float) -> None:
    """Whatever the count starts from and however rarely the kernel reports it."""
    side = Side(rate, step, start)
    await side.wait(Patience(Pace(5, 1000, side.clock), "it"), 200 * step)


@given(start=st.integers(-(10**9), 10**9), step=st.floats(0.5, 60), rate=st.floats(0, 900))
async def test_always_too_slow_below_it(start: int, step: float, rate: float) -> None:
    side = Side(rate, step, start)
    with pytest.raises(TooSlow):
        await side.wait(Patience(Pace(5, 1000, side.clock), "it"), 3000)
    assert side.now <= 5 + 5 * 1000 / (1000 - rate) + 61


async def test_fast_start_is_no_credit_for_a_standstill() -> None:
    side = Side(1e9, 1, 0)
    patience = Patience(Pace(5, 1000, side.clock), "it")
    await side.wait(patience, 100)
    side.rate, side.start, stopped = 0.0, side.moved(), side.now
    with pytest.raises(TooSlow, match="it moved"):
        await side.wait(patience, 1e6)
    assert side.now - stopped <= 5 + WINDOW / 1000 + 2
