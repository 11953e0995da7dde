"""The port ``Metadata``, in its six parts: what the mesh knows, kept in one place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    Version,
    VersionId,
)


class Versions(Protocol):
    """Objects. Every change of a head is one atomic ``commit`` or ``put`` (DESIGN section 5).

    Invariants: I2 a head names a committed version of the same object or nothing; I3 a head's ``seq`` only grows;
    I4 states go one way; I6 a commit after an abort never applies. All calls are idempotent by version id: repeating one
    whose answer was lost gives the answer of the first.
    """

    async def begin(self, draft: Version) -> None:
        """Record a draft with its placement and its lease (``due``) before its bytes count.

        Raises: Aborted (the id was aborted before), NoSuchBucket, Unavailable.
        """

    async def renew(self, draft: Version, due: float) -> None:
        """Move a draft's lease to ``due``. Raises: Aborted (not a draft any more), Unavailable."""

    def expect(self, bucket: BucketId, key: Key) -> None:
        """A ``put`` of that object comes soon: an adapter may find out meanwhile what it needs. Waits for nothing, raises nothing."""

    async def put(
        self, version: Version, only: Precondition, repairs: tuple[Repair, ...] = (), keep: float = 3600.0
    ) -> Committed:
        """``begin`` and ``commit`` of a PUT in one step, for an object whose blobs are durable already.

        Returns and raises: as ``begin`` and ``commit``.
        """

    async def commit(self, change: Change, only: Precondition) -> Committed:
        """Apply ``change`` atomically if ``only`` holds of the head it replaces; tell what was committed and what it replaced.

        PUT: ``replaced`` is the head before. DELETE: ``version`` is None, ``replaced`` what was removed. UPDATE: ``version`` is
        the head as changed. MOVE: ``version`` is the head of ``target``, ``replaced`` what was there.

        ``seq`` becomes max(previous + 1, now in micros). PUT: the draft becomes COMMITTED and the head; what it replaced
        becomes REPLACED, due for gc after ``change.keep``. DELETE: the head becomes null, the old version DELETED.
        UPDATE: same version id, new metadata, ``rev`` + 1. MOVE: the version goes to ``target`` (replacing what is there), the
        source's head becomes null; the version keeps id, bytes and holders.
        The head that a MOVE replaces, of which ``only`` must hold, is that of ``target``.
        Raises: PreconditionFailed; Aborted (PUT whose draft is absent or not a draft: it will never apply); NoSuchKey
        (DELETE, UPDATE or MOVE of nothing); Conflict (``version`` is not the head any more, or for UPDATE not as it was read);
        Invalid (no version or target where one is needed); OutcomeUnknown; Unavailable.
        """

    async def abort(self, draft: Version) -> bool:
        """Make sure that the draft can never be committed; an unknown one is recorded as aborted, due at once.

        Returns False when it had been committed (then nothing changed). Raises: Unavailable.
        """

    async def get(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """The head, or that version of the object if it is COMMITTED or NONCURRENT.

        Raises: NoSuchKey (no head), NoSuchVersion (never was), Gone (was, but is dead), Unavailable.
        """

    async def get_stale(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """As ``get``, for a caller that takes an answer that may be old: it needs no quorum, so it comes where ``get`` is Unavailable.

        Who is not certain that the object is absent raises Unavailable: unknown is not absent.
        """

    def peek(self, bucket: BucketId, key: Key) -> Version | None:
        """The head, if it is known here and now without waiting and certainly current; None = use ``get``."""

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """The row of that version in whatever state, read strictly. Raises: NoSuchVersion (definitely no row), Unavailable.

        A version that was moved away from ``key`` is found all the same, as it is now: its blobs' labels still say ``key``.
        """

    async def list_keys(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """Heads with that prefix behind ``after`` in byte order of their UTF-8 keys, at most ``limit`` entries.

        With a ``delimiter`` (one character) keys that hold it behind the prefix are rolled up into common prefixes, each
        counting as one entry; ``after`` may be a key or a prefix of an earlier page: the entries behind it are those
        that are greater. A version of more than 64 segments may come without them: ``get`` has them. Cost follows the entries returned, not the keys that are rolled up.
        """

    async def list_stale(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """As ``list_keys``, for a caller that takes a page that may be old. Raises: Unavailable."""

    async def relocate(self, version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> bool:
        """Set a fragment's holders if the row is live and still has ``version.rev``; False = it changed, read again.

        Raises: Invalid (the version has no such blob), Unavailable.
        """

    def on_node(self, node: NodeId) -> AsyncIterator[Version]:
        """Live versions (DRAFT, COMMITTED, NONCURRENT) that name the node as a holder."""

    async def forget(self, version: Version) -> None:
        """Remove the row of a dead version (not DRAFT, COMMITTED or NONCURRENT) whose blobs are gone; gone already is fine.

        What it left at keys that it was moved away from goes with it. Raises: Conflict (it is live), Unavailable.
        """


class Buckets(Protocol):
    """Namespaces by name; a name is given to one bucket at a time, an id never twice."""

    async def create(self, bucket: Bucket) -> None:
        """Raises: BucketExists, Unavailable."""

    async def get(self, name: str) -> Bucket:
        """Raises: NoSuchBucket, Unavailable."""

    async def update(self, bucket: Bucket) -> Bucket:
        """Replace the bucket whose ``rev`` is ``bucket.rev``; returns it with ``rev`` + 1. Raises: Conflict (it moved), NoSuchBucket."""

    async def remove(self, bucket: Bucket) -> None:
        """Remove an empty bucket. Raises: BucketNotEmpty (a head or a draft is left), NoSuchBucket."""

    async def all(self) -> tuple[Bucket, ...]:
        """Every bucket by name."""


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One line of the ``all`` log: a version that every node shall hold, or (``removed``) shall drop. ``number``: see ``Queues.log``."""

    number: int
    bucket: BucketId
    key: Key
    version: VersionId
    removed: bool


LATE = 30.0
"""Seconds after the time that its number tells in which an entry of the ``all`` log is visible (clocks are at most 5 s off)."""


class Queues(Protocol):
    """Work that the mesh owes, kept until it is done: every entry survives a crash of whoever works on it."""

    async def expired(self, now: float, limit: int) -> tuple[Version, ...]:
        """Drafts whose lease ended at ``now`` or before, oldest first."""

    async def collectable(self, now: float, limit: int) -> tuple[Version, ...]:
        """Dead versions (REPLACED, DELETED, ABORTED) with ``due`` <= ``now``, oldest first.

        On the way an adapter may remove what it kept for a time only, of which no answer ever tells (Cassandra's null heads).
        """

    async def postpone(self, version: Version, due: float) -> None:
        """Let gc come back to a dead version later (a holder is down, or a reader still has it)."""

    async def repairs(self, now: float, limit: int) -> tuple[Repair, ...]:
        """Repairs with ``not_before`` <= now, oldest first."""

    async def add_repairs(self, repairs: Sequence[Repair]) -> None:
        """Queue repairs; one that is queued for the same blob is replaced."""

    async def repaired(self, repair: Repair) -> None:
        """Take a repair off the queue, unless one with a later ``since`` was queued for its blob meanwhile."""

    async def log(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        """Entries of the ``all`` log with ``number`` > after. A commit of an EVERYWHERE version appends one before it is answered; so does
        its replacement or deletion (removed). What is told twice is meant once.

        Numbers are a count, or the time of writing in micros as the writer's clock has it: then an entry may come in between up
        to ``LATE`` seconds later, and entries of several writers may have one number. No answer ends between those (it may
        be longer than ``limit``); a follower reads what is not older than ``LATE`` again, by its own clock.
        """


class Accounts(Protocol):
    """Whose token is this. Only digests of tokens are kept."""

    async def add(self, account: Account) -> None:
        """Add or replace by id."""

    async def by_digest(self, digest: bytes) -> Account:
        """Raises: NotFound, Unavailable."""


class Nodes(Protocol):
    """Which data folders belong to the mesh, and which process speaks for each."""

    async def register(self, node: Node, nonce: str, now: float) -> None:
        """Take the node id for the process that drew ``nonce``; repeated by the owner it renews the claim.

        Raises: Conflict (another live process, with another nonce, claimed the id within ``CLAIM`` seconds: a cloned disk;
        or the name belongs to another node id), Unavailable.
        """

    async def release(self, node: NodeId, nonce: str) -> None:
        """Give the claim up (a clean stop), so that a restart need not wait."""

    async def all(self) -> tuple[Node, ...]:
        """Every registered node as it last registered."""


CLAIM = 10.0
"""Seconds for which a node's claim holds without being renewed."""


class Leases(Protocol):
    """Who does the work that one root does for all. A lease saves work; it guards no data: two leaders do no harm."""

    async def hold(self, name: str, owner: NodeId, seconds: float) -> int | None:
        """Take the lease for ``seconds``, or renew it; its epoch, or None while another owner holds it.

        The epoch grows whenever the owner changes. Time is the keeper's, so no clock of a node counts. Raises: Unavailable.
        """

    async def release(self, name: str, owner: NodeId) -> None:
        """Give the lease up, if ``owner`` holds it."""


class Metadata(Protocol):
    """What the mesh knows: the six parts above, behind one connection."""

    @property
    def cluster(self) -> str:
        """The mesh's id (UUID text), drawn once."""

    @property
    def versions(self) -> Versions:
        """Objects."""

    @property
    def buckets(self) -> Buckets:
        """Namespaces."""

    @property
    def queues(self) -> Queues:
        """Work that must not be forgotten."""

    @property
    def accounts(self) -> Accounts:
        """Whose token is this."""

    @property
    def nodes(self) -> Nodes:
        """Which data folders belong to the mesh."""

    @property
    def leases(self) -> Leases:
        """Who leads."""

    async def close(self) -> None:
        """Finish what was accepted and let go; later calls raise Unavailable."""
