"""The ``Metadata`` port on one SQLite file that this process owns.

Owns the file's lock, the connections and the threads: one writes, one reads single rows, two read many. Everything but
the threads' own work runs on the event loop on which it was opened.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Self

from discloud.adapters.leases import LocalLeases
from discloud.adapters.sqlite.lanes import Lane
from discloud.adapters.sqlite.queues import SqliteQueues
from discloud.adapters.sqlite.reader import Reader
from discloud.adapters.sqlite.recent import RecentHeads
from discloud.adapters.sqlite.registry import SqliteAccounts, SqliteBuckets, SqliteNodes
from discloud.adapters.sqlite.rows import StoredRows, WrittenRows
from discloud.adapters.sqlite.schema import connect_reader, connect_writer
from discloud.adapters.sqlite.versions import SqliteVersions
from discloud.adapters.sqlite.writer import Writer
from discloud.errors import Conflict, Unavailable

_SCANNERS = 2
_MOST_WRITES = 512
"""Operations in one transaction: more would make the first wait for the last without saving much."""
_MOST_READS = 32


class OpenFile(NamedTuple):
    """What is open of the database. ``lock`` is the descriptor that holds the file's lock."""

    path: Path
    lock: int
    writer: sqlite3.Connection
    readers: tuple[sqlite3.Connection, ...]

    def close(self) -> None:
        """Close the readers, then the writer (which takes over the log), then give the lock up."""
        for connection in (*self.readers, self.writer):
            with suppress(sqlite3.Error):
                connection.close()
        os.close(self.lock)


class SqliteMetadata:
    """What the mesh knows, in one file. Open it with ``open``; a context manager that closes."""

    def __init__(self, file: OpenFile, clock: Callable[[], float], recent: RecentHeads) -> None:
        self._file = file
        row = file.writer.execute("SELECT value FROM mesh WHERE name = 'cluster'").fetchone()
        self.cluster = str(row[0])
        point, *scanners = (Reader(connection, file.path).serve for connection in file.readers)
        self._writes: Lane[WrittenRows] = Lane(
            "metadata-write", [Writer(file.writer, file.path, recent).serve], _MOST_WRITES
        )
        self._points: Lane[StoredRows] = Lane("metadata-read", [point], _MOST_READS)
        self._scans: Lane[StoredRows] = Lane("metadata-scan", scanners, 1)
        self.versions = SqliteVersions(self._writes, self._points, self._scans, recent, clock)
        self.buckets = SqliteBuckets(self._writes, self._points)
        self.queues = SqliteQueues(self._writes, self._scans)
        self.accounts = SqliteAccounts(self._writes, self._points)
        self.nodes = SqliteNodes(self._writes, self._points)
        self.leases = LocalLeases()
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        clock: Callable[[], float] = time.time,
        draw_cluster: Callable[[], str] = lambda: str(uuid.uuid4()),
        recent: int = 20_000,
    ) -> Self:
        """Open the file, make it where it is missing; its folder must be there.

        ``draw_cluster`` draws the id of a new mesh; ``recent`` is how many heads are kept in memory (about 2 KiB each).
        Raises: Conflict (in use, not ours, or of a newer schema), Unavailable.
        """
        file = await asyncio.to_thread(open_file, path, draw_cluster)
        return cls(file, clock, RecentHeads(recent))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def backup(self, target: Path) -> None:
        """Write a copy of the database as of now to ``target``, whole or not at all; it replaces what is there.

        Raises: Unavailable.
        """
        await self._scans.run(lambda rows: _backup(rows.connection, target))

    async def close(self) -> None:
        """See ``Metadata.close``. Goes on to its end when the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for lane in (self._writes, self._points, self._scans):
                group.create_task(lane.close())
        await asyncio.to_thread(self._file.close)


def open_file(path: Path, draw_cluster: Callable[[], str]) -> OpenFile:
    """Lock the file, make its tables where there are none, connect. Blocks. Raises: Conflict, Unavailable."""
    lock = _lock(path)
    opened: list[sqlite3.Connection] = []
    try:
        opened.append(connect_writer(path, draw_cluster))
        opened.extend(connect_reader(path) for _ in range(1 + _SCANNERS))
    except (Conflict, Unavailable):
        for connection in opened:
            connection.close()
        os.close(lock)
        raise
    return OpenFile(path, lock, opened[0], tuple(opened[1:]))


def _lock(path: Path) -> int:
    """The descriptor of a lock file beside the database: SQLite itself would let a second process in."""
    try:
        lock = os.open(path.with_name(path.name + "-lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Unavailable(
            f"the database {path.name} cannot be opened: {error}", "look at its folder"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise Conflict(f"{path.name} is in use by another process", "stop that node first") from error
    return lock


def _backup(connection: sqlite3.Connection, target: Path) -> None:
    connection.execute("ROLLBACK")  # VACUUM wants to begin its own
    part = target.with_name(target.name + ".part")
    try:
        part.unlink(missing_ok=True)
        connection.execute("VACUUM INTO ?", (str(part),))
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(f"the copy {target.name} of the database failed: {error}") from error
