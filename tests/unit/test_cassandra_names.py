"""What is written to the directory index, over a table in memory that keeps timestamps and counts what a read passes over."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

import pytest

from discloud.adapters.cassandra.intents import Intent
from discloud.adapters.cassandra.names import IDLE, LEVELS, Names
from discloud.adapters.cassandra.objects import Row, newborn
from discloud.adapters.cassandra.walk import Walk
from discloud.core.model import Key, State
from tests.contract.metadata_objects import BUCKET, draft
from tests.contract.metadata_parts_contract import entries_of
from tests.support.names_table import Noted, Table, names_over


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def noted() -> Noted:
    return Noted()


@pytest.fixture
def names(table: Table, noted: Noted) -> Names:
    return names_over(table, noted)


def shown(key: str, seq: int, rev: int = 0) -> Row:
    return Row(State.COMMITTED, seq, rev, newborn(draft(key)).body)


def null(seq: int) -> Row:
    return Row(0, seq, 0, None)


async def put(names: Names, key: str, seq: int = 1) -> None:
    await names.publish(BUCKET.id, Key(key), shown(key, seq))


async def remove(names: Names, key: str, seq: int = 2) -> None:
    await names.publish(BUCKET.id, Key(key), null(seq))


async def listed(names: Names, prefix: str = "", delimiter: str = "") -> list[str]:
    return entries_of(await Walk(names, BUCKET.id, prefix, delimiter, 1000).page(""))


async def test_the_newest_head_wins_whoever_comes_last(names: Names, table: Table) -> None:
    rows = [null(5), shown("a", 6), shown("a", 6, rev=1), null(7), shown("a", 8, rev=3)]
    random = Random(1)
    for count in range(1, len(rows) + 1):
        late = rows[:count]
        for _ in range(10):
            table.directories.clear()
            random.shuffle(late)
            for row in late:
                await names.publish(BUCKET.id, Key("a"), row)
            newest = rows[count - 1]
            cell = table.directories[b""][b"a"]
            assert (cell.body if cell.alive else None) == newest.body


async def test_a_head_that_is_being_moved_is_left_as_it_is_listed(names: Names) -> None:
    await put(names, "a")
    await names.publish(BUCKET.id, Key("a"), Row(State.MOVED, 1, 1, newborn(draft("a")).body))
    assert await listed(names) == ["a"]


async def test_the_entries_of_directories_are_written_once_an_hour(table: Table) -> None:
    now = 1000.0
    names = names_over(table, Noted(), lambda: now)
    await put(names, "a/b/c")
    assert table.writes == 3
    await put(names, "a/b/d")
    assert table.writes == 4
    await put(names, "a/e/f")
    assert table.writes == 6
    now = 4601.0
    await put(names, "a/b/d", 3)
    assert table.writes == 9


async def test_what_was_emptied_is_not_shown_and_what_comes_back_is(names: Names) -> None:
    for key in ("a/b/c", "a/d/e", "x"):
        await put(names, key)
    await remove(names, "a/b/c")
    assert await listed(names, "", "/") == ["a/", "x"]
    assert await listed(names, "a/", "/") == ["a/d/"]
    await remove(names, "a/d/e")
    assert await listed(names, "", "/") == ["x"]
    await put(names, "a/b/c", 3)
    assert await listed(names, "", "/") == ["a/", "x"]
    assert await listed(names) == ["a/b/c", "x"]


async def test_two_that_remove_the_last_two_keys_at_once_leave_nothing(table: Table) -> None:
    for turn in range(20):
        one, other = (names_over(table, Noted()) for _ in range(2))
        key = f"{turn}/a/b", f"{turn}/a/c/d"
        await asyncio.gather(put(one, key[0]), put(other, key[1]))
        await asyncio.gather(remove(one, key[0]), remove(other, key[1]))
        assert await listed(one, "", "/") == []


@pytest.mark.parametrize("order", ["forward", "backward", "at random"])
async def test_a_directory_removed_name_by_name_is_not_read_over_and_over(
    names: Names, table: Table, order: str
) -> None:
    keys = [f"d/{number:04}" for number in range(400)]
    for key in keys:
        await put(names, key)
    if order == "backward":
        keys.reverse()
    elif order == "at random":
        Random(2).shuffle(keys)
    for key in keys:
        await remove(names, key)
    assert table.passed < 20 * len(keys)
    assert await listed(names, "", "/") == []


async def test_what_is_deepest_is_emptied_like_the_rest(names: Names) -> None:
    key = "d/" * (LEVELS + 2) + "a"
    await put(names, key)
    assert await listed(names, "", "/") == ["d/"]
    await remove(names, key)
    assert await listed(names, "", "/") == []


# ---------------------------------------------------------------- gc of directories


class Day:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


async def emptied_directory(table: Table, day: Day) -> tuple[Names, list[Intent]]:
    """A process that wrote and removed the only key of ``a/b/``, and what it noted."""
    noted = Noted()
    names = names_over(table, noted, day)
    await put(names, "a/b/c")
    await remove(names, "a/b/c")
    return names, noted.intents


async def test_a_directory_that_was_empty_for_a_day_goes_with_those_above_it(table: Table) -> None:
    day = Day()
    names, intents = await emptied_directory(table, day)
    assert {each.key for each in intents} == {"a/", "a/b/"}
    assert all(day.now + IDLE < each.due <= day.now + IDLE + 3600 for each in intents)
    day.now = max(each.due for each in intents)
    for each in intents:
        await names.prune(each.bucket, each.key)
    assert table.shown() == set()


async def test_a_directory_that_was_written_within_the_day_stays_and_is_looked_at_again(table: Table) -> None:
    day = Day()
    names, intents = await emptied_directory(table, day)
    day.now += IDLE - 1
    await names.prune(BUCKET.id, Key("a/b/"))
    assert table.shown() == {"a/", "a/b/"}
    assert len(intents) == 2, "it is noted once for the hour"


async def test_a_directory_that_is_in_use_again_stays(table: Table) -> None:
    day = Day()
    names, _ = await emptied_directory(table, day)
    day.now += 2 * IDLE
    await put(names, "a/b/d", 3)
    day.now += 2 * IDLE
    for directory in ("a/b/", "a/"):
        await names.prune(BUCKET.id, Key(directory))
    assert await listed(names) == ["a/b/d"]


async def test_what_comes_between_a_look_and_the_removal_stays(table: Table) -> None:
    """Also what is published late, of a head that is older than the removal."""
    day = Day()
    names, _ = await emptied_directory(table, day)
    day.now += 2 * IDLE
    other = names_over(table, Noted(), day)
    real = table.write

    async def between(cql: str, *values: Any) -> None:
        table.write = real  # type: ignore[method-assign]
        await put(other, "a/b/d", 3)
        await real(cql, *values)

    table.write = between  # type: ignore[method-assign]
    await names.prune(BUCKET.id, Key("a/b/"))
    assert await listed(names) == ["a/b/d"]
    assert await listed(names, "", "/") == ["a/"]


async def test_a_directory_that_a_late_put_wrote_after_it_was_emptied_is_not_shown(table: Table) -> None:
    """Its mark stays as long as it does."""
    day = Day()
    names, intents = await emptied_directory(table, day)
    day.now += 10
    await put(names_over(table, Noted(), day), "a/b/c", 1)
    day.now += IDLE - 5
    await names.prune(BUCKET.id, Key("a/"))
    assert await listed(names, "", "/") == []
    day.now = max(each.due for each in intents)
    await names.prune(BUCKET.id, Key("a/"))
    assert table.shown() == {"a/b/"}
