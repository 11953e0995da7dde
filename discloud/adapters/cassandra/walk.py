"""One page of a listing out of the directory index: a walk through the directories, depth first, in the order of the keys.

Where the delimiter is ``/``, a directory behind the prefix is a common prefix and is not entered. Any other delimiter is
looked for in the keys that the walk meets; a common prefix is skipped by beginning a new walk behind it, so the cost follows
the entries. Directories that come next are read ahead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

from discloud.adapters.cassandra.names import LEVELS, Names, cut
from discloud.adapters.cassandra.objects import unpack
from discloud.adapters.listing import first_behind, utf8
from discloud.core.model import BucketId, Key, Page, Version

_END = b"\xff"
"""Behind everything: no key's UTF-8 holds it."""
_SLICE = 1001
"""Entries of a directory read at once, at the most: a page of 1,000, and the one that tells whether more follow."""
_AHEAD = 8
"""Directories read ahead of the walk."""

_FIRST = 128
"""Entries read ahead of one directory."""


class Entry(NamedTuple):
    """A key and the body of its entry, or (None) a directory that is not entered."""

    name: bytes
    body: bytes | None


class Walk:
    """One page for one caller. ``limit``: entries wanted at the most; ``one``: of any replica, that may be old."""

    def __init__(
        self, names: Names, bucket: BucketId, prefix: str, delimiter: str, limit: int, *, one: bool = False
    ) -> None:
        self._names = names
        self._bucket = bucket
        self._prefix = utf8(prefix)
        self._delimiter = utf8(delimiter)
        self._limit = limit
        self._one = one
        self._ahead: set[asyncio.Task[Any]] = set()

    async def page(self, after: str) -> Page:
        """The entries that are greater than ``after``. Raises: Corrupt, Unavailable."""
        entries = self._entries(utf8(after))
        try:
            async with aclosing(entries):
                return await self._collect(entries)
        finally:
            for task in self._ahead:
                task.cancel()
            await asyncio.gather(*self._ahead, return_exceptions=True)

    async def _collect(self, entries: AsyncIterator[Entry]) -> Page:
        versions: list[Version] = []
        prefixes: list[str] = []
        last = b""
        if self._limit <= 0:
            return Page(())
        async for name, body in entries:
            if len(versions) + len(prefixes) >= self._limit:
                return Page(tuple(versions), tuple(prefixes), last.decode())
            if body is None:
                prefixes.append(name.decode())
            else:
                versions.append(unpack(self._bucket, Key(name.decode()), body))
            last = name
        return Page(tuple(versions), tuple(prefixes))

    async def _entries(self, after: bytes) -> AsyncGenerator[Entry, None]:
        """Keys and common prefixes in one order."""
        prefix, delimiter = self._prefix, self._delimiter
        low, high = first_behind(prefix, delimiter, after), prefix + _END
        base = cut(prefix)[0]
        while low < high:
            async with aclosing(self._walk(base, low, high)) as met:
                async for entry in met:
                    end = (
                        entry.name.find(delimiter, len(prefix))
                        if delimiter and entry.body is not None
                        else -1
                    )
                    if end >= 0:
                        rolled = entry.name[: end + len(delimiter)]
                        yield Entry(rolled, None)
                        low = rolled + _END
                        break
                    yield entry
                else:
                    return

    async def _walk(
        self, directory: bytes, low: bytes, high: bytes, first: asyncio.Task[list[Any]] | None = None
    ) -> AsyncGenerator[Entry, None]:
        """Entries with low <= key < high in a directory and below. ``first``: its first slice, being read."""
        whole = min(self._limit + 1, _SLICE)
        asked = min(whole, _FIRST) if first else whole
        rows = await (first or self._slice(directory, _start(directory, low), asked))
        while rows:
            async with aclosing(self._among(directory, rows, low, high)) as entries:
                async for entry in entries:
                    yield entry
            if len(rows) < asked or directory + rows[-1].name >= high:
                return
            asked = whole
            rows = await self._slice(directory, rows[-1].name + b"\x00", asked)

    async def _among(
        self, directory: bytes, rows: Sequence[Any], low: bytes, high: bytes
    ) -> AsyncGenerator[Entry, None]:
        """What one slice of a directory shows."""
        deepest = directory.count(b"/") >= LEVELS
        waiting = deque(row for row in rows if not deepest and _is_entered(directory, row.name, low, high))
        begun: deque[asyncio.Task[Any] | None] = deque()
        for row in rows:
            name = directory + row.name
            if name >= high:
                return
            if deepest or not row.name.endswith(b"/"):
                if name >= low:
                    yield Entry(name, row.body)
                continue
            if name + _END <= low:
                continue
            while waiting and len(begun) < min(_AHEAD, self._limit):
                begun.append(self._begin(directory, waiting.popleft(), low))
            async with aclosing(self._directory(name, begun.popleft(), low, high)) as entries:
                async for entry in entries:
                    yield entry

    async def _directory(
        self, name: bytes, begun: asyncio.Task[Any] | None, low: bytes, high: bytes
    ) -> AsyncGenerator[Entry, None]:
        """A directory, as a common prefix or as what is in it."""
        if self._delimiter == b"/":
            if begun is None or not await begun:
                yield Entry(name, None)
            return
        async with aclosing(self._walk(name, low, high, begun)) as entries:
            async for entry in entries:
                yield entry

    def _begin(self, directory: bytes, row: Any, low: bytes) -> asyncio.Task[Any] | None:
        """Begin to read what the walk will want to know of a directory, None = nothing."""
        name = directory + row.name
        if self._delimiter != b"/":
            first = min(self._limit + 1, _FIRST)
            return self._task(self._slice(name, _start(name, low), first))
        if row.maybe_empty:
            return self._task(self._names.is_empty(self._bucket, name, one=self._one))
        return None

    def _task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._ahead.add(task)
        return task

    async def _slice(self, directory: bytes, low: bytes, limit: int) -> list[Any]:
        return await self._names.slice(self._bucket, directory, low, limit, one=self._one)


def _is_entered(directory: bytes, name: bytes, low: bytes, high: bytes) -> bool:
    """Whether ``name`` is a directory below which keys of the range can be."""
    return name.endswith(b"/") and directory + name + _END > low and directory + name < high


def _start(directory: bytes, low: bytes) -> bytes:
    """The first name in a directory at which keys from ``low`` on can be: a name, or a directory on the way to it."""
    if not low.startswith(directory):
        return b""
    rest = low[len(directory) :]
    slash = rest.find(b"/") if directory.count(b"/") < LEVELS else -1
    return rest[: slash + 1] if slash >= 0 else rest
