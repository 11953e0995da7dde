"""Leases where one process keeps the metadata (memory, SQLite): they need not outlive it.

Invariant: an epoch is given to one owner only, as long as this object lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from discloud.core.model import NodeId


@dataclass(frozen=True, slots=True)
class _Held:
    owner: NodeId
    epoch: int
    until: float


class LocalLeases:
    """The ``Leases`` port in memory. ``clock`` gives seconds that never go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._held: dict[str, _Held] = {}

    async def hold(self, name: str, owner: NodeId, seconds: float) -> int | None:
        """See ``Leases.hold``."""
        now, held = self._clock(), self._held.get(name)
        if held is None:
            held = _Held(owner, 1, 0.0)
        elif held.owner != owner:
            if now < held.until:
                return None
            held = _Held(owner, held.epoch + 1, 0.0)
        self._held[name] = replace(held, until=now + seconds)
        return held.epoch

    async def release(self, name: str, owner: NodeId) -> None:
        """See ``Leases.release``."""
        held = self._held.get(name)
        if held is not None and held.owner == owner:
            self._held[name] = replace(held, until=0.0)
