"""The whole of a mesh's metadata as rows that any adapter can give out and take in: what ``migration`` moves.

Invariant: a row means the same wherever it is kept. What an adapter derives from its rows (indexes, queues, hints) is no row:
whoever takes a row in derives it anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Protocol

from discloud.adapters.claims import Claim
from discloud.core.model import Account, Bucket, BucketId, Key, Repair, Version, VersionId
from discloud.errors import Corrupt
from discloud.ports import LogEntry


class Kind(StrEnum):
    """What rows there are, in the order in which they are copied."""

    BUCKETS = "buckets"
    HEADS = "heads"
    BESIDE = "drafts and dead versions"
    MOVED = "moved versions"
    VACANT = "names without an object"
    LOG = "log entries"
    REPAIRS = "repairs"
    ACCOUNTS = "accounts"
    NODES = "nodes"
    LISTED = "listed names"


COPIED = tuple(kind for kind in Kind if kind is not Kind.LISTED)
"""What is written; listings follow from the heads."""
CHECKED = tuple(kind for kind in Kind if kind is not Kind.VACANT)
"""What is compared. One adapter keeps a ``seq`` for each name without an object, another the highest of all of them."""


@dataclass(frozen=True, slots=True)
class GivenBucket:
    """A bucket id that was given; ``bucket`` is None once the bucket was removed: the id is never given again."""

    id: BucketId
    bucket: Bucket | None


@dataclass(frozen=True, slots=True)
class MovedVersion:
    """A version that was moved: the key where it is, and every key that still says where it went, each with that."""

    bucket: BucketId
    version: VersionId
    at: Key
    left: tuple[tuple[Key, Key], ...]


@dataclass(frozen=True, slots=True)
class Vacant:
    """A key whose head is null: the next head's ``seq`` is above ``seq``."""

    bucket: BucketId
    key: Key
    seq: int


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing shows of a head."""

    bucket: BucketId
    key: Key
    version: VersionId
    seq: int
    size: int
    etag: str


Row = GivenBucket | Version | MovedVersion | Vacant | LogEntry | Repair | Account | Claim | Listed
"""HEADS and BESIDE are Versions; every other kind has a type of its own."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some rows of a kind in its order; ``after`` reads on behind them, None = that was the end."""

    rows: Sequence[Row]
    after: str | None


class Progress(StrEnum):
    """How far a migration is. LEFT: the rows were moved on from here and are stale."""

    UNDER_WAY = "under way"
    FINISHED = "finished"
    LEFT = "left"


@dataclass(frozen=True, slots=True)
class Note:
    """What a target keeps of the migration into it, together with the rows, so that a cut one goes on.

    Every kind before ``kind`` is copied, and of ``kind`` what is up to ``after``; ``rows`` counts what is copied. ``number``
    is the last number given in the log. ``began`` is in epoch seconds. ``other`` names the other side.
    """

    progress: Progress
    other: str
    began: float
    kind: Kind = COPIED[0]
    after: str = ""
    rows: int = 0
    number: int = 0

    def to_text(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str) -> Note:
        """The note of such a line. Raises: Corrupt."""
        try:
            told = json.loads(text)
            return cls(**told | {"progress": Progress(told["progress"]), "kind": Kind(told["kind"])})
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupt(f"the note of a migration cannot be read: {error}") from error


class Source(Protocol):
    """Metadata that nobody changes while they are read."""

    @property
    def cluster(self) -> str:
        """The mesh's id."""

    async def count(self, kind: Kind) -> int | None:
        """How many rows of a kind ``read`` will give, None where only reading tells."""

    async def read(self, kind: Kind, after: str, limit: int) -> Stretch:
        """About ``limit`` rows behind ``after`` (empty = from the first one), in an order that stays. Raises: Corrupt, Unavailable.

        LOG comes in the order of the log, every other kind in whatever order suits the adapter.
        """

    async def leave(self, other: str, now: float) -> None:
        """Note that the mesh's metadata is at ``other`` from now on: no root starts with these by accident."""

    async def close(self) -> None:
        """Let go."""


class Target(Source, Protocol):
    """Metadata that are written by one migration and used by nobody else until it is finished."""

    async def note(self) -> Note | None:
        """What is known of a migration into this target."""

    async def is_empty(self) -> bool:
        """Whether there is no row of any kind."""

    async def write(self, kind: Kind, rows: Sequence[Row], note: Note) -> None:
        """Take rows in, then ``note``, durably: it is there only if all of them are. Repeating it changes nothing."""

    async def erase(self) -> None:
        """Remove every row and the note."""

    async def finish(self, note: Note) -> None:
        """Everything is there and was verified: a root may start."""
