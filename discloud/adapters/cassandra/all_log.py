"""The ``all`` log: what every node shall hold or drop, cut by the minute in which it was written.

An entry's number is the time of its writing in micros, above all that this process gave before; entries of two processes may have
the same number, but no answer ends between them. Nothing is ever removed.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any

from discloud.adapters.cassandra.session import Session
from discloud.core.model import BucketId, Key, Version, VersionId
from discloud.ports import LogEntry

SLOW = 5.0
"""Seconds that the writing of an entry may take; else it gets a later number, so that followers meet it (``Queues.log``)."""
MICROS = 1_000_000
_MINUTE = 60 * MICROS
_LOG = 0
_LAST_MINUTE = 2**31 - 1
_REMEMBERED = 100
_PAGE = 100
"""Minutes read at once."""

_ADD = "INSERT INTO all_log (minute, number, version, removed, bucket, key) VALUES (?, ?, ?, ?, ?, ?)"
_LIST = "INSERT INTO all_log_minutes (log, minute) VALUES (?, ?)"
_MINUTES = f"SELECT minute FROM all_log_minutes WHERE log = ? AND minute >= ? LIMIT {_PAGE}"  # noqa: S608 - a number of ours
_AFTER = (
    """SELECT number, version, removed, bucket, key FROM all_log WHERE minute = ? AND number > ? LIMIT ?"""
)
_AT = """SELECT number, version, removed, bucket, key FROM all_log WHERE minute = ? AND number = ?"""


class AllLog:
    """The log of one keyspace. ``clock`` gives epoch seconds, at most 5 s off those of the other roots."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.time) -> None:
        self._session = session
        self._clock = clock
        self._last = 0
        self._listed: set[int] = set()

    async def add(self, version: Version, *, removed: bool) -> None:
        """Append: a call that begins later gets a higher number. What was appended already may be again. Raises: Unavailable."""
        while True:
            began = self._clock()
            self._last = number = max(self._last + 1, int(began * MICROS))
            minute = number // _MINUTE
            await self._list(minute)
            id, bucket = uuid.UUID(version.id), uuid.UUID(version.bucket)
            await self._session.write(_ADD, minute, number, id, removed, bucket, version.key.encode())
            if self._clock() - began < SLOW:
                return

    async def read(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        """Entries with ``number`` > after: ``limit``, and those that have the same number as the last. Raises: Unavailable."""
        found: list[LogEntry] = []
        after = max(after, 0)
        first: int | None = min(after // _MINUTE, _LAST_MINUTE)
        while first is not None and len(found) < limit:
            minutes = [row.minute for row in await self._session.read(_MINUTES, _LOG, first)]
            for minute in minutes:
                if len(found) < limit:
                    found += await self._of_minute(minute, after, limit - len(found))
            first = minutes[-1] + 1 if len(minutes) == _PAGE else None
        return tuple(found)

    async def _of_minute(self, minute: int, after: int, limit: int) -> list[LogEntry]:
        rows = await self._session.read(_AFTER, minute, after, limit)
        if len(rows) == limit:
            last = rows[-1].number
            rows = [row for row in rows if row.number < last] + await self._session.read(_AT, minute, last)
        return [_entry(row) for row in rows]

    async def _list(self, minute: int) -> None:
        if minute in self._listed:
            return
        await self._session.write(_LIST, _LOG, minute)
        if len(self._listed) >= _REMEMBERED:
            self._listed.clear()
        self._listed.add(minute)


def _entry(row: Any) -> LogEntry:
    key = Key(row.key.decode())
    return LogEntry(row.number, BucketId(str(row.bucket)), key, VersionId(str(row.version)), row.removed)
