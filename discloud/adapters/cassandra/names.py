"""The directory index: what ``objects`` shows, by directory, so that a page of a listing is a slice of a partition.

A key is cut at its slashes: ``a/b`` is the name ``b`` in the directory ``a/``, and ``a/`` a name in the top. Bytes are
compared, so the order of names is that of the keys. At most ``LEVELS`` directories are cut off; what is left is the name.
An entry is written with a timestamp made of the head's ``seq`` and ``rev``, so the head that is newer wins whoever comes last.

A directory's entry is never removed by a request: one that may be empty is marked, and listings look into it. It is written and
marked with the writer's time, whatever the ``seq``. gc removes one that is empty and was not written for a day (``prune``), with the
time of its last write: so a removal never hits an entry that a PUT wrote after gc looked, nor one that a PUT does not write because its
process wrote it within the hour. Clocks may differ by 5 s.
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from discloud.adapters.cassandra.intents import Intents, emptied
from discloud.adapters.cassandra.objects import Row
from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.together import all_of
from discloud.adapters.listing import utf8
from discloud.core.model import BucketId, Key, State

LEVELS = 64
"""Directories in a key at the most."""
SHARD = 0
"""A directory is one partition."""
IDLE = 86_400.0
"""Seconds for which nobody wrote a directory's entry before gc may remove it: far more than ``_HOUR``."""
_HOUR = 3600.0
_REMEMBERED = 65_536
"""Directories whose entries this process remembers to have written."""
_PROBED = 100
"""Entries of a directory that are looked at together to find one that is alive."""
_LOOKED_AT = 3
"""Entries that are looked at to find one that is alive."""
_MOST_REV = 999
_STAMPS = 1_000_000 * (_MOST_REV + 1)
"""Timestamps in a second."""

_ENTRY = "INSERT INTO names (bucket, dir, shard, name, body) VALUES (?, ?, ?, ?, ?) USING TIMESTAMP ?"
_REMOVE = "DELETE FROM names USING TIMESTAMP ? WHERE bucket = ? AND dir = ? AND shard = ? AND name = ?"
_DIRECTORY = "INSERT INTO names (bucket, dir, shard, name, body) VALUES (?, ?, ?, ?, 0x) USING TIMESTAMP ?"
_EMPTY = (
    "INSERT INTO names (bucket, dir, shard, name, maybe_empty) VALUES (?, ?, ?, ?, true) USING TIMESTAMP ?"
)
_SLICE = """SELECT name, body, maybe_empty FROM names
    WHERE bucket = ? AND dir = ? AND shard = ? AND name >= ? LIMIT ?"""
_WRITTEN = """SELECT WRITETIME(body) AS body, WRITETIME(maybe_empty) AS mark FROM names
    WHERE bucket = ? AND dir = ? AND shard = ? AND name = ?"""


class Names:
    """Writes the index and reads slices of it. ``clock`` gives epoch seconds (a monotonic one stands still while a machine sleeps)."""

    def __init__(self, session: Session, intents: Intents, clock: Callable[[], float]) -> None:
        self._session = session
        self._intents = intents
        self._clock = clock
        self._written: OrderedDict[tuple[BucketId, bytes], float] = OrderedDict()
        self._alive: OrderedDict[tuple[BucketId, bytes], bytes] = OrderedDict()

    async def publish(self, bucket: BucketId, key: Key, head: Row) -> None:
        """Let the index say what the head's row says; repeated or late it does no harm. Raises: Unavailable."""
        at, (directory, name) = uuid.UUID(bucket), cut(utf8(key))
        stamp = head.seq * (_MOST_REV + 1) + min(head.rev, _MOST_REV)
        if head.state == State.COMMITTED:
            entry = (at, directory, SHARD, name, head.body, stamp)
            await self._write_with_parents(bucket, directory, entry)
        elif head.body is None:
            await self._session.write(_REMOVE, stamp, at, directory, SHARD, name)
            if directory and not await self._is_seen_alive(bucket, directory, name):
                await self._mark_empty(bucket, directory)

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

    async def prune(self, bucket: BucketId, directory: Key) -> None:
        """Remove a directory's entry if it is empty and was not written for ``IDLE``; where it was, look later. Raises: Unavailable."""
        name, at = utf8(directory), (uuid.UUID(bucket), *_parent(utf8(directory)))
        if not await self.is_empty(bucket, name):
            return
        for written in await self._session.read(_WRITTEN, *at):
            last = max(written.body or 0, written.mark or 0)
            due = last / _STAMPS + IDLE
            if due > self._clock():
                await self._intents.note(emptied(bucket, directory, due))
            else:
                await self._session.write(_REMOVE, last, *at)

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

    async def _write_with_parents(self, bucket: BucketId, directory: bytes, entry: Sequence[object]) -> None:
        """The entry, and those of the directories on the way, each unless this process wrote it within the hour."""
        now, at = self._clock(), uuid.UUID(bucket)
        due = [each for each in ancestors(directory) if not self._is_written((bucket, each), now)]
        await self._session.write_all(
            [(_ENTRY, entry), *((_DIRECTORY, (at, *_parent(each), _stamp(now))) for each in due)]
        )
        for each in due:
            self._written[bucket, each] = now
            self._written.move_to_end((bucket, each))
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)

    def _is_written(self, name: tuple[BucketId, bytes], now: float) -> bool:
        written = self._written.get(name)
        return written is not None and now - _HOUR < written <= now

    async def _mark_empty(self, bucket: BucketId, directory: bytes) -> None:
        """Mark the directories on the way up that hold nothing alive any more, and let gc look at them later."""
        while directory and await self.is_empty(bucket, directory):
            now = self._clock()
            intent = emptied(bucket, Key(directory.decode()), now + IDLE)
            mark = (uuid.UUID(bucket), *_parent(directory), _stamp(now))
            await all_of(partial(self._session.write, _EMPTY, *mark), partial(self._intents.note, intent))
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


def _stamp(moment: float) -> int:
    """The timestamp of an epoch time, as that of a head whose ``seq`` it is."""
    return int(moment * 1_000_000) * (_MOST_REV + 1)
