"""The ports ``Membership`` and ``Gossip``: which nodes live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from discloud.core.model import (
    Beat,
    Node,
    NodeId,
    View,
)


class Membership(Protocol):
    """Which nodes live. A root judges by the beats it hears; an ordinary node believes a root."""

    async def announce(self, me: Node) -> View:
        """Say that ``me`` is alive (with its fill) and learn the view. Raises: Unavailable (no root answers)."""

    async def leave(self, node: NodeId) -> None:
        """Say that the node stops now: it is DOWN at once, without the waiting time."""


class Gossip(Protocol):
    """Root to root: what each heard of the nodes, so that views agree without Redis (DESIGN section 4)."""

    async def exchange(self, beats: Sequence[Beat]) -> tuple[Beat, ...]:
        """Take over what the other root heard; give what this one heard. Raises: Unavailable."""
