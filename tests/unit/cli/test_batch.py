"""Bounded work on many items."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from discloud.cli.batch import each, run
from discloud.errors import Unavailable


@pytest.mark.parametrize("jobs", [1, 3])
async def test_items_are_drawn_no_faster_than_they_are_worked_on(jobs: int) -> None:
    drawn: list[int] = []
    done: list[int] = []
    at_once = most = 0

    async def items() -> AsyncIterator[int]:
        for number in range(20):
            assert len(drawn) - len(done) <= jobs
            drawn.append(number)
            yield number

    async def work(number: int) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0)
        at_once -= 1
        done.append(number)

    await each(items(), work, jobs)
    assert sorted(done) == list(range(20))
    assert most == jobs


@pytest.mark.parametrize("place", ["items", "work"])
def test_a_failure_comes_out_by_itself(place: str) -> None:
    async def items() -> AsyncIterator[int]:
        yield 1
        if place == "items":
            raise Unavailable("no more")

    async def work(number: int) -> None:
        if place == "work":
            raise Unavailable("no more")

    with pytest.raises(Unavailable, match="no more"):
        run(each(items(), work, 2))
