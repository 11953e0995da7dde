"""The reading half of ``Versions``: heads and listings at the quorum's level, rows strictly, and what any replica has."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable

from discloud.adapters import heads
from discloud.adapters.cassandra.hints import Hint, Hints
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.names import Names
from discloud.adapters.cassandra.objects import HEAD, Objects, is_id
from discloud.adapters.cassandra.snapshot import Name, Snapshot, moved_to, read_head, read_row
from discloud.adapters.cassandra.together import together
from discloud.adapters.cassandra.walk import Walk
from discloud.adapters.heads import LIVE
from discloud.core.model import BucketId, Key, NodeId, Page, State, Version, VersionId
from discloud.errors import NoSuchVersion, Unavailable

FRESH = 5.0
"""Seconds for which a version that was read by its id is believed to be as it was: its bytes never change, its state may."""
_CACHED = 4096
_CHUNK = 32
"""Rows read at once where many are."""


class ReadVersions:
    """``monotonic`` gives seconds that never go back."""

    def __init__(
        self, objects: Objects, moves: Moves, names: Names, hints: Hints, monotonic: Callable[[], float]
    ) -> None:
        self._objects = objects
        self._moves = moves
        self._names = names
        self._hints = hints
        self._monotonic = monotonic
        self._cached: OrderedDict[VersionId, tuple[Version, float]] = OrderedDict()

    async def get(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get``. A version that was asked for by its id shows here for up to ``FRESH`` seconds after its death."""
        name = (bucket, key)
        if version is None:
            return await self._head(name)
        if (known := self._known(name, version)) is not None:
            return known
        asked = self._monotonic()
        snapshot = Snapshot(name, has=True)
        snapshot.add(name, await self._moves.settled(name, (HEAD, version), strict=False))
        found = heads.get(snapshot, bucket, key, version)
        self._cached[version] = found, asked
        if len(self._cached) > _CACHED:
            self._cached.popitem(last=False)
        return found

    async def get_stale(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get_stale``: the answer of one replica; what it does not have may be elsewhere."""
        head = read_head(bucket, key, await self._objects.head(bucket, key, one=True))
        if head is not None and version in (None, head.id):
            return head
        if version is not None:
            rows = await self._objects.rows(bucket, key, (version,), one=True)
            row = read_row(bucket, key, rows[version])
            if isinstance(row, Version) and row.state in {State.COMMITTED, State.NONCURRENT}:
                return row
        raise Unavailable(f"the replica that answered does not have {key!r}", "repeat it: others may")

    def peek(self, bucket: BucketId, key: Key) -> Version | None:  # noqa: ARG002 - the port
        """See ``Versions.peek``: another root may have changed any head."""
        return None

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """See ``Versions.find``."""
        at = key
        while True:
            rows = await self._moves.settled((bucket, at), (HEAD, version))
            head, row = read_head(bucket, at, rows[HEAD]), rows[version]
            if head is not None and head.id == version:
                return head
            if row is None or row.body is None:
                raise heads.no_such_version(key, version)
            if row.state != State.MOVED:
                found = read_row(bucket, at, row)
                assert isinstance(found, Version), "only a MOVED row is none"
                return found
            at = moved_to(row.body)

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_keys``."""
        return await self._page(Walk(self._names, bucket, prefix, delimiter, limit), bucket, after)

    async def list_stale(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_stale``: as one replica has it."""
        return await self._page(Walk(self._names, bucket, prefix, delimiter, limit, one=True), bucket, after)

    async def on_node(self, node: NodeId) -> AsyncIterator[Version]:
        """See ``Versions.on_node``: the hints say where to look, each row is the truth."""
        async for hints in self._hints.of(node):
            for start in range(0, len(hints), _CHUNK):
                for version in await together(self._hinted, hints[start : start + _CHUNK]):
                    if version is not None and _names(version, node):
                        yield version

    async def _page(self, walk: Walk, bucket: BucketId, after: str) -> Page:
        return await walk.page(after) if is_id(bucket) else Page(())

    async def _head(self, name: Name) -> Version:
        row = await self._objects.head(*name)
        if row is not None and row.state == State.MOVED:
            row = (await self._moves.settled(name, (HEAD,), strict=False))[HEAD]
        head = read_head(*name, row)
        if head is None:
            raise heads.no_such_key(name[1])
        return head

    def _known(self, name: Name, version: VersionId) -> Version | None:
        found, asked = self._cached.get(version, (None, 0.0))
        if found is None or (found.bucket, found.key) != name or asked <= self._monotonic() - FRESH:
            return None
        return found

    def _forget_known(self, version: VersionId) -> None:
        self._cached.pop(version, None)

    async def _hinted(self, hint: Hint) -> Version | None:
        """The version, if it is live."""
        try:
            version = await self.find(*hint)
        except NoSuchVersion:
            return None
        return version if version.state in LIVE else None


def _names(version: Version, node: NodeId) -> bool:
    return any(node in holders for _, holders in version.blobs())
