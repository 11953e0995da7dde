"""Which root ends drafts, collects and repairs: the one that holds the lease, renewed three times in its length.

Invariant: a node takes itself for the leader only while its lease lasts, counted from before it asked. The lease saves
work and guards no data (DESIGN section 5): every change that a leader makes is conditional on the row it is about.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from discloud import logs
from discloud.core.model import NodeId
from discloud.errors import Unavailable
from discloud.ports import Leases

NAME = "leader"
"""The lease's name."""


@dataclass(frozen=True, slots=True)
class LeadReport:
    """The epoch under which this node leads, None = another one does."""

    epoch: int | None


class Lead:
    """This root's part in the election. ``seconds``: how long a lease lasts; ``clock`` counts seconds and never goes back."""

    def __init__(self, leases: Leases, me: NodeId, seconds: float, clock: Callable[[], float]) -> None:
        self._leases = leases
        self._me = me
        self._seconds = seconds
        self._clock = clock
        self._until = 0.0
        self._epoch: int | None = None

    def leads(self) -> bool:
        """Whether this node's lease lasts now."""
        return self._clock() < self._until

    async def run_once(self) -> LeadReport:
        """Take or renew the lease. Raises: Unavailable (what is left of the lease still holds)."""
        asked = self._clock()
        epoch = await self._leases.hold(NAME, self._me, self._seconds)
        self._until = asked + self._seconds if epoch is not None else 0.0
        if epoch is not None and epoch != self._epoch:
            logs.info("leads", epoch=epoch)
        elif epoch is None and self._epoch is not None:
            logs.info("leads_no_more", epoch=self._epoch)
        self._epoch = epoch
        return LeadReport(epoch)

    async def give_up(self) -> None:
        """Let another root take over at once; where nobody can be told the lease ends by itself."""
        if self.leads():
            self._until = 0.0
            with suppress(Unavailable):
                await self._leases.release(NAME, self._me)
