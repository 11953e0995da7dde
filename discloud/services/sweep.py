"""Ends what writers left behind: drafts over their lease (the leader), and blobs on this disk that no row names.

Time only says when to look; whether a blob may go is said by its version's row alone, read strictly. Invariants: I5 no
blob is removed while a live row names its version; I6 what this aborts can never be committed; an answer that is not
definite removes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.model import BlobId, NodeId, Repair, Seal, State, Stored, Version
from discloud.errors import DiscloudError, NoSuchBlob, NoSuchVersion
from discloud.gateway.seals import seal_of
from discloud.ports import Metadata
from discloud.services.bounded import bounded

LIVE = frozenset({State.COMMITTED, State.NONCURRENT})
"""States in which the row's holders are the truth about who shall have the bytes."""
LIMIT = 500
"""Drafts per run."""
BATCH = 256
"""Blobs that are held in memory at once."""
WIDTH = 8
"""Versions asked for at once."""


@dataclass(frozen=True, slots=True)
class SweepReport:
    """Drafts aborted; blobs sealed, removed, left (a draft under way, gc's, or touched meanwhile), and unknown (no answer)."""

    aborted: int = 0
    sealed: int = 0
    removed: int = 0
    left: int = 0
    unknown: int = 0


class Sweep:
    """The sweeper of one node. ``orphan_age``: seconds before a blob that nobody sealed is looked at.

    While ``leads()`` this node also ends expired drafts. ``clock`` gives epoch seconds.
    """

    def __init__(
        self,
        cluster: Cluster,
        metadata: Metadata,
        clock: Callable[[], float],
        orphan_age: float,
        leads: Callable[[], bool],
    ) -> None:
        self._cluster = cluster
        self._versions = metadata.versions
        self._queues = metadata.queues
        self._clock = clock
        self._orphan_age = orphan_age
        self._leads = leads

    async def run_once(self) -> SweepReport:
        """One look at everything that is due. Raises: Unavailable (the queue or the own disk does not answer)."""
        counts: Counter[str] = Counter()
        if self._leads():
            await self._end_drafts(counts)
        batch: list[Stored] = []
        async for stored in self._cluster.local.unsealed(self._clock() - self._orphan_age):
            batch.append(stored)
            if len(batch) == BATCH:
                await self._judge(batch, counts)
                batch.clear()
        await self._judge(batch, counts)
        return SweepReport(**counts)

    # ------------------------------------------------------------ drafts

    async def _end_drafts(self, counts: Counter[str]) -> None:
        """Abort drafts over their lease; their rows become due for gc, which removes the bytes."""
        expired = await self._queues.expired(self._clock(), LIMIT)
        outcomes = await bounded(WIDTH, self._end_draft, expired)
        counts.update(each for each in outcomes if each)
        metrics.SWEPT.add(outcomes.count("aborted"))

    async def _end_draft(self, draft: Version) -> str:
        try:
            return "aborted" if await self._versions.abort(draft) else ""
        except DiscloudError as error:
            logs.info("sweep_waits", version=draft.id, reason=error.code)
            return "unknown"

    # ------------------------------------------------------------ blobs

    async def _judge(self, blobs: Iterable[Stored], counts: Counter[str]) -> None:
        """Ask once per version, after the touch counts of its blobs were noted (they are in ``blobs``)."""
        versions: dict[tuple[str, str, str], list[Stored]] = {}
        for stored in blobs:
            versions.setdefault((stored.bucket, stored.key, stored.blob.version), []).append(stored)
        seals: list[Seal] = []
        for outcomes, seal in await bounded(WIDTH, self._judge_version, versions.values()):
            counts.update(outcomes)
            if seal is not None:
                seals.append(seal)
        if seals:
            await self._cluster.local.seal(seals)

    async def _judge_version(self, found: Sequence[Stored]) -> tuple[list[str], Seal | None]:
        """What happened to each blob of one version, and the seal that it has earned."""
        if not found[0].bucket:
            logs.warn("blob_without_label", blob=str(found[0].blob))
            return ["unknown"] * len(found), None
        try:
            version = await self._settled(found[0])
            outcomes = [await self._judge_blob(version, stored) for stored in found]
        except DiscloudError as error:
            logs.info("sweep_waits", version=found[0].blob.version, reason=error.code)
            return ["unknown"] * len(found), None
        return outcomes, seal_of(version) if "sealed" in outcomes else None

    async def _settled(self, stored: Stored) -> Version:
        """The row of a blob's version, after what can never be committed any more was made so."""
        draft = _draft_of(stored)
        try:
            version = await self._versions.find(draft.bucket, draft.key, draft.id)
        except NoSuchVersion:
            version = draft
        if version.state is not State.DRAFT or version.due > self._clock():
            return version
        if await self._versions.abort(version):
            return replace(version, state=State.ABORTED)
        # It was committed after all, perhaps under another key since: the next run reads what became of it.
        return replace(version, state=State.MOVED)

    async def _judge_blob(self, version: Version, stored: Stored) -> str:
        if version.state in LIVE:
            if names(version, stored.blob, self._cluster.me):
                return "sealed"
            outcome = await self._remove(stored)
            await self._look_again(stored)
            return outcome
        if version.state is State.ABORTED:
            return await self._remove(stored)
        # A draft under way, or a dead version: gc removes that one from its recorded holders when it is due.
        dead = version.state in {State.REPLACED, State.DELETED} and version.due <= self._clock()
        return await self._remove(stored) if dead else "left"

    async def _remove(self, stored: Stored) -> str:
        """Remove a blob unless somebody read or wrote it since its row was asked for."""
        local = self._cluster.local
        try:
            now = await local.stat(stored.blob)
        except NoSuchBlob:
            return "left"
        if now.touched != stored.touched:
            return "left"
        await local.delete(stored.blob)
        logs.info("orphan_removed", blob=str(stored.blob), bucket=stored.bucket, key=stored.key)
        return "removed"

    async def _look_again(self, stored: Stored) -> None:
        """A relocation may have named this node between the first look and the removal: then the blob is copied again."""
        try:
            version = await self._versions.find(stored.bucket, stored.key, stored.blob.version)
        except NoSuchVersion:
            return
        me = self._cluster.me
        if version.state in LIVE and names(version, stored.blob, me):
            now = self._clock()
            await self._queues.add_repairs([Repair(stored.bucket, stored.key, stored.blob, (me,), now)])


def names(version: Version, blob: BlobId, node: NodeId) -> bool:
    """Whether ``version``'s row says that ``node`` shall have ``blob``; a ``mirror:all`` version says it of every node."""
    return any(
        segment.layout.everywhere or node in segment.holders[blob.fragment]
        for segment in version.segments
        if segment.id == blob.segment and blob.fragment < len(segment.holders)
    )


def _draft_of(stored: Stored) -> Version:
    """The draft that a blob without a row may have belonged to, long over its lease."""
    return Version(stored.bucket, stored.key, stored.blob.version, State.DRAFT, 0, (), created=stored.created)
