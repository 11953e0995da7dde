"""Membership through the roots: this node's heartbeat, and the view that answers it.

The heartbeat has connections of its own, so that no other call can hold it up and make a living node look dead. Each view
tells which roots there are: that is how all calls of this node learn of them.
"""

from __future__ import annotations

from collections.abc import Sequence

from discloud.core.model import Node, NodeId, View
from discloud.peer.known_roots import KnownRoots
from discloud.peer.links import Links
from discloud.peer.methods import methods_of
from discloud.peer.roots import Roots

_CALLS = methods_of("membership")


class PeerMembership:
    """Membership behind these roots. ``patience``: seconds a heartbeat may take, all roots included."""

    def __init__(self, links: Links, roots: Sequence[str] | KnownRoots, patience: float = 2.0) -> None:
        self._links = links.alone()
        self._roots = Roots(self._links, roots, patience, beats=True)

    async def announce(self, me: Node) -> View:
        """As Membership; a root that misses one beat is replaced by the next at once. Raises: Unavailable."""
        view: View = await self._roots.call(_CALLS["announce"], [me], repeat=True, settle=False)
        self._roots.known.follow(view)
        return view

    async def leave(self, node: NodeId) -> None:
        """As Membership. Raises: Unavailable."""
        await self._roots.call(_CALLS["leave"], [node], repeat=True, settle=False)

    async def close(self) -> None:
        """Close the heartbeat's own connections."""
        await self._links.close()
