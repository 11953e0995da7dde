"""Blobs in memory: a node without a disk, for tests and simulations. A real adapter, bounded by its capacity.

Invariant: a blob is visible only when it is whole; what one caller wrote no other can change. Everything runs on
the event loop except ``BlobWriter.write``, which only touches its own buffer and the reservation (under a lock).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from threading import Lock

from discloud.core.model import GIB, BlobId, Label, Seal, Stored, VersionId
from discloud.errors import Invalid, NoSpace, NoSuchBlob, TooLarge, Unavailable
from discloud.ports import SMALL, BlobReader, BlobWriter, FileSource, SocketSource, Usage


@dataclass(slots=True)
class _Held:
    """A blob with its bytes; ``stored`` is replaced when it is touched."""

    stored: Stored
    data: bytes


class MemoryBlobs:
    """The ``Blobs`` port over a dictionary. ``capacity`` in bytes; ``clock`` gives epoch seconds."""

    def __init__(self, capacity: int = GIB, clock: Callable[[], float] = time.time) -> None:
        self._capacity = capacity
        self._clock = clock
        self._held: dict[BlobId, _Held] = {}
        self._seals: dict[VersionId, Seal] = {}
        self._used = 0
        self._reserved = 0
        self._lock = Lock()

    @asynccontextmanager
    async def create(
        self, blob: BlobId, label: Label, length: int | None = None
    ) -> AsyncIterator[BlobWriter]:
        """See ``Blobs.create``."""
        writer = _Writer(self, blob, label, length or 0)
        try:
            yield writer
        finally:
            writer.close()

    async def put(self, blob: BlobId, label: Label, data: bytes, hash: bytes) -> Stored:
        """See ``Blobs.put``."""
        if len(data) > SMALL:
            raise TooLarge(f"{len(data)} bytes for blob {blob} are more than a put carries", "Use create().")
        self.reserve(len(data))
        return self.keep(blob, label, bytes(data), hash, len(data))

    @asynccontextmanager
    async def open(
        self,
        blob: BlobId,
        offset: int = 0,
        length: int | None = None,
        trust: float = 0.0,  # noqa: ARG002 - the port's; memory does not rot
    ) -> AsyncIterator[BlobReader]:
        """See ``Blobs.open``."""
        yield _Reader(self._slice(blob, offset, length))

    async def fetch(
        self,
        blob: BlobId,
        offset: int = 0,
        length: int | None = None,
        trust: float = 0.0,  # noqa: ARG002 - the port's; memory does not rot
    ) -> bytes:
        """See ``Blobs.fetch``."""
        data = self._slice(blob, offset, length)
        if len(data) > SMALL:
            raise TooLarge(f"{len(data)} bytes of blob {blob} are more than a fetch carries", "Use open().")
        return bytes(data)

    async def stat(self, blob: BlobId) -> Stored:
        """See ``Blobs.stat``."""
        return self._shown(self._find(blob))

    async def delete(self, blob: BlobId) -> None:
        """See ``Blobs.delete``."""
        held = self._held.pop(blob, None)
        if held is not None:
            with self._lock:
                self._used -= len(held.data)
            if not any(other.version == blob.version for other in self._held):
                self._seals.pop(blob.version, None)

    async def seal(self, seals: Sequence[Seal]) -> None:
        """See ``Blobs.seal``. The seal with the highest ``seq`` stays."""
        for seal in seals:
            known = self._seals.get(seal.version)
            if known is None or known.seq <= seal.seq:
                self._seals[seal.version] = seal

    async def walk(self, after: BlobId | None = None) -> AsyncIterator[Stored]:
        """See ``Blobs.walk``."""
        for blob in sorted(self._held, key=_order):
            if (after is None or _order(blob) > _order(after)) and (held := self._held.get(blob)):
                yield self._shown(held)

    async def unsealed(self, before: float) -> AsyncIterator[Stored]:
        """See ``Blobs.unsealed``."""
        async for stored in self.walk():
            if not stored.sealed and stored.created < before:
                yield stored

    async def usage(self) -> Usage:
        """See ``Blobs.usage``."""
        free = max(0, self._capacity - self._used - self._reserved)
        return Usage(self._capacity, self._used, self._reserved, free, len(self._held))

    def reserve(self, length: int) -> None:
        """Promise room to a writer. Safe from any thread. Raises: NoSpace."""
        with self._lock:
            if self._used + self._reserved + length > self._capacity:
                raise NoSpace(
                    f"{length} bytes do not fit: {self._used + self._reserved} of {self._capacity} bytes are taken",
                    "Remove objects or add a node.",
                )
            self._reserved += length

    def release(self, length: int) -> None:
        """Take a promise back."""
        with self._lock:
            self._reserved -= length

    def keep(self, blob: BlobId, label: Label, data: bytes, hash: bytes, reserved: int) -> Stored:
        """Make a blob visible in the room that was reserved for it; the first one of an id stays."""
        if blob in self._held:
            self.release(reserved)
            return self._shown(self._touch(self._held[blob]))
        with self._lock:
            self._reserved -= reserved
            self._used += len(data)
        now = self._clock()
        stored = Stored(blob, len(data), hash, now, 0.0, 1, bucket=label.bucket, key=label.key)
        self._held[blob] = _Held(stored, data)
        return self._shown(self._held[blob])

    def _slice(self, blob: BlobId, offset: int, length: int | None) -> memoryview:
        if offset < 0 or (length is not None and length < 0):
            raise Invalid(f"no stretch of blob {blob} begins at {offset} and has {length} bytes")
        data = self._touch(self._find(blob)).data
        end = len(data) if length is None else offset + length
        return memoryview(data)[offset:end]

    def _find(self, blob: BlobId) -> _Held:
        held = self._held.get(blob)
        if held is None:
            raise NoSuchBlob(f"blob {blob} is not on this node")
        return held

    def _touch(self, held: _Held) -> _Held:
        held.stored = replace(held.stored, touched=held.stored.touched + 1, checked=self._clock())
        return held

    def _shown(self, held: _Held) -> Stored:
        return replace(held.stored, sealed=held.stored.blob.version in self._seals)


class _Writer:
    """A blob being collected; what it wrote beyond the reservation is reserved as it comes."""

    def __init__(self, blobs: MemoryBlobs, blob: BlobId, label: Label, length: int) -> None:
        blobs.reserve(length)
        self._blobs, self._blob, self._label = blobs, blob, label
        self._reserved = length
        self._data = bytearray()
        self._open = True

    def write(self, data: memoryview) -> None:
        """See ``BlobWriter.write``."""
        if not self._open:
            raise Unavailable(f"blob {self._blob} is no longer being written")
        more = max(0, len(self._data) + data.nbytes - self._reserved)
        self._blobs.reserve(more)
        self._reserved += more
        self._data += data

    async def commit(self, hash: bytes) -> Stored:
        """See ``BlobWriter.commit``."""
        if not self._open:
            raise Unavailable(f"blob {self._blob} is no longer being written")
        self._open = False
        return self._blobs.keep(self._blob, self._label, bytes(self._data), hash, self._reserved)

    def close(self) -> None:
        """Give the room back unless the blob was committed."""
        if self._open:
            self._open = False
            self._blobs.release(self._reserved)
        self._data = bytearray()


class _Reader:
    """A stretch of a blob, given out piece by piece."""

    source: FileSource | SocketSource | None = None

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0
        self.length = len(data)

    async def read(self, limit: int) -> bytes:
        """See ``BlobReader.read``."""
        piece = bytes(self._data[self._position : self._position + limit])
        self._position += len(piece)
        return piece


def _order(blob: BlobId) -> tuple[str, int, int]:
    """The order of ids: by version, then by segment, then by fragment."""
    return blob.version, blob.segment, blob.fragment
