"""The breaker: while the metadata fails, one question at a time finds out; a definite answer ends it."""

from __future__ import annotations

import asyncio

import pytest

from discloud.errors import NoSuchKey, Unavailable
from discloud.gateway.breaker import PAUSE, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def fail() -> None:
    raise Unavailable("no quorum")


async def absent() -> None:
    raise NoSuchKey("definitely not")


async def answer() -> int:
    return 7


async def test_a_failure_makes_it_hopeless_for_a_moment() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    assert await breaker.ask(answer()) == 7
    assert not breaker.hopeless
    with pytest.raises(Unavailable, match="no quorum"):
        await breaker.ask(fail())
    assert breaker.hopeless
    clock.now += PAUSE
    assert not breaker.hopeless, "somebody has to find out"


async def test_one_at_a_time_finds_out() -> None:
    clock = Clock()
    breaker = Breaker(clock)
    with pytest.raises(Unavailable):
        await breaker.ask(fail())
    clock.now += PAUSE
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        begun.set()
        await end.wait()
        return 7

    finding_out = asyncio.create_task(breaker.ask(slow()))
    await begun.wait()
    assert breaker.hopeless
    end.set()
    assert await finding_out == 7
    assert not breaker.hopeless


async def test_many_questions_at_once_are_no_failure() -> None:
    breaker = Breaker(Clock())
    end = asyncio.Event()
    asked = [asyncio.create_task(breaker.ask(end.wait())) for _ in range(5)]
    await asyncio.sleep(0)
    assert not breaker.hopeless
    end.set()
    assert all(await asyncio.gather(*asked))


async def test_an_absence_is_an_answer() -> None:
    breaker = Breaker(Clock())
    with pytest.raises(Unavailable):
        await breaker.ask(fail())
    with pytest.raises(NoSuchKey):
        await breaker.ask(absent())
    assert not breaker.hopeless


async def test_silence_is_a_failure() -> None:
    breaker = Breaker(Clock())
    with pytest.raises(Unavailable, match="did not answer"):
        await breaker.ask(asyncio.Event().wait(), 0.01)
    assert breaker.hopeless


async def test_a_caller_that_leaves_says_nothing() -> None:
    breaker = Breaker(Clock())
    asked = asyncio.create_task(breaker.ask(asyncio.Event().wait()))
    await asyncio.sleep(0)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    assert not breaker.hopeless
