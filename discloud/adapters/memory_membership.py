"""Membership of a root that is alone: it hears the beats itself and keeps them in memory.

Owns the beats of all nodes; the view is judged anew at every beat, the root's own included, so it is at most one
heartbeat old. Runs on the event loop, nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from discloud.core.liveness import Heard, Thresholds, hear, judge
from discloud.core.model import Node, NodeId, NodeState, View


class MemoryMembership:
    """The ``Membership`` port. ``clock`` gives seconds that never go back.

    The root's own beat is one of those it hears, so a stretch without any beat is a stretch in which the root
    itself did not run: what exceeds two thirds of ``thresholds.suspect`` is taken off everybody's silence.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, thresholds: Thresholds | None = None
    ) -> None:
        self._clock = clock
        self._thresholds = thresholds or Thresholds()
        self._heard: dict[NodeId, Heard] = {}
        self._left: set[NodeId] = set()
        self._began = self._last = clock()
        self._epoch = 0
        self._states: dict[NodeId, NodeState] = {}

    async def announce(self, me: Node) -> View:
        """See ``Membership.announce``. A beat that was overtaken by a later one changes nothing."""
        now = self._advance()
        known = self._heard.get(me.id)
        if known is None or not self._overtaken(known, me, now):
            # Who said goodbye has not failed: it is believed at once when it is back.
            before = None if me.id in self._left else known
            self._left.discard(me.id)
            self._heard[me.id] = hear(before, me, now, 0.0, self._thresholds)
        return self._view(now)

    async def leave(self, node: NodeId) -> None:
        """See ``Membership.leave``. A node that nobody heard of is not there anyway."""
        now = self._advance()
        if (heard := self._heard.get(node)) is not None:
            gone = replace(heard.node, state=NodeState.ALIVE)  # a drain ends with the process
            self._heard[node] = replace(heard, node=gone, at=min(heard.at, now - self._thresholds.down))
            self._left.add(node)

    def _advance(self) -> float:
        """The time now, after a stall of this process was forgiven to all."""
        now = self._clock()
        elapsed, self._last = now - self._last, now
        stalled = max(0.0, elapsed - self._thresholds.suspect * 2 / 3)
        if stalled:
            self._heard = {node: replace(each, at=each.at + stalled) for node, each in self._heard.items()}
        return now

    def _overtaken(self, known: Heard, me: Node, now: float) -> bool:
        """Whether a later beat or its goodbye was heard; long silence ends it: a data folder may have been put back."""
        left, beat = me.id in self._left, (me.incarnation, me.beat)
        patience = self._thresholds.suspect + (self._thresholds.down if left else 0.0)
        last = (known.node.incarnation, known.node.beat)
        return now - known.at < patience and (beat <= last if left else beat < last)

    def _view(self, now: float) -> View:
        nodes = judge(self._heard.values(), now, 0.0, now - self._began, self._thresholds)
        states = {node.id: node.state for node in nodes}
        if states != self._states:
            self._epoch += 1
            self._states = states
        return View(self._epoch, nodes)
