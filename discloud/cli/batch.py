"""Many things at once, a bounded number at a time, and one failure never stops the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run ``work`` on a loop of its own. Ctrl-C cancels it. Raises: what it raises, the first of a group."""
    import uvloop

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def each(items: AsyncIterable[T], work: Callable[[T], Awaitable[None]], jobs: int) -> None:
    """``work`` on every item, at most ``jobs`` at a time; items are drawn no faster than they are worked on."""
    slots = asyncio.Semaphore(jobs)

    async def one(item: T) -> None:
        try:
            await work(item)
        finally:
            slots.release()

    async with asyncio.TaskGroup() as tasks:
        await slots.acquire()
        async for item in items:
            tasks.create_task(one(item))
            await slots.acquire()
        slots.release()
