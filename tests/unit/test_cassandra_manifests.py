"""Long manifests: packed into parts and back; on a real Cassandra, and with a refusal or a lost part in between."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters.cassandra import manifests
from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.objects import newborn, unpack
from discloud.adapters.cassandra.session import Session
from discloud.core.model import Key, State, Version
from discloud.errors import PreconditionFailed, Unavailable
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import ABSENT, ANY, BUCKET, N3, draft, long, move_of
from tests.unit.cassandra_session import opened

A, B = Key("a"), Key("b")


@given(st.integers(0, 3 * manifests.PART + 1))
def test_a_manifest_of_any_length_comes_back(segments: int) -> None:
    version = long("a", segments)
    row = newborn(version)
    assert row.body is not None
    assert manifests.is_long(row.body) is (segments > manifests.LONG)
    assert unpack(version.bucket, version.key, row.body, row.parts) == version
    listed = unpack(version.bucket, version.key, row.body)
    assert listed == (replace(version, segments=()) if row.parts else version)
    assert len(row.body) < 16_000


def test_a_relocation_changes_one_part() -> None:
    version = long("a", 10 * manifests.PART)
    moved = replace(version.segments[70], holders=((N3,),))
    changed = replace(version, segments=(*version.segments[:70], moved, *version.segments[71:]))
    before, after = newborn(version).parts, newborn(changed).parts
    assert before is not None
    assert after is not None
    assert len(after.keys() - before.keys()) == len(before.keys() - after.keys()) == 1


@pytest.fixture
async def session(keyspace: str) -> AsyncIterator[Session]:
    async with opened(keyspace) as session:
        await session.define("TRUNCATE TABLE objects")
        await session.define("TRUNCATE TABLE segments")
        yield session


@pytest.fixture
async def roots(session: Session) -> AsyncIterator[tuple[CassandraMetadata, CassandraMetadata]]:
    clock = Clock()
    roots = CassandraMetadata(session, clock, settle=0.0), CassandraMetadata(session, clock, settle=0.0)
    if not await roots[0].buckets.all():
        await roots[0].buckets.create(BUCKET)
    yield roots
    for root in roots:
        await root.versions.close()


async def parts(session: Session, version: Version) -> int:
    rows = await session.read("SELECT part FROM segments WHERE version = ?", uuid.UUID(version.id))
    return len(rows)


Roots = tuple[CassandraMetadata, CassandraMetadata]


async def test_what_one_root_keeps_another_reads_and_changes(session: Session, roots: Roots) -> None:
    one, other = roots
    head = (await one.versions.put(long("a"), ANY)).version
    assert head is not None
    assert await other.versions.get(BUCKET.id, A) == head
    assert await other.versions.get_stale(BUCKET.id, A) == head
    assert await other.versions.relocate(head, head.blobs()[0][0], (N3,))
    assert await parts(session, head) == 5, "one more than 200 segments need"
    now = await one.versions.get(BUCKET.id, A)
    assert now.segments[0].holders == ((N3,),)
    moved = (await one.versions.commit(move_of(now, "b"), ANY)).version
    assert moved is not None
    assert (await other.versions.get(BUCKET.id, B)).segments == moved.segments == now.segments


async def test_what_was_refused_leaves_no_part(session: Session, roots: Roots) -> None:
    one, other = roots
    await one.versions.put(draft("a"), ANY)
    refused = long("a")
    with pytest.raises(PreconditionFailed):
        await other.versions.put(refused, ABSENT)
    for _ in range(2):
        await one.queues.expired(1e12, 100)
        for version in await one.queues.collectable(1e12, 100):
            await one.versions.forget(version)
    assert await parts(session, refused) == 0


async def test_a_part_that_is_missing_is_unknown_and_of_a_dead_version_gone(
    session: Session, roots: Roots
) -> None:
    head = (await roots[0].versions.put(long("a"), ANY)).version
    assert head is not None
    await session.write("DELETE FROM segments WHERE version = ?", uuid.UUID(head.id))
    with pytest.raises(Unavailable):
        await roots[1].versions.get(BUCKET.id, A)
    await roots[0].versions.put(draft("a"), ANY)
    dead = await roots[1].versions.find(BUCKET.id, A, head.id)
    assert (dead.state, dead.segments) == (State.REPLACED, ())
    await roots[1].versions.forget(dead)
