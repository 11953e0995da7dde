"""The directory index: what ``objects`` shows, by directory, so that a page of a listing is a slice of a partition.

A key is cut at its slashes: ``a/b`` is the name ``b`` in the directory ``a/``, and ``a/`` a name in the top. Bytes are
compared, so the order of names is that of the keys. At most ``LEVELS`` directories are cut off; what is left is the name.
An entry is written with a timestamp made of the head's ``seq`` and ``rev``, so the head that is newer wins whoever comes last.
A directory's entry is never removed by a request: one that may be empty is marked, and listings look into it.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from discloud.adapters.cassandra.objects import Row
from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.listing import utf8
from discloud.core.model import BucketId, Key, State

LEVELS = 64
"""Directories in a key at the most."""
SHARD = 0
"""A directory is one partition."""
_HOUR = 3600.0
_REMEMBERED = 65_536
"""Directories whose entries this process remembers to have written."""
_PROBED = 100
"""Entries of a directory that are looked at together to find one that is alive."""
_LOOKED_AT = 3
"""Entries that are looked at to find one that is alive."""
_MOST_REV = 999
_BATCHED = 4096
"""Bytes of an entry that goes into one batch with others: Cassandra warns of batches beyond 5 KiB and refuses those beyond 50."""

_ENTRY = "INSERT INTO names (bucket, dir, shard, name, body) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
_REMOVE = "DELETE FROM names USING TIMESTAMP ? WHERE bucket = ? AND dir = ? AND shard = ? AND name = ?"
_DIRECTORY = "INSERT INTO names (bucket, dir, shard, name) VALUES (?, ?, ?, ?) USING TIMESTAMP ?"
_EMPTY = (
    "INSERT INTO names (bucket, dir, shard, name, maybe_empty) VALUES (?, ?, ?, ?, true) USING TIMESTAMP ?"
)
_SLICE = """SELECT name, body, maybe_empty FROM names
    WHERE bucket = ? AND dir = ? AND shard = ? AND name >= ? LIMIT ?"""


class Names:
    """Writes the index and reads slices of it. ``monotonic`` gives seconds that never go back."""

    def __init__(self, session: Session, monotonic: Callable[[], float]) -> None:
        self._session = session
        self._monotonic = monotonic
        self._written: OrderedDict[tuple[BucketId, bytes], float] = OrderedDict()
        self._alive: OrderedDict[tuple[BucketId, bytes], bytes] = OrderedDict()

    async def publish(self, bucket: BucketId, key: Key, head: Row) -> None:
        """Let the index say what the head's row says; repeated or late it does no harm. Raises: Unavailable."""
        at, (directory, name) = uuid.UUID(bucket), cut(utf8(key))
        stamp = head.seq * (_MOST_REV + 1) + min(head.rev, _MOST_REV)
        if head.state == State.COMMITTED:
            entry: Statement = (_ENTRY, (at, directory, SHARD, name, head.body, stamp))
            if len(head.body or b"") > _BATCHED:
                await self._session.write_all([entry])
                entries = []
            else:
                entries = [entry]
            await self._write_with_parents(bucket, directory, entries, stamp)
        elif head.body is None:
            await self._session.write(_REMOVE, stamp, at, directory, SHARD, name)
            if directory and not await self._is_seen_alive(bucket, directory, name):
                await self._mark_empty(bucket, directory, stamp)

    async def slice(
        self, bucket: BucketId, directory: bytes, low: bytes, limit: int, *, one: bool = False
    ) -> list[Any]:
        """Entries (name, body, maybe_empty) of a directory from ``low`` on. Raises: Unavailable."""
        return await self._session.read(_SLICE, uuid.UUID(bucket), directory, SHARD, low, limit, one=one)

    async def is_empty(self, bucket: BucketId, directory: bytes, *, one: bool = False) -> bool:
        """Whether nothing is alive in a directory or below it. Raises: Unavailable."""
        low, depth = b"", directory.count(b"/")
        while True:
            rows = await self.slice(bucket, directory, low, _PROBED, one=one)
            if any(not row.maybe_empty for row in rows):
                return False
            for row in rows:
                if depth < LEVELS and not await self.is_empty(bucket, directory + row.name, one=one):
                    return False
            if len(rows) < _PROBED:
                return True
            low = rows[-1].name + b"\x00"

    async def _is_seen_alive(self, bucket: BucketId, directory: bytes, removed: bytes) -> bool:
        """Whether something that is certainly alive is in the directory; what was seen last is looked at first, then what is
        behind the removed name, then the beginning: who removes a directory name by name does not read all that is removed.
        """
        seen = self._alive.get((bucket, directory), removed)
        starts = [] if seen == removed else [(seen, 1)]
        for low, limit in (*starts, (removed, _LOOKED_AT), (b"", _LOOKED_AT)):
            rows = await self.slice(bucket, directory, low, limit)
            alive = next((row.name for row in rows if not row.maybe_empty), None)
            if alive is not None:
                self._alive[bucket, directory] = alive
                self._alive.move_to_end((bucket, directory))
                if len(self._alive) > _REMEMBERED:
                    self._alive.popitem(last=False)
                return True
        self._alive.pop((bucket, directory), None)
        return False

    async def _write_with_parents(
        self, bucket: BucketId, directory: bytes, entries: list[Statement], stamp: int
    ) -> None:
        """``entries``, and those of the directories on the way, each unless this process wrote it within the hour."""
        now, at = self._monotonic(), uuid.UUID(bucket)
        due = [each for each in ancestors(directory) if not self._is_written((bucket, each), now)]
        await self._session.write_all(
            [*entries, *((_DIRECTORY, (at, *_parent(each), stamp)) for each in due)]
        )
        for each in due:
            self._written[bucket, each] = now
            self._written.move_to_end((bucket, each))
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    def _is_written(self, name: tuple[BucketId, bytes], now: float) -> bool:
        written = self._written.get(name)
        return written is not None and written > now - _HOUR

    async def _mark_empty(self, bucket: BucketId, directory: bytes, stamp: int) -> None:
        """Mark the directories on the way up that hold nothing alive any more."""
        while directory and await self.is_empty(bucket, directory):
            await self._session.write(_EMPTY, uuid.UUID(bucket), *_parent(directory), stamp)
            directory = cut_directory(directory)[0]


def cut(key: bytes) -> tuple[bytes, bytes]:
    """A key as its directory and its name there."""
    end = 0
    for _ in range(LEVELS):
        slash = key.find(b"/", end)
        if slash < 0:
            break
        end = slash + 1
    return key[:end], key[end:]


def cut_directory(directory: bytes) -> tuple[bytes, bytes]:
    """A directory as the one that it is in and its name there, which ends in a slash."""
    start = directory.rfind(b"/", 0, len(directory) - 1) + 1
    return directory[:start], directory[start:]


def ancestors(directory: bytes) -> Iterator[bytes]:
    """The directory and those that it is in, without the top."""
    while directory:
        yield directory
        directory = cut_directory(directory)[0]


def _parent(directory: bytes) -> tuple[bytes, int, bytes]:
    above, name = cut_directory(directory)
    return above, SHARD, name
