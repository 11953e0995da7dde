"""Work that must not be forgotten, written down before it can be owed: ``intents``, cut by the minute in which it is due.

Protocol: an intent is noted before what makes it true, at the latest together with it and before anybody builds on it. Whoever
finds an intent reads the row that it points to and goes by that; so an intent too many costs one look, one too few a leak.

    lease(draft)              begin, renew: with the row; ended by commit and abort
    settling(version, due)    before the LWT of any other change that owes something afterwards; ended after the last step
    dead(version)             after the LWT that killed it (abort: before), at the row's own ``due``; ended by forget
    repairing(repair)         the queues' own
    vacant(name, due)         before what tells of a null head is forgotten; ended by ``tidying``
    emptied(directory, due)   with the mark that a directory may be empty; ended by ``tidying``

Invariant: a minute is taken off the list of minutes only when it has been over for ``OVER`` seconds and is empty, and nobody
writes to a minute that has been over for ``STALE`` seconds: the time of every write is looked at again after it. Between lie the
clocks, which may differ by 5 s.
"""

from __future__ import annotations

import time
import uuid
import zlib
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import groupby
from typing import Any

import msgpack

from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.cassandra.together import all_of, together
from discloud.core.model import BucketId, Key, Repair, Version, VersionId

SHARDS = 8
"""Partitions of one minute: no single one takes all writes of a busy mesh."""
MINUTE = 60.0
_HOUR = 3600.0
OVER = 120.0
"""Seconds after which an empty minute is never read again."""
STALE = 30.0
"""Seconds after which a write may have come too late for its minute, so that it is repeated in a later one."""
FOREVER = 1e300
"""Later than any due."""
NIL = uuid.UUID(int=0)
_LAST_MINUTE = 2**31 - 1
_PAGE = 500
"""Rows read at once of one partition."""
_CHUNK = 64
"""Intents handed on at once."""
_REMEMBERED = 10_000
"""Minutes known to be on the list, at the most."""

_NOTE = "INSERT INTO intents (kind, shard, minute, due, version, tag, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DONE = (
    "DELETE FROM intents WHERE kind = ? AND shard = ? AND minute = ? AND due = ? AND version = ? AND tag = ?"
)
_DUE = f"""SELECT due, version, tag, body FROM intents WHERE kind = ? AND shard = ? AND minute = ?
    AND (due, version, tag) > (?, ?, ?) AND (due) <= (?) LIMIT {_PAGE}"""  # noqa: S608 - a number of ours
_LIST = "INSERT INTO intent_minutes (kind, minute, shard) VALUES (?, ?, ?)"
_LOW = "SELECT DISTINCT kind, low FROM intent_minutes WHERE kind = ?"
_MINUTES = f"""SELECT minute, shard FROM intent_minutes WHERE kind = ? AND (minute, shard) > (?, ?) AND (minute) <= (?)
    LIMIT {_PAGE}"""  # noqa: S608 - a number of ours
_RETIRE = "DELETE FROM intent_minutes WHERE kind = ? AND minute = ?"
_RAISE = "UPDATE intent_minutes SET low = ? WHERE kind = ?"

Position = tuple[float, uuid.UUID, uuid.UUID]
"""Where a page of a partition ended: due, version, tag."""
_START: Position = (-1.0, NIL, NIL)


class Kind(IntEnum):
    """Which queue."""

    OPEN = 1
    """Drafts by their lease, and commits whose steps may not be done to the end."""
    DEAD = 2
    """Dead versions, due for gc."""
    REPAIR = 3
    """Blobs that lack copies."""
    VACANT = 4
    """Heads that show nothing."""
    EMPTY = 5
    """Directories that may be empty; the intent's key is the directory."""


Partition = tuple[Kind, int, int]
"""Kind, minute and shard."""


