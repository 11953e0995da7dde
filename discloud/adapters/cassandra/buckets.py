"""``Buckets`` on Cassandra, and which bucket ids exist.

A bucket's row is the truth and stays for ever (``gone``), so that its id is never given twice; ``bucket_names`` says which
id has a name. Both change by lightweight transactions only. A removal closes the bucket, waits until everybody has heard
of that, looks whether it is empty, and only then is it gone; one that finds something opens it again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any, Protocol

import msgpack

from discloud import logs
from discloud.adapters.cassandra.intents import FOREVER, Intent, Intents, Kind
from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.cassandra.together import together
from discloud.core.model import Bucket, BucketId, BucketState, Key, Page, State, Version, VersionId
from discloud.core.records import from_record, to_record
from discloud.errors import (
    BucketExists,
    BucketNotEmpty,
    Conflict,
    NoSuchBucket,
    NoSuchVersion,
    OutcomeUnknown,
    Unavailable,
)

FRESH = 5.0
"""Seconds for which an id that exists is believed to."""
SETTLE = 10.0
"""Seconds until everybody has heard that a bucket is closed, and what was begun before has ended."""
_REMEMBERED = 10_000

_ROW = "SELECT id, rev, closing, gone, body FROM buckets WHERE id = ?"
_ROWS = "SELECT id, rev, closing, gone, body FROM buckets"
_NAMES = "SELECT id FROM bucket_names"
_ID = "SELECT id FROM bucket_names WHERE name = ?"
_MAKE = "INSERT INTO buckets (id, rev, body) VALUES (?, ?, ?) IF NOT EXISTS"
_UNMAKE = "DELETE FROM buckets WHERE id = ? IF rev = ? AND body = ?"
_CHANGE = "UPDATE buckets SET rev = ?, body = ?, closing = null WHERE id = ? IF rev = ? AND gone = null"
_CLOSE = "UPDATE buckets SET closing = ? WHERE id = ? IF rev = ? AND gone = null"
_OPEN = "UPDATE buckets SET closing = null WHERE id = ? IF closing = ?"
_END = "UPDATE buckets SET gone = true WHERE id = ? IF closing = ?"
_NAME = "INSERT INTO bucket_names (name, id) VALUES (?, ?) IF NOT EXISTS"
_RENAME = "UPDATE bucket_names SET id = ? WHERE name = ? IF id = ?"
_UNNAME = "DELETE FROM bucket_names WHERE name = ? IF id = ?"


class Objects(Protocol):
    """What a removal asks of the objects."""

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_keys``."""

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """See ``Versions.find``."""


