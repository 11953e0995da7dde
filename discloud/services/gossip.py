"""Roots tell each other what they heard, and compare their clocks: views agree without a Redis.

Each run exchanges beats with every other root that is known: from the configuration, from the view, and from the registered
nodes, so that roots find each other where only their metadata is common. Beyond ``FANOUT`` roots a run draws as
many of them: what one knows then reaches all in a few runs, because every exchange tells everything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from discloud.cluster import Cluster
from discloud.core.mesh_time import ClockVotes
from discloud.core.model import Node, NodeId, Role
from discloud.errors import DiscloudError, Unavailable
from discloud.ports import Gossip

FANOUT = 5
"""Other roots that a run exchanges beats with."""
AGAIN = 5.0
"""Seconds after which a root that did not answer is asked again."""
REGISTERED = 30.0
"""Seconds between two looks at the registered nodes, and the most that one may take a sixtieth of."""
EXACT = 1.0
"""Seconds that an exchange may take for the other's time to be believed."""


class OtherRoot(Gossip, Protocol):
    """A root behind an address: one root may be known by several."""

    async def who(self) -> NodeId:
        """The node that is found there. Raises: DiscloudError."""


@dataclass(frozen=True, slots=True)
class GossipReport:
    """How many roots were asked and how many answered."""

    asked: int
    answered: int


class GossipRound:
    """This root's part in the gossip. ``own`` is its membership; ``connect`` gives the root at an address.

    ``roots`` are the configured addresses; ``registered`` gives all nodes of the mesh. ``clock`` counts seconds and never goes
    back, ``wall`` gives epoch seconds; ``draw(n)`` gives a random 0..n-1. What other clocks say goes to ``votes``.
    """

    def __init__(
        self,
        cluster: Cluster,
        own: Gossip,
        connect: Callable[[str], OtherRoot],
        roots: Sequence[str],
        registered: Callable[[], Awaitable[tuple[Node, ...]]],
        votes: ClockVotes,
        clock: Callable[[], float],
        wall: Callable[[], float],
        draw: Callable[[int], int],
    ) -> None:
        self._cluster = cluster
        self._own = own
        self._connect = connect
        self._roots = tuple(roots)
        self._registered = registered
        self._votes = votes
        self._clock = clock
        self._wall = wall
        self._draw = draw
        self._found: tuple[Node, ...] = ()
        self._look = clock()
        self._silent: dict[str, float] = {}

    async def run_once(self) -> GossipReport:
        """Exchange beats with the other roots, all at once; one that does not answer is no failure."""
        asked: set[NodeId] = set()
        async with asyncio.TaskGroup() as group:
            exchanges = [group.create_task(self._ask(each, asked)) for each in self._addresses()]
            group.create_task(self._look_up())
        return GossipReport(len(asked), sum(each.result() for each in exchanges))

    def _addresses(self) -> list[str]:
        """Where roots may be found now, each once, this one's own address left out."""
        now, me = self._clock(), self._cluster.own.peer
        nodes = (*self._cluster.view.nodes, *self._found)
        known = dict.fromkeys((*self._roots, *(node.peer for node in nodes if node.role is Role.ROOT)))
        due = [each for each in known if each != me and self._silent.get(each, now) <= now]
        while len(due) > FANOUT:
            due.pop(self._draw(len(due)))
        return due

    async def _ask(self, address: str, asked: set[NodeId]) -> bool:
        """Exchange beats with the root at ``address``, unless it is this node or one that is asked already."""
        root = self._connect(address)
        try:
            node = await root.who()
            if node == self._cluster.me or node in asked:
                return False
            asked.add(node)
            beats = await self._own.exchange(())
            sent = self._wall()
            told = await root.exchange(beats)
        except DiscloudError:  # told by the links
            self._silent[address] = self._clock() + AGAIN
            return False
        received = self._wall()
        if told and 0 <= received - sent <= EXACT:
            self._votes.note(node, told[0].time - (sent + received) / 2, self._clock())
        await self._own.exchange(told)
        return True

    async def _look_up(self) -> None:
        """Read the registered nodes when it is time; the ones found before stay where nobody can say."""
        if self._clock() < self._look:
            return
        self._look = self._clock() + REGISTERED
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(REGISTERED / 60):
                self._found = await self._registered()