@dataclass(frozen=True, slots=True)
class Intent:
    """One piece of work. ``target``: where a MOVE goes; ``blob``: what a repair is about; ``minute``: where it was noted, if later
    than its ``due`` says. ``tag`` is random where the same work may be noted and ended several times.
    """

    kind: Kind
    bucket: BucketId
    key: Key
    version: VersionId
    due: float
    target: Key | None = None
    blob: str = ""
    tag: uuid.UUID = NIL
    minute: int = 0

    @property
    def partition(self) -> Partition:
        """Where it is kept."""
        return self.kind, self.minute, zlib.crc32(self.version.encode()) % SHARDS

    def placed(self, minute: int) -> Intent:
        """The intent in the minute in which it is due, but not before ``minute``."""
        return replace(self, minute=max(minute_of(self.due), minute))


def minute_of(moment: float) -> int:
    """The minute of an epoch time."""
    return int(min(max(moment // MINUTE, 0), _LAST_MINUTE))


def lease(draft: Version) -> Intent:
    """A draft is looked at when its lease ends."""
    return Intent(Kind.OPEN, draft.bucket, draft.key, draft.id, draft.due)


def settling(
    version: Version,
    due: float,
    target: Key | None = None,
    new_tag: Callable[[], uuid.UUID] = uuid.uuid4,
) -> Intent:
    """Somebody looks at ``due`` whether a change of ``version`` (a MOVE to ``target``) was done to its end."""
    return Intent(Kind.OPEN, version.bucket, version.key, version.id, due, target, tag=new_tag())


def dead(version: Version) -> Intent:
    """A dead version is looked at by gc when it is due."""
    return Intent(Kind.DEAD, version.bucket, version.key, version.id, version.due)


def repairing(repair: Repair) -> Intent:
    """A repair is looked at when it is time."""
    blob = repair.blob
    tag = uuid.uuid5(NIL, str(blob))
    return Intent(
        Kind.REPAIR, repair.bucket, repair.key, blob.version, repair.not_before, blob=str(blob), tag=tag
    )


def vacant(bucket: BucketId, key: Key, due: float) -> Intent:
    """Somebody looks at ``due`` whether the object's head still shows nothing. Noted again for the same time it stays one."""
    return Intent(Kind.VACANT, bucket, key, _id_of(bucket, key), due)


def emptied(bucket: BucketId, directory: Key, due: float) -> Intent:
    """Somebody looks in the hour after ``due`` whether the directory is still empty: one intent for all who ask in an hour."""
    hour = (due // _HOUR + 1) * _HOUR
    return Intent(Kind.EMPTY, bucket, directory, _id_of(bucket, directory), hour)


def _id_of(bucket: BucketId, key: Key) -> VersionId:
    """What stands for a name where no version is meant."""
    return VersionId(str(uuid.uuid5(uuid.UUID(bucket), key)))


class Intents:
    """The intents of one keyspace. ``clock`` gives epoch seconds, at most 5 s off those of the other roots."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.time) -> None:
        self._session = session
        self._clock = clock
        self._listed: set[Partition] = set()

    # ------------------------------------------------------------ writing

    async def note(self, intent: Intent, *beside: Statement) -> Intent:
        """Write it down, durably; what to hand to ``done``. Noted again it stays one. Plain writes ``beside`` go in the same call.

        Raises: Unavailable.
        """
        body, low = msgpack.packb((intent.bucket, intent.key, intent.target, intent.blob)), 0
        while True:
            began = self._clock()
            placed = intent.placed(max(minute_of(began), low))
            row = (*_row(placed), body)
            if placed.partition in self._listed:
                await self._session.write_all(((_NOTE, row), *beside))
            else:
                low = await self._list(placed, (_NOTE, row), *beside)
            if placed.minute >= low and self._clock() - began < STALE:
                return placed

    async def done(self, *intents: Intent) -> None:
        """Take them off. One that was not noted where it is due is left: whoever finds it sees that it is done. Raises: Unavailable."""
        await self._session.write_all(
            [(_DONE, _row(intent if intent.minute else intent.placed(0))) for intent in intents]
        )

    async def _list(self, intent: Intent, *written: Statement) -> int:
        """Write that and its minute on the list, in one call; the mark, below which nobody reads (a late clock may be there)."""
        kind, minute, shard = intent.partition
        low = 0

        async def write() -> None:
            await self._session.write_all(((_LIST, (kind, minute, shard)), *written))

        async def look() -> None:
            nonlocal low
            low = await self._low(kind)

        await all_of(write, look)
        if minute >= low:
            if len(self._listed) >= _REMEMBERED:
                self._listed.clear()
            self._listed.add(intent.partition)
        return low

    # ------------------------------------------------------------ reading

    async def due(self, kind: Kind, now: float) -> AsyncGenerator[Sequence[Intent], None]:
        """What is due at ``now``, a few at a time, by minutes; within one the first due first. May hold what is done already.

        Takes the minutes off the list that are over and empty. Raises: Unavailable.
        """
        over = minute_of(min(now, self._clock()) - OVER)
        low, above = await self._low(kind), True
        for minute, shards in await self._minutes(kind, low, minute_of(max(now, self._clock()))):
            empty = True
            positions = dict.fromkeys(shards, _START)
            while positions:
                found, positions = await self._pages(kind, minute, positions, now)
                empty = empty and not found
                for start in range(0, len(found), _CHUNK):
                    yield found[start : start + _CHUNK]
            if empty and minute < over:
                await self._retire(kind, minute, raise_low=above)
            else:
                above = False

    def is_over(self, intent: Intent) -> bool:
        """Whether whoever noted the intent has long done, or will note again, what it is about."""
        return intent.minute < minute_of(self._clock() - OVER)

    async def _low(self, kind: Kind) -> int:
        marks = await self._session.read(_LOW, kind)
        return int(marks[0].low or 0) if marks else 0

    async def _minutes(self, kind: Kind, low: int, last: int) -> list[tuple[int, list[int]]]:
        """The minutes on the list from ``low`` to ``last``, and their shards."""
        rows: list[Any] = []
        page: list[Any] = []
        position = (low, -1)
        while not rows or len(page) == _PAGE:
            page = await self._session.read(_MINUTES, kind, *position, last)
            if not page:
                break
            rows += page
            position = (page[-1].minute, page[-1].shard)
        return [
            (minute, [row.shard for row in some]) for minute, some in groupby(rows, lambda row: row.minute)
        ]

    async def _pages(
        self, kind: Kind, minute: int, positions: dict[int, Position], now: float
    ) -> tuple[list[Intent], dict[int, Position]]:
        """The next page of every shard, and where those go on that have more."""

        async def page(shard: int) -> list[Any]:
            return await self._session.read(_DUE, kind, shard, minute, *positions[shard], now)

        pages = dict(zip(positions, await together(page, positions), strict=True))
        left = {shard: rows[-1][:3] for shard, rows in pages.items() if len(rows) == _PAGE}
        found = [_intent(kind, minute, row) for rows in pages.values() for row in rows]
        return sorted(found, key=lambda intent: intent.due), left

    async def _retire(self, kind: Kind, minute: int, *, raise_low: bool) -> None:
        statements: list[Statement] = [(_RETIRE, (kind, minute))]
        if raise_low:
            statements.append((_RAISE, (minute + 1, kind)))
        await self._session.write_all(statements)


def _row(intent: Intent) -> tuple[object, ...]:
    """The intent's place in the table."""
    kind, minute, shard = intent.partition
    return (kind, shard, minute, intent.due, uuid.UUID(intent.version), intent.tag)


def _intent(kind: Kind, minute: int, row: Any) -> Intent:
    bucket, key, target, blob = msgpack.unpackb(row.body)
    return Intent(kind, bucket, key, VersionId(str(row.version)), row.due, target, blob, row.tag, minute)
