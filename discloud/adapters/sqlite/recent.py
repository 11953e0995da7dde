"""The heads that were written or read lately, certainly current: this process alone owns the file.

Invariant: what it gives is the newest commit. The writer takes a head out before its commit can be seen by a reader and
puts the new one in before its caller hears of it; a reader fills in what it read only if no change of that name began
or ended since before it read. Each name has a mark for that, shared with a few others: odd while a change is under way.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from discloud.core.model import BucketId, Key, Version

Name = tuple[BucketId, Key]
"""Where a head stands."""
_MARKS = 1 << 12
_LONG = 16
"""Segments beyond which a version is too big to be kept here."""


class RecentHeads:
    """A map of up to about ``size`` heads in two halves: when the young one is full, the old one is dropped.

    ``get`` may be called from any thread without waiting; changes exclude each other.
    """

    def __init__(self, size: int) -> None:
        self._half = max(1, size // 2)
        self._young: dict[Name, Version] = {}
        self._old: dict[Name, Version] = {}
        self._marks = [0] * _MARKS
        self._lock = Lock()

    def get(self, name: Name) -> Version | None:
        """The head, None = not known here."""
        head = self._young.get(name)
        if head is not None or name not in self._old:
            return head
        with self._lock:
            head = self._old.pop(name, None)
            if head is None:
                return self._young.get(name)
            self._keep(name, head)
            return head

    def mark(self, name: Name) -> int:
        """To be taken before a head is read, for ``fill``."""
        return self._marks[hash(name) % _MARKS]

    def fill(self, name: Name, mark: int, head: Version) -> None:
        """Keep what was read since ``mark``, if it is certainly still so."""
        with self._lock:
            if mark % 2 == 0 and self.mark(name) == mark:
                self._keep(name, head)

    def begin(self, names: Iterable[Name]) -> None:
        """The writer is about to commit a change of these heads."""
        with self._lock:
            for stripe in {hash(name) % _MARKS for name in names}:
                self._marks[stripe] += 1
            for name in names:
                self._young.pop(name, None)
                self._old.pop(name, None)

    def end(self, names: Iterable[Name], heads: Iterable[Version]) -> None:
        """The change that began is over; ``heads`` are the new ones, none if it failed."""
        with self._lock:
            for stripe in {hash(name) % _MARKS for name in names}:
                self._marks[stripe] += 1
            for head in heads:
                self._keep((head.bucket, head.key), head)

    def _keep(self, name: Name, head: Version) -> None:
        if len(head.segments) > _LONG:
            return
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[name] = head
