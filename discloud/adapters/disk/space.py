"""How much may still be written: the bytes that are taken, those promised, and what the disk has left.

Invariant: what was reserved is given back exactly once. Looking needs no system call: what the disk has left is
measured again by whoever waits for the disk anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Lock

from discloud import logs
from discloud.adapters.disk.files import Files
from discloud.errors import NoSpace, Unavailable


class Space:
    """Room on one disk. ``taken()`` gives the bytes of blobs and of what is dead but not yet compacted. Safe from any thread."""

    def __init__(
        self, folder: Path, files: Files, capacity: int, full: float, taken: Callable[[], int]
    ) -> None:
        self._folder, self._files, self._full, self._taken = folder, files, full, taken
        self._lock = Lock()
        self._broken = ""
        self.reserved = 0
        self._laid = 0
        self.total, self.free = files.room(folder)
        self._room = self.free
        self._capacity = capacity

    @property
    def capacity(self) -> int:
        """Bytes that the blobs may take in all."""
        return self._capacity or self.total

    @property
    def read_only(self) -> bool:
        """Has the disk failed, so that nothing is written any more?"""
        return bool(self._broken)

    def measure(self) -> None:
        """Ask the disk what it has left. May wait. A disk that does not say has what it had."""
        with suppress(OSError):
            total, free = self._files.room(self._folder)
            with self._lock:
                # What writers have on the disk already is in their promise: it must not count twice.
                self.total, self.free, self._room = total, free, free + self._laid

    def fail(self, error: OSError) -> None:
        """Turn read-only until the next start: the disk does not keep what it is given."""
        with self._lock:
            first, self._broken = not self._broken, self._broken or error.strerror or str(error)
        if first:
            logs.error("disk_read_only", reason=str(error))

    def require_writable(self) -> None:
        """Raises: Unavailable (the disk is read-only)."""
        if self._broken:
            raise Unavailable(
                f"the disk of this node is read-only: {self._broken}",
                "Replace the disk, then start the node again; its blobs are repaired from other nodes.",
            )

    def reserve(self, length: int) -> None:
        """Promise ``length`` bytes. Raises: NoSpace, Unavailable (read-only)."""
        self.require_writable()
        with self._lock:
            taken = self._taken() + self.reserved + length
            if taken > self.capacity * self._full:
                raise NoSpace(
                    f"{length} bytes do not fit: {taken - length} of {self.capacity} bytes are taken "
                    f"and writes end at {self._full:.0%}",
                    "Remove objects, or add a node.",
                )
            if self._room - self.reserved - length < self.total * (1 - self._full):
                raise NoSpace(
                    f"{length} bytes do not fit: the disk has {self.free} of {self.total} bytes left "
                    f"and writes end at {self._full:.0%}",
                    "Make room on the disk, or add a node.",
                )
            self.reserved += length

    def lay(self, length: int) -> None:
        """Note that ``length`` more promised bytes are on the disk."""
        with self._lock:
            self._laid += length

    def release(self, length: int, laid: int = 0, *, kept: bool = False) -> None:
        """End a promise. ``laid`` of it came to the disk and stays there (``kept``) or was removed."""
        with self._lock:
            self.reserved -= length
            self._laid -= laid
            if kept:
                self._room -= laid
