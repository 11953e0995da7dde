"""The words of discloud as types: what every other module speaks in.

Frozen, slotted, without behaviour beyond what is derived from their own fields; sizes are bytes,
times are epoch seconds, ids are distinct types so that mypy tells a bucket from a version.
Field order is part of the stored and the wire format (core/records.py): fields are only ever
appended, with a default.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import NewType

BucketId = NewType("BucketId", str)
"""UUID text, never reused."""
Key = NewType("Key", str)
"""An object's name: 1..1024 bytes of UTF-8 (core/keys.py holds the grammar)."""
VersionId = NewType("VersionId", str)
"""UUID text of one immutable write, never reused."""
NodeId = NewType("NodeId", str)
"""UUID text from the identity file of a data folder."""
SegmentId = NewType("SegmentId", int)
"""Random 64-bit id, never reused."""

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
EVERYWHERE = 0
"""``Layout.copies`` of ``mirror:all``: a copy on every node, also on those that join later."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a segment is kept: ``data`` + ``parity`` fragments, ``copies`` of each, cut by ``unit`` bytes."""

    data: int = 1
    parity: int = 0
    copies: int = 3
    unit: int = MIB

    @property
    def fragments(self) -> int:
        """K + m."""
        return self.data + self.parity

    @property
    def everywhere(self) -> bool:
        """True for ``mirror:all``."""
        return self.copies == EVERYWHERE


@dataclass(frozen=True, slots=True)
class BlobId:
    """Name of a fragment's bytes on a node; written once."""

    version: VersionId
    segment: SegmentId
    fragment: int

    def __str__(self) -> str:
        return f"{self.version}.{self.segment:016x}.{self.fragment}"


@dataclass(frozen=True, slots=True)
class Segment:
    """A contiguous byte range of a version, stored under one layout.

    ``holders[f]`` are the nodes that hold fragment f; ``hashes[f]`` is the BLAKE3 (32 bytes) of
    fragment f, ``hash`` that of the segment's bytes. Both are empty in a draft.
    """

    id: SegmentId
    length: int
    layout: Layout
    holders: tuple[tuple[NodeId, ...], ...]
    hash: bytes = b""
    hashes: tuple[bytes, ...] = ()


class State(IntEnum):
    """A version's life, one way only (DESIGN invariant I4)."""

    DRAFT = 1
    COMMITTED = 2
    REPLACED = 3
    NONCURRENT = 4
    TRASH = 5
    DELETED = 6
    MOVED = 7
    ABORTED = 8


@dataclass(frozen=True, slots=True)
class Version:
    """One immutable write of an object: bytes never change, state and holders change by compare-and-set.

    ``seq`` orders the commits of one object (micros, only grows; 0 in a draft), ``rev`` counts the
    changes of this row. ``etag`` is the native entity tag without quotes, ``md5`` the hex MD5 where
    a client's wish made us compute it. ``replaced`` names the version that this one took the place
    of. ``due`` is a draft's lease, or the earliest moment at which gc may take a dead version.
    """

    bucket: BucketId
    key: Key
    id: VersionId
    state: State
    size: int
    segments: tuple[Segment, ...]
    content_type: str = "application/octet-stream"
    metadata: tuple[tuple[str, str], ...] = ()
    etag: str = ""
    md5: str = ""
    created: float = 0.0
    seq: int = 0
    rev: int = 0
    replaced: VersionId | None = None
    due: float = 0.0
    gateway: NodeId | None = None

    def blobs(self) -> tuple[tuple[BlobId, tuple[NodeId, ...]], ...]:
        """Every blob of the version with its recorded holders."""
        return tuple(
            (BlobId(self.id, segment.id, fragment), holders)
            for segment in self.segments
            for fragment, holders in enumerate(segment.holders)
        )


class BucketState(StrEnum):
    """What a bucket lets be done."""

    ACTIVE = "active"
    READ_ONLY = "read-only"
    DISABLED = "disabled"
    DELETING = "deleting"


class Verify(StrEnum):
    """When stored bytes are checked before they leave: always, or unless checked within the window."""

    ALWAYS = "always"
    WINDOW = "window"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A namespace of keys with its defaults. ``rev`` is for compare-and-set; ``layout`` and ``regions`` empty = the mesh's.

    ``max_stale``: seconds by which a read that says nothing else may be behind; 0 = it never is while the metadata answers.
    """

    id: BucketId
    name: str
    created: float
    state: BucketState = BucketState.ACTIVE
    layout: str = ""
    regions: tuple[str, ...] = ()
    cache_control: str = ""
    verify: Verify = Verify.ALWAYS
    rev: int = 0
    max_stale: float = 0.0


class Role(StrEnum):
    """A root also gives service discovery to the others."""

    ROOT = "root"
    ORDINARY = "ordinary"


class NodeState(StrEnum):
    """What the view says of a node; DRAINING and REMOVED are people's wishes, the rest follows the heartbeats."""

    ALIVE = "alive"
    SUSPECT = "suspect"
    DOWN = "down"
    LOST = "lost"
    DRAINING = "draining"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Node:
    """One container as the view shows it.

    ``api`` and ``peer`` are ``host:port`` as others reach them. ``used`` and ``reserved`` are the
    bytes of its own blobs and of writes under way; ``capacity`` is what it may fill; ``free`` is what
    the disk has left. ``incarnation`` grows with every start, ``beat`` with every heartbeat.
    """

    id: NodeId
    name: str
    role: Role
    api: str
    peer: str
    host: str
    zone: str = ""
    region: str = ""
    capacity: int = 0
    used: int = 0
    reserved: int = 0
    free: int = 0
    state: NodeState = NodeState.ALIVE
    incarnation: int = 0
    beat: int = 0
    blobs: int = 0
    read_only: bool = False
    version: str = ""

    @property
    def fill(self) -> float:
        """Share of the capacity that is taken or promised, 0..1 and above."""
        return (self.used + self.reserved) / self.capacity if self.capacity else 1.0


