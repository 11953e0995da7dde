"""Intents that are ended after an answer: together, and without anybody waiting; no server is needed."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from discloud.adapters.cassandra.consequences import Consequences
from discloud.adapters.cassandra.intents import Intent, lease
from discloud.errors import Unavailable
from tests.contract.metadata_objects import draft


class Queue:
    """Stands for ``Intents``: each call ends when it is told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[Intent, ...]] = []
        self.answered = asyncio.Event()
        self.fails = False

    async def done(self, *intents: Intent) -> None:
        self.calls.append(intents)
        await self.answered.wait()
        if self.fails:
            raise Unavailable("nobody answers")


def over(queue: Queue) -> Consequences:
    none = cast("Any", None)
    return Consequences(none, cast("Any", queue), none, none, none, none)


async def test_what_gathers_while_a_call_is_under_way_goes_in_the_next_one() -> None:
    queue = Queue()
    consequences, intents = over(queue), [lease(draft(f"a{number}")) for number in range(20)]
    for intent in intents:
        consequences.end(intent)
        await asyncio.sleep(0)
    queue.answered.set()
    await consequences.close()
    assert queue.calls == [(intents[0],), tuple(intents[1:])]


async def test_one_that_cannot_be_ended_is_left_and_the_next_are_not() -> None:
    queue, left, next_one = Queue(), lease(draft("left")), lease(draft("next"))
    queue.fails = True
    queue.answered.set()
    consequences = over(queue)
    consequences.end(left)
    await consequences.close()
    queue.fails = False
    consequences.end(next_one)
    await consequences.close()
    assert queue.calls == [(left,), (next_one,)]
