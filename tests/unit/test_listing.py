"""Pages of a listing are those that looking at every key would give, at the cost of their entries."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters.listing import page
from discloud.core.model import Page
from tests.contract.metadata_objects import draft
from tests.contract.metadata_parts_contract import KEYS, entries_of, naive_page


class Shelf:
    """Sorted keys; counts the rows that a listing looks at."""

    def __init__(self, keys: set[str]) -> None:
        self.keys = sorted(key.encode() for key in keys)
        self.looked = 0

    def seek(self, low: bytes, high: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self.keys[bisect_left(self.keys, low) : bisect_left(self.keys, high)]:
            self.looked += 1
            yield key, key

    def page(self, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        return page(self.seek, lambda row: draft(row.decode()), prefix, delimiter, after, limit)


@given(
    keys=st.sets(KEYS),
    prefix=st.one_of(st.just(""), KEYS),
    delimiter=st.sampled_from(["", "/", "-", "é", "😀"]),
    after=st.one_of(st.just(""), KEYS),
    limit=st.integers(1, 5),
)
def test_a_page_is_what_looking_at_every_key_gives(
    keys: set[str], prefix: str, delimiter: str, after: str, limit: int
) -> None:
    shelf = Shelf(keys)
    found = shelf.page(prefix, delimiter, after, limit)
    entries, more = naive_page(keys, prefix, delimiter, after, limit)
    assert entries_of(found) == entries
    assert found.after == (entries[-1] if more else None)
    assert shelf.looked <= len(entries) + 1


@given(keys=st.sets(KEYS), delimiter=st.sampled_from(["", "/", "é"]), limit=st.integers(1, 3))
def test_pages_together_are_the_whole_listing(keys: set[str], delimiter: str, limit: int) -> None:
    shelf = Shelf(keys)
    found: list[str] = []
    after: str | None = ""
    while after is not None:
        each = shelf.page("", delimiter, after, limit)
        found += entries_of(each)
        after = each.after
    assert found == naive_page(keys, "", delimiter, "", len(keys) + 1)[0]
