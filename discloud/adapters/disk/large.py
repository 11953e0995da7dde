"""Large blobs, a file each: the bytes from offset 0 (so that the kernel can send them), then the footer.

Invariants: a file under its final name is complete and durable; no byte leaves that was not checked against its block's CRC32C,
or within the caller's ``trust`` before.
"""

from __future__ import annotations

import os
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

from crc32c import crc32c

from discloud.adapters.disk.files import Files, Handle
from discloud.adapters.disk.index import Entry
from discloud.adapters.disk.record import (
    BLOCK,
    FILE_MAGIC,
    TRAILER,
    Footer,
    blob_of,
    pack_trailer,
    read_footer,
)
from discloud.core.model import MIB
from discloud.errors import Corrupt

WRITEBACK = 8 * MIB
"""Bytes after which the kernel is asked to begin writing out."""
_local = threading.local()


def read_file_footer(files: Files, fd: int, size: int) -> Footer:
    """The footer of a blob's file. May wait. Raises: OSError, ValueError (there is none, or it is damaged)."""
    trailer = bytearray(TRAILER.size)
    files.read(fd, memoryview(trailer), max(0, size - TRAILER.size))
    length, checksum, magic = TRAILER.unpack(trailer)
    if magic != FILE_MAGIC or length + TRAILER.size > size:
        raise ValueError("the file does not end as a blob's does")
    packed = bytearray(length)
    files.read(fd, memoryview(packed), size - TRAILER.size - length)
    if crc32c(packed) != checksum:
        raise ValueError("the footer's checksum is wrong")
    footer = read_footer(bytes(packed))
    if footer.length + length + TRAILER.size != size:
        raise ValueError("the file is longer or shorter than its footer says")
    return footer


