"""A database file as rows that another adapter can take in, and as what takes in the rows of another (``adapters.portable``).

Owns the file's lock while it is open: a root that runs is refused, and none can start. A target is built beside its name, as
``NAME.migrating``, and gets the name when it is finished, so no root can start from half of it.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

from discloud.adapters.claims import Claim
from discloud.adapters.portable import GivenBucket, Kind, Listed, MovedVersion, Note, Row, Stretch, Vacant
from discloud.adapters.sqlite.lanes import Lane
from discloud.adapters.sqlite.metadata import OpenFile, open_file
from discloud.adapters.sqlite.moved import read_mark, refuse_moved, remove_mark, sync_folder, write_mark
from discloud.adapters.sqlite.reader import Reader
from discloud.adapters.sqlite.recent import RecentHeads
from discloud.adapters.sqlite.rows import StoredRows, WrittenRows, pack, read, read_version
from discloud.adapters.sqlite.writer import Writer
from discloud.core.model import Account, Bucket, BucketId, Key, Node, Repair, State, Version, VersionId
from discloud.errors import Conflict, NotFound, Unavailable
from discloud.ports import LogEntry

UNFINISHED = ".migrating"
"""Behind the name of a target that is not finished."""
_NOTE = "migration"


class SqlitePortable:
    """The rows of one file, as ``Source`` and ``Target``. Runs on the event loop on which it was opened."""

    def __init__(self, file: OpenFile, final: Path) -> None:
        row = file.writer.execute("SELECT value FROM mesh WHERE name = 'cluster'").fetchone()
        self.cluster = str(row[0])
        self._file = file
        self._final = final
        self._writes: Lane[WrittenRows] = Lane(
            "migrate-write", [Writer(file.writer, file.path, RecentHeads(2)).serve], 1
        )
        self._reads: Lane[StoredRows] = Lane("migrate-read", [Reader(file.readers[0], file.path).serve], 1)

    @classmethod
    async def source(cls, path: Path, to: str) -> Self:
        """The database at ``path``, to be moved ``to``. Raises: NotFound, Conflict (in use, moved elsewhere, not of ours), Unavailable."""
        return cls(await asyncio.to_thread(_open_source, path, to), path)

    @classmethod
    async def target(cls, path: Path, cluster: str) -> Self:
        """What shall become the database at ``path``, of mesh ``cluster``. Raises: Conflict (``path`` is there), Unavailable."""
        return cls(await asyncio.to_thread(_open_target, path, cluster), path)

    async def count(self, kind: Kind) -> int:
        """See ``Source.count``."""
        counted = f"SELECT count(*) FROM ({_READS[kind].query})"  # noqa: S608 - our own queries
        return await self._reads.run(
            lambda rows: int(rows.connection.execute(counted, (_READS[kind].first, -1)).fetchone()[0])
        )

    async def read(self, kind: Kind, after: str, limit: int) -> Stretch:
        """See ``Source.read``."""
        return await self._reads.run(partial(_read, kind=kind, after=after, limit=limit))

    async def leave(self, other: str, now: float) -> None:
        """See ``Source.leave``: a mark beside the file."""
        await asyncio.to_thread(write_mark, self._final, self.cluster, other, now)

    async def note(self) -> Note | None:
        """See ``Target.note``."""
        query = "SELECT value FROM mesh WHERE name = ?"
        row = await self._reads.run(lambda rows: rows.connection.execute(query, (_NOTE,)).fetchone())
        return Note.from_text(row[0]) if row else None

    async def is_empty(self) -> bool:
        """See ``Target.is_empty``."""
        return not any([await self.count(kind) for kind in Kind])

    async def write(self, kind: Kind, rows: Sequence[Row], note: Note) -> None:
        """See ``Target.write``: one transaction."""

        def operation(written: WrittenRows) -> None:
            for row in rows:
                _write(written, kind, row)
            written.connection.execute("INSERT OR REPLACE INTO mesh VALUES (?, ?)", (_NOTE, note.to_text()))

        await self._writes.run(operation)

    async def erase(self) -> None:
        """See ``Target.erase``."""
        await self._writes.run(_erase)

    async def finish(self, note: Note) -> None:
        """See ``Target.finish``: closes the file and gives it its name."""
        await self.write(Kind.BUCKETS, (), note)
        await self.close()
        await asyncio.to_thread(_give_name, self._file.path, self._final)

    async def close(self) -> None:
        """See ``Source.close``. Idempotent; what was accepted is done first."""
        if self._writes.closed:
            return
        await self._writes.close()
        await self._reads.close()
        await asyncio.to_thread(self._file.close)


# ---------------------------------------------------------------- files


def _open_source(path: Path, to: str) -> OpenFile:
    if not path.exists() or not path.stat().st_size:
        raise NotFound(
            f"there is no database {path}", "name the data folder of the mesh's root with --data DIR"
        )
    mark = read_mark(path)
    if mark is not None and mark.to != to:  # to where it is moved now: that run was cut at its very end
        refuse_moved(path)
    return open_file(path, lambda: "")


def _open_target(path: Path, cluster: str) -> OpenFile:
    if path.exists():
        raise Conflict(f"{path} is there already", "move it away first, or name another file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{path} cannot be made: {error.strerror}", "check its folder") from error
    return open_file(path.with_name(path.name + UNFINISHED), lambda: cluster)


def _give_name(unfinished: Path, final: Path) -> None:
    """A cut in between leaves no file of the final name, or the whole one."""
    remove_mark(final)
    try:
        os.link(unfinished, final)  # unlike a rename it never replaces what somebody made there meanwhile
        sync_folder(final.parent)
        for each in _files(unfinished):
            each.unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"{final} cannot be made: {error.strerror}", "repeat the migration") from error


def _files(path: Path) -> list[Path]:
    """A database and what lies beside it, its lock last."""
    return [path.with_name(path.name + end) for end in ("", "-wal", "-shm", "-lock")]


# ---------------------------------------------------------------- reading


class _Read(NamedTuple):
    """How a kind is read: the query's first column is the place, in its order, behind ``first`` from the beginning."""

    query: str
    first: int | str
    row: Callable[[tuple[Any, ...]], Row]


