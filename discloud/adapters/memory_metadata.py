"""Metadata in memory: for tests, simulations and a mesh that need not outlive its process. A real adapter.

Every call runs on the event loop without waiting in between, so each is atomic; nothing is shared with threads.
"""

from __future__ import annotations

import time
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from discloud.adapters import heads
from discloud.adapters.claims import Claim, check_claim
from discloud.adapters.heads import COLLECTABLE, LIVE
from discloud.adapters.leases import LocalLeases
from discloud.adapters.listing import page, utf8
from discloud.adapters.rows import Moved
from discloud.core.model import (
    Account,
    BlobId,
    Bucket,
    BucketId,
    Change,
    Committed,
    Key,
    Node,
    NodeId,
    Page,
    Precondition,
    Repair,
    State,
    Version,
    VersionId,
)
from discloud.errors import BucketExists, BucketNotEmpty, Conflict, NoSuchBucket, NotFound, Unavailable
from discloud.ports import LogEntry


class MemoryMetadata:
    """The ``Metadata`` port over dictionaries. ``cluster`` is the mesh's id; ``clock`` gives epoch seconds."""

    def __init__(self, cluster: str, clock: Callable[[], float] = time.time) -> None:
        self.cluster = cluster
        self._rows = _Rows()
        self.versions = MemoryVersions(self._rows, clock)
        self.buckets = MemoryBuckets(self._rows)
        self.queues = MemoryQueues(self._rows)
        self.accounts = MemoryAccounts(self._rows)
        self.nodes = MemoryNodes(self._rows)
        self.leases = LocalLeases()

    async def close(self) -> None:
        """See ``Metadata.close``."""
        self._rows.closed = True


