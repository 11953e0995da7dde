"""The mesh as one node sees it now: the view, and "the Blobs of node X" (its own disk or a peer).

Owns the current view; only the heartbeat replaces it. Readers take ``view`` once per request and keep it, so that
a decision is made on one picture.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from discloud.core.model import Node, NodeId, NodeState, View
from discloud.errors import NoSuchNode
from discloud.ports import Blobs

EVEN = 0.01
"""Share of the capacity by which fills may differ and still count as even."""
SERVING = frozenset({NodeState.ALIVE, NodeState.SUSPECT, NodeState.DRAINING})
"""States in which a node is worth asking for bytes."""


class Cluster:
    """The nodes and how to reach their blobs. ``connect`` makes the Blobs of another node and is asked once per address."""

    def __init__(self, me: Node, mesh: str, local: Blobs, connect: Callable[[Node], Blobs]) -> None:
        self.me = me.id
        self.mesh = mesh
        self.local = local
        self.view = View(0, (me,))
        self._connect = connect
        self._remote: dict[tuple[NodeId, str], Blobs] = {}
        self._sent: defaultdict[NodeId, float] = defaultdict(float)

    def update(self, view: View) -> None:
        """Take over a newer view. A view that lacks this node itself keeps the node as it last was."""
        own = view.find(self.me) or self.view.find(self.me)
        others = tuple(node for node in view.nodes if node.id != self.me)
        self.view = View(view.epoch, (own, *others) if own else others)
        for node in view.nodes:
            if node.id not in self._sent:
                self._sent[node.id] = self._least_sent() * node.capacity

    def promise(self, node: NodeId, length: int) -> None:
        """Count bytes that this gateway is about to send to ``node``."""
        self._sent[node] += length

    def planned(self) -> View:
        """The view to place by: fills as reported where they differ, as this gateway sent where they do not.

        A reported fill is up to a beat old and the same for all gateways, so that all would send a beat's writes to the node
        that was the emptiest in it. Between nodes whose fills differ by less than ``EVEN`` each gateway keeps its own
        writes even instead, and so their sum is.
        """
        fills = [node.fill for node in self.view.nodes if node.capacity]
        if not fills or max(fills) - min(fills) > EVEN:
            return self.view
        level, least = sum(fills) / len(fills), self._least_sent()
        nodes = tuple(
            replace(
                node,
                used=int(level * node.capacity),
                reserved=int(self._sent[node.id] - least * node.capacity),
            )
            for node in self.view.nodes
        )
        return View(self.view.epoch, nodes)

    def _least_sent(self) -> float:
        """The smallest share of its capacity that this gateway has sent to any node of the view."""
        shares = [
            self._sent[node.id] / node.capacity
            for node in self.view.nodes
            if node.capacity and node.id in self._sent
        ]
        return min(shares, default=0.0)

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
