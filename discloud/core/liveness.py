"""How a root judges the others by their heartbeats (DESIGN section 4).

A root keeps one ``Heard`` per node and folds every beat in with ``hear``; ``judge`` turns them into the view's nodes.
Times are seconds of one monotonic or epoch clock. ``stalled`` are the seconds that the root itself did not run
(its loop lagged): whatever it did not hear meanwhile is its own fault, so they are added to every deadline.
People's states (DRAINING, REMOVED) are never overruled.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from discloud.core.model import Node, NodeState

_MAX_FLAPS = 5
"""Flaps beyond which a node has no more beats to show: 3, doubled four times, are 48."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Seconds of silence until a node is SUSPECT, DOWN, LOST; ``steady`` beats until one that came back is ALIVE."""

    suspect: float = 3.0
    down: float = 10.0
    lost: float = 900.0
    steady: int = 3


@dataclass(frozen=True, slots=True)
class Heard:
    """The last beat of a node, heard ``at``, and how its present run of unbroken beats came about.

    The run began ``since`` and has ``beats`` so far; ``flaps`` counts the silences before it that followed each other
    too closely. A node that has never been away has none and is believed at once.
    """

    node: Node
    at: float
    since: float = 0.0
    beats: int = 0
    flaps: int = 0


def hear(before: Heard | None, node: Node, at: float, stalled: float, thresholds: Thresholds) -> Heard:
    """What is known of a node after its beat; ``before`` is what was known, None = nothing.

    Silence of ``suspect`` seconds breaks the run of beats; a run as long as ``lost`` lets its flaps be forgotten.
    """
    if before is None:
        return Heard(node, at, since=at, beats=1)
    if at - before.at - stalled < thresholds.suspect:
        return replace(before, node=node, at=at, beats=before.beats + 1)
    calm = before.at - before.since >= thresholds.lost
    return Heard(node, at, since=at, beats=1, flaps=1 if calm else min(before.flaps + 1, _MAX_FLAPS))


def judge(
    heard: Iterable[Heard], now: float, stalled: float, running: float, thresholds: Thresholds
) -> tuple[Node, ...]:
    """The nodes with their states as of ``now``, in the order given.

    A node that came back stays SUSPECT for ``steady`` beats, twice as many for each further flap. None is LOST
    before the root itself has been ``running`` for that long.
    """
    return tuple(_judged(each, now - each.at - stalled, running - stalled, thresholds) for each in heard)


def _judged(heard: Heard, age: float, running: float, thresholds: Thresholds) -> Node:
    state = heard.node.state
    if state not in (NodeState.DRAINING, NodeState.REMOVED):
        state = _state(heard, age, running, thresholds)
    return heard.node if state is heard.node.state else replace(heard.node, state=state)


def _state(heard: Heard, age: float, running: float, thresholds: Thresholds) -> NodeState:
    if age >= thresholds.lost and running >= thresholds.lost:
        return NodeState.LOST
    if age >= thresholds.down:
        return NodeState.DOWN
    if age >= thresholds.suspect or not _steady(heard, thresholds):
        return NodeState.SUSPECT
    return NodeState.ALIVE


def _steady(heard: Heard, thresholds: Thresholds) -> bool:
    return not heard.flaps or heard.beats >= thresholds.steady * 2 ** (heard.flaps - 1)