@dataclass(slots=True)
class _Rows:
    """All rows. Implements ``Rows``; ``keys`` are the heads' keys of each bucket, sorted."""

    floor: int = 0
    closed: bool = False
    heads: dict[tuple[BucketId, Key], Version] = field(default_factory=dict)
    keys: defaultdict[BucketId, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    beside: dict[tuple[BucketId, Key, VersionId], Version | Moved] = field(default_factory=dict)
    repairs: dict[BlobId, Repair] = field(default_factory=dict)
    log: list[LogEntry] = field(default_factory=list)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    bucket_ids: set[BucketId] = field(default_factory=set)
    accounts: dict[str, Account] = field(default_factory=dict)
    claims: dict[NodeId, Claim] = field(default_factory=dict)

    def opened(self) -> _Rows:
        """Itself. Raises: Unavailable after the close."""
        if self.closed:
            raise Unavailable("the metadata is closed")
        return self

    def has_bucket(self, bucket: BucketId) -> bool:
        return any(each.id == bucket for each in self.buckets.values())

    def head(self, bucket: BucketId, key: Key) -> Version | None:
        return self.heads.get((bucket, key))

    def row(self, bucket: BucketId, key: Key, version: VersionId) -> Version | Moved | None:
        return self.beside.get((bucket, key, version))

    def write_head(self, head: Version) -> None:
        name = (head.bucket, head.key)
        if name not in self.heads:
            insort(self.keys[head.bucket], utf8(head.key))
        self.heads[name] = head

    def write_first_head(self, head: Version) -> bool:
        if (head.bucket, head.key) in self.heads or (head.bucket, head.key, head.id) in self.beside:
            return False
        self.write_head(head)
        return True

    def remove_head(self, bucket: BucketId, key: Key) -> None:
        del self.heads[bucket, key]
        keys = self.keys[bucket]
        del keys[bisect_left(keys, utf8(key))]

    def write_row(self, version: Version) -> None:
        self.beside[version.bucket, version.key, version.id] = version

    def write_moved(self, version: Version, to: Key) -> None:
        self.beside[version.bucket, version.key, version.id] = Moved(to)

    def remove_row(self, bucket: BucketId, key: Key, version: VersionId) -> None:
        self.beside.pop((bucket, key, version), None)

    def remove_moved(self, version: VersionId) -> None:
        left = [name for name, row in self.beside.items() if name[2] == version and isinstance(row, Moved)]
        for name in left:
            del self.beside[name]

    def write_log(self, version: Version, *, removed: bool) -> None:
        number = len(self.log) + 1
        self.log.append(LogEntry(number, version.bucket, version.key, version.id, removed))

    def write_repair(self, repair: Repair) -> None:
        self.repairs[repair.blob] = repair

    def seek(self, bucket: BucketId, low: bytes, high: bytes) -> Iterator[tuple[bytes, Version]]:
        """Heads with low <= key < high. Must be used up before anything is written."""
        keys = self.keys[bucket]
        for position in range(bisect_left(keys, low), bisect_left(keys, high)):
            key = keys[position]
            yield key, self.heads[bucket, Key(key.decode())]

    def beside_in(self, states: frozenset[State]) -> list[Version]:
        """Rows beside the heads in one of these states, the one that is due first in front."""
        found = [row for row in self.beside.values() if not isinstance(row, Moved) and row.state in states]
        return sorted(found, key=lambda row: (row.due, row.id))


class MemoryVersions:
    """The ``Versions`` port."""

    def __init__(self, rows: _Rows, clock: Callable[[], float]) -> None:
        self._rows = rows
        self._clock = clock

    async def begin(self, draft: Version) -> None:
        """See ``Versions.begin``."""
        utf8(draft.key)
        heads.begin(self._rows.opened(), draft)

    async def renew(self, draft: Version, due: float) -> None:
        """See ``Versions.renew``."""
        heads.renew(self._rows.opened(), draft, due)

    def expect(self, bucket: BucketId, key: Key) -> None:
        """See ``Versions.expect``: a change reads here what it needs."""

    async def put(
        self, version: Version, only: Precondition, repairs: tuple[Repair, ...] = (), keep: float = 3600.0
    ) -> Committed:
        """See ``Versions.put``."""
        utf8(version.key)
        return heads.put(self._rows.opened(), version, only, repairs, keep, self._clock())

    async def commit(self, change: Change, only: Precondition) -> Committed:
        """See ``Versions.commit``."""
        utf8(change.target or change.key)
        return heads.commit(self._rows.opened(), change, only, self._clock())

    async def abort(self, draft: Version) -> bool:
        """See ``Versions.abort``."""
        return heads.abort(self._rows.opened(), draft)

    async def get(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get``."""
        return heads.get(self._rows.opened(), bucket, key, version)

    async def get_stale(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """See ``Versions.get_stale``: what one process keeps is always current."""
        return await self.get(bucket, key, version)

    def peek(self, bucket: BucketId, key: Key) -> Version | None:
        """See ``Versions.peek``."""
        return None if self._rows.closed else self._rows.head(bucket, key)

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """See ``Versions.find``."""
        row = heads.find(self._rows.opened(), bucket, key, version)
        if row is None:
            raise heads.no_such_version(key, version)
        return row

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_keys``."""
        seek = partial(self._rows.opened().seek, bucket)
        return page(seek, lambda head: head, prefix, delimiter, after, limit)

    async def list_stale(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """See ``Versions.list_stale``."""
        return await self.list_keys(bucket, prefix, delimiter, after, limit)

    async def relocate(self, version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> bool:
        """See ``Versions.relocate``."""
        return heads.relocate(self._rows.opened(), version, blob, holders)

    async def on_node(self, node: NodeId) -> AsyncIterator[Version]:
        """See ``Versions.on_node``: those of the moment at which it begins."""
        rows = self._rows.opened()
        for row in (*rows.heads.values(), *rows.beside_in(LIVE)):
            if any(node in holders for _, holders in row.blobs()):
                yield row

    async def forget(self, version: Version) -> None:
        """See ``Versions.forget``."""
        heads.forget(self._rows.opened(), version)


class MemoryBuckets:
    """The ``Buckets`` port."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def create(self, bucket: Bucket) -> None:
        """See ``Buckets.create``."""
        rows = self._rows.opened()
        if bucket.name in rows.buckets or bucket.id in rows.bucket_ids:
            raise BucketExists(f"bucket {bucket.name} exists", "choose another name")
        rows.buckets[bucket.name] = bucket
        rows.bucket_ids.add(bucket.id)

    async def get(self, name: str) -> Bucket:
        """See ``Buckets.get``."""
        bucket = self._rows.opened().buckets.get(name)
        if bucket is None:
            raise NoSuchBucket(f"there is no bucket {name}")
        return bucket

    async def update(self, bucket: Bucket) -> Bucket:
        """See ``Buckets.update``."""
        current = await self._own(bucket)
        if current.rev != bucket.rev:
            raise Conflict(f"bucket {bucket.name} was changed since it was read", "read it again and repeat")
        self._rows.buckets[bucket.name] = updated = replace(bucket, rev=bucket.rev + 1)
        return updated

    async def remove(self, bucket: Bucket) -> None:
        """See ``Buckets.remove``."""
        await self._own(bucket)
        drafts = (draft.bucket == bucket.id for draft in self._rows.beside_in(frozenset({State.DRAFT})))
        if self._rows.keys[bucket.id] or any(drafts):
            raise BucketNotEmpty(f"bucket {bucket.name} is not empty", "remove its objects and uploads first")
        del self._rows.buckets[bucket.name]

    async def all(self) -> tuple[Bucket, ...]:
        """See ``Buckets.all``."""
        return tuple(sorted(self._rows.opened().buckets.values(), key=lambda bucket: bucket.name))

    async def _own(self, bucket: Bucket) -> Bucket:
        current = await self.get(bucket.name)
        if current.id != bucket.id:
            raise NoSuchBucket(f"bucket {bucket.name} is another one now")
        return current


class MemoryQueues:
    """The ``Queues`` port."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def expired(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.expired``."""
        return self._due(frozenset({State.DRAFT}), now, limit)

    async def collectable(self, now: float, limit: int) -> tuple[Version, ...]:
        """See ``Queues.collectable``."""
        return self._due(COLLECTABLE, now, limit)

    async def postpone(self, version: Version, due: float) -> None:
        """See ``Queues.postpone``."""
        heads.postpone(self._rows.opened(), version, due)

    async def repairs(self, now: float, limit: int) -> tuple[Repair, ...]:
        """See ``Queues.repairs``."""
        due = [repair for repair in self._rows.opened().repairs.values() if repair.not_before <= now]
        return tuple(sorted(due, key=lambda repair: repair.since)[:limit])

    async def add_repairs(self, repairs: Sequence[Repair]) -> None:
        """See ``Queues.add_repairs``."""
        for repair in repairs:
            self._rows.opened().write_repair(repair)

    async def repaired(self, repair: Repair) -> None:
        """See ``Queues.repaired``."""
        queued = self._rows.opened().repairs.get(repair.blob)
        if queued is not None and queued.since <= repair.since:
            del self._rows.repairs[repair.blob]

    async def log(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        """See ``Queues.log``."""
        return tuple(self._rows.opened().log[max(after, 0) :][:limit])

    def _due(self, states: frozenset[State], now: float, limit: int) -> tuple[Version, ...]:
        return tuple([row for row in self._rows.opened().beside_in(states) if row.due <= now][:limit])


class MemoryAccounts:
    """The ``Accounts`` port."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def add(self, account: Account) -> None:
        """See ``Accounts.add``."""
        self._rows.opened().accounts[account.id] = account

    async def by_digest(self, digest: bytes) -> Account:
        """See ``Accounts.by_digest``."""
        for account in self._rows.opened().accounts.values():
            if account.digest == digest:
                return account
        raise NotFound("no account has this token")


class MemoryNodes:
    """The ``Nodes`` port."""

    def __init__(self, rows: _Rows) -> None:
        self._rows = rows

    async def register(self, node: Node, nonce: str, now: float) -> None:
        """See ``Nodes.register``."""
        claims = self._rows.opened().claims
        names = {claim.node.name: claim.node.id for claim in claims.values()}
        check_claim(node, nonce, now, claims.get(node.id), names.get(node.name))
        claims[node.id] = Claim(node, nonce, now)

    async def release(self, node: NodeId, nonce: str) -> None:
        """See ``Nodes.release``."""
        claim = self._rows.opened().claims.get(node)
        if claim is not None and claim.nonce == nonce:
            self._rows.claims[node] = replace(claim, nonce="")

    async def all(self) -> tuple[Node, ...]:
        """See ``Nodes.all``."""
        claims = self._rows.opened().claims.values()
        return tuple(sorted((claim.node for claim in claims), key=lambda node: node.name))
