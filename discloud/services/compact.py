"""Gives back the room of removed small blobs: packs that are mostly dead are rewritten, one at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

PACKS = 16
"""Packs rewritten in one run at the most, so that the disk is left to others in between."""


@dataclass(frozen=True, slots=True)
class CompactReport:
    """Bytes given back to the disk."""

    freed: int


class Compact:
    """``compact_one`` rewrites the pack that is worth it most and returns the bytes freed, 0 = nothing to do."""

    def __init__(self, compact_one: Callable[[], Awaitable[int]]) -> None:
        self._compact_one = compact_one

    async def run_once(self) -> CompactReport:
        """Rewrite what is worth it now. Raises: Unavailable (the disk fails)."""
        freed = 0
        for _ in range(PACKS):
            gained = await self._compact_one()
            if not gained:
                break
            freed += gained
        return CompactReport(freed)
