"""Who may speak for a node id: the rules of ``Nodes.register``, for whoever keeps the claims."""

from __future__ import annotations

from dataclasses import dataclass

from discloud.core.model import Node, NodeId
from discloud.errors import Conflict
from discloud.ports import CLAIM


@dataclass(frozen=True, slots=True)
class Claim:
    """A node as it last registered ``at`` that moment, for the process that drew ``nonce`` (empty = given up)."""

    node: Node
    nonce: str
    at: float


def check_claim(node: Node, nonce: str, now: float, held: Claim | None, namesake: NodeId | None) -> None:
    """Nothing, if the process of ``nonce`` may take the id. ``namesake`` is whose the name is already. Raises: Conflict."""
    if namesake not in (None, node.id):
        raise Conflict(
            f"the name {node.name} belongs to node {namesake}", "start this node with another --name"
        )
    if held is not None and held.nonce not in ("", nonce) and held.at > now - CLAIM:
        raise Conflict(
            f"node {node.id} ({node.name}) is running in another process",
            f"is this data folder a copy? Otherwise start again after {CLAIM:.0f} seconds",
        )