@dataclass(frozen=True, slots=True)
class View:
    """What is known of the nodes, at one moment. ``epoch`` grows with every change that the root made.

    ``time`` is the mesh's time when the root answered, in epoch seconds; 0 = the root does not say.
    """

    epoch: int
    nodes: tuple[Node, ...]
    time: float = 0.0

    def find(self, node: NodeId) -> Node | None:
        """The node of that id, if the view has it."""
        return next((each for each in self.nodes if each.id == node), None)

    def named(self, name: str) -> Node | None:
        """The node of that name, if the view has it."""
        return next((each for each in self.nodes if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Beat:
    """A node's last beat as one root tells it to another. ``age``: seconds since it was heard; ``left``: it said goodbye.

    ``time`` is the telling root's wall clock: by it roots see whether their clocks agree.
    """

    node: Node
    age: float
    left: bool = False
    time: float = 0.0


@dataclass(frozen=True, slots=True)
class Label:
    """What a blob's footer says of it beside its id: enough to rebuild names from the disks alone.

    ``cluster`` is the mesh's id, ``bucket_name`` the name at the time of the write; ``offset`` is where the
    segment begins in the version.
    """

    cluster: str
    bucket: BucketId
    bucket_name: str
    key: Key
    layout: Layout
    content_type: str = "application/octet-stream"
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Seal:
    """What a holder learns after the commit: which head the version is, or that it left (``state``)."""

    version: VersionId
    bucket: BucketId
    key: Key
    state: State
    seq: int
    record: bytes = b""


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as a node holds it. ``checked`` is when its bytes were last verified, ``touched`` counts its reads and writes.

    ``bucket`` and ``key`` come from its label: whoever finds an orphan can ask for the row that should name it.
    """

    blob: BlobId
    length: int
    hash: bytes
    created: float
    checked: float = 0.0
    touched: int = 0
    sealed: bool = False
    bucket: BucketId = BucketId("")
    key: Key = Key("")


@dataclass(frozen=True, slots=True)
class Precondition:
    """What must hold of the head at the commit (RFC 9110 section 13). Tags are without quotes, ``*`` = any.

    ``if_match`` and ``if_none_match`` are None where the header was absent.
    """

    if_match: tuple[str, ...] | None = None
    if_none_match: tuple[str, ...] | None = None
    if_unmodified_since: float | None = None


@dataclass(frozen=True, slots=True)
class Repair:
    """A blob that lacks copies: ``missing`` names the nodes that should hold it, empty = choose by placement."""

    bucket: BucketId
    key: Key
    blob: BlobId
    missing: tuple[NodeId, ...]
    since: float
    not_before: float = 0.0


class ChangeKind(IntEnum):
    """What a commit does to the head."""

    PUT = 1
    DELETE = 2
    UPDATE = 3
    MOVE = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One change of a head; every change of a head is one of these.

    PUT: ``version`` (begun as a draft, now with hashes, size and etag) becomes the head. DELETE: the head
    becomes null; ``version`` is the head as read, or None for "whatever is there". UPDATE: ``version`` is the
    head with new metadata, content type (same id). MOVE: ``version`` is the head as read; it becomes the head of
    ``target`` in the same bucket and the source's head becomes null. ``repairs`` enter the repair queue in the same step.
    ``keep`` are the seconds until gc may take the replaced bytes.
    """

    kind: ChangeKind
    bucket: BucketId
    key: Key
    version: Version | None = None
    target: Key | None = None
    repairs: tuple[Repair, ...] = ()
    keep: float = 3600.0


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit did: the version that the head now shows (None: nothing, a DELETE) and the one that it replaced.

    ``version`` is as stored, with its ``seq`` and ``rev``: seals are ordered by them.
    """

    version: Version | None
    replaced: Version | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a listing in byte order of the keys.

    ``prefixes`` are the common prefixes (they end in the delimiter); ``after`` continues the listing, None = the end.
    """

    versions: tuple[Version, ...]
    prefixes: tuple[str, ...] = ()
    after: str | None = None


@dataclass(frozen=True, slots=True)
class Account:
    """Who a token speaks for. ``digest`` is the BLAKE3 of the token: the token itself is stored nowhere."""

    id: str
    name: str
    digest: bytes
    admin: bool = False
    created: float = 0.0
