"""The index against plain dictionaries."""

from __future__ import annotations

from bisect import insort

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from discloud.adapters.disk import index as index_module
from discloud.adapters.disk.index import FILE, Entry, Index, Order, Sealed, pack_entry, read_entry
from discloud.adapters.disk.recency import Recency

KEYS = st.integers(0, 40).map(lambda n: bytes(15) + bytes([n // 3]) + bytes(9) + bytes([n % 3]))


@given(
    st.lists(st.tuples(st.booleans(), st.binary(min_size=2, max_size=2)), max_size=400), st.binary(max_size=2)
)
def test_order_is_that_of_a_sorted_list(steps: list[tuple[bool, bytes]], after: bytes) -> None:
    chunk, index_module._CHUNK = index_module._CHUNK, 4
    try:
        order, naive = Order([]), list[bytes]()
        for add, key in steps:
            if add and key not in naive:
                order.add(key)
                insort(naive, key)
            elif not add and key in naive:
                order.remove(key)
                naive.remove(key)
        assert order.after(b"", 1000) == naive
        for limit in (1, 3, 10, 1000):
            assert order.after(after, limit) == [key for key in naive if key > after][:limit]
        assert Order(naive).after(after, 1000) == [key for key in naive if key > after]
    finally:
        index_module._CHUNK = chunk


class IndexMachine(RuleBasedStateMachine):
    """Any sequence of changes leaves entries, sums and seals as dictionaries have them."""

    def __init__(self) -> None:
        super().__init__()
        self.index = Index()
        self.entries: dict[bytes, Entry] = {}
        self.seals: dict[bytes, Sealed] = {}

    @rule(key=KEYS, pack=st.integers(0, 3), length=st.integers(0, 2000))
    def add(self, key: bytes, pack: int, length: int) -> None:
        entry = Entry(pack, 512, length, 100, 1, 5, 2.0)
        assert self.index.add(key, entry) == (key not in self.entries)
        self.entries.setdefault(key, entry)

    @rule(key=KEYS, right=st.booleans())
    def remove(self, key: bytes, right: bool) -> None:
        known = self.entries.get(key, Entry(1, 0, 0, 0, 0, 0, 0.0))
        removed = self.index.remove(key, known if right else known._replace(seq=99))
        assert removed == (right and key in self.entries)
        if removed:
            del self.entries[key]
            if not any(each[:16] == key[:16] for each in self.entries):
                self.seals.pop(key[:16], None)

    @rule(key=KEYS, pack=st.integers(1, 3))
    def move(self, key: bytes, pack: int) -> None:
        known = self.entries.get(key)
        if known is not None and known.pack != FILE:
            assert self.index.move(key, known, known._replace(pack=pack))
            assert not self.index.move(key, known._replace(seq=99), known)
            self.entries[key] = known._replace(pack=pack)

    @rule(key=KEYS, seq=st.integers(0, 5), pack=st.integers(1, 3))
    def seal(self, key: bytes, seq: int, pack: int) -> None:
        version, sealed = key[:16], Sealed(seq, pack, 1024, 512, 77)
        newest = version not in self.seals or self.seals[version].seq <= seq
        assert self.index.seal(version, sealed) == newest
        if newest:
            self.seals[version] = sealed

    @rule(before=st.sampled_from([77, 78]))
    def prune(self, before: int) -> None:
        self.index.prune(before)
        versions = {key[:16] for key in self.entries}
        self.seals = {v: s for v, s in self.seals.items() if v in versions or s.created >= before}

    @invariant()
    def agrees(self) -> None:
        assert len(self.index) == len(self.entries)
        assert self.index.after(b"", 1000) == sorted(self.entries.items())
        assert self.index.used == sum(each.size for each in self.entries.values())
        assert self.index.used_by_files == sum(e.size for e in self.entries.values() if e.pack == FILE)
        for version in {key[:16] for key in self.entries} | self.seals.keys():
            assert self.index.seal_of(version) == self.seals.get(version)
        for pack in (1, 2, 3):
            live = sum(e.size for e in self.entries.values() if e.pack == pack)
            live += sum(s.size for s in self.seals.values() if s.pack == pack)
            assert self.index.live[pack] == live
            assert dict(self.index.in_pack(pack)) == {k: e for k, e in self.entries.items() if e.pack == pack}


TestIndex = IndexMachine.TestCase


@given(st.builds(
    Entry, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1).map(lambda n: n * 512), st.integers(0, 2**63),
    st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**63), st.floats(0, 1e12),
))  # fmt: skip
def test_an_entry_comes_back(entry: Entry) -> None:
    assert read_entry(pack_entry(entry)) == entry


@given(st.lists(st.integers(0, 9), max_size=60), st.integers(0, 9), st.integers(0, 59))
def test_a_used_blob_never_looks_unused(uses: list[int], looked: int, at: int) -> None:
    from discloud.adapters.disk import recency as module

    limit, module.REMEMBERED = module.REMEMBERED, 4
    try:
        recency, key = Recency(), bytes([looked])
        for use in uses[:at]:
            recency.touch(bytes([use]))
        noted = recency.touched(key)
        for use in uses[at:]:
            recency.touch(bytes([use]))
        if looked in uses[at:]:
            assert recency.touched(key) > noted
        assert recency.touched(key) >= noted
        assert len(recency._seen) <= 5
    finally:
        module.REMEMBERED = limit
