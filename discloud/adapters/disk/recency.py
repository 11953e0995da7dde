"""When blobs were last used and verified, for as many as fit: a bounded memory that errs to the safe side."""

from __future__ import annotations

from itertools import islice

REMEMBERED = 100_000
"""Blobs of which the last use is known exactly."""


class Recency:
    """Touches and checks by key. Lost at a restart. Safe from any thread (single dictionary operations).

    ``touched`` of a blob grows with each use of it. Of a blob that was forgotten it may grow without a use, so it may
    be taken for used when it was not, never the other way round.
    """

    def __init__(self) -> None:
        self._tick = 0
        self._floor = 0
        self._seen: dict[bytes, tuple[int, float]] = {}

    def touch(self, key: bytes, checked: float = 0.0) -> None:
        """Note a use, and that it verified the whole blob at ``checked``."""
        self._tick += 1
        self._seen[key] = (self._tick, checked or self.checked(key))
        if len(self._seen) > REMEMBERED:
            self._forget()

    def touched(self, key: bytes) -> int:
        """A number that is another one after each use."""
        seen = self._seen.get(key)
        return self._floor if seen is None else seen[0]

    def checked(self, key: bytes) -> float:
        """When the whole blob was last verified, 0 = not since the start or forgotten."""
        seen = self._seen.get(key)
        return 0.0 if seen is None else seen[1]

    def _forget(self) -> None:
        self._tick += 1
        self._floor = self._tick
        for key in list(islice(tuple(self._seen), REMEMBERED // 2)):
            self._seen.pop(key, None)