def _bucket(row: tuple[Any, ...]) -> GivenBucket:
    _, id, name, body = row
    return GivenBucket(BucketId(id), read(Bucket, body) if name is not None else None)


def _version(row: tuple[Any, ...]) -> Version:
    _, bucket, key, body = row
    return read_version(BucketId(bucket), Key(key.decode()), body)


def _listed(row: tuple[Any, ...]) -> Listed:
    head = _version(row)
    return Listed(head.bucket, head.key, head.id, head.seq, head.size, head.etag)


def _moved(row: tuple[Any, ...]) -> MovedVersion:
    """Every hop of one version; behind the last one the version is: no key is left twice."""
    version, bucket, hops = row
    pairs = ((_key(key), _key(to)) for key, to in json.loads(hops))
    left = dict(sorted(pairs))
    at = next(iter(left))
    for _ in left:
        at = left.get(at, at)
    return MovedVersion(BucketId(bucket), VersionId(version), at, tuple(left.items()))


def _key(text: str) -> Key:
    return Key(bytes.fromhex(text).decode())


_MOVED = """SELECT v.version, b.id, json_group_array(json_array(hex(v.key), hex(v.body)))
            FROM versions v JOIN buckets b ON b.number = v.bucket
            WHERE v.state = 7 AND v.version > ? GROUP BY v.version ORDER BY v.version LIMIT ?"""
_HEADS = """SELECT h.number, b.id, h.key, h.body FROM heads h JOIN buckets b ON b.number = h.bucket
            WHERE h.number > ? ORDER BY h.number LIMIT ?"""
