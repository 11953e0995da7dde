"""A session on a keyspace that the tests of one module share, for the parts of the Cassandra adapter that others build on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.session import Session
from tests.support.servers import shared_cassandra


@asynccontextmanager
async def opened(keyspace: str) -> AsyncIterator[Session]:
    """A session on that keyspace, which the first makes; its queues are empty, other rows may be there."""
    async with await Session.connect(Settings(shared_cassandra().hosts, keyspace, patience=10.0)) as session:
        await _empty_queues(session)
        yield session


async def _empty_queues(session: Session) -> None:
    for row in await session.read("SELECT kind, minute, shard FROM intent_minutes"):
        if row.minute is not None:
            place = (row.kind, row.minute, row.shard)
            await session.write("DELETE FROM intents WHERE kind = ? AND minute = ? AND shard = ?", *place)
        await session.write("DELETE FROM intent_minutes WHERE kind = ?", row.kind)
    for row in await session.read("SELECT DISTINCT minute FROM all_log"):
        await session.write("DELETE FROM all_log WHERE minute = ?", row.minute)
