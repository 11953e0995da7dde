"""Says each second that this node lives, and learns who else does.

Owns the cluster's view and its clock's offset: nothing else replaces them. When no root answers, the last view stays in
force (DESIGN section 4) and ``last_success`` grows old, which readiness shows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from discloud import logs
from discloud.cluster import Cluster
from discloud.core.model import Node, NodeState
from discloud.errors import Unavailable
from discloud.ports import Membership

EXACT = 1.0
"""Seconds that a beat may take for the answer's time to be believed: half of them is how wrong it can be read."""


@dataclass(frozen=True, slots=True)
class HeartbeatReport:
    """Whether a root answered, and what the view in force counts."""

    heard: bool
    nodes: int
    alive: int


class Heartbeat:
    """One beat per run. ``describe`` gives this node as it is (addresses, incarnation); beat and fill are added here.

    ``clock`` gives epoch seconds; ``last_success`` is when a root last answered, by it; None = not yet since the start.
    """

    def __init__(
        self,
        cluster: Cluster,
        membership: Membership,
        describe: Callable[[], Awaitable[Node]],
        clock: Callable[[], float],
    ) -> None:
        self._cluster = cluster
        self._membership = membership
        self._describe = describe
        self._clock = clock
        self._beat = 0
        self._silent = False
        self._off = False
        self._unmeasured = False
        self.last_success: float | None = None

    async def run_once(self) -> HeartbeatReport:
        """Announce this node and take over the view. No answer is no failure: the report says so."""
        self._beat += 1
        node = replace(await self._filled(await self._describe()), beat=self._beat)
        sent = self._clock()
        try:
            view = await self._membership.announce(node)
        except Unavailable as error:
            self._note(heard=False, detail=str(error))
            return self._report(heard=False)
        self._cluster.update(view)
        self.last_success = received = self._clock()
        if view.time and 0 <= received - sent <= EXACT:
            self._compare_clocks(view.time - (sent + received) / 2)
        self._note(heard=True)
        return self._report(heard=True)

    async def _filled(self, node: Node) -> Node:
        """``node`` with its disk's fill; a disk that does not answer takes no new blobs."""
        try:
            usage = await self._cluster.local.usage()
        except Unavailable as error:
            if not self._unmeasured:
                logs.warn("usage_unknown", detail=str(error))
            self._unmeasured = True
            return replace(node, read_only=True)
        if self._unmeasured:
            logs.info("usage_known_again")
        self._unmeasured = False
        return replace(
            node,
            capacity=usage.capacity,
            used=usage.used,
            reserved=usage.reserved,
            free=usage.free,
            blobs=usage.blobs,
            read_only=node.read_only or usage.read_only,
        )

    def _note(self, *, heard: bool, detail: str = "") -> None:
        """Log the change, not every second of it."""
        if heard and self._silent:
            logs.info("roots_answer_again")
        elif not heard and not self._silent:
            logs.warn("no_root_answers", detail=detail, view=self._cluster.view.epoch)
        self._silent = not heard

    def _compare_clocks(self, offset: float) -> None:
        """Keep by how much the mesh is ahead of this node; told when that becomes too much and when it ends."""
        self._cluster.clock_offset = offset
        off, self._off = self._off, self._cluster.clock_is_off
        side = "behind" if offset > 0 else "ahead of"
        if self._off and not off:
            logs.error(
                "clock_is_off",
                offset=round(offset, 3),
                detail=f"this node's clock is {abs(offset):.1f} s {side} the mesh: writes are refused here until it is right",
                hint="check NTP",
            )
        elif off and not self._off:
            logs.info("clock_is_right_again", offset=round(offset, 3))

    def _report(self, *, heard: bool) -> HeartbeatReport:
        nodes = self._cluster.view.nodes
        return HeartbeatReport(heard, len(nodes), sum(each.state is NodeState.ALIVE for each in nodes))
