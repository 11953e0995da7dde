"""Renames that others meet half way: a reader finishes them, a change sees the version at neither of its two names."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from discloud.adapters import heads
from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.moves import Journal
from discloud.adapters.cassandra.objects import HEAD, NULL, Row
from discloud.adapters.cassandra.session import Applied, Session
from discloud.adapters.cassandra.snapshot import Snapshot
from discloud.adapters.rows import Torn
from discloud.core.model import Key, State
from discloud.errors import NoSuchKey
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import ANY, BUCKET, draft, move_of
from tests.unit.cassandra_session import opened


class Interrupted:
    """A session after whose first transaction something else happens."""

    def __init__(self, session: Session, between: Callable[[], Awaitable[object]]) -> None:
        self._session = session
        self._between = between
        self.happened = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def apply(self, *statements: Any) -> Applied:
        applied: Applied = await self._session.apply(*statements)
        if not self.happened:
            self.happened = True
            await self._between()
        return applied


async def test_a_move_that_a_reader_finished_is_listed_under_its_new_name_only(fresh_keyspace: str) -> None:
    async with opened(fresh_keyspace) as session:
        other = CassandraMetadata(session, Clock())
        await other.buckets.create(BUCKET)
        head = (await other.versions.put(draft("old"), ANY)).version
        assert head is not None

        async def read() -> None:
            with suppress(NoSuchKey):
                await other.versions.get(BUCKET.id, Key("old"))

        interrupted = Interrupted(session, read)
        mover = CassandraMetadata(interrupted, Clock())  # type: ignore[arg-type]
        await mover.versions.commit(move_of(head, "new"), ANY)
        assert interrupted.happened
        page = await other.versions.list_keys(BUCKET.id, "", "", "", 10)
        assert [version.key for version in page.versions] == ["new"]
        for metadata in (mover, other):
            await metadata.versions.close()


async def test_rows_of_different_moments_are_read_again(fresh_keyspace: str) -> None:
    """Two keys of which each says that the version went to the other: it went to and fro while they were read."""
    async with opened(fresh_keyspace) as session:
        metadata = CassandraMetadata(session, Clock())
        await metadata.buckets.create(BUCKET)
        head = (await metadata.versions.put(draft("old"), ANY)).version
        assert head is not None
        await metadata.versions.commit(move_of(head, "new"), ANY)
        null, to_new, to_old = Row(NULL, 1, 0, None), moved_to("new"), moved_to("old")
        old, new = (BUCKET.id, Key("old")), (BUCKET.id, Key("new"))
        snapshot = Snapshot(old, has=True)
        snapshot.add(old, {HEAD: null, head.id: to_new})
        snapshot.add(new, {HEAD: null, head.id: to_old})
        with pytest.raises(Torn):
            heads.find(snapshot, *old, head.id)
        found = await metadata.versions._changes.decide(
            lambda rows, _: heads.find(rows, *old, head.id), snapshot
        )
        assert found is not None
        assert (found.key, found.id) == ("new", head.id)
        await metadata.versions.close()


def moved_to(key: str) -> Row:
    return Row(State.MOVED, 1, 0, Journal(Key(key), 1, ()).pack())
