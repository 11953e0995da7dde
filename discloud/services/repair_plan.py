"""Pure decisions of repair: which copies to make, from where, and who is recorded afterwards.

No I/O, clock or randomness. Invariants: I12 (a substitute holds no other fragment of the segment); a holder leaves the record
only when it certainly has no copy, and only when enough others are left: a lost node that comes back still belongs to gc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from discloud.core.model import Node, NodeId, NodeState, Segment, View
from discloud.core.spread import Crowd


class Copy(Enum):
    """What is known of one node's copy; what is not definite is never ABSENT or GONE.

    UNKNOWN is waited for; AWAY is not counted any more, but may come back with its copy; GONE has none and gets none.
    """

    PRESENT = "present"
    ABSENT = "absent"
    UNKNOWN = "unknown"
    AWAY = "away"
    GONE = "gone"


NOT_COUNTED = frozenset({Copy.AWAY, Copy.GONE})
"""Copies that others must make up for."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What one blob needs.

    ``sources`` have it; ``refill`` are to get it without a change of the record; ``adopt`` are to get it (where they
    lack it) and be recorded; ``extra`` further nodes must be chosen; ``waits``: something that matters is unknown.
    """

    sources: tuple[NodeId, ...]
    refill: tuple[NodeId, ...]
    adopt: tuple[NodeId, ...]
    extra: int
    waits: bool


def plan_repair(
    recorded: tuple[NodeId, ...],
    named: tuple[NodeId, ...],
    found: Mapping[NodeId, Copy],
    wanted: int,
    *,
    everywhere: bool,
) -> Plan:
    """The plan for a blob with ``recorded`` holders that shall have ``wanted`` copies.

    ``named`` are the nodes that the repair says lack it. A named node that is merely down is waited for: its copy is not
    made elsewhere, so that a restart moves no bytes. ``everywhere``: named nodes get a copy even when enough are recorded.
    """
    kept = [node for node in recorded if found[node] not in NOT_COUNTED]
    others = [node for node in named if node not in recorded]
    room = max(0, wanted - len(kept))
    adopt = [node for node in others if found[node] in {Copy.PRESENT, Copy.ABSENT}][:room]
    awaited = [node for node in others if found[node] is Copy.UNKNOWN][: room - len(adopt)]
    refill = [node for node in recorded if found[node] is Copy.ABSENT]
    if everywhere:
        refill += [node for node in others if found[node] is Copy.ABSENT and node not in adopt]
    watched = named or recorded
    return Plan(
        sources=tuple(node for node, copy in found.items() if copy is Copy.PRESENT),
        refill=tuple(refill),
        adopt=tuple(adopt),
        extra=room - len(adopt) - len(awaited),
        waits=bool(awaited) or any(found[node] is Copy.UNKNOWN for node in watched if node in recorded),
    )


def new_holders(
    recorded: tuple[NodeId, ...], found: Mapping[NodeId, Copy], added: tuple[NodeId, ...], wanted: int
) -> tuple[NodeId, ...]:
    """The record after ``added`` have the blob: holders that are gone leave it once there are enough others."""
    added = tuple(node for node in added if node not in recorded)
    counted = sum(found[node] not in NOT_COUNTED for node in recorded) + len(added)
    stay = recorded if counted < wanted else tuple(node for node in recorded if found[node] is not Copy.GONE)
    return (*stay, *added)


def choose_substitute(
    segment: Segment,
    kept: tuple[NodeId, ...],
    length: int,
    view: View,
    draw: Callable[[int], int],
    full: float,
) -> NodeId | None:
    """A node for one more copy of a fragment of ``length`` bytes, beside ``kept``; None where none is eligible.

    Of the nodes in the least crowded class (as in core/spread.py) two random ones are compared and the emptier one is
    taken. Nodes that would be above ``full`` of their capacity take nothing. ``draw(n)`` gives 0..n-1.
    """
    taken = {node for holders in segment.holders for node in holders} | set(kept)
    siblings, everyone = Crowd(), Crowd()
    for node in view.nodes:
        if node.id in kept:
            siblings.add(node)
        if node.id in taken:
            everyone.add(node)
    eligible = [node for node in view.nodes if node.id not in taken and _takes(node, length, full)]
    if not eligible:
        return None
    classes = {node.id: _crowding(node, siblings, everyone) for node in eligible}
    least = min(classes.values())
    best = [node for node in eligible if classes[node.id] == least]
    pair = (best[draw(len(best))], best[draw(len(best))])
    return min(pair, key=lambda node: node.fill).id


def _crowding(node: Node, siblings: Crowd, everyone: Crowd) -> tuple[int, ...]:
    """Copies of the fragment, and blobs of the segment, that share the node's host, zone and region."""
    pairs = zip(siblings.around(node), everyone.around(node), strict=True)
    return tuple(count for pair in pairs for count in pair)


def _takes(node: Node, length: int, full: float) -> bool:
    promised = node.used + node.reserved + length
    return node.state is NodeState.ALIVE and not node.read_only and promised <= full * node.capacity
