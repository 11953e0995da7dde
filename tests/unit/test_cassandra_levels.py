"""What the protocol of ``objects`` rests on, tried on a real cluster: if Cassandra ever changes here, this says so first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.objects import HEAD, Edit, Objects, Row, newborn
from discloud.adapters.cassandra.session import Applied, Levels, Session, Settings
from discloud.core.model import BucketId, Key, State, VersionId
from discloud.errors import Aborted, OutcomeUnknown, Unavailable
from tests.contract.metadata_objects import ANY, BUCKET, draft, put_of
from tests.support.servers import SharedCassandra, fresh_keyspace, private_cassandra

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


async def test_over_two_data_centres_only_the_global_levels_have_one_winner() -> None:
    with private_cassandra(2, ("eu", "us")) as cassandra:
        eu, us = (Settings((host,), "two", "eu:1,us:1", patience=20.0) for host in cassandra.hosts)
        async with await Session.connect(eu) as one, await Session.connect(us) as other:
            assert (one.levels, other.levels) == (Levels.GLOBAL, Levels.GLOBAL)
            assert (one.datacenter(), other.datacenter()) == ("eu", "us")
            assert await winners(one, other, "global", 10) == 1
            one.levels = other.levels = Levels.LOCAL
            assert await winners(one, other, "local", 500) == 2
            one.levels, one.patience = Levels.GLOBAL, 4.0
            await asyncio.to_thread(cassandra.nodes[1].kill)
            with pytest.raises(Unavailable):
                await one.apply((FIRST, ("alone", "1")))


async def winners(one: Session, other: Session, name: str, races: int) -> int:
    """The most of two that race for a row who were told that they have it, in so many races or until both were.

    Whose answer was lost was told nothing.
    """
    most = 0
    for number in range(races):
        row = f"{name} {number}"
        race = (each.apply((FIRST, (row, "mine"))) for each in (one, other))
        answers = await asyncio.gather(*race, return_exceptions=True)
        assert all(isinstance(answer, Applied | OutcomeUnknown) for answer in answers)
        most = max(most, sum(isinstance(answer, Applied) and answer.applied for answer in answers))
        if most == 2:
            break
    return most
