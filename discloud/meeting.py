"""How a root meets the others: it hears heartbeats, tells the other roots what it heard, and uses Redis where there is one.

One field of the port matrix (DESIGN section 5). Used by node.py only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from discloud.adapters.memory_membership import MemoryMembership
from discloud.cluster import Cluster
from discloud.config import Config
from discloud.core.liveness import Thresholds
from discloud.core.mesh_time import ClockVotes
from discloud.core.model import Node
from discloud.peer.gossip import PeerGossip
from discloud.peer.handshake import ClusterSecret, derive
from discloud.peer.links import Links
from discloud.ports import Metadata
from discloud.services.gossip import GossipRound
from discloud.services.loop import Periodic

if TYPE_CHECKING:
    from discloud.adapters.redis_membership import RedisMembership

EXCHANGE = 0.5
"""Seconds that another root has to answer what it is told."""


class RootMeeting:
    """What a root meets the others by: ``membership`` hears and judges, ``services`` tell the other roots and Redis."""

    def __init__(self, config: Config, mesh: str, own: Node, secret: ClusterSecret) -> None:
        periods = config.periods
        thresholds = Thresholds(periods.suspect, periods.down, periods.lost)
        self._config = config
        self._votes = ClockVotes()
        self._redis = _redis(config, mesh, own, secret, thresholds, self._votes)
        self._services: list[Periodic] = []
        self.membership = self._redis or MemoryMembership(time.monotonic, thresholds, time.time, self._votes)

    async def close(self) -> None:
        """End the connection with Redis, where there is one."""
        if self._redis is not None:
            await self._redis.close()

    async def begin(
        self, cluster: Cluster, metadata: Metadata, links: Links, draw: Callable[[int], int]
    ) -> list[Periodic]:
        """Learn what the other roots know before this one answers anybody; what is to run while it serves.

        A root whose names are in SQLite is alone and has nobody to tell.
        """
        if not self._config.cassandra.hosts:
            return []
        gossip = GossipRound(
            cluster,
            self.membership,
            lambda address: PeerGossip(links, address, EXCHANGE),
            self._config.node.roots,
            metadata.nodes.all,
            self._votes,
            time.monotonic,
            time.time,
            draw,
        )
        period = self._config.periods.heartbeat
        # Twice as often as nodes beat: what one root hears reaches all within two beats.
        self._services = [Periodic("gossip", gossip, period / 2)]
        if self._redis is not None:
            self._services.append(Periodic("redis", self._redis, period))
        await self.tell()
        await self.tell()  # the first round only reads who is registered
        return self._services

    async def tell(self) -> None:
        """One round with the other roots and Redis now. What fails is logged by them, and comes again by itself."""
        for each in self._services:
            await each.service.run_once()


def _redis(
    config: Config, mesh: str, own: Node, secret: ClusterSecret, thresholds: Thresholds, votes: ClockVotes
) -> RedisMembership | None:
    if not config.redis.url:
        return None
    # The client takes a moment to load: only who needs it pays.
    from discloud.adapters.redis_membership import RedisMembership

    keys = [derive("beats in redis", key) for key in secret.keys.values()]
    return RedisMembership(config.redis.url, mesh, own.id, keys, time.monotonic, thresholds, time.time, votes)
