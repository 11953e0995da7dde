"""Several calls at once, whose first failure is the failure of all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
Step = Callable[[], Awaitable[object]]
"""A call that is yet to be made."""


async def together(work: Callable[[T], Awaitable[R]], items: Iterable[T]) -> list[R]:
    """``work`` of every item, in their order. All have ended when this ends. Raises: what the first that failed raised."""

    async def one(item: T) -> R:
        return await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(item)) for item in items]
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
    return [task.result() for task in tasks]


async def all_of(first: Step, *others: Step) -> None:
    """Several different calls at once; see ``together``. ``first`` is begun at once, before anybody else may run."""
    if not others:
        await first()
        return
    try:
        async with asyncio.TaskGroup() as group:
            for other in others:
                group.create_task(_call(other))
            await first()
    except ExceptionGroup as failed:
        error = failed.exceptions[0]
        raise error from error.__cause__


async def _call(step: Step) -> None:
    await step()
