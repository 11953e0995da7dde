"""Removes the bytes of dead versions, then their rows: "who holds it" is known until the last holder has answered.

Invariants: I5 no blob is removed while a live row names its version (the row is read again, strictly, before each
removal); a row goes only after every recorded holder has answered that its blobs are gone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.model import BlobId, NodeId, NodeState, State, Version, VersionId
from discloud.errors import DiscloudError, NoSuchVersion, Unavailable
from discloud.ports import Metadata
from discloud.services.bounded import bounded

DEAD = frozenset({State.REPLACED, State.DELETED, State.ABORTED})
"""States whose bytes nobody may read again."""
LIMIT = 500
"""Versions asked for at once; a run goes on until nothing is due."""
WIDTH = 8
"""Versions at once."""
AGAIN = 600.0
"""Seconds until a version is tried again whose holder did not answer, unless that holder is seen alive before."""
HELD_UP = 10_000
"""Versions, at the most, that are remembered to wait for their holders; the queue knows of all."""
FENCE = 86_400.0
"""Seconds from a draft's creation for which its aborted row stays, without bytes, and refuses a writer that was
paused in between: a request lives far shorter. Bytes that it stored late are removed with the row."""


@dataclass(frozen=True, slots=True)
class CollectReport:
    """Versions by outcome.

    Removed with their row; bytes removed but the row kept as a fence; a holder did not answer; the metadata did not
    answer; alive after all.
    """

    collected: int = 0
    fenced: int = 0
    postponed: int = 0
    unknown: int = 0
    alive: int = 0


class Collect:
    """The garbage collector; one of it in a mesh is enough, two do no harm. ``clock`` gives epoch seconds.

    ``again``: seconds until it comes back to a version whose holder did not answer.
    """

    def __init__(
        self, cluster: Cluster, metadata: Metadata, clock: Callable[[], float], again: float = AGAIN
    ) -> None:
        self._cluster = cluster
        self._versions = metadata.versions
        self._queues = metadata.queues
        self._clock = clock
        self._again = again
        self._held_up: dict[VersionId, tuple[Version, frozenset[NodeId]]] = {}

    async def run_once(self) -> CollectReport:
        """Collect what is due, and what waited for holders that are back. Raises: Unavailable (the queue does not answer)."""
        now = self._clock()
        outcomes = Counter(await bounded(WIDTH, self._collect_safely, self._answerable()))
        page = LIMIT
        # What cannot be settled now stays in the queue: the rest waits behind it for the next run.
        while page == LIMIT and not outcomes.keys() & {"unknown", "alive"}:
            due = await self._queues.collectable(now, LIMIT)
            page = len(due)
            outcomes.update(await bounded(WIDTH, self._collect_safely, due))
        metrics.COLLECTED.add(outcomes["collected"])
        return CollectReport(**outcomes)

    def _answerable(self) -> list[Version]:
        """The versions whose holders did not answer and are all alive now."""
        alive = {node.id for node in self._cluster.view.nodes if node.state is NodeState.ALIVE}
        back = [version for version, nodes in self._held_up.values() if nodes <= alive]
        for version in back:
            del self._held_up[version.id]
        return back

    async def _collect_safely(self, version: Version) -> str:
        try:
            return await self._collect(version)
        except DiscloudError as error:
            logs.info("gc_waits", version=version.id, reason=error.code, detail=str(error))
            return "unknown"

    async def _collect(self, listed: Version) -> str:
        """One version. The queue may be behind the row, so the row decides."""
        try:
            version = await self._versions.find(listed.bucket, listed.key, listed.id)
        except NoSuchVersion:
            await self._versions.forget(listed)
            return "collected"
        if version.state not in DEAD:
            logs.error("gc_queue_names_a_live_version", version=version.id, state=version.state.name)
            return "alive"
        now = self._clock()
        if silent := await self._remove_blobs(version):
            await self._queues.postpone(version, now + self._again)
            if len(self._held_up) < HELD_UP:
                self._held_up[version.id] = version, silent
            return "postponed"
        if version.state is State.ABORTED and version.created + FENCE > now:
            await self._queues.postpone(version, version.created + FENCE)
            return "fenced"
        await self._versions.forget(version)
        return "collected"

    async def _remove_blobs(self, version: Version) -> frozenset[NodeId]:
        """The recorded holders that did not answer; the others have definitely nothing left of it. They are asked in turn."""
        silent = {node for blob, node in self._copies(version) if not await self._remove(node, blob)}
        await self._remove_pulled(version)
        return frozenset(silent)

    def _copies(self, version: Version) -> Iterator[tuple[BlobId, NodeId]]:
        """Recorded copies, but those of a node that a person took out of the mesh: nobody can ask it."""
        view = self._cluster.view
        for blob, holders in version.blobs():
            for node in holders:
                known = view.find(node)
                if known is None or known.state is not NodeState.REMOVED:
                    yield blob, node

    async def _remove(self, node: NodeId, blob: BlobId) -> bool:
        if not self._cluster.serving(node):
            return False
        try:
            await self._cluster.blobs(node).delete(blob)
        except Unavailable as error:
            logs.info("gc_holder_unknown", blob=str(blob), holder=node, reason=error.code)
            return False
        return True

    async def _remove_pulled(self, version: Version) -> None:
        """Copies of ``mirror:all`` on nodes that are not recorded; one that cannot be asked removes its own by the log."""
        for segment in version.segments:
            if not segment.layout.everywhere:
                continue
            for node in self._cluster.view.nodes:
                if node.id not in segment.holders[0]:
                    await self._remove(node.id, BlobId(version.id, segment.id, 0))
