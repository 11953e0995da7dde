"""Rows of objects in SQLite: ``StoredRows`` reads them over any connection, ``WrittenRows`` is the writer's transaction.

Used by one thread at a time. Keys are encoded before anything is written, so a key without UTF-8 fails early.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import msgpack

from discloud.adapters.listing import utf8
from discloud.adapters.rows import Moved
from discloud.adapters.sqlite.recent import Name, RecentHeads
from discloud.core.model import BucketId, Key, Repair, State, Version, VersionId
from discloud.core.records import from_record, to_record
from discloud.errors import Corrupt, Invalid

UNKNOWN = 0
"""The number of a bucket that has none: no row has it."""


def pack(value: object) -> bytes:
    """The body of a model type. Raises: Invalid (what no record can carry)."""
    return _packed(to_record(value))


def pack_version(version: Version) -> bytes:
    """The body of a version: its bucket and key stand in columns of their own. Raises: Invalid."""
    record = to_record(version)
    record[0] = record[1] = None
    return _packed(record)


def _packed(record: list[Any]) -> bytes:
    try:
        return bytes(msgpack.packb(record))
    except (ValueError, TypeError, OverflowError) as error:
        raise Invalid(f"this cannot be stored: {error}") from error


def read_version(bucket: BucketId, key: Key, body: bytes) -> Version:
    """The version of a body. Raises: Corrupt."""
    try:
        record = msgpack.unpackb(body)
        record[0], record[1] = bucket, key
        return from_record(Version, record)
    except (ValueError, TypeError, IndexError) as error:
        raise Corrupt(
            f"the row of {key!r} cannot be read: {error}", "restore a copy of the database"
        ) from error


def read(kind: type[Any], body: bytes) -> Any:
    """The value of a body. Raises: Corrupt."""
    try:
        return from_record(kind, msgpack.unpackb(body))
    except (ValueError, TypeError) as error:
        raise Corrupt(f"a row of {kind.__name__} cannot be read: {error}") from error


class StoredRows:
    """What a connection sees. Several reads that belong together need a transaction around them."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._numbers: dict[BucketId, int] = {}

    def number(self, bucket: BucketId) -> int:
        """The bucket's number, UNKNOWN if it has none. A number never changes, so it is remembered."""
        number = self._numbers.get(bucket)
        if number is None:
            row = self.connection.execute("SELECT number FROM buckets WHERE id = ?", (bucket,)).fetchone()
            if row is None:
                return UNKNOWN
            number = self._numbers[bucket] = int(row[0])
        return number

    def head(self, bucket: BucketId, key: Key) -> Version | None:
        """See ``Rows``."""
        row = self.connection.execute(
            "SELECT body FROM heads WHERE bucket = ? AND key = ?", (self.number(bucket), utf8(key))
        ).fetchone()
        return read_version(bucket, key, row[0]) if row else None

    def row(self, bucket: BucketId, key: Key, version: VersionId) -> Version | Moved | None:
        """See ``Rows``."""
        row = self.connection.execute(
            "SELECT state, body FROM versions WHERE bucket = ? AND key = ? AND version = ?",
            (self.number(bucket), utf8(key), version),
        ).fetchone()
        if row is None:
            return None
        return Moved(Key(row[1].decode())) if row[0] == State.MOVED else read_version(bucket, key, row[1])

    def seek(self, bucket: BucketId, low: bytes, high: bytes) -> Iterator[tuple[bytes, tuple[bytes, bytes]]]:
        """Heads with low <= key < high, each as key and (key, body), read one by one."""
        cursor = self.connection.execute(
            "SELECT key, body FROM heads WHERE bucket = ? AND key >= ? AND key < ? ORDER BY key",
            (self.number(bucket), low, high),
        )
        for row in cursor:
            yield row[0], row


