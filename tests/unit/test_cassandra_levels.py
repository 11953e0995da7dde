"""What the protocol of ``objects`` rests on, tried on a real cluster: if Cassandra ever changes here, this says so first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.objects import HEAD, Edit, Objects, Row, newborn
from discloud.adapters.cassandra.session import Applied, Levels, Session, Settings
from discloud.core.model import BucketId, Key, State, VersionId
from discloud.errors import Aborted, Unavailable
from tests.contract.metadata_objects import ANY, BUCKET, draft, put_of
from tests.support.region_proxy import Border
from tests.support.regional_cassandra import Stand
from tests.support.servers import SharedCassandra, fresh_keyspace, regional_cassandra

KEY = Key("a")
ROW = Row(State.COMMITTED, 1, 0, b"body")
HASTY = """UPDATE objects USING TIMESTAMP ? SET state = ? WHERE bucket = ? AND key = ? AND version = ?"""
FIRST = "INSERT INTO schema_version (name, value) VALUES (?, ?) IF NOT EXISTS"


@pytest.fixture(scope="module")
def settings(cassandra_cluster: SharedCassandra) -> Iterator[Settings]:
    with fresh_keyspace(cassandra_cluster.hosts) as keyspace:
        yield Settings(cassandra_cluster.hosts, keyspace, patience=20.0)


@pytest.fixture
async def session(settings: Settings) -> AsyncIterator[Session]:
    async with await Session.connect(settings) as session:
        yield session


def fresh() -> tuple[BucketId, VersionId]:
    """The ids of a bucket that no test used."""
    some = draft("x").id
    return BucketId(some), draft("x").id


async def test_the_head_and_a_row_of_its_key_change_as_one_or_not_at_all(session: Session) -> None:
    objects, (bucket, own) = Objects(session), fresh()
    both = (Edit(HEAD, None, ROW), Edit(own, None, ROW))
    assert (await objects.apply(bucket, KEY, both))[0]
    other = draft("x").id
    taken = Row(State.COMMITTED, 2, 0, b"other")
    for edits in (
        (Edit(HEAD, None, taken), Edit(other, None, taken)),
        (Edit(HEAD, replace(ROW, rev=7), taken), Edit(other, None, taken)),
        (Edit(HEAD, ROW, taken), Edit(other, ROW, taken)),
    ):
        applied, met = await objects.apply(bucket, KEY, edits)
        assert not applied
        assert met is None or met == {HEAD: ROW, other: None}
        assert await objects.rows(bucket, KEY, (HEAD, own, other)) == {HEAD: ROW, own: ROW, other: None}


async def test_what_is_blind_changes_with_what_is_not(session: Session) -> None:
    objects, (bucket, own) = Objects(session), fresh()
    await objects.apply(bucket, KEY, (Edit(HEAD, None, ROW), Edit(own, None, ROW)))
    dead, null = Row(State.DELETED, 2, 0, b"body"), Row(0, 2, 0, None)
    refused = (Edit(HEAD, replace(ROW, seq=9), null), Edit(own, ROW, dead, blind=True))
    assert await objects.apply(bucket, KEY, refused) == (False, None)
    assert (await objects.rows(bucket, KEY, (own,)))[own] == ROW
    assert (await objects.apply(bucket, KEY, (Edit(HEAD, ROW, null), Edit(own, ROW, dead, blind=True))))[0]
    assert await objects.rows(bucket, KEY, (HEAD, own)) == {HEAD: null, own: dead}


async def test_a_draft_that_is_born_late_changes_nothing(session: Session) -> None:
    objects = Objects(session)
    bucket, _ = fresh()
    version = replace(draft("a"), bucket=bucket)
    aborted = Row(State.ABORTED, 0, 0, b"aborted")
    assert (await objects.apply(bucket, KEY, (Edit(version.id, None, aborted),)))[0]
    await objects.birth(version)
    assert (await objects.rows(bucket, KEY, (version.id,)))[version.id] == aborted
    assert (await objects.apply(bucket, KEY, (Edit(version.id, aborted, None),)))[0]
    await objects.birth(version)
    assert (await objects.rows(bucket, KEY, (version.id,)))[version.id] is None


async def test_a_commit_after_an_abort_is_refused(session: Session) -> None:
    """By two roots, each of which has seen the draft: the one that comes later loses."""
    async with CassandraMetadata(session, settle=0.0) as one:
        await one.buckets.create(BUCKET)
        for attempt in range(10):
            version = draft(f"a{attempt}")
            await one.versions.begin(version)
            assert (await Objects(session).rows(BUCKET.id, version.key, (version.id,)))[
                version.id
            ] == newborn(version)
            other = CassandraMetadata(session)
            assert await other.versions.abort(version)
            with pytest.raises(Aborted):
                await one.versions.commit(put_of(version), ANY)


async def test_a_plain_write_by_a_clock_that_is_ahead_hides_a_transaction(session: Session) -> None:
    """Why nothing but a draft's birth, at timestamp 1, is written to this table plainly."""
    objects, (bucket, own) = Objects(session), fresh()
    await objects.apply(bucket, KEY, (Edit(own, None, ROW),))
    rows = await session.read("SELECT bucket, version FROM objects")
    at = next(row for row in rows if str(row.version) == own)
    ahead = int((time.time() + 20) * 1e6)
    await session.write(HASTY, ahead, State.TRASH, at.bucket, b"a", at.version)
    seen = replace(ROW, state=State.TRASH)
    applied, _ = await objects.apply(
        bucket, KEY, (Edit(own, seen, replace(ROW, state=State.DELETED, rev=1)),)
    )
    assert applied
    row = (await objects.rows(bucket, KEY, (own,)))[own]
    assert row is not None
    assert (row.state, row.rev) == (State.TRASH, 1)


