"""The heads kept in memory are the newest commits, whoever reads or writes at the same time."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.metadata import open_file
from discloud.adapters.sqlite.recent import Name, RecentHeads
from discloud.core.model import Key, State, Version
from discloud.errors import NoSuchKey
from tests.contract.metadata_objects import ANY, BUCKET, delete_of, draft

NAME: Name = (BUCKET.id, Key("a"))


def head(seq: int, key: str = "a") -> Version:
    return replace(draft(key), state=State.COMMITTED, seq=seq)


def test_what_was_read_before_a_change_began_is_not_kept() -> None:
    recent = RecentHeads(10)
    mark = recent.mark(NAME)
    recent.begin([NAME])
    recent.fill(NAME, mark, head(1))
    assert recent.get(NAME) is None
    recent.end([NAME], [])
    recent.fill(NAME, mark, head(1))
    assert recent.get(NAME) is None


def test_what_was_read_while_a_change_was_under_way_is_not_kept() -> None:
    recent = RecentHeads(10)
    recent.begin([NAME])
    mark = recent.mark(NAME)
    recent.fill(NAME, mark, head(1))
    assert recent.get(NAME) is None
    new = head(2)
    recent.end([NAME], [new])
    recent.fill(NAME, mark, head(1))
    assert recent.get(NAME) is new


def test_what_was_read_in_peace_is_kept_until_a_change_begins() -> None:
    recent = RecentHeads(10)
    old = head(1)
    recent.fill(NAME, recent.mark(NAME), old)
    assert recent.get(NAME) is old
    recent.begin([NAME])
    assert recent.get(NAME) is None


@pytest.mark.parametrize("used", [True, False])
def test_what_is_used_stays_and_the_rest_is_dropped(used: bool) -> None:
    recent = RecentHeads(100)
    old = head(1)
    recent.end([], [old])
    for number in range(1000):
        recent.end([], [head(number, f"key {number}")])
        if used:
            assert recent.get(NAME) is old
    assert (recent.get(NAME) is old) is used
    kept = sum(recent.get((BUCKET.id, Key(f"key {number}"))) is not None for number in range(1000))
    assert 0 < kept <= 100


def test_a_version_of_many_segments_is_not_kept() -> None:
    recent = RecentHeads(10)
    recent.end([NAME], [replace(head(1), segments=head(1).segments * 1000)])
    assert recent.get(NAME) is None


def test_readers_and_a_writer_at_full_speed_never_leave_an_old_head() -> None:
    recent = RecentHeads(4)
    stored = head(0)
    stale: list[tuple[int, int]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            mark = recent.mark(NAME)
            recent.fill(NAME, mark, stored)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for seq in range(1, 3000):
        new = head(seq)
        recent.begin([NAME])
        stored = new
        recent.end([NAME], [new] if seq % 2 else [])
        kept = recent.get(NAME)
        if kept is not None and kept.seq != seq:
            stale.append((kept.seq, seq))
    done.set()
    for reader in readers:
        reader.join()
    assert stale == []


class SlowToFill(RecentHeads):
    """Holds a reader up between its read and its ``fill``."""

    def __init__(self) -> None:
        super().__init__(100)
        self.reading = threading.Event()
        self.go = threading.Event()

    def fill(self, name: Name, mark: int, head: Version) -> None:
        self.reading.set()
        assert self.go.wait(30)
        super().fill(name, mark, head)


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_reader_that_a_commit_overtook_fills_nothing_in(tmp_path: Path, deleted: bool) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db") as first:
        await first.buckets.create(BUCKET)
        old = (await first.versions.put(draft("a"), ANY)).version
    slow = SlowToFill()
    async with SqliteMetadata(open_file(tmp_path / "m.db", str), time.time, slow) as metadata:
        reading = asyncio.create_task(metadata.versions.get(*NAME))
        await asyncio.to_thread(slow.reading.wait, 30)
        if deleted:
            new = (await metadata.versions.commit(delete_of("a"), ANY)).version
        else:
            new = (await metadata.versions.put(draft("a"), ANY)).version
        assert metadata.versions.peek(*NAME) == new
        slow.go.set()
        assert await reading == old
        assert metadata.versions.peek(*NAME) == new
        if deleted:
            with pytest.raises(NoSuchKey):
                await metadata.versions.get(*NAME)


async def test_under_load_nobody_sees_less_than_was_acknowledged(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db", recent=2) as metadata:
        await metadata.buckets.create(BUCKET)
        keys = [Key(f"k{number}") for number in range(4)]
        acknowledged = dict.fromkeys(keys, 0)
        writing = True

        async def write(key: Key) -> None:
            for _ in range(100):
                committed = await metadata.versions.put(draft(key), ANY)
                assert committed.version is not None
                acknowledged[key] = committed.version.seq

        async def watch(key: Key) -> None:
            seen = 0
            while writing:
                least = max(seen, acknowledged[key])
                if peeked := metadata.versions.peek(BUCKET.id, key):
                    assert peeked.seq >= least
                    seen = peeked.seq
                try:
                    seen = max(seen, (await metadata.versions.get(BUCKET.id, key)).seq)
                except NoSuchKey:
                    seen = 0
                assert seen >= least
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            for key in keys * 2:
                group.create_task(watch(key))
            await asyncio.gather(*(write(key) for key in keys))
            writing = False
