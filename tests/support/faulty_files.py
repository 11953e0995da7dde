"""A disk that fails on demand and loses its power: what a test gives to the disk adapter in place of ``Files``.

Between two syncs a real disk may keep any part of what was written, in any order. ``power_cut`` does that: of every write
since the file's last sync it keeps some sectors and puts the old bytes back in the others; names that were not
synced with their folder may be old again. What was synced stays.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, RLock

from discloud.adapters.disk.files import Buffer, Files

SECTOR = 512


@dataclass
class _Write:
    """Sectors of one file (by inode: names change) before a write."""

    path: str
    offset: int
    before: bytes
    size: int


@dataclass
class _Name:
    """A change of a name and how to undo it."""

    folder: Path
    undo: Callable[[], None]


@dataclass
class Faults:
    """What fails: ``call name -> errno``; a call is removed from ``once`` when it has failed."""

    always: dict[str, int] = field(default_factory=dict)
    once: dict[str, int] = field(default_factory=dict)

    def strike(self, call: str) -> None:
        number = self.once.pop(call, None) or self.always.get(call)
        if number is not None:
            raise OSError(number, os.strerror(number))


class FaultyFiles(Files):
    """Counts syncs, fails where ``faults`` says, and remembers what a power cut may undo.

    ``spare``: a folder on the same disk. ``cold``: nothing is in memory; ``hot``: everything is. ``gate``: writes wait
    while it is not set. The call ``written`` fails behind a write that came through.
    """

    def __init__(self, spare: Path) -> None:
        super().__init__()
        self.faults = Faults()
        self.syncs = 0
        self.cold = False
        self.hot = False
        self.gate = Event()
        self.gate.set()
        self._spare = spare
        self._writes: list[_Write] = []
        self._names: list[_Name] = []
        self._dead = False
        self._left: int | None = None
        self._lock = RLock()
        self._count = 0

    def open(self, path: Path, flags: int) -> int:
        self._strike("open")
        if flags & os.O_WRONLY:
            flags = flags & ~os.O_WRONLY | os.O_RDWR  # so that what is overwritten can be read first
        return super().open(path, flags)

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        self._strike("read")
        return super().read(fd, buffer, offset)

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> int:
        if self.cold or "read" in self.faults.always or "read" in self.faults.once:
            return 0
        if self.hot:
            return super().read(fd, buffer, offset)
        return super().read_cached(fd, buffer, offset)

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        self._strike("write")
        self.gate.wait(10)
        with self._lock:
            self._remember(fd, offset, sum(len(each) for each in buffers))
            super().write(fd, buffers, offset)
        self._strike("written")

    def sync(self, fd: int) -> None:
        self._strike("sync")
        self.syncs += 1
        with self._lock:
            path = _path(fd)
            self._writes = [each for each in self._writes if each.path != path]

    def sync_folder(self, path: Path) -> None:
        self._strike("sync_folder")
        with self._lock:
            self._names = [each for each in self._names if each.folder != path]

    def allocate(self, fd: int, offset: int, length: int) -> None:
        self._strike("allocate")
        with self._lock:
            self._writes.append(_Write(_path(fd), offset, b"", self.size(fd)))
            super().allocate(fd, offset, length)

    def truncate(self, fd: int, length: int) -> None:
        self._strike("truncate")
        with self._lock:
            size = self.size(fd)
            self._remember(fd, length, max(0, size - length))
            super().truncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        self._strike("rename")
        with self._lock:
            super().rename(source, target)
            self._follow(source, target)
            self._names.append(_Name(target.parent, lambda: self._back(target, source)))

    def remove(self, path: Path) -> None:
        self._strike("remove")
        with self._lock:
            if not path.exists():
                return
            self._count += 1
            kept = self._spare / f"{self._count}"
            path.rename(kept)
            self._follow(path, kept)
            self._names.append(_Name(path.parent, lambda: self._back(kept, path)))

    def cut_after(self, calls: int) -> None:
        """Let the power fail at the so-many-th call from now on."""
        self._left = calls

    @property
    def dead(self) -> bool:
        """Has the power failed?"""
        return self._dead

    def power_cut(self, draw: random.Random) -> None:
        """From here on every call fails; then the disk is as it may be found after the power came back."""
        with self._lock:
            self._dead = True
            for change in reversed(self._names):
                # A journal keeps names in order: what came first is kept first.
                if draw.random() < 0.5:
                    break
                change.undo()
            for write in reversed(self._writes):
                _undo(write, draw)

    def _strike(self, call: str) -> None:
        if self._left is not None and call != "written":
            self._left -= 1
            self._dead = self._dead or self._left < 0
        if self._dead:
            raise OSError(5, "the power is off")
        self.faults.strike(call)

    def _remember(self, fd: int, offset: int, length: int) -> None:
        size = self.size(fd)
        before = os.pread(fd, length, offset)
        self._writes.append(_Write(_path(fd), offset, before.ljust(length, b"\0"), size))

    def _follow(self, source: Path, target: Path) -> None:
        for write in self._writes:
            if write.path == str(source):
                write.path = str(target)

    def _back(self, now: Path, then: Path) -> None:
        if now.exists():
            now.rename(then)
            self._follow(now, then)


def _path(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


def _undo(write: _Write, draw: random.Random) -> None:
    """Put some sectors back, and perhaps the length."""
    path = Path(write.path)
    if not path.exists():
        return
    with path.open("r+b") as file:
        how = draw.choice(("nothing", "all", "some", "prefix"))
        kept = draw.randrange(len(write.before) + 1) if how == "prefix" else 0
        for first in range(0, len(write.before), SECTOR):
            if how == "nothing" or (how == "some" and draw.random() < 0.5):
                continue
            start = max(first, kept)  # a sector may be cut in two: worse than disks are
            if start < first + SECTOR:
                file.seek(write.offset + start)
                file.write(write.before[start : first + SECTOR])
        file.flush()
        if how == "all":
            os.truncate(path, write.size)