async def test_fifty_writers_at_several_roots_all_succeed(settings: Settings) -> None:
    """Each root serves its own in turn, so they meet others' only: no writer waits for long."""
    sessions = [await Session.connect(settings) for _ in range(3)]
    roots = [CassandraMetadata(session) for session in sessions]
    bucket = replace(BUCKET, id=fresh()[0], name="hot")
    await roots[0].buckets.create(bucket)
    versions = [replace(draft("hot"), bucket=bucket.id) for _ in range(50)]
    committed = await asyncio.gather(
        *(roots[number % 3].versions.put(version, ANY) for number, version in enumerate(versions))
    )
    heads = sorted((each.version for each in committed if each.version), key=lambda head: head.seq)
    assert [head.replaced for head in heads] == [None, *(head.id for head in heads[:-1])]
    for root in roots:
        await root.close()


# ---------------------------------------------------------------- two data centres


@pytest.mark.timeout(300)
async def test_over_two_data_centres_only_the_global_levels_have_one_winner() -> None:
    """Local levels ask nobody elsewhere, so where the link between the two is cut, each has a winner of its own."""
    stands = (Stand("127.0.1.1", "127.1.1.1", "eu"), Stand("127.0.2.1", "127.1.2.1", "us"))
    with Border(delay=0.0) as border, regional_cassandra(stands, border) as cassandra:
        async with sessions(*cassandra.hosts) as (one, other):
            assert (one.levels, other.levels) == (Levels.GLOBAL, Levels.GLOBAL)
            assert (one.datacenter(), other.datacenter()) == ("eu", "us")
            assert max([await winners(one, other, f"joined {number}") for number in range(10)]) == 1
        async with sessions(*cassandra.hosts) as (one, other):
            border.cut("eu", "us")
            one.levels = other.levels = Levels.LOCAL
            assert await winners(one, other, "local") == 2
            one.levels = other.levels = Levels.GLOBAL
            one.patience = other.patience = 4.0
            assert await winners(one, other, "global") == 0


@asynccontextmanager
async def sessions(in_eu: str, in_us: str) -> AsyncIterator[tuple[Session, Session]]:
    """One in each data centre, which asks there: it has not lost an answer yet, after which it would ask elsewhere first."""
    eu, us = (Settings((host,), "two", "eu:1,us:1", patience=20.0) for host in (in_eu, in_us))
    async with await Session.connect(eu) as one, await Session.connect(us) as other:
        yield one, other


async def winners(one: Session, other: Session, row: str) -> int:
    """How many of two that race for a row were told that they have it; whose answer was lost was told nothing."""
    race = (each.apply((FIRST, (row, "mine"))) for each in (one, other))
    answers = await asyncio.gather(*race, return_exceptions=True)
    assert all(isinstance(answer, Applied | Unavailable) for answer in answers)
    return sum(isinstance(answer, Applied) and answer.applied for answer in answers)
