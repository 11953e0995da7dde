"""How long other nodes took to answer lately, as the one who asks saw it: whom to ask first, and how long to wait for it.

Smoothed as TCP smooths its round trips (RFC 6298: an eighth of each new one); beside the mean a high quantile is followed by
steps, up by 19 times what it goes down, so that it settles where 5 % of the answers are later. What was not measured for
``FORGOTTEN`` seconds is forgotten: a node that was slow once is tried again. Runs on one event loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from discloud.core.model import NodeId

WEIGHT = 1 / 8
STEP = 0.1
"""Share of itself by which the high quantile moves."""
WARMING = 4
"""First answers of which the quickest counts: they may include the time to connect."""
FORGOTTEN = 60.0
AVOIDED = 3.0
"""Seconds for which a node that let several questions down is asked after the others: until the view suspects it too."""
MISSES = 3
"""Questions in a row that another node had to answer, after which it is avoided."""
SHORTEST, LONGEST, UNKNOWN = 0.02, 1.0, 0.3
"""Seconds to wait for an answer: at least, at most, and for that of a node that was never measured."""


@dataclass(slots=True)
class _Peer:
    """What is known of one node: ``high`` is the quantile, ``since`` when it was last measured."""

    high: float
    since: float
    answers: int = 0
    misses: int = 0


class RoundTrips:
    """Seconds by node. ``now`` is any clock's that only grows, the same in every call.

    ``seconds`` are the means of the nodes measured lately, ``silent`` the nodes to be asked last, each until that time; both
    are as of the last ``refresh``.
    """

    def __init__(self) -> None:
        self.seconds: dict[NodeId, float] = {}
        self.silent: dict[NodeId, float] = {}
        self._peers: dict[NodeId, _Peer] = {}
        self._next = 0.0

    def answered(self, node: NodeId, seconds: float, now: float) -> None:
        """The node answered a small question after so many seconds."""
        peer = self._known(node, seconds, now)
        mean = self.seconds.get(node, seconds)
        peer.answers += 1
        if peer.answers <= WARMING:
            self.seconds[node] = min(mean, seconds)
        else:
            self.seconds[node] = mean + WEIGHT * (seconds - mean)

    def took_at_most(self, node: NodeId, seconds: float, now: float) -> None:
        """The node answered, but the seconds include more than a round trip: a connection, many bytes."""
        self._known(node, seconds, now)
        self.seconds[node] = min(self.seconds.get(node, seconds), seconds)

    def missed(self, node: NodeId, now: float) -> None:
        """Another node answered what this one was asked before."""
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer(UNKNOWN, now)
        peer.high = min(LONGEST, peer.high * (1 + 0.95 * STEP))
        peer.misses += 1
        if peer.misses >= MISSES:
            self.silent[node] = now + AVOIDED

    def patience(self, node: NodeId) -> float:
        """Seconds after which an answer of the node is late: a few round trips, and more than nearly all took."""
        mean = self.seconds.get(node)
        if mean is None:
            return UNKNOWN
        return min(LONGEST, max(SHORTEST, 3 * mean, self._peers[node].high))

    def refresh(self, now: float) -> None:
        """Forget what is too old; costs nothing when called again within the second."""
        if now < self._next:
            return
        self._next = now + 1.0
        for node in [node for node, until in self.silent.items() if until <= now]:
            del self.silent[node]
            self._peers[node].misses = 0
        for node in [node for node, peer in self._peers.items() if peer.since <= now - FORGOTTEN]:
            if node not in self.silent:
                del self._peers[node]
                self.seconds.pop(node, None)

    def _known(self, node: NodeId, seconds: float, now: float) -> _Peer:
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = _Peer(2 * seconds, now)
        peer.high *= 1 + 0.95 * STEP if seconds > peer.high else 1 - 0.05 * STEP
        peer.since = now
        peer.misses = 0
        self.silent.pop(node, None)
        return peer
