"""The pool of worker threads: bounded, in the caller's context, never abandoned while it works."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from discloud.errors import NoSpace, Unavailable
from discloud.transfer.threads import Threads
from tests.support.transfer import threads, until

WHO: ContextVar[str] = ContextVar("who", default="")


async def test_returns_raises_and_knows_the_context() -> None:
    async with threads() as pool:
        WHO.set("me")
        assert await pool.run(lambda: (WHO.get(), threading.current_thread() is threading.main_thread())) == (
            "me",
            False,
        )
        with pytest.raises(NoSpace):
            await pool.run(_fail)
        assert pool.busy == 0


def _fail() -> None:
    raise NoSpace("full")


async def test_never_more_than_count_at_once() -> None:
    async with threads(3) as pool, asyncio.TaskGroup() as group:
        gate = threading.Event()
        for _ in range(10):
            group.create_task(pool.run(gate.wait))
        await until(lambda: pool.busy == 3, "not busy")
        gate.set()


async def test_cancelled_run_ends_after_its_call() -> None:
    """Whoever cancels closes what the call was using: it must not be in use any more."""
    async with threads(1) as pool:
        gate, ended = threading.Event(), threading.Event()

        def call() -> None:
            gate.wait()
            ended.set()

        task = asyncio.create_task(pool.run(call))
        await until(lambda: pool.busy == 1, "not started")
        for _ in range(3):  # cancelled again and again, it still waits
            task.cancel()
            await asyncio.sleep(0)
            assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()


async def test_cancelled_before_its_turn_is_not_made() -> None:
    async with threads(1) as pool:
        gate = threading.Event()
        made: list[int] = []
        first = asyncio.create_task(pool.run(gate.wait))
        await until(lambda: pool.busy == 1, "not started")
        second = asyncio.create_task(pool.run(lambda: made.append(2)))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.set()
        await first
        await pool.run(lambda: None)
        assert not made


async def test_closed_pool_says_so() -> None:
    pool = Threads("test", 1)
    gate = threading.Event()
    running = asyncio.create_task(pool.run(gate.wait))
    await until(lambda: pool.busy == 1, "not started")
    waiting = asyncio.create_task(pool.run(lambda: None))
    await asyncio.sleep(0)
    pool.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await pool.run(lambda: None)
    gate.set()
    assert await running
