"""Works off the repair queue: copies blobs that lack copies, and records who has them now.

Order of every repair: copy, compare with the recorded hash, change the row by compare-and-set, look again at the new copy, and
only then is the entry done. Nothing is ever deleted here. A lost holder stays recorded beside its substitute, so that gc asks it too.
Whatever cannot be found out now is tried again later, ever more rarely.
"""

from __future__ import annotations

from asyncio import gather
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.layout import fragment_length
from discloud.core.model import BlobId, Node, NodeId, NodeState, Repair, Segment, State, Version, VersionId
from discloud.core.placement import HOMES
from discloud.core.read_plan import nearest
from discloud.errors import DiscloudError, NoSuchBlob, NoSuchVersion
from discloud.ports import Metadata
from discloud.services.bounded import bounded
from discloud.services.copy import Labels, copy_from_any
from discloud.services.repair_plan import NOT_COUNTED, Copy, Plan, choose_substitute, new_holders, plan_repair
from discloud.transfer.threads import Threads

LIMIT = 200
"""Repairs per run."""
WIDTH = 4
"""Repairs at once."""
TRIES = 8
"""Compare-and-sets of one row before the entry waits for the next run."""
FIRST, MOST = 10.0, 900.0
"""Seconds until a repair is tried again: as long as it waits already, within these bounds (so the waits double)."""
WANTED = frozenset({State.COMMITTED, State.NONCURRENT, State.TRASH})
"""States whose bytes are worth copying."""
_ENDED = {NodeState.LOST: Copy.AWAY, NodeState.REMOVED: Copy.GONE}


class Outcome(Enum):
    """How a repair ended: copies made; nothing to do (any more); something is unknown yet; no copy is left anywhere."""

    REPAIRED = "repaired"
    NEEDLESS = "needless"
    WAITING = "waiting"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class RepairReport:
    """Entries of the queue by ``Outcome``."""

    repaired: int = 0
    needless: int = 0
    waiting: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class _Case:
    """One look at a blob: its row, its place in it, and what each node that matters says."""

    version: Version
    segment: Segment
    blob: BlobId
    named: tuple[NodeId, ...]
    found: dict[NodeId, Copy]

    @property
    def recorded(self) -> tuple[NodeId, ...]:
        return self.segment.holders[self.blob.fragment]

    def keeps_another_fragment(self, node: NodeId) -> bool:
        """Whether ``node`` may not have this fragment because it has another one of the segment (invariant I12)."""
        holders = (nodes for f, nodes in enumerate(self.segment.holders) if f != self.blob.fragment)
        return node not in self.recorded and any(node in nodes for nodes in holders)

    @property
    def everywhere(self) -> bool:
        return self.segment.layout.everywhere

    @property
    def wanted(self) -> int:
        return HOMES if self.everywhere else self.segment.layout.copies

    @property
    def hash(self) -> bytes:
        return self.segment.hashes[self.blob.fragment]

    @property
    def length(self) -> int:
        return fragment_length(self.segment.layout, self.segment.length, self.blob.fragment)

    def plan(self) -> Plan:
        return plan_repair(self.recorded, self.named, self.found, self.wanted, everywhere=self.everywhere)


