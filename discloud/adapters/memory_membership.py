"""Membership of a root: it hears beats itself, other roots tell it theirs, and it judges by both.

Owns the last beat of every node. Beats of a node are ordered by (incarnation, goodbye, beat): the highest wins, wherever it was
heard, so that roots which tell each other everything agree, in any order of telling. A beat that is told again is not
heard again. Runs on the event loop, nothing waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from discloud.core.liveness import Heard, Thresholds, hear, judge
from discloud.core.mesh_time import ClockVotes
from discloud.core.model import Beat, Node, NodeId, NodeState, View

LOOK = 1 / 20
"""Share of ``Thresholds.suspect`` after which all nodes are judged anew; until then only those that something was heard of."""


@dataclass(frozen=True, slots=True)
class _Known:
    """The last beat of a node. ``heard.at`` is lenient (stalls of this root are taken off), ``at`` is when it was really heard.

    ``here``: this root heard it itself. ``left``: it was a goodbye.
    """

    heard: Heard
    at: float
    here: bool
    left: bool = False

    @property
    def order(self) -> tuple[int, bool, int]:
        return self.heard.node.incarnation, self.left, self.heard.node.beat


class MemoryMembership:
    """The ports ``Membership`` and ``Gossip``. ``clock`` gives seconds that never go back, ``wall`` epoch seconds.

    Something is heard at least once in a heartbeat's period (the root's own beat), so a stretch without anything is one in
    which the root itself did not run: what exceeds two thirds of ``thresholds.suspect`` is taken off everybody's silence.
    ``votes`` are what other parts found out about other clocks; the view's time follows them.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        thresholds: Thresholds | None = None,
        wall: Callable[[], float] = time.time,
        votes: ClockVotes | None = None,
    ) -> None:
        self._clock = clock
        self._thresholds = thresholds or Thresholds()
        self._wall = wall
        self._votes = votes or ClockVotes()
        self._known: dict[NodeId, _Known] = {}
        self._began = self._last = clock()
        self._stalled = 0.0
        self._stall = (self._began, self._began - self._thresholds.suspect)
        self._nodes: dict[NodeId, Node] = {}
        self._changed: set[NodeId] = set()
        self._looked = self._began - self._thresholds.suspect
        self._epoch = 0

    async def announce(self, me: Node) -> View:
        """See ``Membership.announce``. A beat that was overtaken by a later one changes nothing."""
        now = self._advance()
        self._hear(Beat(me, 0.0), now, self._surely(now), here=True)
        return self.view()

    async def leave(self, node: NodeId) -> None:
        """See ``Membership.leave``. A node that nobody heard of is not there anyway."""
        now = self._advance()
        if (known := self._known.get(node)) is not None:
            gone = replace(known.heard.node, state=NodeState.ALIVE)  # a drain ends with the process
            self._hear(Beat(gone, 0.0, left=True), now, now, here=True)

    async def exchange(self, beats: Sequence[Beat]) -> tuple[Beat, ...]:
        """See ``Gossip.exchange``."""
        self.take(beats)
        return self.tell()

    def take(self, beats: Iterable[Beat]) -> None:
        """Take over what another root heard, ``age`` seconds ago."""
        now = self._advance()
        for beat in beats:
            self._hear(beat, now, self._surely(now) - max(0.0, beat.age), here=False)

    def tell(self, *, here: bool = False) -> tuple[Beat, ...]:
        """What is known of every node, or only what this root heard itself (``here``)."""
        now, wall = self._clock(), self._wall()
        return tuple(
            Beat(known.heard.node, now - known.at, known.left, wall)
            for known in self._known.values()
            if known.here or not here
        )

    def view(self) -> View:
        """The nodes as of now. Nearly all that ask ask a moment after another: then only what changed is judged."""
        now = self._advance()
        if now - self._looked >= self._thresholds.suspect * LOOK:
            self._looked = now
            self._changed = set(self._known)
        lenient = now - self._stalled
        heard = [self._known[node].heard for node in self._known if node in self._changed]
        judged = judge(heard, lenient, 0.0, lenient - self._began, self._thresholds)
        self._changed = set()
        if any(node.id not in self._nodes or self._nodes[node.id].state != node.state for node in judged):
            self._epoch += 1
        self._nodes |= {node.id: node for node in judged}
        return View(self._epoch, tuple(self._nodes.values()), self._wall() + self._votes.offset(now))

    def _advance(self) -> float:
        """The time now, after a stall of this process was forgiven to all."""
        now = self._clock()
        before, self._last = self._last, now
        stalled = now - before - self._thresholds.suspect * 2 / 3
        if stalled > 0:
            self._stalled += stalled
            self._stall = (before, now)
            self._looked = before
        return now

    def _surely(self, now: float) -> float:
        """When what comes now was surely said: right after a stall it may have waited all the time."""
        began, ended = self._stall
        return began if now - ended < self._thresholds.suspect / 10 else now

    def _hear(self, beat: Beat, now: float, at: float, *, here: bool) -> None:
        """Fold in a beat that was heard ``at``, unless a later one of its node is known."""
        known = self._known.get(beat.node.id)
        if known is not None and not self._is_later(beat, at, known):
            return
        lenient = now - self._stalled - max(0.0, beat.age)
        # Who said goodbye has not failed: it is believed at once when it is back.
        before = None if known is None or known.left else known.heard
        if beat.left:
            last = before.at if before else lenient
            heard = replace(before or Heard(beat.node, last), node=beat.node)
            heard = replace(heard, at=min(last, lenient, now - self._stalled - self._thresholds.down))
        else:
            heard = hear(before, beat.node, lenient, 0.0, self._thresholds)
        self._known[beat.node.id] = _Known(heard, at, here, beat.left)
        self._changed.add(beat.node.id)

    def _is_later(self, beat: Beat, at: float, known: _Known) -> bool:
        """Whether the beat is the node's last. Long silence counts for more than the numbers: a data folder may have been put back."""
        patience = self._thresholds.suspect + (self._thresholds.down if known.left else 0.0)
        if abs(at - known.at) >= patience:
            return at > known.at
        return (beat.node.incarnation, beat.left, beat.node.beat) > known.order
