"""Null heads and empty directories go from a real Cassandra when they are old enough, and nothing else does."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.names import IDLE
from discloud.adapters.cassandra.objects import Objects, Row
from discloud.adapters.cassandra.session import Applied, Session
from discloud.adapters.cassandra.tidying import VACANT
from discloud.core.model import Key, Version
from discloud.errors import DiscloudError, OutcomeUnknown
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import ANY, BUCKET, delete_of, draft, move_of
from tests.unit.cassandra_session import opened

HOUR = 3600.0


class Mesh:
    """Roots of one mesh. ``before`` is awaited before each transaction of the first one's, with its text."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.clock = Clock()
        self.before: Callable[[str], Awaitable[object]] | None = None
        self.root = CassandraMetadata(self, self.clock, settle=0.0)  # type: ignore[arg-type]
        self.other = CassandraMetadata(session, self.clock, settle=0.0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    async def apply(self, *statements: Any) -> Applied:
        if (before := self.before) is not None:
            self.before = None
            await before(statements[0][0])
        return await self.session.apply(*statements)

    async def put(self, key: str) -> Version:
        head = (await self.other.versions.put(draft(key), ANY)).version
        assert head is not None
        return head

    async def delete(self, key: str) -> None:
        await self.other.versions.commit(delete_of(key), ANY)

    async def collect(self) -> int:
        """What gc does at this time; how many it forgot."""
        due = await self.root.queues.collectable(self.clock.now, 100)
        for version in due:
            await self.root.versions.forget(version)
        return len(due)

    async def head(self, key: str) -> Row | None:
        return await Objects(self.session).head(BUCKET.id, Key(key))

    async def entries(self, directory: bytes) -> list[bytes]:
        """What is in the index, shown or not."""
        cql = "SELECT name FROM names WHERE bucket = ? AND dir = ? AND shard = ?"
        return [row.name for row in await self.session.read(cql, uuid.UUID(BUCKET.id), directory, 0)]


@pytest.fixture
async def mesh(keyspace: str) -> AsyncIterator[Mesh]:
    async with opened(keyspace) as session:
        mesh = Mesh(session)
        with suppress(DiscloudError):
            await mesh.root.buckets.create(BUCKET)
        yield mesh
        for metadata in (mesh.root, mesh.other):
            await metadata.versions.close()


async def test_a_null_head_goes_thirty_days_after_the_object_did(mesh: Mesh) -> None:
    await mesh.put("null")
    await mesh.delete("null")
    mesh.clock.now += 2 * HOUR
    assert await mesh.collect() == 1
    mesh.clock.now += VACANT - 3 * HOUR
    assert await mesh.root.queues.collectable(1e12, 100) == ()
    assert await mesh.head("null") is not None, "it is not old enough"
    mesh.clock.now += 2 * HOUR
    assert await mesh.collect() == 0
    assert await mesh.head("null") is None
    again = await mesh.put("null")
    assert await mesh.root.versions.get(BUCKET.id, Key("null")) == again
    page = await mesh.root.versions.list_keys(BUCKET.id, "null", "", "", 10)
    assert page.versions == (again,)


async def test_the_null_heads_that_renames_left_go_with_the_version(mesh: Mesh) -> None:
    head = await mesh.put("one")
    moved = (await mesh.other.versions.commit(move_of(head, "two"), ANY)).version
    assert moved is not None
    mesh.clock.now += 2 * VACANT
    assert await mesh.collect() == 0
    assert await mesh.other.versions.find(BUCKET.id, Key("one"), head.id) == moved, "it leads there"
    await mesh.delete("two")
    mesh.clock.now += 2 * HOUR
    assert await mesh.collect() == 1
    assert await mesh.collect() == 0
    assert await mesh.head("one") is None, "it was null for long"
    assert await mesh.head("two") is not None
    mesh.clock.now += VACANT
    assert await mesh.collect() == 0
    assert await mesh.head("two") is None


async def test_a_put_that_comes_before_the_removal_wins(mesh: Mesh) -> None:
    await mesh.put("won")
    await mesh.delete("won")
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    mesh.clock.now += VACANT
    put: list[Version] = []

    async def race(text: str) -> None:
        assert text.startswith("DELETE FROM objects")
        put.append(await mesh.put("won"))

    mesh.before = race
    await mesh.collect()
    assert [await mesh.root.versions.get(BUCKET.id, Key("won"))] == put


async def test_a_put_that_knows_the_null_head_comes_after_its_removal(mesh: Mesh) -> None:
    await mesh.put("known")
    await mesh.delete("known")
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    mesh.clock.now += VACANT
    await mesh.collect()
    assert await mesh.head("known") is None
    version = draft("known", due=mesh.clock.now + HOUR)
    await mesh.other.versions.begin(version)
    assert (await mesh.other.versions.put(version, ANY)).version is not None
    first = await mesh.put("known")
    assert (await mesh.head("known") or Row(0, 0, 0, None)).seq == first.seq


async def test_a_head_that_was_null_again_counts_from_then(mesh: Mesh) -> None:
    await mesh.put("again")
    await mesh.delete("again")
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    mesh.clock.now += VACANT - 3 * HOUR
    await mesh.put("again")
    await mesh.delete("again")
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    await mesh.collect()
    assert await mesh.head("again") is not None
    mesh.clock.now += VACANT
    await mesh.collect()
    assert await mesh.head("again") is None


async def test_a_removal_without_an_answer_is_tried_again_and_holds_up_nobody(mesh: Mesh) -> None:
    for key in ("stuck", "free"):
        await mesh.put(key)
        await mesh.delete(key)
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    mesh.clock.now += VACANT

    async def lost(_: str) -> None:
        raise OutcomeUnknown("no answer")

    mesh.before = lost
    await mesh.collect()
    assert [await mesh.head(key) is None for key in ("stuck", "free")].count(True) == 1
    await mesh.collect()
    assert [await mesh.head(key) for key in ("stuck", "free")] == [None, None]


async def test_the_entry_of_an_empty_directory_goes_after_a_day(mesh: Mesh) -> None:
    await mesh.put("d/e/f")
    await mesh.put("d/g")
    await mesh.delete("d/e/f")
    mesh.clock.now += IDLE + 2 * HOUR
    await mesh.collect()
    assert await mesh.entries(b"d/") == [b"g"]
    await mesh.delete("d/g")
    mesh.clock.now += IDLE - HOUR
    await mesh.collect()
    assert b"d/" in await mesh.entries(b"")
    mesh.clock.now += 3 * HOUR
    await mesh.collect()
    assert b"d/" not in await mesh.entries(b"")
    again = await mesh.put("d/e/f")
    page = await mesh.root.versions.list_keys(BUCKET.id, "d", "/", "", 10)
    assert page.prefixes == ("d/",)
    assert (await mesh.root.versions.list_keys(BUCKET.id, "d", "", "", 10)).versions == (again,)


async def test_a_directory_written_within_the_day_is_looked_at_again(mesh: Mesh) -> None:
    await mesh.put("w/e/f")
    await mesh.delete("w/e/f")
    mesh.clock.now += IDLE
    await mesh.put("w/e/g")
    await mesh.delete("w/e/g")
    mesh.clock.now += 2 * HOUR
    await mesh.collect()
    assert await mesh.entries(b"w/") == [b"e/"]
    assert (await mesh.root.versions.list_keys(BUCKET.id, "w", "/", "", 10)).prefixes == ()
    mesh.clock.now += IDLE
    await mesh.collect()
    assert await mesh.entries(b"w/") == []


async def test_only_gc_at_the_end_of_its_queue_tidies(mesh: Mesh) -> None:
    for key in ("first", "second"):
        await mesh.put(key)
        await mesh.delete(key)
    mesh.clock.now += 2 * VACANT
    assert len(await mesh.root.queues.collectable(mesh.clock.now, 1)) == 1
    for version in await mesh.root.queues.collectable(1e12, 10):
        await mesh.root.versions.forget(version)
    assert await mesh.head("first") is not None
    assert await mesh.root.queues.collectable(1e12, 10) == ()
    assert await mesh.head("first") is None
