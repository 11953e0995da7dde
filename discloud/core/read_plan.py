"""Which bytes of which blobs make up a range of an object, and from which holder to take them first.

Invariant: the steps of a span are in file order and their lengths add up to the part of the span that the
version has; ``nearest`` only orders, it never drops a holder: a node thought dead may still have the last copy.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import frexp

from discloud.core.layout import pieces
from discloud.core.model import Node, NodeId, NodeState, Segment, Version, View
from discloud.core.ranges import Span


@dataclass(frozen=True, slots=True)
class Step:
    """Read ``length`` bytes at ``offset`` of that fragment of the segment."""

    segment: Segment
    fragment: int
    offset: int
    length: int


def plan_read(version: Version, span: Span) -> Iterator[Step]:
    """The reads that give the span's bytes, in file order over all segments; lazy, so a huge object costs nothing ahead."""
    position = 0
    for segment in version.segments:
        first = max(span.start - position, 0)
        count = min(span.end - position, segment.length) - first
        if count > 0:
            for piece in pieces(segment.layout, segment.length, first, count):
                yield Step(segment, piece.fragment, piece.offset, piece.length)
        position += segment.length
        if position >= span.end:
            return


_TRUST = {
    NodeState.ALIVE: 0,
    NodeState.DRAINING: 0,
    NodeState.SUSPECT: 1,
    NodeState.DOWN: 2,
    NodeState.LOST: 3,
    NodeState.REMOVED: 3,
}
_CLOSEST = 1 / 256
"""Seconds of round trip; up to twice that nodes count as equally near, so that reads spread over them. Above, each doubling is one class."""


def nearest(
    holders: Sequence[NodeId],
    view: View,
    me: NodeId,
    rtt: Mapping[NodeId, float],
    draw: Callable[[int], int],
    silent: Container[NodeId] = (),
) -> tuple[NodeId, ...]:
    """The holders in the order to try them: here, then by state, then same host, zone, region, others.

    Within a class by measured round trip (seconds; about equal ones count as ties, a node never measured goes first
    and so gets measured), ties shuffled by ``draw(n)``, which gives 0..n-1. Suspect nodes, and ``silent`` ones that let
    this node down itself just now, follow all that are alive; down, lost and unknown ones come last.
    """
    if len(holders) < 2:
        return tuple(holders)
    here = view.find(me)
    shuffled = list(holders)
    for last in range(len(shuffled) - 1, 0, -1):
        other = draw(last + 1)
        shuffled[last], shuffled[other] = shuffled[other], shuffled[last]
    return tuple(sorted(shuffled, key=lambda holder: _order(holder, view, here, me, rtt, silent)))


def _order(
    holder: NodeId,
    view: View,
    here: Node | None,
    me: NodeId,
    rtt: Mapping[NodeId, float],
    silent: Container[NodeId],
) -> tuple[int, int, int]:
    if holder == me:
        return (-1, 0, 0)
    node = view.find(holder)
    if node is None:
        return (_TRUST[NodeState.LOST], 0, 0)
    trust = max(_TRUST[node.state], _TRUST[NodeState.SUSPECT] if holder in silent else 0)
    return (trust, _distance(node, here), frexp(max(rtt.get(holder, 0.0), _CLOSEST))[1])


def _distance(node: Node, here: Node | None) -> int:
    if here is None or node.region != here.region:
        return 3
    if node.zone != here.zone:
        return 2
    return 0 if node.host == here.host else 1
