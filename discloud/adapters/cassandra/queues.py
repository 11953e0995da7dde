"""``Queues`` on Cassandra: intents say when to look, the row that one points to says what is to be done.

Invariant: an intent is ended only when its row says that nothing is owed, or says it of a later time and an intent for that
time is there. What cannot be told (no answer) stays, and the call says so.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from operator import attrgetter
from typing import Protocol, TypeVar

import msgpack

from discloud import logs
from discloud.adapters.cassandra.all_log import AllLog
from discloud.adapters.cassandra.intents import STALE, Intent, Intents, Kind, dead, lease, repairing
from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.together import together
from discloud.adapters.heads import COLLECTABLE, LIVE
from discloud.core.model import BucketId, Key, Repair, State, Version, VersionId
from discloud.core.records import from_record, to_record
from discloud.errors import DiscloudError, NoSuchVersion, Unavailable
from discloud.ports import LogEntry

T = TypeVar("T")

_QUEUE = "INSERT INTO repair_queue (blob, since, body) VALUES (?, ?, ?)"
_QUEUED = "SELECT since, body FROM repair_queue WHERE blob = ? ORDER BY since DESC LIMIT 1"
_REPAIRED = "DELETE FROM repair_queue WHERE blob = ? AND since <= ?"


class VersionRows(Protocol):
    """What the queues need of the rows that intents point to."""

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """See ``Versions.find``."""

    async def abort(self, draft: Version) -> bool:
        """See ``Versions.abort``."""

    async def settle(self, intent: Intent, version: Version) -> None:
        """Do to its end what a change owes whose row is ``version`` now, neither a draft nor aborted. Raises: Unavailable."""

    async def postpone(self, version: Version, due: float) -> bool:
        """See ``heads.postpone``; False = it does not wait for gc. Raises: Unavailable."""


class CassandraQueues:
    """The ``Queues`` port. ``tidy`` removes what is due at a time and nobody asks for; ``clock`` gives epoch seconds."""

    def __init__(
        self,
        session: Session,
        intents: Intents,
        log: AllLog,
        rows: VersionRows,
        tidy: Callable[[float], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._session = session
        self._intents = intents
        self._log = log
        self._rows = rows
        self._tidy = tidy
        self._clock = clock

    async def expired(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.expired``. On the way it ends what others left half done."""
        drafts = await self._due(Kind.OPEN, now, limit, self._open)
        return tuple(sorted(drafts, key=attrgetter("due"))[:limit])

    async def collectable(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.collectable``. Whoever comes to the end of it also tidies: nothing is more urgent then."""
        found = await self._due(Kind.DEAD, now, limit, self._dead)
        if len(found) < limit:
            await self._tidy(now)
        return tuple(sorted(found, key=attrgetter("due"))[:limit])

    async def postpone(self, version: Version, due: float) -> None:
        """See ``Queues.postpone``."""
        noted = await self._intents.note(dead(replace(version, due=due)))
        if not await self._rows.postpone(version, due):
            await self._intents.done(noted)

    async def repairs(self, now: float, limit: int) -> tuple[Repair, ...]:
        """See ``Queues.repairs``."""
        found = await self._due(Kind.REPAIR, now, limit, self._repair)
        return tuple(sorted(found, key=attrgetter("since"))[:limit])

    async def add_repairs(self, repairs: Sequence[Repair]) -> None:
        """See ``Queues.add_repairs``."""
        await together(self._add_repair, repairs)

    async def repaired(self, repair: Repair) -> None:
        """See ``Queues.repaired``. Its intent is ended when it is met again."""
        await self._session.write(_REPAIRED, str(repair.blob), repair.since)

    async def log(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        """See ``Queues.log``."""
        return await self._log.read(after, limit)

    # ------------------------------------------------------------ looking at what is due

    async def _due(
        self, kind: Kind, now: float, limit: int, look: Callable[[Intent, float], Awaitable[T | None]]
    ) -> list[T]:
        """What the intents that are due point to, each once, until there are ``limit``."""

        async def safely(intent: Intent) -> T | None:
            try:
                return await look(intent, now)
            except Unavailable:
                raise
            except DiscloudError as error:
                logs.error(
                    "queue_entry_unreadable", version=intent.version, reason=error.code, detail=str(error)
                )
                return None

        found: dict[str, T] = {}
        async with aclosing(self._intents.due(kind, now)) as due:
            async for intents in due:
                owed = await together(safely, intents)
                pairs = zip(intents, owed, strict=True)
                found |= {each.blob or each.version: thing for each, thing in pairs if thing is not None}
                if len(found) >= limit:
                    break
        return list(found.values())

    async def _open(self, intent: Intent, now: float) -> Version | None:
        """The draft, if that is what the intent is about and its lease is over; else nothing is owed after this."""
        try:
            version = await self._rows.find(intent.bucket, intent.key, intent.version)
        except NoSuchVersion:
            # Its writer may still be about to write the row: from now on it cannot be committed.
            await self._rows.abort(_fence(intent))
        else:
            if version.state is State.DRAFT:
                if version.due <= now:
                    return version
                await self._move(intent, lease(version))
                return None
            if version.state is State.ABORTED:
                await self._intents.note(dead(version))
            else:
                await self._rows.settle(intent, version)
        await self._intents.done(intent)
        return None

    async def _dead(self, intent: Intent, now: float) -> Version | None:
        """The version, if it is dead and due."""
        try:
            version = await self._rows.find(intent.bucket, intent.key, intent.version)
        except NoSuchVersion:
            await self._intents.done(intent)
            return None
        if version.state in COLLECTABLE:
            if version.due <= now:
                return version
            await self._move(intent, dead(version))
        elif version.state not in LIVE or self._intents.is_over(intent):
            await self._intents.done(intent)
        return None

    async def _repair(self, intent: Intent, now: float) -> Repair | None:
        """The repair, if it is still queued and due."""
        rows = await self._session.read(_QUEUED, intent.blob)
        if rows:
            repair = _read(rows[0].body)
            if repair.not_before <= now:
                return repair
            await self._move(intent, repairing(repair))
        elif self._intents.is_over(intent):
            await self._intents.done(intent)
        return None

    async def _move(self, intent: Intent, later: Intent) -> None:
        await self._intents.note(later)
        await self._intents.done(intent)

    async def _add_repair(self, repair: Repair) -> None:
        """Intent, then row; where the row took so long that the intent may be ended already, once more."""
        body = msgpack.packb(to_record(repair))
        while True:
            began = self._clock()
            await self._intents.note(repairing(repair))
            await self._session.write(_QUEUE, str(repair.blob), repair.since, body)
            if self._clock() - began < STALE:
                return


def _fence(intent: Intent) -> Version:
    """A draft of which nothing but its name is known."""
    return Version(
        intent.bucket, intent.key, intent.version, State.DRAFT, 0, (), created=intent.due, due=intent.due
    )


def _read(body: bytes) -> Repair:
    return from_record(Repair, msgpack.unpackb(body))
