"""The adapters of the ``Membership`` port that pass its contract: one entry each."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_membership import MemoryMembership
from discloud.adapters.redis_membership import RedisMembership
from discloud.core.liveness import Thresholds
from discloud.core.model import Node, NodeId, View
from discloud.peer.gossip import PeerGossip
from discloud.peer.handshake import Identity
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
from discloud.peer.server import PeerServer
from discloud.ports import Membership
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.peer_loopback import CALLER, SECRET, pair
from tests.support.servers import shared_redis

THRESHOLDS = Thresholds(suspect=3.0, down=10.0, lost=900.0, steady=3)
Clock = Callable[[], float]
Factory = Callable[[Clock], AbstractAsyncContextManager[Membership]]
"""A mesh of which nobody has heard yet, judged by ``THRESHOLDS`` and that clock."""


class Elsewhere:
    """Nodes announce themselves to one root, and what another one sees is looked at."""

    def __init__(
        self, here: MemoryMembership, there: MemoryMembership, spread: Callable[[], Awaitable[object]]
    ) -> None:
        self.here, self.there, self.spread = here, there, spread

    async def announce(self, me: Node) -> View:
        await self.here.announce(me)
        await self.spread()
        return self.there.view()

    async def leave(self, node: NodeId) -> None:
        await self.here.leave(node)
        await self.spread()


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


@asynccontextmanager
async def gossip(clock: Clock) -> AsyncIterator[Membership]:
    """Two roots that tell each other what they heard, over a real socket."""
    here, there = (MemoryMembership(clock, THRESHOLDS) for _ in range(2))
    async with AsyncExitStack() as stack:
        threads = Threads("holder", 1)
        stack.callback(threads.close)
        me = Identity(SECRET, NodeId("there"), "mesh")
        server = PeerServer(me, MemoryBlobs(), threads, Pace(10.0, 1e6), gossip=there)
        await server.start("127.0.0.1", 0)
        stack.push_async_callback(server.close)
        links = Links(Identity(SECRET, CALLER))
        stack.push_async_callback(links.close)
        other = PeerGossip(links, f"127.0.0.1:{server.port}", 20.0)

        async def spread() -> None:
            here.take(await other.exchange(here.tell()))

        yield Elsewhere(here, there, spread)


@asynccontextmanager
async def redis(clock: Clock) -> AsyncIterator[Membership]:
    """Two roots that meet at a real Redis."""
    url, mesh = (await asyncio.to_thread(shared_redis)).url, str(uuid.uuid4())
    here, there = (
        RedisMembership(url, mesh, NodeId(name), [b"k" * 32], clock, THRESHOLDS, patience=20.0)
        for name in ("here", "there")
    )

    async def spread() -> None:
        assert (await here.run_once()).written
        assert (await there.run_once()).roots == 1

    yield Elsewhere(here, there, spread)
    await here.close()
    await there.close()


ADAPTERS: dict[str, Factory] = {
    "memory": memory,
    "peer of memory": peer,
    "two roots by gossip": gossip,
    "two roots by redis": redis,
}
