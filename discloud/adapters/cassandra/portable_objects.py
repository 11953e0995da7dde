"""Objects, the ``all`` log and repairs of a keyspace as portable rows: scanned by partitions, written with all that follows from them.

A scan goes through the table in the order of its tokens; its place is the last row that it met. (Two objects whose 64-bit
tokens are the same would be read as one; the listings, which are compared too, would show it.)
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgpack

from discloud.adapters.cassandra.all_log import MICROS, AllLog
from discloud.adapters.cassandra.hints import Hints
from discloud.adapters.cassandra.intents import Intents, dead, lease, repairing
from discloud.adapters.cassandra.intents import vacant as intent_of_vacant
from discloud.adapters.cassandra.moves import Journal, Moves
from discloud.adapters.cassandra.names import Names
from discloud.adapters.cassandra.objects import HEAD, NULL, Objects, row_of, unpack
from discloud.adapters.cassandra.objects import Row as Cells
from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.cassandra.snapshot import moved_to
from discloud.adapters.cassandra.tidying import due_of
from discloud.adapters.cassandra.walk import Walk
from discloud.adapters.heads import COLLECTABLE
from discloud.adapters.listing import utf8
from discloud.adapters.portable import Kind, Listed, MovedVersion, Row, Stretch, Vacant
from discloud.core.model import BucketId, Key, Repair, State, Version, VersionId
from discloud.core.records import from_record, to_record
from discloud.ports import LogEntry

_COLUMNS = "SELECT bucket, key, version, state, seq, rev, body, formers FROM objects"
_SCAN = f"{_COLUMNS} LIMIT ?"
_SCAN_REST = f"{_COLUMNS} WHERE bucket = ? AND key = ? AND version > ? LIMIT ?"
_SCAN_ON = f"{_COLUMNS} WHERE token(bucket, key) > token(?, ?) LIMIT ?"
_BIRTH = "INSERT INTO objects (bucket, key, version, state, seq, rev, body) VALUES (?, ?, ?, ?, ?, ?, ?) USING TIMESTAMP 1"
_FORMERS = "INSERT INTO objects (bucket, key, version, formers) VALUES (?, ?, ?, ?) USING TIMESTAMP 1"
_LOG = "INSERT INTO all_log (minute, number, version, removed, bucket, key) VALUES (?, ?, ?, ?, ?, ?)"
_LOG_MINUTE = "INSERT INTO all_log_minutes (log, minute) VALUES (0, ?)"
_BLOBS = "SELECT DISTINCT blob FROM repair_queue LIMIT ?"
_BLOBS_ON = "SELECT DISTINCT blob FROM repair_queue WHERE token(blob) > token(?) LIMIT ?"
_REPAIR = "SELECT body FROM repair_queue WHERE blob = ? ORDER BY since DESC LIMIT 1"
_QUEUE = "INSERT INTO repair_queue (blob, since, body) VALUES (?, ?, ?)"
_MINUTE = 60 * MICROS


@dataclass(frozen=True, slots=True)
class _Met:
    """A row that a scan met."""

    bucket: BucketId
    key: Key
    version: VersionId
    cells: Cells

    def place(self) -> str:
        """Where the scan goes on behind it."""
        return json.dumps([self.bucket, utf8(self.key).hex(), self.version])


class PortableObjects:
    """Over one session. ``clock`` gives epoch seconds."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._objects = Objects(session)
        self._moves = Moves(self._objects)
        self._hints = Hints(session)
        self._intents = Intents(session, clock)
        self._names = Names(session, self._intents, clock)
        self._log = AllLog(session, clock)

    # ------------------------------------------------------------ reading

    async def read_objects(self, kind: Kind, after: str, limit: int) -> Stretch:
        """HEADS, BESIDE, MOVED or VACANT among the next ``limit`` rows. Raises: Corrupt, Unavailable."""
        met = await self._scan(after, limit)
        rows = [row for each in met if (row := await self._portable(kind, each)) is not None]
        return Stretch(rows, met[-1].place() if len(met) >= limit else None)

    async def _scan(self, after: str, limit: int) -> list[_Met]:
        if not after:
            return [_met(row) for row in await self._session.read(_SCAN, limit)]
        bucket, key, version = json.loads(after)
        name = (uuid.UUID(bucket), bytes.fromhex(key))
        rows = await self._session.read(_SCAN_REST, *name, uuid.UUID(version), limit)
        if len(rows) < limit:
            rows += await self._session.read(_SCAN_ON, *name, limit - len(rows))
        return [_met(row) for row in rows]

    async def _portable(self, kind: Kind, met: _Met) -> Row | None:
        """The row as one of ``kind``, None = it is none of them."""
        cells = await self._objects.whole(met.cells)
        if met.version == HEAD:
            if cells.body is None:
                return Vacant(met.bucket, met.key, cells.seq) if kind is Kind.VACANT else None
            return unpack(met.bucket, met.key, cells.body, cells.parts) if kind is Kind.HEADS else None
        if (
            kind is Kind.BESIDE
            and cells.body is not None
            and cells.state not in (State.COMMITTED, State.MOVED)
        ):
            return unpack(met.bucket, met.key, cells.body, cells.parts)
        if kind is Kind.MOVED and cells.formers and cells.state != State.MOVED:
            return await self._moved(met, [Key(each.decode()) for each in cells.formers])
        return None

    async def _moved(self, met: _Met, formers: list[Key]) -> MovedVersion | None:
        left = []
        for key in sorted(formers):
            own = (await self._objects.rows(met.bucket, key, (met.version,)))[met.version]
            if own is not None and own.state == State.MOVED and own.body is not None:
                left.append((key, moved_to(own.body)))
        return MovedVersion(met.bucket, met.version, met.key, tuple(left)) if left else None

    async def read_log(self, after: str, limit: int) -> Stretch:
        """LOG. Raises: Unavailable."""
        entries = await self._log.read(int(after or 0), limit)
        return Stretch(entries, str(entries[-1].number) if len(entries) >= limit else None)

    async def read_repairs(self, after: str, limit: int) -> Stretch:
        """REPAIRS: of a blob the one that was queued last. Raises: Unavailable."""
        found = await (
            self._session.read(_BLOBS_ON, after, limit) if after else self._session.read(_BLOBS, limit)
        )
        repairs = [
            from_record(Repair, msgpack.unpackb(row.body))
            for each in found
            for row in await self._session.read(_REPAIR, each.blob)
        ]
        return Stretch(repairs, found[-1].blob if len(found) >= limit else None)

    async def read_listed(self, buckets: list[BucketId], after: str, limit: int) -> Stretch:
        """LISTED: page by page what listings show of these buckets. Raises: Corrupt, Unavailable."""
        if not buckets:
            return Stretch([], None)
        bucket, key = buckets[0], ""
        if after:
            id, key = json.loads(after)
            bucket = BucketId(id)
        page = await Walk(self._names, bucket, "", "", limit).page(key)
        rows = [
            Listed(head.bucket, head.key, head.id, head.seq, head.size, head.etag) for head in page.versions
        ]
        if page.after is not None:
            return Stretch(rows, json.dumps([bucket, page.after]))
        behind = buckets[buckets.index(bucket) + 1 :]
        return Stretch(rows, json.dumps([behind[0], ""]) if behind else None)

    # ------------------------------------------------------------ writing

    async def write_head(self, head: Version) -> None:
        """The version's row and the head's, which shows a copy of it; then the listing and the hints. Raises: Invalid, Unavailable."""
        cells = row_of(head, State.COMMITTED, head.seq, 0)
        await self._objects.write_parts(head.id, cells)
        own, shown = _birth(head.bucket, head.key, head.id, cells), _birth(head.bucket, head.key, HEAD, cells)
        await self._session.write_all([own, shown])
        await self._hints.add(head)
        await self._names.publish(head.bucket, head.key, cells)

    async def write_beside(self, version: Version) -> None:
        """A draft or a dead version: first what makes somebody look at it, then its row. Raises: Invalid, Unavailable."""
        if version.state is State.DRAFT:
            await self._intents.note(lease(version))
        elif version.state in COLLECTABLE:
            await self._intents.note(dead(version))
        await self._hints.add(version)
        seq = 0 if version.state is State.DRAFT else version.seq
        cells = row_of(version, version.state, seq, 0)
        await self._objects.write_parts(version.id, cells)
        await self._session.write_all([_birth(version.bucket, version.key, version.id, cells)])

    async def write_moved(self, moved: MovedVersion) -> None:
        """What says at each former key where the version went, as moves that are complete. Raises: Unavailable."""
        for key, to in moved.left:
            cells = Cells(State.MOVED, 0, 0, Journal(to, 0, ()).pack())
            await self._session.write_all([_birth(moved.bucket, key, moved.version, cells)])
        formers = {utf8(key) for key, _ in moved.left}
        name = (uuid.UUID(moved.bucket), utf8(moved.at), uuid.UUID(moved.version))
        await self._session.write(_FORMERS, *name, formers)

    async def write_vacant(self, vacant: Vacant) -> None:
        """A head that shows nothing, until it is old enough to go. Raises: Unavailable."""
        await self._intents.note(intent_of_vacant(vacant.bucket, vacant.key, due_of(vacant.seq)))
        await self._session.write_all(
            [_birth(vacant.bucket, vacant.key, HEAD, Cells(NULL, vacant.seq, 0, None))]
        )

    async def write_log(self, entry: LogEntry) -> None:
        """An entry under its number. Raises: Unavailable."""
        minute = entry.number // _MINUTE
        await self._session.write(_LOG_MINUTE, minute)
        values = (uuid.UUID(entry.version), entry.removed, uuid.UUID(entry.bucket), utf8(entry.key))
        await self._session.write(_LOG, minute, entry.number, *values)

    async def write_repair(self, repair: Repair) -> None:
        """A repair, and what makes somebody look at it. Raises: Unavailable."""
        await self._intents.note(repairing(repair))
        body = msgpack.packb(to_record(repair))
        await self._session.write(_QUEUE, str(repair.blob), repair.since, body)


def _met(row: Any) -> _Met:
    formers = tuple(row.formers) if row.formers else None
    cells = Cells(row.state, row.seq, row.rev, row.body, formers)
    return _Met(BucketId(str(row.bucket)), Key(row.key.decode()), VersionId(str(row.version)), cells)


def _birth(bucket: BucketId, key: Key, version: VersionId, cells: Cells) -> Statement:
    name = (uuid.UUID(bucket), utf8(key), uuid.UUID(version))
    return _BIRTH, (*name, cells.state, cells.seq, cells.rev, cells.body)
