"""Buckets, accounts and nodes on a real Cassandra: what the contract cannot see, several roots and those that died half-way."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from discloud.adapters.cassandra.buckets import FRESH, BucketIds, CassandraBuckets
from discloud.adapters.cassandra.intents import Intents, lease
from discloud.adapters.cassandra.registry import CassandraAccounts, CassandraNodes
from discloud.adapters.cassandra.session import Applied, Session
from discloud.core.model import (
    Account,
    Bucket,
    BucketId,
    BucketState,
    Key,
    Node,
    NodeId,
    Page,
    State,
    Version,
    VersionId,
)
from discloud.errors import (
    BucketExists,
    BucketNotEmpty,
    Conflict,
    NoSuchBucket,
    NoSuchVersion,
    NotFound,
    OutcomeUnknown,
    Unavailable,
)
from discloud.ports import CLAIM
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import draft, node
from tests.unit.cassandra_session import opened


class Lossy:
    """A session that loses answers: ``lose`` says of a text whether its call is made and then not answered."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.lose: Callable[[str], bool] = lambda text: False
        self.fail: Callable[[str], bool] = lambda text: False

    async def read(self, text: str, *values: object, **how: bool) -> list[Any]:
        return await self.session.read(text, *values, **how)

    async def write(self, text: str, *values: object) -> None:
        await self.session.write(text, *values)

    async def write_all(self, statements: Any) -> None:
        await self.session.write_all(statements)

    async def apply(self, *statements: Any) -> Applied:
        text = statements[0][0]
        if self.fail(text):
            raise Unavailable("not sent")
        answer = await self.session.apply(*statements)
        if self.lose(text):
            raise OutcomeUnknown("the answer was lost")
        return answer


class Objects:
    """Which objects a bucket has."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.listed: Callable[[], Any] = lambda: None

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        found = [each for each in self.versions if each.bucket == bucket and each.state is State.COMMITTED]
        if (act := self.listed()) is not None:
            await act
        return Page(tuple(found[:limit]))

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        for each in self.versions:
            if each.id == version:
                return each
        raise NoSuchVersion(version)


class Root:
    """One root's registry."""

    def __init__(self, session: Session, objects: Objects) -> None:
        self.session = Lossy(session)
        self.clock = Clock()
        self.objects = objects
        self.intents = Intents(session, self.clock)
        self.ids = BucketIds(session, self.clock)
        self.buckets = CassandraBuckets(self.session, self.ids, self.intents, objects, settle=0.0)  # type: ignore[arg-type]
        self.accounts = CassandraAccounts(self.session)  # type: ignore[arg-type]
        self.nodes = CassandraNodes(self.session)  # type: ignore[arg-type]


@pytest.fixture
async def session(keyspace: str) -> AsyncIterator[Session]:
    async with opened(keyspace) as session:
        yield session


@pytest.fixture
def root(session: Session) -> Root:
    return Root(session, Objects())


@pytest.fixture
def other(session: Session, root: Root) -> Root:
    return Root(session, root.objects)


@pytest.fixture
def bucket() -> Bucket:
    return new_bucket()


def new_bucket() -> Bucket:
    id = uuid.uuid4()
    return Bucket(BucketId(str(id)), f"b{id.hex}", 1.0)


def new_node() -> Node:
    id = uuid.uuid4()
    return node(NodeId(str(id)), f"n{id.hex}")


# ---------------------------------------------------------------- buckets: making


async def test_of_two_that_want_a_name_one_gets_it(root: Root, other: Root, bucket: Bucket) -> None:
    rival = replace(bucket, id=new_bucket().id)
    outcomes = await asyncio.gather(
        root.buckets.create(bucket), other.buckets.create(rival), return_exceptions=True
    )
    assert [type(each) for each in outcomes if each] == [BucketExists]
    winner, loser = (bucket, rival) if outcomes[0] is None else (rival, bucket)
    assert await root.buckets.get(bucket.name) == winner
    assert await root.ids.exists(winner.id)
    assert not await root.ids.exists(loser.id)


