"""Listings out of the directory index, compared with a look at every key; no server is needed."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from discloud.adapters.cassandra.names import LEVELS, ancestors, cut, cut_directory
from discloud.adapters.cassandra.objects import newborn
from discloud.adapters.cassandra.walk import Walk
from discloud.core.model import BucketId
from tests.contract.metadata_objects import BUCKET, draft
from tests.contract.metadata_parts_contract import KEYS, entries_of, naive_page

SETS = st.sets(KEYS, max_size=12)


class Entry(NamedTuple):
    name: bytes
    body: bytes | None
    maybe_empty: bool | None


@dataclass
class Index:
    """``Names`` in memory. ``most`` bounds a slice, so that small listings are cut too; counts what was asked."""

    most: int = 2
    asked: int = 0
    directories: dict[bytes, dict[bytes, Entry]] = field(default_factory=lambda: defaultdict(dict))

    def put(self, key: str) -> None:
        directory, name = cut(key.encode())
        self.directories[directory][name] = Entry(name, newborn(draft(key)).body, None)
        for each in ancestors(directory):
            above, name = cut_directory(each)
            self.directories[above].setdefault(name, Entry(name, None, None))

    def remove(self, key: str) -> None:
        """As a DELETE does: what is empty now is marked on the way up."""
        directory, name = cut(key.encode())
        del self.directories[directory][name]
        while directory and self._is_empty(directory):
            above, name = cut_directory(directory)
            self.directories[above][name] = Entry(name, None, maybe_empty=True)
            directory = above

    async def slice(
        self, bucket: BucketId, directory: bytes, low: bytes, limit: int, *, one: bool = False
    ) -> list[Entry]:
        self.asked += 1
        await asyncio.sleep(0)
        found = sorted(entry for name, entry in self.directories[directory].items() if name >= low)
        return found[:limit]

    async def is_empty(self, bucket: BucketId, directory: bytes, *, one: bool = False) -> bool:
        self.asked += 1
        return self._is_empty(directory)

    def _is_empty(self, directory: bytes) -> bool:
        return not any(
            entry.body is not None or not self._is_empty(directory + name)
            for name, entry in self.directories[directory].items()
        )


def index_of(keys: set[str], removed: set[str]) -> Index:
    index = Index()
    for key in keys | removed:
        index.put(key)
    for key in removed - keys:
        index.remove(key)
    return index


def list_entries(
    index: Index, prefix: str, delimiter: str, after: str, limit: int
) -> tuple[list[str], str | None]:
    walk = Walk(index, BUCKET.id, prefix, delimiter, limit)  # type: ignore[arg-type]  # what it uses of Names
    page = asyncio.run(walk.page(after))
    return entries_of(page), page.after


@given(
    SETS,
    SETS,
    st.one_of(st.just(""), KEYS),
    st.sampled_from(["", "/", "b", "é"]),
    st.one_of(st.just(""), KEYS),
    st.integers(1, 5),
)
@example({"/", "//", "///", "a//", "a"}, set(), "", "", "", 9)
@example({"a/b"}, set(), "", "", "a/", 9)
@example({"a/b", "a-b", "a0"}, {"a/c/d", "c/d/e"}, "", "/", "", 9)
@example({"a/b/c", "a/b/d"}, set(), "a/b", "/", "a/b/c", 2)
def test_a_page_is_what_a_look_at_every_key_finds(
    keys: set[str], removed: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    found, behind = list_entries(index_of(keys, removed), prefix, delimiter, after, limit)
    expected, more = naive_page(keys, prefix, delimiter, after, limit)
    assert found == expected
    assert behind == (expected[-1] if more else None)


@given(st.integers(LEVELS - 2, LEVELS + 3), st.sampled_from(["", "/"]))
def test_what_is_deeper_than_the_levels_is_a_name(depth: int, delimiter: str) -> None:
    keys = {"d/" * depth + name for name in ("a", "b/c", "b/d/", "b/")} | {"d/" * depth}
    index = index_of(keys, set())
    for prefix in ("", "d/" * (depth - 1), "d/" * depth, "d/" * depth + "b/"):
        assert (
            list_entries(index, prefix, delimiter, "", 9)[0] == naive_page(keys, prefix, delimiter, "", 9)[0]
        )


def test_a_common_prefix_costs_no_look_at_what_is_below() -> None:
    index = index_of({f"{letter}/{number}" for letter in "abc" for number in range(200)}, set())
    for delimiter, most in (("/", 1), ("1", 40)):
        index.asked = 0
        list_entries(index, "", delimiter, "", 10)
        assert index.asked <= most


def test_a_directory_that_was_emptied_is_not_shown() -> None:
    index = index_of({"b/c"}, {"a/b/c", "b/d"})
    assert list_entries(index, "", "/", "", 10) == (["b/"], None)
    assert list_entries(index, "a/", "/", "", 10) == ([], None)


def test_keys_are_cut_at_their_slashes() -> None:
    assert [cut(key) for key in (b"a", b"a/", b"a/b", b"/", b"//a")] == [
        (b"", b"a"), (b"a/", b""), (b"a/", b"b"), (b"/", b""), (b"//", b"a"),
    ]  # fmt: skip
    deep = b"d/" * (LEVELS + 2)
    assert cut(deep) == (b"d/" * LEVELS, b"d/d/")
    assert [cut_directory(each) for each in ancestors(b"a//b/")] == [
        (b"a//", b"b/"),
        (b"a/", b"/"),
        (b"", b"a/"),
    ]
