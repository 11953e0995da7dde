"""Which roots there are, and in which order this node asks them.

The configured addresses are always among them; the view adds roots that joined later. Each node draws an order of its own, so
that the nodes of a root that dies spread over the others. A root that did not answer is avoided: a heartbeat may
try it again after ``AVOIDED`` seconds, other calls only after it answered, or when no other root is left.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from discloud.core.model import Node, NodeState, Role, View
from discloud.errors import Invalid
from discloud.peer.links import Target

AVOIDED = 5.0
"""Seconds after which a root that did not answer is worth a heartbeat again."""
_STANDING = {
    NodeState.ALIVE: 0,
    NodeState.DRAINING: 0,
    NodeState.SUSPECT: 1,
    NodeState.DOWN: 2,
    NodeState.LOST: 2,
}
_STRANGER = 1  # a configured address that the view does not have may be another name of a root
_RANKS = 1 << 30


class KnownRoots:
    """Shared by all that call roots for one node. ``draw(n)`` gives a random 0..n-1; None = in the order given.

    ``region``: this node's; roots that stand there are asked first. Raises: Invalid (no address).
    """

    def __init__(
        self,
        addresses: Sequence[str],
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[int], int] | None = None,
        region: str = "",
    ) -> None:
        if not addresses:
            raise Invalid("no root is known", "name at least one: --roots HOST:7072")
        self._clock = clock
        self._draw = draw
        self._region = region
        self._ranks: dict[str, int] = {}
        self._seen: dict[str, Node] = {}
        self._avoided: dict[Target, float] = {}
        self._configured = tuple(Target(address) for address in dict.fromkeys(addresses))
        self._targets = self._configured
        self._rank()

    def __len__(self) -> int:
        return len(self._targets)

    def follow(self, view: View) -> None:
        """Take over the roots that the view has, where they are reached and how they are."""
        self._seen = {
            node.peer: node
            for node in view.nodes
            if node.role is Role.ROOT and node.state is not NodeState.REMOVED
        }
        configured = {target.address for target in self._configured}
        joined = (Target(at, node.id) for at, node in self._seen.items() if at not in configured)
        self._targets = (*self._configured, *joined)
        self._avoided = {target: until for target, until in self._avoided.items() if target in self._targets}
        self._rank()

    def order(self, *, beat: bool = False) -> list[Target]:
        """All roots, the one to ask first in front; ``beat``: what was avoided for long enough counts as well."""
        now = self._clock()
        avoided = {at: until for at, until in self._avoided.items() if not beat or now < until}
        return sorted(self._targets, key=lambda target: (avoided.get(target, 0.0), *self._place(target)))

    def failed(self, target: Target) -> None:
        """It did not answer, or could not."""
        self._avoided[target] = self._clock() + AVOIDED

    def answered(self, target: Target) -> None:
        """It did."""
        self._avoided.pop(target, None)

    def _place(self, target: Target) -> tuple[int, bool, int]:
        node = self._seen.get(target.address)
        if node is None:
            return _STRANGER if self._seen else 0, False, self._ranks[target.address]
        return _STANDING.get(node.state, 2), node.region != self._region, self._ranks[target.address]

    def _rank(self) -> None:
        for target in self._targets:
            if target.address not in self._ranks:
                self._ranks[target.address] = self._draw(_RANKS) if self._draw else len(self._ranks)