async def test_a_creation_that_stopped_half_way_can_be_repeated(
    root: Root, other: Root, bucket: Bucket
) -> None:
    root.session.fail = lambda text: "bucket_names" in text
    with pytest.raises(Unavailable):
        await root.buckets.create(bucket)
    with pytest.raises(NoSuchBucket):
        await other.buckets.get(bucket.name)
    assert bucket not in await other.buckets.all()
    await other.buckets.create(bucket)
    assert await other.buckets.get(bucket.name) == bucket
    assert bucket in await other.buckets.all()


async def test_lost_answers_are_settled(root: Root, bucket: Bucket) -> None:
    root.session.lose = lambda text: "buckets" in text or "INTO bucket_names" in text
    await root.buckets.create(bucket)
    updated = await root.buckets.update(replace(bucket, layout="mirror:2"))
    assert await root.buckets.get(bucket.name) == updated
    await root.buckets.remove(updated)
    with pytest.raises(NoSuchBucket):
        await root.buckets.get(bucket.name)


async def test_the_name_of_a_bucket_that_is_gone_is_free_even_if_nobody_freed_it(
    root: Root, bucket: Bucket
) -> None:
    await root.buckets.create(bucket)
    root.session.fail = lambda text: "DELETE FROM bucket_names" in text
    await root.buckets.remove(bucket)
    with pytest.raises(NoSuchBucket):
        await root.buckets.get(bucket.name)
    again = replace(bucket, id=new_bucket().id)
    await root.buckets.create(again)
    assert await root.buckets.get(bucket.name) == again
    assert not await root.ids.exists(bucket.id)


# ---------------------------------------------------------------- buckets: removing


async def test_a_bucket_is_closed_while_it_is_looked_through(root: Root, other: Root, bucket: Bucket) -> None:
    await root.buckets.create(bucket)
    seen: list[tuple[bool, BucketState]] = []

    async def look() -> None:
        other.clock.now += FRESH
        found = await other.buckets.get(bucket.name)
        seen.append((await other.ids.exists(bucket.id), found.state))

    root.objects.listed = look
    await root.buckets.remove(bucket)
    assert seen == [(True, BucketState.ACTIVE), (False, BucketState.DELETING)]


async def test_what_comes_in_at_the_last_moment_opens_it_again(root: Root, bucket: Bucket) -> None:
    """A write that began before the bucket was closed is seen by the second look."""
    await root.buckets.create(bucket)
    version = replace(draft("a"), bucket=bucket.id)
    looks = 0

    async def write() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            await root.intents.note(lease(version))
            root.objects.versions.append(version)

    root.objects.listed = write
    with pytest.raises(BucketNotEmpty):
        await root.buckets.remove(bucket)
    assert looks == 2
    assert await root.buckets.get(bucket.name) == bucket
    assert await root.ids.exists(bucket.id)


async def test_a_removal_that_died_half_way_can_be_repeated(root: Root, other: Root, bucket: Bucket) -> None:
    await root.buckets.create(bucket)
    root.session.fail = lambda text: "gone = true" in text or "closing = null WHERE" in text
    with pytest.raises(Unavailable):
        await root.buckets.remove(bucket)
    closed = await other.buckets.get(bucket.name)
    assert closed.state is BucketState.DELETING
    assert not await other.ids.exists(bucket.id)
    reopened = await other.buckets.update(replace(closed, state=BucketState.ACTIVE))
    assert await other.ids.exists(bucket.id)
    await other.buckets.remove(reopened)
    with pytest.raises(NoSuchBucket):
        await other.buckets.get(bucket.name)


async def test_a_bucket_that_was_opened_meanwhile_is_not_removed(
    root: Root, other: Root, bucket: Bucket
) -> None:
    await root.buckets.create(bucket)
    looks = 0

    async def reopen() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            await other.buckets.update(replace(bucket, layout="mirror:2"))

    root.objects.listed = reopen
    with pytest.raises(Conflict):
        await root.buckets.remove(bucket)
    assert (await root.buckets.get(bucket.name)).layout == "mirror:2"


