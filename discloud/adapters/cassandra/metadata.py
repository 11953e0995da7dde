"""The ``Metadata`` port on Cassandra: one session, and the six parts over it."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Self

from discloud.adapters.cassandra.all_log import AllLog
from discloud.adapters.cassandra.buckets import SETTLE, BucketIds, CassandraBuckets
from discloud.adapters.cassandra.intents import Intents
from discloud.adapters.cassandra.leases import CassandraLeases
from discloud.adapters.cassandra.migration_note import refuse_unfinished
from discloud.adapters.cassandra.queues import CassandraQueues
from discloud.adapters.cassandra.registry import CassandraAccounts, CassandraNodes
from discloud.adapters.cassandra.schema import draw_id
from discloud.adapters.cassandra.session import Session, Settings
from discloud.adapters.cassandra.versions import CassandraVersions


class CassandraMetadata:
    """What the mesh knows, in a keyspace that all roots share. Open it with ``open``; a context manager that closes.

    ``clock`` gives epoch seconds, ``settle`` are the seconds that the removal of a bucket waits for the other roots.
    """

    def __init__(
        self,
        session: Session,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        settle: float = SETTLE,
    ) -> None:
        self._session = session
        self.cluster = session.mesh
        ids, intents, log = BucketIds(session), Intents(session, clock), AllLog(session, clock)
        self.versions = CassandraVersions(
            session, ids, intents, log, lambda: self.queues, clock, monotonic, draw
        )
        self.queues = CassandraQueues(session, intents, log, self.versions, self.versions.tidying.run, clock)
        self.buckets = CassandraBuckets(session, ids, intents, self.versions, settle)
        self.accounts = CassandraAccounts(session)
        self.nodes = CassandraNodes(session)
        self.leases = CassandraLeases(session)
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        draw_cluster: Callable[[], str] = draw_id,
    ) -> Self:
        """Connect; make the keyspace and its tables where they are missing. ``draw_cluster`` draws the id of a new mesh.

        Raises: Conflict (it is not what this program or this node's settings expect, or a migration left it half done), Unavailable.
        """
        opened = cls(await Session.connect(settings, draw_cluster), clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(opened.close)
            await refuse_unfinished(opened._session)
            stack.pop_all()
        return opened

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """See ``Metadata.close``. Goes on to its end when the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        await self.versions.close()
        await self._session.close()
