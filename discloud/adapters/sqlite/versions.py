"""``Versions`` over SQLite: every change is one operation of the writer, every read one moment of a reader."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import NamedTuple

import msgpack

from discloud.adapters import heads
from discloud.adapters.listing import page
from discloud.adapters.sqlite.lanes import Lane
from discloud.adapters.sqlite.recent import RecentHeads
from discloud.adapters.sqlite.rows import StoredRows, WrittenRows, read_version
from discloud.core.model import (
    BlobId,
    BucketId,
    Change,
    Committed,
    Key,
    NodeId,
    Page,
    Precondition,
    Repair,
    Version,
    VersionId,
)

_WINDOW = 20_000
"""Rows that ``on_node`` looks at in one go."""


class SqliteVersions:
    """The ``Versions`` port. ``points`` reads single rows, ``scans`` many."""

    def __init__(
        self,
        writes: Lane[WrittenRows],
        points: Lane[StoredRows],
        scans: Lane[StoredRows],
        recent: RecentHeads,
        clock: Callable[[], float],
    ) -> None:
        self._writes = writes
        self._points = points
        self._scans = scans
        self._recent = recent
        self._clock = clock

    async def begin(self, draft: Version) -> None:
        """See ``Versions.begin``."""
        await self._writes.run(partial(heads.begin, draft=draft))

    async def renew(self, draft: Version, due: float) -> None:
        """See ``Versions.renew``."""
        await self._writes.run(partial(heads.renew, draft=draft, due=due))

    def expect(self, bucket: BucketId, key: Key) -> None:
        """See ``Versions.expect``: a change reads here what it needs."""

    async def put(
        self, version: Version, only: Precondition, repairs: tuple[Repair, ...] = (), keep: float = 3600.0
    ) -> Committed:
        """See ``Versions.put``."""
        return await self._writes.run(
            lambda rows: heads.put(rows, version, only, repairs, keep, self._clock())
        )

    async def commit(self, change: Change, only: Precondition) -> Committed:
        """See ``Versions.commit``."""
        return await self._writes.run(lambda rows: heads.commit(rows, change, only, self._clock()))

    async def abort(self, draft: Version) -> bool:
        """See ``Versions.abort``."""
        return await self._writes.run(partial(heads.abort, draft=draft))

    async def get(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get``."""
        if version is not None:
            return await self._points.run(partial(heads.get, bucket=bucket, key=key, version=version))
        head = self.peek(bucket, key)
        return head if head is not None else await self._points.run(partial(self._read_head, bucket, key))

    async def get_stale(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get_stale``: what one process keeps is always current."""
        return await self.get(bucket, key, version)

    def peek(self, bucket: BucketId, key: Key) -> Version | None:
        """See ``Versions.peek``."""
        return None if self._writes.closed else self._recent.get((bucket, key))

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """See ``Versions.find``."""
        row = await self._points.run(partial(heads.find, bucket=bucket, key=key, version=version))
        if row is None:
            raise heads.no_such_version(key, version)
        return row

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_keys``."""

        def operation(rows: StoredRows) -> Page:
            return page(
                partial(rows.seek, bucket),
                lambda row: read_version(bucket, Key(row[0].decode()), row[1]),
                prefix,
                delimiter,
                after,
                limit,
            )

        return await self._scans.run(operation)

    async def list_stale(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_stale``."""
        return await self.list_keys(bucket, prefix, delimiter, after, limit)

    async def relocate(self, version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> bool:
        """See ``Versions.relocate``."""
        return await self._writes.run(partial(heads.relocate, version=version, blob=blob, holders=holders))

    async def on_node(self, node: NodeId) -> AsyncIterator[Version]:
        """See ``Versions.on_node``. A version that is live all the time shows, whatever happens to it meanwhile.

        A commit, a move or a relocation gives a row a higher number or leaves it its own, so a walk by numbers, drafts
        before heads, meets every one; a draft that it met is left out as a head.
        """
        met: set[VersionId] = set()
        for table in ("versions", "heads"):
            after: int | None = 0
            while after is not None:
                window = await self._scans.run(partial(_window, table=table, node=node, after=after))
                for version in window.versions:
                    if version.id not in met:
                        yield version
                if table == "versions":
                    met.update(version.id for version in window.versions)
                after = window.after

    async def forget(self, version: Version) -> None:
        """See ``Versions.forget``."""
        await self._writes.run(partial(heads.forget, version=version))

    def _read_head(self, bucket: BucketId, key: Key, rows: StoredRows) -> Version:
        mark = self._recent.mark((bucket, key))
        head = heads.get(rows, bucket, key, None)
        self._recent.fill((bucket, key), mark, head)
        return head


class _Window(NamedTuple):
    """Versions among a stretch of rows, and the number to go on after, None = the end."""

    versions: list[Version]
    after: int | None


def _window(rows: StoredRows, table: str, node: NodeId, after: int) -> _Window:
    last = rows.connection.execute(f"SELECT max(number) FROM {table}").fetchone()[0]  # noqa: S608 - our own names
    if last is None or last <= after:
        return _Window([], None)
    live = "AND v.state IN (1, 4)" if table == "versions" else ""
    found = rows.connection.execute(
        f"""SELECT b.id, v.key, v.body FROM {table} v JOIN buckets b ON b.number = v.bucket
            WHERE v.number > ? AND v.number <= ? {live} AND instr(v.body, ?)""",  # noqa: S608
        (after, after + _WINDOW, msgpack.packb(node)),
    )
    versions = [read_version(bucket, Key(key.decode()), body) for bucket, key, body in found]
    return _Window([each for each in versions if _names(each, node)], after + _WINDOW)


def _names(version: Version, node: NodeId) -> bool:
    return any(node in holders for _, holders in version.blobs())