async def test_two_that_remove_one_bucket_do_no_harm(root: Root, other: Root, bucket: Bucket) -> None:
    await root.buckets.create(bucket)
    outcomes = await asyncio.gather(
        root.buckets.remove(bucket), other.buckets.remove(bucket), return_exceptions=True
    )
    assert None in outcomes
    assert {type(each) for each in outcomes if each} <= {Conflict, NoSuchBucket}
    with pytest.raises(BucketExists):
        await root.buckets.create(bucket)


async def test_a_bucket_is_believed_in_for_a_short_time_only(root: Root, other: Root, bucket: Bucket) -> None:
    assert not await root.ids.exists(bucket.id)
    await other.buckets.create(bucket)
    assert await root.ids.exists(bucket.id), "that there is none is not remembered"
    await other.buckets.remove(bucket)
    assert not await other.ids.exists(bucket.id)
    assert await root.ids.exists(bucket.id)
    root.clock.now += FRESH
    assert not await root.ids.exists(bucket.id)


# ---------------------------------------------------------------- accounts


async def test_accounts_that_are_added_at_the_same_time_are_one_of_them(root: Root, other: Root) -> None:
    id = str(uuid.uuid4())
    accounts = [Account(id, "root", uuid.uuid4().bytes * 2) for _ in range(6)]
    await asyncio.gather(
        *((root, other)[number % 2].accounts.add(each) for number, each in enumerate(accounts))
    )
    found = []
    for account in accounts:
        try:
            found.append(await root.accounts.by_digest(account.digest))
        except NotFound:
            continue
    assert len(found) == 1


# ---------------------------------------------------------------- nodes


async def test_of_two_fresh_nodes_of_one_name_one_is_refused(root: Root, other: Root) -> None:
    first = new_node()
    second = replace(new_node(), name=first.name)
    outcomes = await asyncio.gather(
        root.nodes.register(first, "x", 100.0),
        other.nodes.register(second, "y", 100.0),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes if each] == [Conflict]
    assert len([each for each in await root.nodes.all() if each.name == first.name]) == 1


async def test_a_name_whose_taker_died_before_its_row_is_kept_for_a_while(root: Root, other: Root) -> None:
    first = new_node()
    second = replace(new_node(), name=first.name)
    root.session.fail = lambda text: "nodes (" in text
    with pytest.raises(Unavailable):
        await root.nodes.register(first, "x", 100.0)
    with pytest.raises(Conflict):
        await other.nodes.register(second, "y", 99.0 + CLAIM)
    await other.nodes.register(second, "y", 100.0 + CLAIM)
    root.session.fail = lambda text: False
    with pytest.raises(Conflict):
        await root.nodes.register(first, "x", 101.0 + CLAIM)


async def test_a_renewal_is_one_transaction(root: Root) -> None:
    mine = new_node()
    await root.nodes.register(mine, "x", 100.0)
    root.session.fail = lambda text: "IF nonce = ?" not in text or "IF nonce = ? AND" in text
    await root.nodes.register(replace(mine, incarnation=3), "x", 103.0)
    assert replace(mine, incarnation=3) in await root.nodes.all()


async def test_a_claim_that_was_lost_is_not_renewed(root: Root, other: Root) -> None:
    mine = new_node()
    await root.nodes.register(mine, "x", 100.0)
    await other.nodes.register(mine, "y", 100.0 + CLAIM)
    with pytest.raises(Conflict):
        await root.nodes.register(mine, "x", 101.0 + CLAIM)
    await root.nodes.release(mine.id, "x")
    await other.nodes.register(mine, "y", 102.0 + CLAIM)


async def test_of_many_processes_of_one_folder_one_is_the_node(session: Session) -> None:
    mine = new_node()
    roots = [Root(session, Objects()) for _ in range(5)]
    outcomes = await asyncio.gather(
        *(root.nodes.register(mine, str(number), 100.0) for number, root in enumerate(roots)),
        return_exceptions=True,
    )
    assert [type(each) for each in outcomes if each] == [Conflict] * 4