_READS: dict[Kind, _Read] = {
    Kind.BUCKETS: _Read(
        """SELECT number, id, name, body FROM buckets WHERE body IS NOT NULL AND number > ?
           ORDER BY number LIMIT ?""",
        0,
        _bucket,
    ),
    Kind.HEADS: _Read(_HEADS, 0, _version),
    Kind.BESIDE: _Read(
        """SELECT v.number, b.id, v.key, v.body FROM versions v JOIN buckets b ON b.number = v.bucket
           WHERE v.state <> 7 AND v.number > ? ORDER BY v.number LIMIT ?""",
        0,
        _version,
    ),
    Kind.MOVED: _Read(_MOVED, "", _moved),
    # a name with several rows comes several times
    Kind.VACANT: _Read(
        """SELECT v.number, b.id, v.key, (SELECT value FROM mesh WHERE name = 'floor')
           FROM versions v JOIN buckets b ON b.number = v.bucket
           WHERE v.number > ? AND NOT EXISTS (SELECT 1 FROM heads h WHERE h.bucket = v.bucket AND h.key = v.key)
           ORDER BY v.number LIMIT ?""",
        0,
        lambda row: Vacant(BucketId(row[1]), Key(row[2].decode()), row[3]),
    ),
    Kind.LOG: _Read(
        """SELECT l.number, b.id, l.key, l.version, l.removed FROM all_log l JOIN buckets b ON b.number = l.bucket
           WHERE l.number > ? ORDER BY l.number LIMIT ?""",
        0,
        lambda row: LogEntry(row[0], BucketId(row[1]), Key(row[2].decode()), VersionId(row[3]), bool(row[4])),
    ),
    Kind.REPAIRS: _Read(
        "SELECT blob, body FROM repairs WHERE blob > ? ORDER BY blob LIMIT ?",
        "",
        lambda row: read(Repair, row[1]),
    ),
    Kind.ACCOUNTS: _Read(
        "SELECT id, body FROM accounts WHERE id > ? ORDER BY id LIMIT ?",
        "",
        lambda row: read(Account, row[1]),
    ),
    Kind.NODES: _Read(
        "SELECT id, nonce, at, body FROM nodes WHERE id > ? ORDER BY id LIMIT ?",
        "",
        lambda row: Claim(read(Node, row[3]), row[1], row[2]),
    ),
    Kind.LISTED: _Read(_HEADS, 0, _listed),
}


def _read(rows: StoredRows, kind: Kind, after: str, limit: int) -> Stretch:
    how = _READS[kind]
    place = type(how.first)(after) if after else how.first
    found = rows.connection.execute(how.query, (place, limit)).fetchall()
    return Stretch([how.row(row) for row in found], str(found[-1][0]) if len(found) == limit else None)


# ---------------------------------------------------------------- writing


def _write(rows: WrittenRows, kind: Kind, row: Row) -> None:
    match row:
        case GivenBucket():
            _write_bucket(rows, row)
        case Version() if kind is Kind.HEADS:
            rows.write_head(row)
        case Version():
            rows.write_row(row)
        case MovedVersion():
            for key, to in row.left:
                rows.write_moved(Version(row.bucket, key, row.version, State.MOVED, 0, ()), to)
        case Vacant():
            rows.floor = max(rows.floor, row.seq)
        case Repair():
            rows.write_repair(row)
        case _:
            _write_rest(rows, row)


def _write_rest(rows: WrittenRows, row: Row) -> None:
    execute = rows.connection.execute
    match row:
        case LogEntry():
            entry = (row.number, rows.number_or_new(row.bucket), row.key.encode(), row.version, row.removed)
            execute("INSERT OR REPLACE INTO all_log VALUES (?, ?, ?, ?, ?)", entry)
        case Account():
            execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", (row.id, row.digest, pack(row)))
        case Claim():
            claim = (row.node.id, row.node.name, row.nonce, row.at, pack(row.node))
            execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", claim)
        case _:
            raise AssertionError(f"{type(row).__name__} is never written")


def _write_bucket(rows: WrittenRows, row: GivenBucket) -> None:
    """A removed bucket keeps its number, without a name; its body only says that the id was given."""
    kept = row.bucket or Bucket(row.id, "", 0.0)
    values = (row.bucket.name if row.bucket else None, pack(kept), rows.number_or_new(row.id))
    rows.connection.execute("UPDATE buckets SET name = ?, body = ? WHERE number = ?", values)


def _erase(rows: WrittenRows) -> None:
    for table in ("heads", "versions", "all_log", "repairs", "accounts", "nodes", "buckets"):
        rows.connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own names
    rows.connection.execute("DELETE FROM mesh WHERE name = ?", (_NOTE,))
    rows.connection.execute("UPDATE mesh SET value = 0 WHERE name = 'floor'")
    rows.restart()
