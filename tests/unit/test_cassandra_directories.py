"""PUTs, DELETEs, listings and gc of directories in every order, with roots that die and days that pass; no server is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters.cassandra.names import IDLE
from discloud.adapters.cassandra.objects import Row, newborn
from discloud.adapters.cassandra.walk import Walk
from discloud.core.model import Key, State
from tests.contract.metadata_objects import BUCKET, draft
from tests.contract.metadata_parts_contract import entries_of, naive_page
from tests.support.names_table import Noted, Table, names_over

KEYS = ["a/b", "a/c", "a/d/e", "x"]
DIRECTORIES = ["", "a/", "a/d/"]
ROOTS = 2
HOUR = 3600.0

CHANGES = st.tuples(
    st.sampled_from(KEYS),
    st.sampled_from(["put", "delete", "delete", "dies in put", "dies in delete"]),
    st.integers(0, ROOTS - 1),
)
ROUNDS = st.lists(
    st.tuples(
        st.lists(CHANGES, max_size=3),
        st.booleans(),
        st.sampled_from([0.0, 0.0, 0.5 * HOUR, 1.1 * HOUR, 0.99 * IDLE, IDLE + 2 * HOUR]),
    ),
    max_size=10,
)


class World:
    """A bucket whose heads are known, its index as roots keep it, and gc. ``seed`` says who goes first where several may."""

    def __init__(self, seed: int) -> None:
        self.now = 1_700_000_000.0
        random = Random(seed)
        self.table = Table(pauses=lambda: random.randrange(4))
        self.noted = Noted()
        self.roots = [names_over(self.table, self.noted, self.tick) for _ in range(ROOTS + 1)]
        self.heads: dict[str, Row] = {}
        self.owed: set[str] = set()

    def tick(self) -> float:
        """The time, later with every look."""
        self.now += 0.001
        return self.now

    @property
    def alive(self) -> set[str]:
        return {key for key, head in self.heads.items() if head.body is not None}

    def change(self, key: str, what: str, root: int) -> list[Coroutine[Any, Any, None]]:
        """Make the next head of the key; what follows of it, if its root does not die."""
        if "delete" in what and key not in self.alive:
            return []
        before = self.heads.get(key)
        seq = max(before.seq + 1 if before else 1, int(self.now * 1e6))
        body = newborn(draft(key)).body if "put" in what else None
        self.heads[key] = head = Row(State.COMMITTED if body else 0, seq, 0, body)
        if "dies" in what:
            self.owed.add(key)
            return []
        return [self.roots[root].publish(BUCKET.id, Key(key), head)]

    async def collect(self) -> None:
        """What gc does at this time."""
        due = [each for each in self.noted.intents if each.due <= self.now]
        for each in due:
            await self.roots[-1].prune(each.bucket, each.key)
            self.noted.intents.remove(each)

    async def settle(self) -> None:
        """What the sweeper does, however late."""
        for key in sorted(self.owed):
            await self.roots[-1].publish(BUCKET.id, Key(key), self.heads[key])
        self.owed.clear()

    async def watch(self, untouched: set[str]) -> None:
        """A listing meanwhile shows at least what nobody changes, at every level."""
        shown = set(await self.listed("", ""))
        assert untouched <= shown
        for directory in DIRECTORIES:
            expected, _ = naive_page(untouched, directory, "/", "", 1000)
            assert set(expected) <= set(await self.listed(directory, "/"))

    async def listed(self, prefix: str, delimiter: str) -> list[str]:
        return entries_of(await Walk(self.roots[0], BUCKET.id, prefix, delimiter, 1000).page(""))

    async def check(self) -> None:
        for directory in DIRECTORIES:
            for delimiter in ("", "/"):
                expected, _ = naive_page(self.alive, directory, delimiter, "", 1000)
                assert await self.listed(directory, delimiter) == expected


@settings(max_examples=150)
@given(st.integers(0, 2**32), ROUNDS)
def test_a_listing_shows_no_empty_directory_and_misses_none_that_has_an_object(
    seed: int, rounds: list[tuple[list[tuple[str, str, int]], bool, float]]
) -> None:
    async def history() -> None:
        world = World(seed)
        for root in range(ROOTS):  # everything is empty, by the hand of every root
            for what in ("put", "delete"):
                await asyncio.gather(*(work for key in KEYS for work in world.change(key, what, root)))
        for changes, collects, pause in rounds:
            untouched = world.alive - world.owed - {key for key, _, _ in changes}
            works = [work for each in changes for work in world.change(*each)]
            works += [world.collect(), world.settle()] if collects else []
            await asyncio.gather(*works, world.watch(untouched))
            if not world.owed:
                await world.check()
            world.now += pause
        await world.settle()
        await world.check()
        while world.noted.intents:
            world.now += IDLE
            await world.collect()
            await world.check()
        wanted = {key[: end + 1] for key in world.alive for end, byte in enumerate(key) if byte == "/"}
        assert world.table.shown() == world.alive | wanted, "nothing is left of what is empty"

    asyncio.run(history())
