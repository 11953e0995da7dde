"""The calls to the operating system that the disk adapter makes, in one place so that a test can let them fail.

``Files`` is the seam: faults and power cuts are injected by a subclass. ``Handle`` is an open file that is
closed when its last user lets go, so that a pack or blob can be removed under a reader.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock

from discloud.errors import DiscloudError, NoSpace, Unavailable

Buffer = bytes | bytearray | memoryview
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The disk or its quota is full: the write did not happen, the disk is well."""
BROKEN = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO, getattr(errno, "EUCLEAN", errno.EIO)})
"""The disk itself fails."""
NO_WAIT: int = getattr(os, "RWF_NOWAIT", 0)
VECTORS = 1000
"""Buffers that one pwritev may carry (IOV_MAX is 1024)."""
SYNC_FILE_RANGE_WRITE = 2


class Files:
    """Plain calls; every one may raise OSError and may block, except where a docstring says otherwise."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._start_writeback = getattr(self._libc, "sync_file_range", None)
        self._take_room = getattr(os, "posix_fallocate", None)
        self._sync = getattr(os, "fdatasync", None) or _full_sync

    def open(self, path: Path, flags: int) -> int:
        """A descriptor of ``path``, created with mode 0600 where the flags ask for it."""
        return os.open(path, flags | os.O_CLOEXEC, 0o600)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        os.close(fd)

    def size(self, fd: int) -> int:
        """Length of an open file in bytes."""
        return os.fstat(fd).st_size

    def read(self, fd: int, buffer: memoryview, offset: int) -> int:
        """Fill ``buffer`` from ``offset``; fewer bytes only at the end of the file."""
        done = 0
        while done < buffer.nbytes and (count := os.preadv(fd, [buffer[done:]], offset + done)):
            done += count
        return done

    def read_cached(self, fd: int, buffer: memoryview, offset: int) -> int:
        """As ``read`` in one call that never waits for the disk: what is not in memory is not read (0 or fewer bytes)."""
        try:
            return os.preadv(fd, [buffer], offset, NO_WAIT) if NO_WAIT else 0
        except OSError:  # EAGAIN: not in memory. EOPNOTSUPP: this file system cannot tell.
            return 0

    def write(self, fd: int, buffers: Sequence[Buffer], offset: int) -> None:
        """Write all buffers one after another from ``offset``."""
        for first in range(0, len(buffers), VECTORS):
            part = buffers[first : first + VECTORS]
            total = sum(len(each) for each in part)
            done = os.pwritev(fd, part, offset)
            if done < total:
                self._write_rest(fd, b"".join(part), done, offset)
            offset += total

    def sync(self, fd: int) -> None:
        """Make the file's bytes and its length durable."""
        self._sync(fd)

    def start_writeback(self, fd: int, offset: int, length: int) -> None:
        """Let the kernel begin to write a stretch out, so that the ``sync`` at the end has little left to do. A hint."""
        if self._start_writeback is not None:
            self._start_writeback(
                fd, ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(SYNC_FILE_RANGE_WRITE)
            )

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def allocate(self, fd: int, offset: int, length: int) -> None:
        """Take the room for a stretch from the disk now; where the file system cannot, only the length is set."""
        if self._take_room is not None:
            try:
                self._take_room(fd, offset, length)
            except OSError as error:
                if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}:
                    raise
            else:
                return
        os.truncate(fd, max(self.size(fd), offset + length))

    def truncate(self, fd: int, length: int) -> None:
        """Cut a file to ``length`` bytes."""
        os.ftruncate(fd, length)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, atomically; what had the name is replaced."""
        source.replace(target)

    def remove(self, path: Path) -> None:
        """Remove a file; gone already is fine."""
        path.unlink(missing_ok=True)

    def room(self, path: Path) -> tuple[int, int]:
        """Bytes of the file system of ``path`` in all, and those free for us."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    @staticmethod
    def _write_rest(fd: int, data: bytes, done: int, offset: int) -> None:
        view = memoryview(data)
        while done < len(view):
            done += os.pwritev(fd, [view[done:]], offset + done)


def _full_sync(fd: int) -> None:
    """Durable where ``fsync`` only reaches the drive's cache (macOS, fsync(2))."""
    request = getattr(fcntl, "F_FULLFSYNC", None)
    if request is None:
        os.fsync(fd)
    else:
        fcntl.fcntl(fd, request)


class Handle:
    """An open file with users. Invariant: it is closed exactly once, after ``retire`` and by whoever uses it last."""

    __slots__ = ("_files", "_lock", "_retired", "_users", "fd")

    def __init__(self, files: Files, fd: int) -> None:
        self.fd = fd
        self._files = files
        self._users = 0
        self._retired = False
        self._lock = Lock()

    def take(self) -> bool:
        """Use the file until ``drop``; False = it is closed. Whoever uses it already always may."""
        with self._lock:
            if self._retired and not self._users:
                return False
            self._users += 1
            return True

    def drop(self) -> None:
        """End a use that ``take`` began."""
        with self._lock:
            self._users -= 1
            last = self._retired and not self._users
        if last:
            self._files.close(self.fd)

    def retire(self) -> None:
        """Close as soon as nobody uses it. May be called again."""
        with self._lock:
            last = not self._retired and not self._users
            self._retired = True
        if last:
            self._files.close(self.fd)


def unknown(error: OSError) -> Unavailable:
    """What a failed sync means: the writes before it may be there after the next start, or not."""
    return Unavailable(
        f"whether the disk kept the last writes is unknown: {error.strerror or error}",
        "The node is read-only now; replace its disk.",
    )


def failure(error: OSError, what: str) -> DiscloudError:
    """What an OSError of a write means to whoever wanted ``what``."""
    if error.errno in FULL:
        return NoSpace(f"{what}: the disk is full", "Remove objects, or give the node a larger disk.")
    return Unavailable(f"{what}: {error.strerror or error}", "See the node's log and its disk.")
