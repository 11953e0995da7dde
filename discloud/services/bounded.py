"""The same work for many things at once, but never for more than a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def bounded(width: int, work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """Results of ``work`` in the order of ``items``; at most ``width`` run at once, and all end before this returns.

    ``work`` handles its own errors: one that it lets through cancels the others and comes out in an ExceptionGroup.
    """
    gate = asyncio.Semaphore(width)

    async def one(item: T) -> R:
        async with gate:
            return await work(item)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(item)) for item in items]
    return [task.result() for task in tasks]
