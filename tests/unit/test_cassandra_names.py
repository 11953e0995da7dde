"""What is written to the directory index, over a table in memory that keeps timestamps and counts what a read passes over."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

import pytest

from discloud.adapters.cassandra.names import LEVELS, Names
from discloud.adapters.cassandra.objects import Row, pack
from discloud.adapters.cassandra.walk import Walk
from discloud.core.model import Key, State
from tests.contract.metadata_objects import BUCKET, draft
from tests.contract.metadata_parts_contract import entries_of


class Found(NamedTuple):
    name: bytes
    body: bytes | None
    maybe_empty: bool | None


@dataclass
class Cell:
    """An entry: the newest write and the newest removal of it."""

    written: int = -1
    body: bytes | None = None
    maybe_empty: bool | None = None
    removed: int = -1

    @property
    def alive(self) -> bool:
        return self.written > self.removed


@dataclass
class Table:
    """``names`` behind the calls of ``Session``. ``passed``: removed entries that reads went over; ``writes``: what was sent."""

    directories: dict[bytes, dict[bytes, Cell]] = field(default_factory=lambda: defaultdict(dict))
    passed: int = 0
    writes: int = 0

    async def write(self, cql: str, *values: Any) -> None:
        await self.write_all([(cql, values)])

    async def write_all(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        await asyncio.sleep(0)
        for cql, values in statements:
            self.writes += 1
            self._write(cql, list(values))

    async def read(self, cql: str, *values: Any, one: bool = False) -> list[Found]:
        await asyncio.sleep(0)
        _, directory, _, low, limit = values
        found: list[Found] = []
        for name, cell in sorted(self.directories[directory].items(), key=lambda item: item[0]):
            if name >= low and len(found) < limit:
                if cell.alive:
                    found.append(Found(name, cell.body, cell.maybe_empty))
                else:
                    self.passed += 1
        return found

    def _write(self, cql: str, values: list[Any]) -> None:
        if cql.startswith("DELETE"):
            stamp, _, directory, _, name = values
            cell = self.directories[directory].setdefault(name, Cell())
            cell.removed = max(cell.removed, stamp)
            return
        stamp = values.pop()
        _, directory, _, name, *body = values
        cell = self.directories[directory].setdefault(name, Cell())
        if "maybe_empty" in cql:
            cell.maybe_empty = True
        if stamp > cell.written:
            cell.written, cell.body = stamp, body[0] if body else None


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def names(table: Table) -> Names:
    return Names(table, lambda: 1000.0)  # type: ignore[arg-type]  # what it uses of a session


def shown(key: str, seq: int, rev: int = 0) -> Row:
    return Row(State.COMMITTED, seq, rev, pack(draft(key)))


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
    await names.publish(BUCKET.id, Key("a"), Row(State.MOVED, 1, 1, pack(draft("a"))))
    assert await listed(names) == ["a"]


async def test_the_entries_of_directories_are_written_once_an_hour(table: Table) -> None:
    now = 0.0
    names = Names(table, lambda: now)  # type: ignore[arg-type]
    await put(names, "a/b/c")
    assert table.writes == 3
    await put(names, "a/b/d")
    assert table.writes == 4
    await put(names, "a/e/f")
    assert table.writes == 6
    now = 3601.0
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
        one, other = (Names(table, lambda: 1000.0) for _ in range(2))  # type: ignore[arg-type]
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


async def test_an_entry_too_large_for_a_batch_is_written_alone(names: Names, table: Table) -> None:
    batches: list[int] = []
    real = table.write_all

    async def count(statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        batches.append(len(statements))
        await real(statements)

    table.write_all = count  # type: ignore[method-assign]
    large = draft("a/b/c", metadata=(("k", "v" * 5000),))
    await names.publish(BUCKET.id, large.key, Row(State.COMMITTED, 1, 0, pack(large)))
    assert batches == [1, 2]
    assert await listed(names) == ["a/b/c"]


async def test_what_is_deepest_is_emptied_like_the_rest(names: Names) -> None:
    key = "d/" * (LEVELS + 2) + "a"
    await put(names, key)
    assert await listed(names, "", "/") == ["d/"]
    await remove(names, key)
    assert await listed(names, "", "/") == []
