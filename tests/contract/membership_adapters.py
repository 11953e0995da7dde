"""The adapters of the ``Membership`` port that pass its contract: one entry each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from discloud.adapters.memory_membership import MemoryMembership
from discloud.core.liveness import Thresholds
from discloud.peer.membership import PeerMembership
from discloud.ports import Membership
from tests.support.peer_loopback import pair

THRESHOLDS = Thresholds(suspect=3.0, down=10.0, lost=900.0, steady=3)
Clock = Callable[[], float]
Factory = Callable[[Clock], AbstractAsyncContextManager[Membership]]
"""A mesh of which nobody has heard yet, judged by ``THRESHOLDS`` and that clock."""


@asynccontextmanager
async def memory(clock: Clock) -> AsyncIterator[Membership]:
    """A root's own."""
    yield MemoryMembership(clock, THRESHOLDS)


@asynccontextmanager
async def peer(clock: Clock) -> AsyncIterator[Membership]:
    """A root's, over a real socket."""
    async with pair(membership=MemoryMembership(clock, THRESHOLDS)) as nodes:
        membership = PeerMembership(nodes.links, [nodes.address], patience=20.0)
        yield membership
        await membership.close()


ADAPTERS: dict[str, Factory] = {"memory": memory, "peer of memory": peer}
