"""The table ``objects``: rows as they are kept, read by full key, changed by one lightweight transaction per partition.

The head of a key is the row of the nil version (``HEAD``): its ``seq``, and as ``body`` a copy of the version that it shows.
``rev`` counts the writes of a row, at the head those since its ``seq``; what a change read, it is conditional on. A version
that is the head is never conditional on its own row: both only change together, so the head's row stands for it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from discloud.adapters.cassandra import manifests
from discloud.adapters.cassandra.manifests import Manifests, Parts, is_long
from discloud.adapters.cassandra.session import Applied, Session, Statement
from discloud.adapters.heads import COLLECTABLE
from discloud.adapters.listing import utf8
from discloud.core.model import BucketId, Key, State, Version, VersionId
from discloud.core.records import from_record, to_record
from discloud.errors import Corrupt, Invalid, Unavailable

HEAD = VersionId(str(uuid.UUID(int=0)))
"""The version id under which a head's row is kept."""
NULL = 0
"""``state`` of a head that shows nothing. A head that is being moved is ``State.MOVED``, else it is ``State.COMMITTED``."""

_COLUMNS = "version, state, seq, rev, body, formers"
_READ = f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND key = ? AND version IN ?"  # noqa: S608 - our own names
_HEAD = f"SELECT {_COLUMNS} FROM objects WHERE bucket = ? AND key = ? AND version = {HEAD}"  # noqa: S608
_WHERE = "WHERE bucket = ? AND key = ? AND version = ?"
_SAME = "IF state = ? AND seq = ? AND rev = ?"
_BIRTH = "INSERT INTO objects (state, seq, rev, body, bucket, key, version) VALUES (?, ?, ?, ?, ?, ?, ?)"
_BIRTH_OF_MOVED = "INSERT INTO objects (state, seq, rev, body, formers, bucket, key, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_SET = "UPDATE objects SET state = ?, seq = ?, rev = ?, body = ?"
_DRAFT = f"{_BIRTH} USING TIMESTAMP 1"
_INSERT, _INSERT_MOVED = f"{_BIRTH} IF NOT EXISTS", f"{_BIRTH_OF_MOVED} IF NOT EXISTS"
_OVERWRITE = f"{_SET} {_WHERE}"
_UPDATE, _UPDATE_MOVED = f"{_SET} {_WHERE} {_SAME}", f"{_SET}, formers = ? {_WHERE} {_SAME}"
_DELETE = f"DELETE FROM objects {_WHERE} {_SAME}"  # noqa: S608 - our own names


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is kept. ``formers``: the keys that the version was moved away from; None = as they are.

    ``parts``: those of a long manifest (``manifests``), which the body names.
    """

    state: int
    seq: int
    rev: int
    body: bytes | None
    formers: tuple[bytes, ...] | None = None
    parts: Parts | None = field(default=None, compare=False, repr=False)


Rows = Mapping[VersionId, Row | None]
"""Rows of one partition, those that are certainly absent as None."""


@dataclass(frozen=True, slots=True)
class Edit:
    """One row's change. ``before``: what it was read as, None = absent; ``blind``: another row of the change stands for it."""

    version: VersionId
    before: Row | None
    after: Row | None
    blind: bool = False


