"""A few at a time, all of them, in order."""

from __future__ import annotations

import asyncio

import pytest

from discloud.services.bounded import bounded


async def test_at_most_width_run_at_once_and_results_keep_their_order() -> None:
    active, most = 0, 0

    async def work(item: int) -> int:
        nonlocal active, most
        active += 1
        most = max(most, active)
        for _ in range(10 - item):
            await asyncio.sleep(0)
        active -= 1
        return item * item

    assert await bounded(3, work, range(10)) == [n * n for n in range(10)]
    assert most == 3
    assert await bounded(3, work, []) == []


async def test_an_error_that_work_lets_through_ends_the_others() -> None:
    ended = asyncio.Event()

    async def work(item: int) -> None:
        if item == 0:
            raise ValueError("a bug")
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ExceptionGroup):
        await bounded(2, work, range(2))
    assert ended.is_set()
