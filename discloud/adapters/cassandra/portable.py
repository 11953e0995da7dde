"""A keyspace as rows that another adapter can take in, and as what takes in the rows of another (``adapters.portable``).

Rows are written by plain writes of the timestamp 1, as the births of drafts are, so that every later change by a lightweight
transaction is newer, and a repeated write changes nothing. What is derived (directory entries, intents, hints) is written through
the classes that keep it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Self

from discloud.adapters.cassandra import driver
from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.migration_note import read_note, refuse_unfinished, remove_note, write_note
from discloud.adapters.cassandra.portable_objects import PortableObjects
from discloud.adapters.cassandra.portable_registry import PortableRegistry
from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.together import together
from discloud.adapters.claims import Claim
from discloud.adapters.portable import (
    GivenBucket,
    Kind,
    Listed,
    MovedVersion,
    Note,
    Progress,
    Row,
    Stretch,
    Vacant,
)
from discloud.core.model import Account, Repair, Version
from discloud.errors import NotFound
from discloud.ports import LogEntry

_CHUNK = 64
"""Rows that are written at once."""
_SETTLED = 86_400.0
"""Seconds within which every intent of a change that may be half done is due."""
_ALL = 1 << 60
TABLES = (
    "objects", "segments", "names", "intents", "intent_minutes", "blobs_by_node", "repair_queue", "all_log", "all_log_minutes",
    "buckets", "bucket_names", "accounts", "account_digests", "nodes", "node_names", "leases",
)  # fmt: skip
"""Everything that ``erase`` empties: all tables but ``schema_version``."""


class CassandraPortable:
    """The rows of one keyspace, as ``Source`` and ``Target``. Owns its session."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self.cluster = session.mesh
        self._session = session
        self._objects = PortableObjects(session, clock)
        self._registry = PortableRegistry(session, clock)

    @classmethod
    async def source(cls, settings: Settings, to: str, clock: Callable[[], float] = time.time) -> Self:
        """The keyspace, to be moved ``to``; what its roots left half done is done to its end, as any root does.

        Raises: Conflict (a root lives, or the rows are half a copy or stale), NotFound (there is no such keyspace), Unavailable.
        """
        if not await asyncio.to_thread(_holds_mesh, settings):
            raise NotFound(f"Cassandra has no mesh in the keyspace {settings.keyspace}", "name another one")
        opened = cls(await Session.connect(settings), clock)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(opened.close)
            note = await read_note(opened._session)
            if note is None or note.progress is not Progress.LEFT or note.other != to:
                await refuse_unfinished(opened._session)
            await opened._registry.refuse_living_root()
            await CassandraMetadata(opened._session, clock).queues.expired(clock() + _SETTLED, _ALL)
            stack.pop_all()
        return opened

    @classmethod
    async def target(cls, settings: Settings, cluster: str, clock: Callable[[], float] = time.time) -> Self:
        """The keyspace, made if it is not there, for mesh ``cluster``. Raises: Conflict, Unavailable."""
        return cls(await Session.connect(settings, lambda: cluster), clock)

    async def count(self, kind: Kind) -> int | None:
        """See ``Source.count``: Cassandra counts by reading."""
        del kind
        return None

    async def read(self, kind: Kind, after: str, limit: int) -> Stretch:
        """See ``Source.read``."""
        match kind:
            case Kind.HEADS | Kind.BESIDE | Kind.MOVED | Kind.VACANT:
                return await self._objects.read_objects(kind, after, limit)
            case Kind.LOG:
                return await self._objects.read_log(after, limit)
            case Kind.REPAIRS:
                return await self._objects.read_repairs(after, limit)
            case Kind.LISTED:
                return await self._objects.read_listed(await self._registry.live_buckets(), after, limit)
            case Kind.BUCKETS:
                return await self._registry.read_buckets(after, limit)
            case Kind.ACCOUNTS:
                return await self._registry.read_accounts(after, limit)
            case Kind.NODES:
                return await self._registry.read_nodes(after, limit)

    async def leave(self, other: str, now: float) -> None:
        """See ``Source.leave``: a note that every root asks for before it uses the keyspace."""
        await write_note(self._session, Note(Progress.LEFT, other, now))

    async def note(self) -> Note | None:
        """See ``Target.note``."""
        return await read_note(self._session)

    async def is_empty(self) -> bool:
        """See ``Target.is_empty``."""
        for table in TABLES:
            if await self._session.read(f"SELECT * FROM {table} LIMIT 1"):  # noqa: S608 - our own names
                return False
        return True

    async def write(self, kind: Kind, rows: Sequence[Row], note: Note) -> None:
        """See ``Target.write``."""
        for start in range(0, len(rows), _CHUNK):
            await together(partial(self._write, kind), rows[start : start + _CHUNK])
        await write_note(self._session, note)

    async def erase(self) -> None:
        """See ``Target.erase``. The note goes last: what is left in between is known to be of a migration."""
        for table in TABLES:
            await self._session.define(f"TRUNCATE TABLE {table}")
        await remove_note(self._session)

    async def finish(self, note: Note) -> None:
        """See ``Target.finish``."""
        await write_note(self._session, note)

    async def close(self) -> None:
        """See ``Source.close``."""
        await self._session.close()

    async def _write(self, kind: Kind, row: Row) -> None:
        objects, registry = self._objects, self._registry
        match row:
            case Version() if kind is Kind.HEADS:
                await objects.write_head(row)
            case Version():
                await objects.write_beside(row)
            case MovedVersion():
                await objects.write_moved(row)
            case Vacant():
                await objects.write_vacant(row)
            case LogEntry():
                await objects.write_log(row)
            case Repair():
                await objects.write_repair(row)
            case GivenBucket():
                await registry.write_bucket(row)
            case Account():
                await registry.write_account(row)
            case Claim():
                await registry.write_node(row)
            case Listed():
                raise AssertionError("what is listed is never written")


def _holds_mesh(settings: Settings) -> bool:
    """Whether the keyspace is there and is ours: a session would make it. Blocks. Raises: Unavailable."""
    cluster, _ = driver.build(settings)
    driver.connect(cluster)
    try:
        keyspace = cluster.metadata.keyspaces.get(settings.keyspace)
        return keyspace is not None and "schema_version" in keyspace.tables
    finally:
        cluster.shutdown()
