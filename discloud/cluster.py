"""The mesh as one node sees it now: the view, and "the Blobs of node X" (its own disk or a peer).

Owns the current view; only the heartbeat replaces it. Readers take ``view`` once per request and keep it, so that
a decision is made on one picture.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace

from discloud.core.model import Node, NodeId, NodeState, View
from discloud.core.placement import takes_blobs
from discloud.core.round_trips import RoundTrips
from discloud.errors import NoSuchNode, PeerDown
from discloud.ports import Blobs

EVEN = 0.01
"""Share of the capacity by which fills may differ and still count as even."""
REMEMBERED = 300
"""Views for which a gateway remembers what it sent: the longer, the less the rests of each stretch add up."""
AVOIDED = 3
"""Views for which a node that took nothing is tried last: what it missed would else draw every write to it."""
CLOCK = 5.0
"""Seconds by which a node's clock may differ from the mesh's time; beyond them it takes no writes."""
RESTARTING = 2
"""Views after which a node's restart shows at the latest: until then what was begun may be with the new process already."""
SERVING = frozenset({NodeState.ALIVE, NodeState.SUSPECT, NodeState.DRAINING})
"""States in which a node is worth asking for bytes."""


@dataclass(slots=True, eq=False)
class _Watch:
    """Somebody who waits for ``node``: as of its ``incarnation``, since the view of that number."""

    node: NodeId
    incarnation: int
    since: int
    lost: Callable[[str], None]


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
        self._avoided: dict[NodeId, int] = {}
        self._level: float | None = None
        self._views = 0
        self._watches: set[_Watch] = set()

    def update(self, view: View) -> None:
        """Take over a root's view. One that lacks this node itself keeps the node as it last was.

        Another root may have answered than the last time: the epochs of two roots say nothing of each other.
        """
        own = view.find(self.me) or self.view.find(self.me)
        others = tuple(node for node in view.nodes if node.id != self.me)
        before = {node.id for node in self.view.nodes if takes_blobs(node)}
        self.view = replace(view, nodes=(own, *others) if own else others)
        taking = [node for node in self.view.nodes if takes_blobs(node)]
        self._level = _common_level(taking)
        self._avoided = {node: left - 1 for node, left in self._avoided.items() if left > 1}
        if {node.id for node in taking} != before:
            # Who is new or was away has been sent nothing: it must not get everything until it has as much as the others.
            self._sent.clear()
            self._beats.clear()
        self._beats.append(Counter())
        if len(self._beats) > REMEMBERED:
            self._sent.subtract(self._beats.popleft())
        self._views += 1
        self._tell_watches()

    def promise(self, node: NodeId, length: int) -> None:
        """Count bytes that this gateway is about to send to ``node``."""
        self._sent[node] += length
        self._beats[-1][node] += length

    def missed(self, node: NodeId, length: int) -> None:
        """Take back what was promised: ``node`` did not take it. For ``AVOIDED`` views it is the last to be given more."""
        self.promise(node, -length)
        self._avoided[node] = AVOIDED

    @property
    def counted(self) -> bool:
        """Whether ``planned`` shows what this gateway counted itself, and not what the nodes reported."""
        return self._level is not None

    def planned(self) -> View:
        """The view to place by: fills as reported where they differ, as this gateway sent lately where they do not.

        A reported fill is up to a beat old and the same for all gateways, so that all would send a beat's writes to the node
        that was the emptiest in it. Between nodes whose fills differ by less than ``EVEN`` each gateway keeps its own
        writes of the last beats even instead, and so their sum is. A node that took nothing lately is shown as suspect.
        """
        if self._level is None and not self._avoided:
            return self.view
        return replace(self.view, nodes=tuple(self._planned(node) for node in self.view.nodes))

    def _planned(self, node: Node) -> Node:
        state = node.state
        if state is NodeState.ALIVE and node.id in self._avoided:
            state = NodeState.SUSPECT
        if self._level is None:
            return replace(node, state=state)
        used = int(self._level * node.capacity)
        return replace(node, used=used, reserved=self._sent[node.id], state=state)

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

    @contextmanager
    def watched(self, node: NodeId, lost: Callable[[str], None]) -> Iterator[None]:
        """While it lasts: ``lost(why)`` is called, once, when a view says that ``node`` does not serve or has restarted.

        At once where the view says so already. Never for this node itself: to its own disk it needs no network.
        """
        known = self.view.find(node)
        watch = _Watch(node, known.incarnation if known else 0, self._views, lost)
        if node != self.me:
            self._watches.add(watch)
            if not self.serving(node):
                self._tell_watches()
        try:
            yield
        finally:
            self._watches.discard(watch)

    @asynccontextmanager
    async def while_serving(self, node: NodeId) -> AsyncIterator[None]:
        """Wait for ``node`` within it. Raises: PeerDown as soon as the node is ``lost`` (see ``watched``), whatever is waited for."""
        loop, waiting, told = asyncio.get_running_loop(), asyncio.timeout(None), ""

        def lost(why: str) -> None:
            nonlocal told
            told = why
            waiting.reschedule(loop.time())

        try:
            async with waiting:
                with self.watched(node, lost):
                    yield
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise PeerDown(told) from error

    def _tell_watches(self) -> None:
        """Tell those who wait for a node in vain."""
        if not self._watches:
            return
        nodes = {node.id: node for node in self.view.nodes}
        for watch in tuple(self._watches):
            if why := self._why_lost(watch, nodes.get(watch.node)):
                self._watches.discard(watch)
                watch.lost(why)

    def _why_lost(self, watch: _Watch, node: Node | None) -> str:
        if node is None:
            return f"node {watch.node} is not in the view any more"
        if node.state not in SERVING:
            return f"node {node.name} is {node.state.value}"
        if node.incarnation == watch.incarnation:
            return ""
        if self._views - watch.since <= RESTARTING:
            watch.incarnation = node.incarnation
            return ""
        return f"node {node.name} has restarted"


def _common_level(nodes: Sequence[Node]) -> float | None:
    """The fill of nodes that are all about as full; None where they are not."""
    fills = [node.fill for node in nodes if node.capacity]
    if not fills or max(fills) - min(fills) > EVEN:
        return None
    return sum(fills) / len(fills)