class BucketIds:
    """Which ids exist, with a short memory. ``clock`` counts seconds and never goes back."""

    def __init__(self, session: Session, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._clock = clock
        self._known: dict[BucketId, float] = {}

    async def exists(self, bucket: BucketId) -> bool:
        """Whether objects may be made in it now; yes is at most ``FRESH`` seconds old. Raises: Unavailable."""
        asked = self._clock()
        if (known := self._known.get(bucket)) is not None and asked - known < FRESH:
            return True
        rows = await self._session.read(_ROW, bucket)
        self.forget(bucket)
        if not rows or rows[0].gone or rows[0].closing is not None:
            return False
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[bucket] = asked
        return True

    def forget(self, bucket: BucketId) -> None:
        """Ask again the next time."""
        self._known.pop(bucket, None)


class CassandraBuckets:
    """The ``Buckets`` port. ``settle``: seconds until a closed bucket is known to be closed everywhere."""

    def __init__(
        self,
        session: Session,
        ids: BucketIds,
        intents: Intents,
        objects: Objects,
        settle: float = SETTLE,
        new_token: Callable[[], uuid.UUID] = uuid.uuid4,
    ) -> None:
        self._session = session
        self._ids = ids
        self._intents = intents
        self._objects = objects
        self._settle = settle
        self._new_token = new_token

    # ------------------------------------------------------------ the port

    async def create(self, bucket: Bucket) -> None:
        """See ``Buckets.create``: the id, then the name; what stopped in between is gone on with."""
        row = (bucket.id, bucket.rev, _pack(bucket))
        made = await self._decide((_MAKE, row), bucket.id, lambda found: found.body == row[2])
        if made or await self._is_unfinished(bucket):
            if await self._name(bucket):
                return
            await self._session.apply((_UNMAKE, row))
        raise BucketExists(f"bucket {bucket.name} exists", "choose another name")

    async def get(self, name: str) -> Bucket:
        """See ``Buckets.get``."""
        return _bucket(await self._named(name))

    async def update(self, bucket: Bucket) -> Bucket:
        """See ``Buckets.update``."""
        await self._own(bucket)
        updated = replace(bucket, rev=bucket.rev + 1)
        body = _pack(updated)
        change = (_CHANGE, (updated.rev, body, bucket.id, bucket.rev))
        if not await self._decide(
            change, bucket.id, lambda found: (found.rev, found.body) == (updated.rev, body)
        ):
            raise Conflict(f"bucket {bucket.name} was changed since it was read", "read it again and repeat")
        return updated

    async def remove(self, bucket: Bucket) -> None:
        """See ``Buckets.remove``; takes ``settle`` seconds."""
        row = await self._own(bucket)
        await self._need_empty(bucket)
        token = self._new_token()
        close = (_CLOSE, (token, bucket.id, row.rev))
        if not await self._decide(close, bucket.id, lambda found: found.closing == token):
            raise Conflict(f"bucket {bucket.name} was changed just now", "repeat it")
        self._ids.forget(bucket.id)
        try:
            await asyncio.sleep(self._settle)
            await self._need_empty(bucket)
        except BaseException:
            await asyncio.shield(self._reopen(bucket, token))
            raise
        if not await self._decide((_END, (bucket.id, token)), bucket.id, lambda found: bool(found.gone)):
            raise Conflict(f"bucket {bucket.name} was opened again by somebody else", "repeat it")
        with suppress(Unavailable):  # the next bucket of that name takes it over
            await self._session.apply((_UNNAME, (bucket.name, bucket.id)))

    async def all(self) -> tuple[Bucket, ...]:
        """See ``Buckets.all``."""
        named = {row.id for row in await self._session.read(_NAMES)}
        rows = await self._session.read(_ROWS)
        buckets = (_bucket(row) for row in rows if row.id in named and not row.gone)
        return tuple(sorted(buckets, key=lambda bucket: bucket.name))

    # ------------------------------------------------------------ rows

    async def _row(self, id: BucketId, *, strict: bool = False) -> Any:
        rows = await self._session.read(_ROW, id, strict=strict)
        return rows[0] if rows else None

    async def _holder(self, name: str, *, strict: bool = False) -> BucketId | None:
        rows = await self._session.read(_ID, name, strict=strict)
        return BucketId(rows[0].id) if rows else None

    async def _named(self, name: str) -> Any:
        """The row of the bucket of that name. Raises: NoSuchBucket, Unavailable."""
        id = await self._holder(name)
        row = await self._row(id) if id is not None else None
        if row is None or row.gone:
            raise NoSuchBucket(f"there is no bucket {name}")
        return row

    async def _own(self, bucket: Bucket) -> Any:
        row = await self._named(bucket.name)
        if row.id != bucket.id:
            raise NoSuchBucket(f"bucket {bucket.name} is another one now")
        return row

    async def _decide(self, change: Statement, id: BucketId, applied: Callable[[Any], bool]) -> bool:
        """Whether the change was applied; where the answer was lost the row may tell. Raises: OutcomeUnknown, Unavailable."""
        try:
            return (await self._session.apply(change)).applied
        except OutcomeUnknown:
            row = await self._row(id, strict=True)
            if row is None or not applied(row):
                raise
            return True

    async def _reopen(self, bucket: Bucket, token: uuid.UUID) -> None:
        """Best effort: one that stays closed is shown so, and the removal or an update can be repeated."""
        try:
            await self._session.apply((_OPEN, (bucket.id, token)))
        except Unavailable as error:
            logs.error("bucket_stays_closed", bucket=bucket.name, reason=error.code)

    async def _is_unfinished(self, bucket: Bucket) -> bool:
        """Whether this very creation made the row and stopped before it had the name."""
        row = await self._row(bucket.id, strict=True)
        if row is None or row.gone or row.body != _pack(bucket):
            return False
        return await self._holder(bucket.name, strict=True) != bucket.id

    async def _name(self, bucket: Bucket) -> bool:
        """Give the name to the bucket, if it is free or its bucket is gone."""
        try:
            met = await self._session.apply((_NAME, (bucket.name, bucket.id)))
        except OutcomeUnknown:
            if await self._holder(bucket.name, strict=True) != bucket.id:
                raise
            return True
        if met.applied:
            return True
        former = BucketId(met.rows[0].id)
        row = await self._row(former, strict=True)
        if row is not None and not row.gone:
            return former == bucket.id
        return (await self._session.apply((_RENAME, (bucket.id, bucket.name, former)))).applied

    # ------------------------------------------------------------ emptiness

    async def _need_empty(self, bucket: Bucket) -> None:
        """Raises: BucketNotEmpty (a head or a draft is left), Unavailable."""
        page = await self._objects.list_keys(bucket.id, "", "", "", 1)
        if page.versions or await self._has_draft(bucket.id):
            raise BucketNotEmpty(f"bucket {bucket.name} is not empty", "remove its objects and uploads first")

    async def _has_draft(self, bucket: BucketId) -> bool:
        async with aclosing(self._intents.due(Kind.OPEN, FOREVER)) as open_intents:
            async for intents in open_intents:
                own = [intent for intent in intents if intent.bucket == bucket]
                if any(await together(self._is_draft, own)):
                    return True
        return False

    async def _is_draft(self, intent: Intent) -> bool:
        try:
            version = await self._objects.find(intent.bucket, intent.key, intent.version)
        except NoSuchVersion:
            return False
        return version.state is State.DRAFT


def _pack(bucket: Bucket) -> bytes:
    return bytes(msgpack.packb(to_record(bucket)))


def _bucket(row: Any) -> Bucket:
    bucket = from_record(Bucket, msgpack.unpackb(row.body))
    return bucket if row.closing is None else replace(bucket, state=BucketState.DELETING)
