"""Blobs being written: in memory while they are small, in a temporary file beyond.

Invariants: nothing is visible before it is durable; a writer that is left without a commit gives back its room and
its file; no thread uses the file after the writer was closed.
"""

from __future__ import annotations

from threading import Lock

from crc32c import crc32c

from discloud.adapters.disk.folder import DiskFolder
from discloud.adapters.disk.index import FILE, Entry
from discloud.adapters.disk.large import LargeFileWriter
from discloud.adapters.disk.pack_requests import Put
from discloud.adapters.disk.pack_writer import Record
from discloud.adapters.disk.publisher import Publish
from discloud.adapters.disk.record import Footer, Kind, pack_footer
from discloud.core.model import BlobId, Label, Stored
from discloud.errors import Unavailable


class DiskWriter:
    """One blob being written (``BlobWriter``). ``length`` is reserved at once where it is known. Raises: as ``Blobs.create``."""

    def __init__(
        self, folder: DiskFolder, blob: BlobId, key: bytes, label: Label, length: int | None
    ) -> None:
        self._folder, self._blob, self._key, self._label = folder, blob, key, label
        self._expected = length
        self._reserved = 0
        self._laid = 0
        self._kept = False
        self._length = 0
        self._buffer = bytearray()
        self._file: LargeFileWriter | None = None
        self._open = True
        self._lock = Lock()
        self._reserve(length or 0)

    def write(self, data: memoryview) -> None:
        """See ``BlobWriter.write``."""
        data = data.cast("B")
        with self._lock:
            self._require_open()
            self._reserve(self._length + data.nbytes - self._reserved)
            if self._file is None and self._length + data.nbytes <= self._folder.settings.small:
                self._buffer += data
            else:
                self._spill(data)
            self._length += data.nbytes

    async def commit(self, hash: bytes) -> Stored:
        """See ``BlobWriter.commit``."""
        self._require_open()
        if self._file is None:
            with self._lock:
                data, self._buffer = self._buffer, bytearray()
                self._open = False
            return await keep_small(self._folder, self._blob, self._key, self._label, data, hash)
        created = self._folder.clock()
        entry = await self._folder.run(lambda: self._finish(hash, created))
        publish = Publish(self._key, entry, self._file.path)
        is_new = await self._folder.publisher.do(publish)
        self._folder.recency.touch(self._key)
        if not is_new:
            return await self._folder.stored(self._key)
        self._file, self._kept = None, True
        return self._folder.shown(self._footer(hash, created, b""), self._key)

    def close(self) -> None:
        """Give back what was not committed. May wait for the disk and for a ``write`` under way."""
        with self._lock:
            self._open = False
            self._buffer = bytearray()
            file, self._file = self._file, None
            if file is not None:
                file.close()
                self._folder.remove_temp(file.path)
        self._folder.space.release(self._reserved, self._laid, kept=self._kept)
        self._reserved = self._laid = 0

    @property
    def spilled(self) -> bool:
        """Is there a file, so that ``close`` may wait?"""
        return self._file is not None

    def _spill(self, data: memoryview) -> None:
        """Append to the file, which is begun with what was collected so far."""
        with self._folder.writing(f"writing blob {self._blob}"):
            if self._file is None:
                self._file = LargeFileWriter(
                    self._folder.files, self._folder.temp_path(self._blob), self._expected
                )
                if self._buffer:
                    self._file.write(memoryview(self._buffer))
                self._buffer = bytearray()
            self._file.write(data)
            laid = self._file.laid
            self._folder.space.lay(laid - self._laid)
            self._laid = laid

    def _finish(self, hash: bytes, created: float) -> Entry:
        """Make the file whole and durable."""
        with self._lock, self._folder.writing(f"writing blob {self._blob}", sync=True):
            self._require_open()
            assert self._file is not None
            footer = self._file.finish(lambda _, sums: pack_footer(self._footer(hash, created, sums)))
            self._open = False
        return Entry(FILE, 0, self._length, footer, 0, 0, created)

    def _footer(self, hash: bytes, created: float, sums: bytes) -> Footer:
        return Footer(self._blob, self._length, hash, created, sums, self._label)

    def _reserve(self, more: int) -> None:
        if more > 0 or not self._reserved:
            self._folder.space.reserve(max(more, 0))
            self._reserved += max(more, 0)

    def _require_open(self) -> None:
        if not self._open:
            raise Unavailable(f"blob {self._blob} is no longer being written")


async def keep_small(
    folder: DiskFolder, blob: BlobId, key: bytes, label: Label, data: bytes | bytearray, hash: bytes
) -> Stored:
    """Append a small blob to a pack. Its room is the caller's business. Raises: NoSpace, Unavailable."""
    created = folder.clock()
    checksum = crc32c(data)
    sums = checksum.to_bytes(4) if data else b""
    footer = Footer(blob, len(data), hash, created, sums, label)
    put = Put(Record(Kind.BLOB, key, data, checksum, pack_footer(footer), created))
    is_new = await folder.pack_writer.do(put)
    folder.recency.touch(key)
    if not is_new:
        return await folder.stored(key)
    return folder.shown(footer, key)
