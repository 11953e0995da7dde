"""Telling holders what became of a version, after the commit, lazily and in batches.

A seal lets ``rebuild`` restore names from the disks alone, and tells a holder's sweep that a blob is no orphan. It is
never waited for: a seal that is lost is made up for by that sweep, so a full queue drops seals, never requests.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import suppress
from typing import Self

import msgpack

from discloud import logs
from discloud.cluster import Cluster
from discloud.core.model import Committed, NodeId, Seal, Version
from discloud.core.records import to_record
from discloud.errors import DiscloudError

PAUSE = 0.05
"""Seconds in which seals gather before they travel."""
BATCH = 500
BACKLOG = 20_000
"""Seals waiting at the most, over all nodes."""


class Seals:
    """One queue per node and one task that empties them. Use as ``async with``."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waiting: dict[NodeId, list[Seal]] = defaultdict(list)
        self._count = 0
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what waits, then stop."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self._flush()

    def add(self, version: Version) -> None:
        """Seal ``version`` (its state is what it has become) on its holders, some time soon."""
        holders = {node for _, nodes in version.blobs() for node in nodes}
        if self._count + len(holders) > BACKLOG:
            return
        seal = seal_of(version)
        for node in holders:
            self._waiting[node].append(seal)
        self._count += len(holders)
        self._work.set()

    def committed(self, committed: Committed) -> Version:
        """Seal a new head and what it replaced; gives the new head."""
        assert committed.version is not None, "only a DELETE leaves no head"
        self.add(committed.version)
        if committed.replaced is not None:
            self.add(committed.replaced)
        return committed.version

    async def _run(self) -> None:
        while True:
            await self._work.wait()
            await asyncio.sleep(PAUSE)
            await self._flush()

    async def _flush(self) -> None:
        self._work.clear()
        waiting, self._waiting = self._waiting, defaultdict(list)
        self._count = 0
        await asyncio.gather(*(self._send(node, seals) for node, seals in waiting.items()))

    async def _send(self, node: NodeId, seals: list[Seal]) -> None:
        try:
            for start in range(0, len(seals), BATCH):
                await self._cluster.blobs(node).seal(seals[start : start + BATCH])
        except DiscloudError as error:
            logs.info("seals_left_to_sweep", holder=node, count=len(seals), reason=error.code)


def seal_of(version: Version) -> Seal:
    """What a holder is told of a version: its state, and the whole row for ``rebuild``."""
    record = msgpack.packb(to_record(version))
    return Seal(version.id, version.bucket, version.key, version.state, version.seq, record)