class Objects:
    """The table, over a session; what it gives and takes are rows with their parts."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._manifests = Manifests(session)

    async def head(self, bucket: BucketId, key: Key, *, one: bool = False) -> Row | None:
        """The head's row at the quorum's level, or (``one``) as any replica has it. Raises: Unavailable."""
        at = _uuid(bucket)
        found = await self._session.read(_HEAD, at, utf8(key), one=one) if at else []
        return await self.whole(_row(found[0]), one=one) if found else None

    async def rows(
        self,
        bucket: BucketId,
        key: Key,
        versions: Iterable[VersionId],
        *,
        strict: bool = True,
        one: bool = False,
    ) -> dict[VersionId, Row | None]:
        """These rows of one moment; ``strict`` = after every change begun before. Raises: Unavailable."""
        wanted = {version: _uuid(version) for version in versions}
        at, ids = _uuid(bucket), [id for id in wanted.values() if id is not None]
        found: list[Any] = []
        if at and ids:
            found = await self._session.read(_READ, at, utf8(key), ids, strict=strict, one=one)
        by_id = {row.version: _row(row) for row in found}
        return await self._whole_of(
            {version: by_id.get(id) if id else None for version, id in wanted.items()}, one=one
        )

    async def whole(self, row: Row, *, one: bool = False) -> Row:
        """The row with its parts; a dead version whose parts were dropped has no segments any more. Raises: Unavailable."""
        if not is_long(row.body) or row.parts is not None:
            return row
        assert row.body is not None, "a long body is one"
        parts = await self._manifests.read(row.body, one=one)
        if row.state not in COLLECTABLE and not parts.keys() >= set(manifests.parts_of(row.body)[1]):
            raise Unavailable("the replicas that answered do not have the whole manifest", "repeat it")
        return replace(row, parts=parts)

    async def birth(self, draft: Version) -> None:
        """Write a draft's row; where the version has one already, nothing changes. Raises: Invalid, Unavailable."""
        row = newborn(draft)
        await self.write_parts(draft.id, row)
        await self._session.write(_DRAFT, *_values(row), *_name(draft.bucket, draft.key, draft.id))

    async def write_parts(self, version: VersionId, row: Row | None) -> None:
        """What must be there before a row of that version is written. Raises: Unavailable."""
        if row is not None and row.parts:
            await self._manifests.write(version, row.parts)

    async def write_parts_of(self, edits: Sequence[Edit]) -> None:
        """What must be there before these edits are made, or a journal names them. Raises: Unavailable."""
        for edit in edits:
            if edit.version != HEAD:  # what the head shows has a row of its own, which is written with it
                await self.write_parts(edit.version, edit.after)

    async def drop_parts(self, version: VersionId) -> None:
        """The version is dead and its blobs are gone. Raises: Unavailable."""
        await self._manifests.drop(version)

    async def apply(self, bucket: BucketId, key: Key, edits: Sequence[Edit]) -> tuple[bool, Rows | None]:
        """Make these changes of one partition, or none; of a refusal also the rows it met, if it tells them.

        Raises: Invalid, OutcomeUnknown, Unavailable (definitely not applied).
        """
        statements = [_statement(_name(bucket, key, edit.version), edit) for edit in edits]
        await self.write_parts_of(edits)
        applied = await self._session.apply(*statements)
        if applied.applied:
            return True, None
        met = _met(edits, applied)
        return False, await self._whole_of(met) if met is not None else None

    async def _whole_of(self, rows: Rows, *, one: bool = False) -> dict[VersionId, Row | None]:
        """One after the other: a version and the head that shows it have the same parts."""
        return {
            version: await self.whole(row, one=one) if row is not None else None
            for version, row in rows.items()
        }


def newborn(draft: Version) -> Row:
    """The row of a draft that was just begun. Raises: Invalid."""
    return row_of(replace(draft, state=State.DRAFT), State.DRAFT, 0, 0)


def row_of(version: Version, state: int, seq: int, rev: int) -> Row:
    """The row that keeps a version; its bucket and key are the partition's. Raises: Invalid (what no record can carry)."""
    record = to_record(version)
    record[0] = record[1] = None
    try:
        body, parts = manifests.pack(record)
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid(f"this cannot be stored: {error}") from error
    return Row(state, seq, rev, body, parts=parts)


def unpack(bucket: BucketId, key: Key, body: bytes, parts: Parts | None = None) -> Version:
    """The version of a body; a long one has the segments of ``parts`` only. Raises: Corrupt."""
    try:
        record = manifests.unpack(body, parts)
        record[0], record[1] = bucket, key
        return from_record(Version, record)
    except (ValueError, TypeError, IndexError) as error:
        raise Corrupt(f"the row of {key!r} cannot be read: {error}") from error


def is_id(text: str) -> bool:
    """Whether it can be the id of anything."""
    return _uuid(text) is not None


def _statement(name: tuple[object, ...], edit: Edit) -> Statement:
    before, after = edit.before, edit.after
    if after is None:
        assert before is not None, "nothing is removed that was not read"
        return _DELETE, (*name, before.state, before.seq, before.rev)
    values = _values(after)
    if edit.blind:
        return _OVERWRITE, (*values, *name)
    formers = () if after.formers is None else (set(after.formers),)
    if before is None:
        return _INSERT_MOVED if formers else _INSERT, (*values, *formers, *name)
    same = (before.state, before.seq, before.rev)
    return _UPDATE_MOVED if formers else _UPDATE, (*values, *formers, *name, *same)


def _values(row: Row) -> tuple[object, ...]:
    return row.state, row.seq, row.rev, row.body


def _name(bucket: BucketId, key: Key, version: VersionId) -> tuple[object, ...]:
    ids = _uuid(bucket), _uuid(version)
    if None in ids:
        raise Invalid(f"{bucket} or {version} is no id", "ids are UUIDs")
    return ids[0], utf8(key), ids[1]


def _met(edits: Sequence[Edit], refusal: Applied) -> Rows | None:
    """The rows that a refusal met: whole only where a row should have been absent, and only those it was conditional on."""
    if not refusal.rows or not hasattr(refusal.rows[0], "body"):
        return None
    by_id = {str(row.version): _row(row) for row in refusal.rows}
    return {edit.version: by_id.get(edit.version) for edit in edits if not edit.blind}


def _row(row: Any) -> Row:
    formers = tuple(row.formers) if row.formers else None
    return Row(row.state, row.seq, row.rev, row.body, formers)


def _uuid(id: str) -> uuid.UUID | None:
    """An id that is no UUID names nothing: no row can have it."""
    try:
        return uuid.UUID(id)
    except ValueError:
        return None
