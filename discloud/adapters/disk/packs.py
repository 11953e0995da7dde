"""The packs of a disk: files that keep many small blobs, appended to at one place, read anywhere.

Invariant: bytes below ``Pack.end`` never change, so a reader needs no lock, only the handle. A pack's first sector is durable
before the pack has its name.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from crc32c import crc32c

from discloud.adapters.disk.files import Files, Handle
from discloud.adapters.disk.index import Entry
from discloud.adapters.disk.record import (
    HEADER,
    PACK_HEAD,
    Footer,
    PackHead,
    pack_head,
    read_footer,
    read_header,
)
from discloud.core.model import MIB
from discloud.errors import Corrupt

GROWTH = 16 * MIB
"""Bytes by which room is taken for a pack in advance."""


@dataclass(slots=True, eq=False)
class Pack:
    """One pack. ``end``: where the next record goes; ``allocated``: how far room was taken.

    ``tombs``: bytes of its tombstones by the pack whose records they kill; they count until that pack is gone.
    """

    head: PackHead
    path: Path
    handle: Handle
    end: int = PACK_HEAD
    allocated: int = PACK_HEAD
    tombs: defaultdict[int, int] = field(default_factory=lambda: defaultdict(int))

    @property
    def number(self) -> int:
        """The pack's number, never reused."""
        return self.head.number


class Packs:
    """All packs of a folder by number, ``length`` bytes in all. Only the pack writer adds and removes; everybody reads."""

    def __init__(self, folder: Path, temp: Path, files: Files) -> None:
        self._folder = folder
        self._temp = temp
        self._files = files
        self._packs: dict[int, Pack] = {}
        self._last = 0
        self._lock = Lock()
        self.length = 0

    def __iter__(self) -> Iterator[Pack]:
        return iter(tuple(self._packs.values()))

    def get(self, number: int) -> Pack | None:
        """The pack of that number, None = it is gone."""
        return self._packs.get(number)

    def next_number(self) -> int:
        """A number that no pack here has or had since the start."""
        with self._lock:
            self._last += 1
            return self._last

    def path(self, number: int) -> Path:
        """Where the pack of that number lies."""
        return self._folder / f"{number:010d}.pack"

    def build(self, head: PackHead) -> tuple[int, Path]:
        """A new pack without a name yet: its descriptor, positioned by offsets, and its temporary path. Raises: OSError."""
        path = self._temp / f"{head.number:010d}.pack"
        fd = self._files.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            self._files.write(fd, [pack_head(head)], 0)
        except OSError:
            self.discard(fd, path)
            raise
        return fd, path

    def name(self, head: PackHead, fd: int, path: Path) -> Pack:
        """Give a built pack whose bytes are durable its name, durably; ``adopt`` lets it be read. Raises: OSError."""
        self._files.rename(path, self.path(head.number))
        self.sync()
        end = self._files.size(fd)
        return Pack(head, self.path(head.number), Handle(self._files, fd), end, end)

    def discard(self, fd: int, path: Path) -> None:
        """Remove a built pack that is not wanted. Raises: OSError."""
        self._files.close(fd)
        self._files.remove(path)

    def adopt(self, pack: Pack) -> Pack:
        """Let a pack be read."""
        self._packs[pack.number] = pack
        self._last = max(self._last, pack.number)
        self.length += pack.end
        return pack

    def extend(self, pack: Pack, size: int) -> None:
        """Records of ``size`` bytes are durable at the pack's end."""
        pack.end += size
        self.length += size

    def sync(self) -> None:
        """Make the packs' names durable. Raises: OSError."""
        self._files.sync_folder(self._folder)

    def forget(self, pack: Pack) -> None:
        """Let go of a pack that was removed; readers that use it finish."""
        self._packs.pop(pack.number, None)
        self.length -= pack.end
        pack.handle.retire()

    def close(self) -> None:
        """Close all of them."""
        for pack in self:
            pack.handle.retire()

    @contextmanager
    def using(self, number: int) -> Iterator[Pack | None]:
        """The pack while it is used, None = it is gone (its blobs lie elsewhere by now)."""
        pack = self._packs.get(number)
        if pack is None or not pack.handle.take():
            yield None
            return
        try:
            yield pack
        finally:
            pack.handle.drop()

    def read(self, entry: Entry) -> bytes | None:
        """A blob's bytes, verified; None = its pack is gone. May wait for the disk. Raises: Corrupt."""
        return self._load(entry, cached=False)

    def read_cached(self, entry: Entry) -> bytes | None:
        """A blob's bytes, verified, if they are in memory and right; never waits."""
        with suppress(Corrupt):
            return self._load(entry, cached=True)
        return None

    def read_footer(self, entry: Entry) -> Footer | None:
        """What a blob tells of itself; None = its pack is gone. May wait for the disk. Raises: Corrupt."""
        with self.using(entry.pack) as pack:
            if pack is None:
                return None
            try:
                found = self._read_at(pack, entry.position, HEADER)
                header = read_header(memoryview(found), pack.head.salt, entry.position)
                footer = self._read_at(pack, entry.position + HEADER + entry.length, entry.footer)
            except OSError as error:
                raise Corrupt(
                    f"{pack.path.name} cannot be read at {entry.position}: {error.strerror}"
                ) from error
            if header is None or crc32c(footer) != header.footer_sum:
                raise Corrupt(f"{pack.path.name} does not hold what was written at {entry.position}")
        return read_footer(footer)

    def read_raw(self, entry: Entry) -> bytes:
        """A whole record as it lies there, whatever it is; what cannot be read is missing. For the quarantine."""
        buffer = bytearray(entry.size)
        count = 0
        with self.using(entry.pack) as pack, suppress(OSError):
            if pack is not None:
                count = self._files.read(pack.handle.fd, memoryview(buffer), entry.position)
        return bytes(buffer[:count])

    def _load(self, entry: Entry, *, cached: bool) -> bytes | None:
        read = self._files.read_cached if cached else self._files.read
        buffer = bytearray(entry.length)
        with self.using(entry.pack) as pack:
            if pack is None:
                return None
            try:
                count = read(pack.handle.fd, memoryview(buffer), entry.position + HEADER)
            except OSError as error:
                raise Corrupt(
                    f"{pack.path.name} cannot be read at {entry.position}: {error.strerror}"
                ) from error
            if count != entry.length or crc32c(buffer) != entry.sum:
                raise Corrupt(f"{pack.path.name} does not hold what was written at {entry.position}")
        return bytes(buffer)

    def _read_at(self, pack: Pack, position: int, length: int) -> bytes:
        buffer = bytearray(length)
        return bytes(buffer[: self._files.read(pack.handle.fd, memoryview(buffer), position)])
