"""``Queues`` over SQLite: queues are indexes of the rows themselves, so an entry is there as long as its reason."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from discloud.adapters import heads
from discloud.adapters.sqlite.lanes import Lane
from discloud.adapters.sqlite.rows import StoredRows, WrittenRows, read, read_version
from discloud.core.model import BucketId, Key, Repair, Version, VersionId
from discloud.ports import LogEntry

_LEASED = "state = 1"
_DEAD = "state IN (3, 6, 8)"


class SqliteQueues:
    """The ``Queues`` port."""

    def __init__(self, writes: Lane[WrittenRows], scans: Lane[StoredRows]) -> None:
        self._writes = writes
        self._scans = scans

    async def expired(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.expired``."""
        return await self._scans.run(partial(_due, states=_LEASED, now=now, limit=limit))

    async def collectable(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.collectable``."""
        return await self._scans.run(partial(_due, states=_DEAD, now=now, limit=limit))

    async def postpone(self, version: Version, due: float) -> None:
        """See ``Queues.postpone``."""
        await self._writes.run(partial(heads.postpone, version=version, due=due))

    async def repairs(self, now: float, limit: int) -> tuple[Repair, ...]:
        """See ``Queues.repairs``."""
        return await self._scans.run(partial(_repairs, now=now, limit=limit))

    async def add_repairs(self, repairs: Sequence[Repair]) -> None:
        """See ``Queues.add_repairs``."""

        def operation(rows: WrittenRows) -> None:
            for repair in repairs:
                rows.write_repair(repair)

        await self._writes.run(operation)

    async def repaired(self, repair: Repair) -> None:
        """See ``Queues.repaired``."""

        def operation(rows: WrittenRows) -> None:
            done = (str(repair.blob), repair.since)
            rows.connection.execute("DELETE FROM repairs WHERE blob = ? AND since <= ?", done)

        await self._writes.run(operation)

    async def log(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        """See ``Queues.log``."""
        return await self._scans.run(partial(_log, after=after, limit=limit))


def _due(rows: StoredRows, states: str, now: float, limit: int) -> tuple[Version, ...]:
    found = rows.connection.execute(
        f"""SELECT b.id, v.key, v.body FROM versions v JOIN buckets b ON b.number = v.bucket
            WHERE v.{states} AND v.due <= ? ORDER BY v.due LIMIT ?""",  # noqa: S608 - our own names
        (now, limit),
    )
    return tuple(read_version(BucketId(bucket), Key(key.decode()), body) for bucket, key, body in found)


def _repairs(rows: StoredRows, now: float, limit: int) -> tuple[Repair, ...]:
    query = "SELECT body FROM repairs WHERE not_before <= ? ORDER BY since LIMIT ?"
    return tuple(read(Repair, body) for (body,) in rows.connection.execute(query, (now, limit)))


def _log(rows: StoredRows, after: int, limit: int) -> tuple[LogEntry, ...]:
    found = rows.connection.execute(
        """SELECT l.number, b.id, l.key, l.version, l.removed
           FROM all_log l JOIN buckets b ON b.number = l.bucket
           WHERE l.number > ? ORDER BY l.number LIMIT ?""",
        (after, limit),
    )
    return tuple(
        LogEntry(number, BucketId(bucket), Key(key.decode()), VersionId(version), bool(removed))
        for number, bucket, key, version, removed in found
    )