class LargeFile:
    """A large blob that is open. Safe from any thread that took its ``handle``."""

    def __init__(self, handle: Handle, footer: Footer, entry: Entry, files: Files) -> None:
        self.handle = handle
        self.footer = footer
        self.entry = entry
        self._files = files
        self._checked = array("d", bytes(2 * len(footer.sums)))

    @property
    def checked(self) -> float:
        """When the block that waits longest was last verified; 0 = some never were since it was opened."""
        return min(self._checked, default=0.0)

    def check(self, offset: int, length: int, now: float, trust: float) -> None:
        """Verify the blocks of a stretch, except those verified within ``trust`` seconds. Raises: Corrupt."""
        end = min(offset + length, self.footer.length)
        for block in range(offset // BLOCK, -(-end // BLOCK)):
            if not trust or self._checked[block] <= now - trust:
                self._read_block(block, now)

    def read(self, offset: int, length: int, now: float) -> bytes:
        """Verified bytes; less at the end. Raises: Corrupt."""
        end = min(offset + length, self.footer.length)
        parts: list[bytes] = []
        for block in range(offset // BLOCK, -(-end // BLOCK)):
            found = self._read_block(block, now)
            first = block * BLOCK
            parts.append(bytes(found[max(0, offset - first) : end - first]))
        return b"".join(parts)

    def _read_block(self, block: int, now: float) -> memoryview:
        """One verified block, in this thread's buffer: memory does not grow with the file."""
        buffer = _block_buffer()[: min(BLOCK, self.footer.length - block * BLOCK)]
        blob = self.footer.blob
        try:
            count = self._files.read(self.handle.fd, buffer, block * BLOCK)
        except OSError as error:
            raise Corrupt(f"blob {blob} cannot be read at {block * BLOCK}: {error.strerror}") from error
        if count != buffer.nbytes or crc32c(buffer) != int.from_bytes(
            self.footer.sums[4 * block : 4 * block + 4]
        ):
            raise Corrupt(f"blob {blob} does not hold what was written at {block * BLOCK}")
        self._checked[block] = now
        return buffer


def _block_buffer() -> memoryview:
    buffer: memoryview | None = getattr(_local, "buffer", None)
    if buffer is None:
        buffer = _local.buffer = memoryview(bytearray(BLOCK))
    return buffer


class LargeFiles:
    """The folder of large blobs, with the most recently read ones kept open."""

    def __init__(self, folder: Path, files: Files, open_files: int) -> None:
        self.folder = folder
        self._files = files
        self._limit = open_files
        self._open: OrderedDict[bytes, LargeFile] = OrderedDict()
        self._lock = Lock()

    def path(self, key: bytes) -> Path:
        """Where a blob's file lies: a path of ids only."""
        return self.folder / f"{key[0]:02x}" / str(blob_of(key))

    def cached(self, key: bytes, entry: Entry) -> LargeFile | None:
        """An open file, taken (the caller drops its handle); never waits. One opened for an earlier entry is not given."""
        with self._lock:
            found = self._open.get(key)
            if found is None or found.entry != entry or not found.handle.take():
                return None
            self._open.move_to_end(key)
            return found

    def open(self, key: bytes, entry: Entry) -> None:
        """Let ``cached`` find the file. May wait. Raises: FileNotFoundError (gone), Corrupt."""
        found = self.load(key, entry)
        with self._lock:
            replaced = [self._open.pop(key, None)]
            self._open[key] = found
            while len(self._open) > self._limit:
                replaced.append(self._open.popitem(last=False)[1])
        for each in replaced:
            if each is not None:
                each.handle.retire()

    def load(self, key: bytes, entry: Entry) -> LargeFile:
        """The file, opened for the caller alone, who retires its handle. Raises: FileNotFoundError (gone), Corrupt."""
        blob = blob_of(key)
        try:
            fd = self._files.open(self.path(key), os.O_RDONLY)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise Corrupt(f"blob {blob} cannot be opened: {error.strerror}") from error
        try:
            footer = read_file_footer(self._files, fd, self._files.size(fd))
        except (OSError, ValueError) as error:
            self._files.close(fd)
            raise Corrupt(f"blob {blob} has no footer that can be read: {error}") from error
        if footer.length != entry.length or footer.blob != blob:
            self._files.close(fd)
            raise Corrupt(f"the file of blob {blob} is that of {footer.blob} with {footer.length} bytes")
        return LargeFile(Handle(self._files, fd), footer, entry, self._files)

    def forget(self, key: bytes) -> None:
        """Close a blob's file once its readers are done."""
        with self._lock:
            found = self._open.pop(key, None)
        if found is not None:
            found.handle.retire()

    def close(self) -> None:
        """Close all that no reader uses; the rest when they are done."""
        for key in tuple(self._open):
            self.forget(key)


GROWTH = 16 << 20
"""Bytes by which a file of known length takes room ahead of its bytes."""


class LargeFileWriter:
    """A blob's temporary file being filled by one thread at a time. Raises OSError; the owner translates."""

    def __init__(self, files: Files, path: Path, length: int | None) -> None:
        self.path = path
        self.length = 0
        self._files = files
        self._sums = bytearray()
        self._sum = 0
        self._filled = 0
        self._written_back = 0
        self._expected = length or 0
        self._allocated = 0
        self._fd = files.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    @property
    def laid(self) -> int:
        """Bytes of the disk that the file takes."""
        return max(self._allocated, self.length)

    def write(self, data: memoryview) -> None:
        """Append bytes, checksumming them block by block."""
        if self._allocated < self.length + data.nbytes <= self._expected:
            self._allocate(self.length + data.nbytes)
        self._files.write(self._fd, [data], self.length)
        self.length += data.nbytes
        while data.nbytes:
            part = data[: BLOCK - self._filled]
            self._sum = crc32c(part, self._sum)
            self._filled += part.nbytes
            if self._filled == BLOCK:
                self._end_block()
            data = data[part.nbytes :]
        if self.length - self._written_back >= WRITEBACK:
            self._files.start_writeback(self._fd, self._written_back, self.length - self._written_back)
            self._written_back = self.length

    def finish(self, footer: Callable[[int, bytes], bytes]) -> int:
        """Write the footer made of length and sums, make all durable and close; returns the footer's length."""
        if self._filled:
            self._end_block()
        packed = footer(self.length, bytes(self._sums))
        self._files.write(self._fd, [packed, pack_trailer(packed)], self.length)
        self._files.truncate(self._fd, self.length + len(packed) + TRAILER.size)
        self._files.sync(self._fd)
        self.close()
        return len(packed)

    def close(self) -> None:
        """Close the file; it stays under its temporary name."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._files.close(fd)

    def _allocate(self, needed: int) -> None:
        """Take room a step ahead: contiguous, but never all that a client merely declares."""
        target = min(max(needed, self._allocated + GROWTH), self._expected)
        self._files.allocate(self._fd, self._allocated, target - self._allocated)
        self._allocated = target

    def _end_block(self) -> None:
        self._sums += self._sum.to_bytes(4)
        self._sum = self._filled = 0
