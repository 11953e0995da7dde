"""Keeps this node's copies of ``mirror:all`` versions: follows the ``all`` log from where it was, near holders first.

Invariants: the saved cursor never passes an entry that is not done, nor the moment from which on entries may still come in
between; an entry is done again without harm (what is here is not copied, what is gone is not removed). A copy that is recorded
(a home copy) is never removed here: gc does that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.model import BlobId, NodeId, Segment, SegmentId, State, Version, VersionId
from discloud.core.read_plan import nearest
from discloud.errors import DiscloudError, NoSuchBlob, NoSuchVersion
from discloud.gateway.seals import seal_of
from discloud.ports import LATE, LogEntry, Metadata
from discloud.services.bounded import bounded
from discloud.services.copy import Labels, copy_from_any
from discloud.services.gc import DEAD
from discloud.transfer.threads import Threads

PAGE = 200
"""Entries read at once."""
WIDTH = 4
"""Versions copied at once."""
OPEN = 1000
"""Entries that could not be done yet, at the most; beyond, no further entries are read."""
HELD = frozenset({State.COMMITTED, State.NONCURRENT})
"""States of which a copy belongs here."""


class Cursor(Protocol):
    """Where this node is in the log. A position that is lost costs work, never data."""

    async def load(self) -> int:
        """Up to which number every entry is done, 0 on a new node."""

    async def save(self, number: int) -> None:
        """Every entry up to ``number`` is done."""


@dataclass(frozen=True, slots=True)
class PullReport:
    """Entries done and entries that wait; blobs copied here and blobs removed here."""

    entries: int = 0
    waiting: int = 0
    pulled: int = 0
    removed: int = 0


class Pull:
    """The puller of one node. ``draw(n)`` gives a random 0..n-1; copies flow through ``threads``; ``clock`` gives epoch seconds."""

    def __init__(
        self,
        cluster: Cluster,
        metadata: Metadata,
        cursor: Cursor,
        threads: Threads,
        draw: Callable[[int], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._versions = metadata.versions
        self._queues = metadata.queues
        self._labels = Labels(cluster.mesh, metadata.buckets)
        self._cursor = cursor
        self._threads = threads
        self._draw = draw
        self._clock = clock
        self._settled: int | None = None
        self._saved = 0
        self._seen: set[LogEntry] = set()
        self._open: set[LogEntry] = set()

    async def run_once(self) -> PullReport:
        """Try again what waits, then follow the log to its end. Raises: Unavailable (the log does not answer)."""
        if self._settled is None:
            self._settled = self._saved = await self._cursor.load()
        counts: Counter[str] = Counter()
        await self._work(sorted(self._open, key=attrgetter("number")), counts)
        read = self._settled
        while len(self._open) < OPEN and (page := await self._queues.log(read, PAGE)):
            # Page by page: what removes a version comes after what brought it here is done.
            await self._work([entry for entry in page if entry not in self._seen], counts)
            read = page[-1].number
            self._settle(page)
            await self._save(self._settled)
        await self._save(self._settled)
        metrics.PULLED.add(counts["pulled"])
        return PullReport(**counts, waiting=len(self._open))

    def _settle(self, page: Sequence[LogEntry]) -> None:
        """Go on, but not past the moment from which on others may come in between; those behind it are remembered."""
        last = min(page[-1].number, int((self._clock() - LATE) * 1_000_000))
        self._settled = settled = max(last, self._settled or 0)
        self._seen = {entry for entry in (*self._seen, *page) if entry.number > settled}

    async def _save(self, settled: int) -> None:
        done = min(settled, min((entry.number - 1 for entry in self._open), default=settled))
        if done > self._saved:
            await self._cursor.save(done)
            self._saved = done

    async def _work(self, entries: Sequence[LogEntry], counts: Counter[str]) -> None:
        for outcome in await bounded(WIDTH, self._apply, entries):
            counts.update(outcome)

    async def _apply(self, entry: LogEntry) -> dict[str, int]:
        """What was done; an entry that fails waits for the next run."""
        try:
            if entry.removed:
                outcome = {"removed": await self._drop(entry)}
            else:
                outcome = {"pulled": await self._bring(entry)}
        except DiscloudError as error:
            self._open.add(entry)
            logs.info("pull_waits", version=entry.version, reason=error.code, detail=str(error))
            return {}
        self._open.discard(entry)
        return {"entries": 1, **outcome}

    # ------------------------------------------------------------ copies come

    async def _bring(self, entry: LogEntry) -> int:
        """Copy here what of the version is not here yet; returns the blobs copied."""
        try:
            version = await self._versions.find(entry.bucket, entry.key, entry.version)
        except NoSuchVersion:
            return 0
        if version.state not in HELD:
            return 0
        copied = 0
        for segment in version.segments:
            if segment.layout.everywhere:
                copied += await self._bring_segment(version, segment)
        if copied:
            await self._cluster.local.seal([seal_of(version)])
        return copied

    async def _bring_segment(self, version: Version, segment: Segment) -> int:
        blob = BlobId(version.id, segment.id, 0)
        local = self._cluster.local
        try:
            await local.stat(blob)
        except NoSuchBlob:
            pass
        else:
            return 0
        homes = [node for node in segment.holders[0] if node != self._cluster.me]
        sources = nearest(homes, self._cluster.view, self._cluster.me, self._cluster.rtt.seconds, self._draw)
        serving = [node for node in sources if self._cluster.serving(node)]
        label = await self._labels.of(version, segment)
        await copy_from_any(self._cluster, serving, local, blob, label, segment.hashes[0], self._threads)
        return 1

    # ------------------------------------------------------------ copies go

    async def _drop(self, entry: LogEntry) -> int:
        """Remove the version's blobs from here, but for recorded ones; returns the blobs removed."""
        here = await self._here(entry.version)
        if not here:
            return 0
        version = await self._dead(entry)
        if version is None:
            return 0
        going = [blob for blob in here if not _recorded(version, blob, self._cluster.me)]
        for blob in going:
            await self._cluster.local.delete(blob)
        return len(going)

    async def _dead(self, entry: LogEntry) -> Version | None:
        """The row of a version that is dead for certain, else None. Without a row the abort says whether it lives elsewhere."""
        absent = Version(entry.bucket, entry.key, entry.version, State.DRAFT, 0, ())
        try:
            version = await self._versions.find(entry.bucket, entry.key, entry.version)
        except NoSuchVersion:
            return absent if await self._versions.abort(absent) else None
        return version if version.state in DEAD else None

    async def _here(self, version: VersionId) -> list[BlobId]:
        """This disk's blobs of the version (segment ids are random 64-bit numbers, never 0)."""
        blobs: list[BlobId] = []
        async for stored in self._cluster.local.walk(BlobId(version, SegmentId(0), 0)):
            if stored.blob.version != version:
                break
            blobs.append(stored.blob)
        return blobs


def _recorded(version: Version, blob: BlobId, node: NodeId) -> bool:
    return any(each == blob and node in holders for each, holders in version.blobs())