class Repairs:
    """The repair worker; one in a mesh is enough, two cost work but no data. ``clock`` gives epoch seconds.

    ``draw(n)`` gives a random 0..n-1; nodes above ``full`` of their capacity are not chosen; copies flow through ``threads``.
    """

    def __init__(
        self,
        cluster: Cluster,
        metadata: Metadata,
        threads: Threads,
        clock: Callable[[], float],
        draw: Callable[[int], int],
        full: float = 0.90,
    ) -> None:
        self._cluster = cluster
        self._versions = metadata.versions
        self._queues = metadata.queues
        self._labels = Labels(cluster.mesh, metadata.buckets)
        self._threads = threads
        self._clock = clock
        self._draw = draw
        self._full = full

    async def run_once(self) -> RepairReport:
        """Work on up to ``LIMIT`` entries that are due. Raises: Unavailable (the queue does not answer)."""
        versions: dict[VersionId, list[Repair]] = {}
        for repair in await self._queues.repairs(self._clock(), LIMIT):
            versions.setdefault(repair.blob.version, []).append(repair)
        groups = await bounded(WIDTH, self._work_on_version, versions.values())
        return RepairReport(**Counter(outcome.value for group in groups for outcome in group))

    async def _work_on_version(self, repairs: Sequence[Repair]) -> list[Outcome]:
        """The entries of one version, one after another: each changes the same row."""
        return [await self._work(repair) for repair in repairs]

    async def _work(self, repair: Repair) -> Outcome:
        """One entry: mend it, then take it off the queue or let it wait. A failure leaves it in the queue."""
        try:
            outcome = await self._mend(repair)
        except DiscloudError as error:
            logs.info("repair_waits", blob=str(repair.blob), reason=error.code, detail=str(error))
            outcome = Outcome.WAITING
        try:
            if outcome in {Outcome.REPAIRED, Outcome.NEEDLESS}:
                await self._queues.repaired(repair)
            else:
                await self._queues.add_repairs([replace(repair, not_before=self._later(repair))])
        except DiscloudError as error:
            logs.info("repair_queue_unknown", blob=str(repair.blob), reason=error.code)
        return outcome

    def _later(self, repair: Repair) -> float:
        now = self._clock()
        return now + min(max(now - repair.since, FIRST), MOST)

    async def _mend(self, repair: Repair) -> Outcome:
        """Repair one blob; a row that moved meanwhile is read again, and the copies made so far count."""
        named = repair.missing
        for _ in range(TRIES):
            case = await self._look(repair, named)
            if isinstance(case, Outcome):
                return case
            outcome, made = await self._attempt(case)
            if outcome is not None:
                return outcome
            named = tuple(dict.fromkeys((*named, *made)))
        return Outcome.WAITING

    # ------------------------------------------------------------ looking

    async def _look(self, repair: Repair, named: tuple[NodeId, ...]) -> _Case | Outcome:
        """The case as it is now, or the outcome where there is nothing to copy."""
        try:
            version = await self._versions.find(repair.bucket, repair.key, repair.blob.version)
        except NoSuchVersion:
            return Outcome.NEEDLESS
        if version.state is State.DRAFT:
            return Outcome.WAITING
        segment = next((each for each in version.segments if each.id == repair.blob.segment), None)
        if version.state not in WANTED or segment is None or repair.blob.fragment >= len(segment.holders):
            return Outcome.NEEDLESS
        case = _Case(version, segment, repair.blob, named, {})
        found = await self._ask((*case.recorded, *named), case)
        if case.everywhere and Copy.PRESENT not in found.values():
            others = (node.id for node in self._cluster.view.nodes if node.id not in found)
            found |= await self._ask(tuple(others), case)
        return replace(case, found=found)

    async def _ask(self, nodes: tuple[NodeId, ...], case: _Case) -> dict[NodeId, Copy]:
        nodes = tuple(dict.fromkeys(nodes))
        copies = await gather(*(self._copy_on(node, case) for node in nodes))
        return dict(zip(nodes, copies, strict=True))

    async def _copy_on(self, node: NodeId, case: _Case) -> Copy:
        """What is known of the copy on ``node``. Only a definite answer is PRESENT or ABSENT."""
        known = self._cluster.view.find(node)
        if case.keeps_another_fragment(node):
            return Copy.GONE
        if known is not None and known.state in _ENDED:
            return _ENDED[known.state]
        if known is None or not self._cluster.serving(node):
            return Copy.UNKNOWN
        try:
            stored = await self._cluster.blobs(node).stat(case.blob)
        except NoSuchBlob:
            return Copy.ABSENT if self._can_take(known, case) else Copy.GONE
        except DiscloudError:
            return Copy.UNKNOWN
        if (stored.length, stored.hash) == (case.length, case.hash):
            return Copy.PRESENT
        logs.error("blob_differs_from_its_record", blob=str(case.blob), holder=node)
        return Copy.UNKNOWN

    def _can_take(self, node: Node, case: _Case) -> bool:
        """Whether a copy may be made there; a node that is being drained keeps what is recorded, but gets nothing new."""
        room = node.used + node.reserved + case.length <= self._full * node.capacity
        leaves = node.state is NodeState.DRAINING and node.id not in case.recorded
        return room and not node.read_only and not leaves

    # ------------------------------------------------------------ copying

    async def _attempt(self, case: _Case) -> tuple[Outcome | None, tuple[NodeId, ...]]:
        """Make the copies that are missing and record them; None = the row moved, look again. Also the nodes copied to."""
        plan = case.plan()
        if not plan.sources:
            return self._without_source(case), ()
        chosen = self._choose(case, plan)
        lacking = tuple(node for node in plan.adopt if case.found[node] is Copy.ABSENT)
        targets = (*plan.refill, *lacking, *chosen)
        short = plan.waits or (len(chosen) < plan.extra and not case.everywhere)
        made = tuple([node for node in targets if await self._copy(case, plan, node)])
        added = tuple(node for node in (*plan.adopt, *chosen) if node in made or node not in lacking + chosen)
        holders = new_holders(case.recorded, case.found, added, case.wanted)
        if holders != case.recorded and not await self._versions.relocate(case.version, case.blob, holders):
            return None, made
        for node in dict.fromkeys((*made, *added)):
            await self._confirm(case, node)
        metrics.REPAIRED.add(len(made))
        if short or len(made) < len(targets):
            return Outcome.WAITING, made
        return (Outcome.REPAIRED if made or holders != case.recorded else Outcome.NEEDLESS), made

    @staticmethod
    def _without_source(case: _Case) -> Outcome:
        """Nobody has the blob now: it is lost only if every node has definitely said so."""
        if Copy.UNKNOWN in case.found.values():
            return Outcome.WAITING
        logs.error("blob_lost", blob=str(case.blob), bucket=case.version.bucket, key=case.version.key)
        return Outcome.LOST

    def _choose(self, case: _Case, plan: Plan) -> tuple[NodeId, ...]:
        """Up to ``plan.extra`` further nodes; fewer where no more are eligible."""
        chosen: list[NodeId] = []
        kept = [node for node in case.recorded if case.found[node] not in NOT_COUNTED]
        while len(chosen) < plan.extra:
            near = (*kept, *case.named, *chosen)
            node = choose_substitute(
                case.segment, near, case.length, self._cluster.planned(), self._draw, self._full
            )
            if node is None:
                break
            chosen.append(node)
        return tuple(chosen)

    async def _copy(self, case: _Case, plan: Plan, target: NodeId) -> bool:
        """Copy to one node from the nearest source; False (and logged) when it did not work out now."""
        label = await self._labels.of(case.version, case.segment)
        sources = nearest(
            plan.sources, self._cluster.view, self._cluster.me, self._cluster.rtt.seconds, self._draw
        )
        blobs = self._cluster.blobs(target)
        self._cluster.promise(target, case.length)
        try:
            await copy_from_any(self._cluster, sources, blobs, case.blob, label, case.hash, self._threads)
        except DiscloudError as error:
            logs.info("repair_copy_failed", blob=str(case.blob), target=target, reason=error.code)
            return False
        return True

    async def _confirm(self, case: _Case, node: NodeId) -> None:
        """Read of the new copy after it is recorded. Raises: NoSuchBlob, Corrupt, Unavailable (then the entry stays).

        The read counts as a touch: a sweep that looked at the row before it named ``node`` leaves the blob alone.
        """
        await self._cluster.blobs(node).fetch(case.blob, 0, 1)
