"""A rename that a reader finished while it was under way: the one who asked for it answers when both names are listed right."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.session import Applied, Session
from discloud.core.model import Key
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
