"""The mesh as one node sees it now: the view, and "the Blobs of node X" (its own disk or a peer).

Owns the current view; only the heartbeat replaces it. Readers take ``view`` once per request and keep it, so that
a decision is made on one picture.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

from discloud.core.model import Node, NodeId, NodeState, View
from discloud.core.round_trips import RoundTrips
from discloud.errors import NoSuchNode
from discloud.ports import Blobs

EVEN = 0.01
"""Share of the capacity by which fills may differ and still count as even."""
REMEMBERED = 300
"""Views for which a gateway remembers what it sent: the longer, the less the rests of each stretch add up."""
CLOCK = 5.0
"""Seconds by which a node's clock may differ from the mesh's time; beyond them it takes no writes."""
SERVING = frozenset({NodeState.ALIVE, NodeState.SUSPECT, NodeState.DRAINING})
"""States in which a node is worth asking for bytes."""


class Cluster:
    """The nodes and how to reach their blobs. ``connect`` makes the Blobs of another node and is asked once per address.

    ``clock_offset``: seconds by which the mesh's time is ahead of this node's clock, as the last heartbeat measured it; None =
    no root has told the time yet.
    """

    def __init__(self, me: Node, mesh: str, local: Blobs, connect: Callable[[Node], Blobs]) -> None:
        self.me = me.id
        self.mesh = mesh
        self.local = local
        self.view = View(0, (me,))
        self.clock_offset: float | None = None
        self.rtt = RoundTrips()
        self._connect = connect
        self._remote: dict[tuple[NodeId, str], Blobs] = {}
        self._beats: deque[Counter[NodeId]] = deque([Counter()])
        self._sent: Counter[NodeId] = Counter()

    def update(self, view: View) -> None:
        """Take over a root's view. One that lacks this node itself keeps the node as it last was.

        Another root may have answered than the last time: the epochs of two roots say nothing of each other.
        """
        own = view.find(self.me) or self.view.find(self.me)
        others = tuple(node for node in view.nodes if node.id != self.me)
        before = {node.id for node in self.view.nodes}
        self.view = replace(view, nodes=(own, *others) if own else others)
        if {node.id for node in self.view.nodes} != before:
            # Who is new has been sent nothing: it must not get everything until it has as much as the others.
            self._sent.clear()
            self._beats.clear()
        self._beats.append(Counter())
        if len(self._beats) > REMEMBERED:
            self._sent -= self._beats.popleft()

    def promise(self, node: NodeId, length: int) -> None:
        """Count bytes that this gateway is about to send to ``node``."""
        self._sent[node] += length
        self._beats[-1][node] += length

    def planned(self) -> View:
        """The view to place by: fills as reported where they differ, as this gateway sent lately where they do not.

        A reported fill is up to a beat old and the same for all gateways, so that all would send a beat's writes to the node
        that was the emptiest in it. Between nodes whose fills differ by less than ``EVEN`` each gateway keeps its own
        writes of the last beats even instead, and so their sum is.
        """
        fills = [node.fill for node in self.view.nodes if node.capacity]
        if not fills or max(fills) - min(fills) > EVEN:
            return self.view
        level = sum(fills) / len(fills)
        nodes = tuple(
            replace(node, used=int(level * node.capacity), reserved=self._sent[node.id])
            for node in self.view.nodes
        )
        return replace(self.view, nodes=nodes)

    @property
    def clock_is_off(self) -> bool:
        """Whether this node's clock differs so much from the mesh's time that it must take no writes."""
        return self.clock_offset is not None and abs(self.clock_offset) > CLOCK

    @property
    def own(self) -> Node:
        """This node as the view shows it."""
        node = self.view.find(self.me)
        assert node is not None, "update() keeps this node in every view"
        return node

    def blobs(self, node: NodeId) -> Blobs:
        """The bytes on ``node``. Raises: NoSuchNode if the view does not have it."""
        if node == self.me:
            return self.local
        known = self.view.find(node)
        if known is None:
            raise NoSuchNode(f"node {node} is not in the view of {self.own.name}", "see: discloud nodes")
        place = (known.id, known.peer)
        if place not in self._remote:
            self._remote[place] = self._connect(known)
        return self._remote[place]

    def serving(self, node: NodeId) -> bool:
        """Whether ``node`` is worth asking now."""
        known = self.view.find(node)
        return known is not None and known.state in SERVING