class WrittenRows(StoredRows):
    """The transaction under way. ``changed`` are the heads it changed so far, None = null now.

    Implements ``Rows``; ``recent`` answers for heads that the transaction did not touch.
    """

    def __init__(self, connection: sqlite3.Connection, recent: RecentHeads) -> None:
        super().__init__(connection)
        self._recent = recent
        self._existing: dict[BucketId, bool] = {}
        self._read: dict[Name, Version | None] = {}
        self.changed: dict[Name, Version | None] = {}
        self.floor = self._stored_floor = 0
        self.restart()

    def restart(self) -> None:
        """Begin anew after a transaction that was rolled back: nothing of it may be remembered."""
        self._numbers.clear()
        self._existing.clear()
        self.end()
        row = self.connection.execute("SELECT value FROM mesh WHERE name = 'floor'").fetchone()
        self.floor = self._stored_floor = int(row[0])

    def finish(self) -> None:
        """Write what was only noted so far; to be called before the commit."""
        if self.floor != self._stored_floor:
            self.connection.execute("UPDATE mesh SET value = ? WHERE name = 'floor'", (self.floor,))
            self._stored_floor = self.floor

    def end(self) -> None:
        """The transaction is over: its heads are for ``recent`` to remember."""
        self._read = {}
        self.changed = {}

    def number_or_new(self, bucket: BucketId) -> int:
        """The bucket's number, given to it now if it has none."""
        number = self.number(bucket)
        if number == UNKNOWN:
            self.connection.execute("INSERT INTO buckets(id) VALUES (?)", (bucket,))
            number = self.number(bucket)
        return number

    def forget_bucket(self, bucket: BucketId) -> None:
        """Look again whether the bucket exists: it was just made or removed."""
        self._existing.pop(bucket, None)

    def has_bucket(self, bucket: BucketId) -> bool:
        """See ``Rows``."""
        known = self._existing.get(bucket)
        if known is None:
            query = "SELECT 1 FROM buckets WHERE id = ? AND name IS NOT NULL"
            known = self.connection.execute(query, (bucket,)).fetchone() is not None
            self._existing[bucket] = known
        return known

    def head(self, bucket: BucketId, key: Key) -> Version | None:
        """See ``Rows``."""
        name = (bucket, key)
        if name in self.changed:
            return self.changed[name]
        head = self._recent.get(name) or self._read.get(name)
        if head is None:
            head = self._read[name] = super().head(bucket, key)
        return head

    def write_first_head(self, head: Version) -> bool:
        """``write_head`` for a version without any row at a key without a head; False = there is one, nothing was written."""
        cursor = self.connection.execute(
            """INSERT INTO heads(bucket, key, version, seq, body) SELECT ?1, ?2, ?3, ?4, ?5
               WHERE NOT EXISTS (SELECT 1 FROM versions WHERE bucket = ?1 AND key = ?2 AND version = ?3)
               ON CONFLICT DO NOTHING""",
            (self.number_or_new(head.bucket), utf8(head.key), head.id, head.seq, pack_version(head)),
        )
        if cursor.rowcount == 0:
            return False
        self.changed[head.bucket, head.key] = head
        return True

    def write_head(self, head: Version) -> None:
        """See ``Rows``."""
        self.connection.execute(
            """INSERT INTO heads(bucket, key, version, seq, body) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT(bucket, key) DO UPDATE
               SET version = excluded.version, seq = excluded.seq, body = excluded.body""",
            (self.number_or_new(head.bucket), utf8(head.key), head.id, head.seq, pack_version(head)),
        )
        self.changed[head.bucket, head.key] = head

    def remove_head(self, bucket: BucketId, key: Key) -> None:
        """See ``Rows``."""
        self.connection.execute(
            "DELETE FROM heads WHERE bucket = ? AND key = ?", (self.number(bucket), utf8(key))
        )
        self.changed[bucket, key] = None

    def write_row(self, version: Version) -> None:
        """See ``Rows``."""
        self._write_row(version, version.state, version.due, pack_version(version))

    def write_moved(self, version: Version, to: Key) -> None:
        """See ``Rows``."""
        self._write_row(version, State.MOVED, 0.0, utf8(to))

    def _write_row(self, version: Version, state: State, due: float, body: bytes) -> None:
        self.connection.execute(
            """INSERT INTO versions(bucket, key, version, state, due, body) VALUES (?, ?, ?, ?, ?, ?)
               ON CONFLICT(bucket, key, version) DO UPDATE
               SET state = excluded.state, due = excluded.due, body = excluded.body""",
            (self.number_or_new(version.bucket), utf8(version.key), version.id, state.value, due, body),
        )

    def remove_row(self, bucket: BucketId, key: Key, version: VersionId) -> None:
        """See ``Rows``."""
        self.connection.execute(
            "DELETE FROM versions WHERE bucket = ? AND key = ? AND version = ?",
            (self.number(bucket), utf8(key), version),
        )

    def remove_moved(self, version: VersionId) -> None:
        """See ``Rows``."""
        self.connection.execute("DELETE FROM versions WHERE version = ? AND state = 7", (version,))

    def write_log(self, version: Version, *, removed: bool) -> None:
        """See ``Rows``."""
        self.connection.execute(
            "INSERT INTO all_log(bucket, key, version, removed) VALUES (?, ?, ?, ?)",
            (self.number(version.bucket), utf8(version.key), version.id, removed),
        )

    def write_repair(self, repair: Repair) -> None:
        """See ``Rows``."""
        self.connection.execute(
            "INSERT OR REPLACE INTO repairs VALUES (?, ?, ?, ?)",
            (str(repair.blob), repair.since, repair.not_before, pack(repair)),
        )
