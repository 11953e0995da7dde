"""The port ``Blobs``: bytes on one node, and the writers and readers of one blob."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from discloud.core.model import (
    BlobId,
    Label,
    Seal,
    Stored,
)

SMALL = 1 << 20
"""Bytes up to which a blob travels whole, in one call (``put``, ``fetch``); beyond, it streams."""


@dataclass(frozen=True, slots=True)
class FileSource:
    """Bytes that the kernel can send by itself (sendfile) from a file of this process.

    ``fd`` stays open as long as its reader. ``check(offset, length)`` verifies that stretch of the file and
    raises ``Corrupt``; it is called from a worker thread just before those bytes leave; offsets are the file's.
    """

    fd: int
    offset: int
    length: int
    check: Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SocketSource:
    """Bytes that arrive on a non-blocking socket of this process, exactly ``length`` of them (splice).

    The end of the stream before that many means that the sender failed: nothing may be taken for complete.
    """

    fd: int
    length: int


class BlobWriter(Protocol):
    """One blob being written. Nothing of it is visible, to anybody, before ``commit`` has returned."""

    def write(self, data: memoryview) -> None:
        """Append ``data``; called from a WORKER THREAD, one call at a time; returns when it was taken over.

        The buffer belongs to the caller again on return. Blocking is the back-pressure.
        Raises: NoSpace, PeerDown, TooSlow, Unavailable (the disk turned read-only).
        """

    async def commit(self, hash: bytes) -> Stored:
        """Make the blob durable and visible, all or nothing. ``hash`` is the caller's BLAKE3 over what it wrote.

        An adapter behind a network compares it with what arrived (BadDigest); the local disk records it.
        Raises: as ``write``, and BadDigest.
        """


@runtime_checkable
class Breakable(Protocol):
    """What a writer on another node is beside ``BlobWriter``: whoever waits for that node can be set free."""

    def break_off(self) -> None:
        """End the connection; called from the event loop, also while a worker thread writes.

        That call, a commit under way and all later ones raise PeerDown at once. The writer is still to be left as always.
        """


class BlobReader(Protocol):
    """A stretch of one blob being read; verified before it is given out."""

    length: int
    """Bytes that this reader will give in all: the asked length, cut at the blob's end."""
    source: FileSource | SocketSource | None
    """The same bytes for the kernel to move; use either this or ``read``, never both. None = only ``read``."""

    async def read(self, limit: int) -> bytes:
        """The next 1..limit bytes, ``b""`` when ``length`` bytes were given.

        Raises: Corrupt, PeerDown, TooSlow, Unavailable; what was returned before stays valid.
        """


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a node's disk is, in bytes. ``reserved``: promised to writers under way."""

    capacity: int
    used: int
    reserved: int
    free: int
    blobs: int
    read_only: bool = False


class Blobs(Protocol):
    """Bytes on one node; every blob is written once; safe for concurrent use."""

    def create(
        self, blob: BlobId, label: Label, length: int | None = None
    ) -> AbstractAsyncContextManager[BlobWriter]:
        """Begin a blob; left without ``commit`` = nothing stored. ``length`` (if known) is reserved at once.

        Creating a blob that exists is allowed: the bytes of a blob id never differ, so the first one stays
        and the commit returns it. Raises: NoSpace, PeerDown, Unavailable.
        """

    async def put(self, blob: BlobId, label: Label, data: bytes, hash: bytes) -> Stored:
        """Store a whole blob of at most ``SMALL`` bytes, durably. Raises: as ``create`` and ``commit``."""

    def open(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> AbstractAsyncContextManager[BlobReader]:
        """Read ``length`` bytes from ``offset`` (None = to the end).

        ``trust``: blocks verified within so many seconds need not be verified again (0 = always verify).
        Raises: NoSuchBlob, Corrupt (also from ``read``), PeerDown, Unavailable.
        """

    async def fetch(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> bytes:
        """At most ``SMALL`` verified bytes in one call. Raises: as ``open``; TooLarge beyond SMALL."""

    async def stat(self, blob: BlobId) -> Stored:
        """What the node knows of the blob. Raises: NoSuchBlob, PeerDown, Unavailable."""

    async def delete(self, blob: BlobId) -> None:
        """Remove the blob; gone already is fine. Readers that have it open finish. Durable on return."""

    async def seal(self, seals: Sequence[Seal]) -> None:
        """Note after a commit what the versions have become. Lazy: taken over on return, durable a little later."""

    def walk(self, after: BlobId | None = None) -> AsyncIterator[Stored]:
        """Every blob, in the order of their ids, beginning behind ``after``. Blobs that come and go meanwhile may or may not show."""

    def unsealed(self, before: float) -> AsyncIterator[Stored]:
        """Blobs created before that time which no seal has named: either just committed or orphans."""

    async def usage(self) -> Usage:
        """How full the disk is now."""
