"""Cassandra's nodes stop answering under a root: what can be answered is, what cannot is unknown soon, and nothing is made up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import contextmanager

import pytest

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.session import Settings
from discloud.core.model import Key, Version
from discloud.errors import DiscloudError, NoSuchKey, OutcomeUnknown, Unavailable
from tests.contract.metadata_objects import ANY, BUCKET, delete_of, draft
from tests.support.cassandra_server import PrivateCassandra
from tests.support.servers import private_cassandra

PATIENCE = 1.8
SOON = 3 * PATIENCE
"""Twice ``PATIENCE`` and what a busy machine takes: the figure itself is for the benchmark."""


@pytest.fixture(scope="module")
def cassandra() -> Iterator[PrivateCassandra]:
    with private_cassandra(3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def settings(cassandra: PrivateCassandra) -> Settings:
    return Settings(cassandra.hosts, "faults", patience=20.0)


@pytest.fixture
async def root(settings: Settings) -> AsyncIterator[CassandraMetadata]:
    """A root that has served before, and is in a hurry from now on."""
    async with await CassandraMetadata.open(settings) as metadata:
        if not await metadata.buckets.all():
            await metadata.buckets.create(BUCKET)
        await use_everything(metadata)
        metadata._session.patience = PATIENCE
        metadata.versions._changes._patience = PATIENCE
        yield metadata


@contextmanager
def paused(cassandra: PrivateCassandra, count: int) -> Iterator[None]:
    """The last ``count`` nodes are stopped in their tracks."""
    nodes = cassandra.nodes[-count:]
    for node in nodes:
        node.pause()
    try:
        yield
    finally:
        for node in nodes:
            node.resume()


async def put(metadata: CassandraMetadata, key: str) -> Version:
    committed = await metadata.versions.put(draft(key), ANY)
    assert committed.version is not None
    return committed.version


async def use_everything(metadata: CassandraMetadata) -> None:
    """Every statement is prepared, as in a root that runs for a while."""
    await metadata.versions.begin(draft("warm"))
    await put(metadata, "warm")
    head = await put(metadata, "warm")
    await metadata.versions.get(BUCKET.id, head.key)
    await metadata.versions.find(BUCKET.id, head.key, head.id)
    await metadata.versions.list_keys(BUCKET.id, "", "/", "", 10)
    await metadata.versions.get_stale(BUCKET.id, head.key)
    await metadata.versions.list_stale(BUCKET.id, "", "/", "", 10)
    await metadata.versions.commit(delete_of("warm"), ANY)


async def soon(call: Awaitable[object]) -> DiscloudError:
    """The error that ``call`` ends with, before a person would give up."""
    begun = time.monotonic()
    with pytest.raises(DiscloudError) as caught:
        await call
    assert time.monotonic() - begun < SOON
    return caught.value


async def test_with_one_of_three_stopped_everything_goes_on(
    cassandra: PrivateCassandra, root: CassandraMetadata
) -> None:
    with paused(cassandra, 1):
        keys = [f"one stopped {number}" for number in range(30)]
        done: set[str] = set()
        for key in keys:
            try:
                await put(root, key)
            except (
                Unavailable
            ):  # the first that a stopped coordinator was given; it is asked last from then on
                continue
            done.add(key)
        assert len(done) >= len(keys) - 4
        for key in done:
            assert (await root.versions.get(BUCKET.id, Key(key))).key == key
        page = await root.versions.list_keys(BUCKET.id, "one stopped", "", "", 100)
        assert done <= {version.key for version in page.versions}


async def test_without_a_quorum_it_is_unknown_soon_and_old_answers_are_given(
    cassandra: PrivateCassandra, root: CassandraMetadata
) -> None:
    head = await put(root, "there")
    lost = draft("lost")
    with paused(cassandra, 2):
        for call in (
            root.versions.get(BUCKET.id, head.key),
            root.versions.get(BUCKET.id, Key("never was")),
            root.versions.find(BUCKET.id, head.key, head.id),
            root.versions.list_keys(BUCKET.id, "", "/", "", 10),
            root.versions.begin(draft("there")),
            root.versions.commit(delete_of("there"), ANY),
            root.versions.put(lost, ANY),
        ):
            assert isinstance(await soon(call), Unavailable)
        assert await until_answered(root, head) == head
        with pytest.raises(Unavailable):
            await root.versions.get_stale(BUCKET.id, Key("never was"))
    root._session.patience = root.versions._changes._patience = 20.0
    committed = await root.versions.put(lost, ANY)  # repeated, as its client would
    assert committed.version is not None
    assert await root.versions.get(BUCKET.id, lost.key) == committed.version
    try:
        again = await root.versions.get(BUCKET.id, head.key)
    except NoSuchKey:
        again = None  # the DELETE of unknown outcome was made
    assert again in (None, head)


async def until_answered(root: CassandraMetadata, head: Version) -> Version:
    """What a replica that lives has: the first one asked may be one that is stopped."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await root.versions.get_stale(BUCKET.id, head.key)
            except OutcomeUnknown:
                raise
            except Unavailable:
                continue
