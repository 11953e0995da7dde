"""The budget of bodies: never overdrawn, in order, nothing lost by those who leave."""

import asyncio
import random

import pytest

from discloud.errors import Unavailable
from discloud.gateway.memory import BodyMemory


async def test_it_is_never_overdrawn_and_everybody_gets_a_turn() -> None:
    memory = BodyMemory(100)
    rng = random.Random(3)
    held = peak = done = 0

    async def one(length: int) -> None:
        nonlocal held, peak, done
        async with memory.hold(length):
            held += length
            peak = max(peak, held)
            for _ in range(rng.randrange(5)):
                await asyncio.sleep(0)
            held -= length
        done += 1

    await asyncio.gather(*(one(rng.randrange(1, 101)) for _ in range(500)))
    assert done == 500
    assert 50 < peak <= 100


async def test_who_waits_too_long_is_refused_and_takes_nothing_along() -> None:
    memory = BodyMemory(10, patience=0.01)
    async with memory.hold(10):
        with pytest.raises(Unavailable, match="bodies in memory"):
            async with memory.hold(1):
                raise AssertionError("granted")
    async with memory.hold(10):
        pass


async def test_a_cancelled_waiter_takes_nothing_along() -> None:
    memory = BodyMemory(10)

    async def waiter() -> None:
        async with memory.hold(5):
            await asyncio.Event().wait()

    async with memory.hold(10):
        task = asyncio.create_task(waiter())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with memory.hold(10):
        pass


async def test_more_than_the_budget_holds_all_of_it() -> None:
    memory = BodyMemory(10)
    async with memory.hold(1000):
        task = asyncio.create_task(memory.hold(1).__aenter__())
        await asyncio.sleep(0)
        assert not task.done()
    await task
