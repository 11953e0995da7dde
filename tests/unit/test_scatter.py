"""Spares stand in for holders that refuse, and no reader is left open by a read that failed."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import Cluster
from discloud.core.model import (
    BlobId,
    BucketId,
    Key,
    Label,
    Layout,
    Node,
    NodeId,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
    View,
)
from discloud.core.ranges import Span
from discloud.errors import NoSpace, Unavailable
from discloud.gateway.gather import Gather
from discloud.gateway.hedge import Hedges
from discloud.gateway.scatter import Scatter, Target, scatter_small
from discloud.ports import BlobReader, FileSource, SocketSource
from discloud.transfer.threads import Threads

NAMES = tuple(NodeId(f"n{number}") for number in range(1, 6))


class Full:
    """A disk that takes nothing, as its node learns only now."""

    def put(self, *_: object) -> Any:
        raise NoSpace("the disk is full")

    def create(self, *_: object) -> Any:
        raise NoSpace("the disk is full")


def cluster_of(blobs: dict[NodeId, Any]) -> Cluster:
    nodes = [Node(name, name, Role.ORDINARY, name, name, name) for name in blobs]
    connect: Callable[[Node], Any] = lambda node: blobs[node.id]  # noqa: E731
    cluster = Cluster(nodes[0], "mesh", blobs[nodes[0].id], connect)
    cluster.update(View(1, tuple(nodes)))
    return cluster


def target(layout: Layout, holders: tuple[tuple[NodeId, ...], ...], needed: int) -> Target:
    label = Label("mesh", BucketId("b"), "files", Key("k"), layout)
    spares = tuple(name for name in NAMES if all(name not in nodes for nodes in holders))
    return Target(VersionId("v"), SegmentId(1), label, holders, needed, spares)


@pytest.mark.parametrize("full", [NAMES[0], NAMES[1], NAMES[2]])
@pytest.mark.parametrize("layout", [Layout(copies=3), Layout(data=3, copies=1)])
async def test_a_spare_stands_in_for_any_holder_of_a_small_body(full: NodeId, layout: Layout) -> None:
    blobs: dict[NodeId, Any] = {name: Full() if name == full else MemoryBlobs() for name in NAMES}
    first = NAMES[:3]
    holders = (first,) if layout.data == 1 else tuple((name,) for name in first)
    wanted = target(layout, holders, 3 if layout.data == 1 else 1)
    scattered = await scatter_small(cluster_of(blobs), wanted, os.urandom(1000))
    used = [name for nodes in scattered.holders for name in nodes]
    assert len(set(used)) == 3
    assert full not in used
    assert not any(scattered.missing)


async def test_two_spares_stand_in_for_two_holders_of_a_small_body() -> None:
    blobs: dict[NodeId, Any] = {name: Full() if name in NAMES[:2] else MemoryBlobs() for name in NAMES}
    scattered = await scatter_small(
        cluster_of(blobs), target(Layout(copies=3), (NAMES[:3],), 3), os.urandom(1000)
    )
    assert set(scattered.holders[0]) == set(NAMES[2:])


@pytest.mark.parametrize("copies", [1, 3])
async def test_a_spare_stands_in_for_a_holder_that_refuses_a_large_body(copies: int) -> None:
    blobs: dict[NodeId, Any] = {name: Full() if name == NAMES[0] else MemoryBlobs() for name in NAMES}
    data = os.urandom(3_000_000)
    threads = Threads("test", 1)
    async with AsyncExitStack() as stack:
        stack.callback(threads.close)
        wanted = target(Layout(copies=copies), (NAMES[:copies],), copies)
        scatter = Scatter(cluster_of(blobs), wanted, len(data), stack)
        await scatter.open()
        await threads.run(lambda: scatter.write(memoryview(data)))
        await threads.run(scatter.finish)
        scattered = await scatter.commit()
    assert NAMES[0] not in scattered.holders[0]
    assert len(set(scattered.holders[0])) == copies
    for name in scattered.holders[0]:
        assert (await blobs[name].stat(wanted.blob(0))).length == len(data)


async def test_a_large_body_that_nobody_takes_is_refused_for_want_of_space() -> None:
    blobs: dict[NodeId, Any] = {name: Full() for name in NAMES}
    async with AsyncExitStack() as stack:
        scatter = Scatter(cluster_of(blobs), target(Layout(copies=2), (NAMES[:2],), 2), 2_000_000, stack)
        with pytest.raises(NoSpace):
            await scatter.open()


class Slow:
    """A disk that opens late; ``open_readers`` counts what is open."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answer = asyncio.Event()
        self.open_readers = 0

    @asynccontextmanager
    async def open(self, *_: object) -> AsyncIterator[BlobReader]:
        self.asked.set()
        await self.answer.wait()
        self.open_readers += 1
        try:
            yield MemoryReader()
        finally:
            self.open_readers -= 1


class MemoryReader:
    length = 1
    source: FileSource | SocketSource | None = None

    async def read(self, limit: int) -> bytes:
        return b"x"[:limit]


class Gone:
    """A disk that does not answer, once ``after`` happened."""

    def __init__(self, after: asyncio.Event) -> None:
        self.after = after

    @asynccontextmanager
    async def open(self, *_: object) -> AsyncIterator[BlobReader]:
        await self.after.wait()
        raise Unavailable("gone")
        yield MemoryReader()


async def test_a_read_that_fails_leaves_no_reader_open() -> None:
    """Fragment 1 has no holder left while fragment 0 is still being opened: nobody would close it afterwards."""
    slow = Slow()
    blobs: dict[NodeId, Any] = {NAMES[0]: slow, NAMES[1]: Gone(slow.asked)}
    segment = Segment(SegmentId(1), 4 << 20, Layout(data=2, copies=1), ((NAMES[0],), (NAMES[1],)))
    version = Version(BucketId("b"), Key("k"), VersionId("v"), State.COMMITTED, 4 << 20, (segment,))

    async def spoilt(version: Version, blob: BlobId, node: NodeId) -> None:
        raise AssertionError("an unknown answer spoils nothing")

    cluster = cluster_of(blobs)
    hedges = Hedges(cluster, time.monotonic)
    gather = Gather(cluster, version, Span(0, 4 << 20), 0.0, lambda _: 0, spoilt, hedges)
    with pytest.raises(Unavailable):
        await gather.open()
    await gather.close()
    slow.answer.set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert slow.open_readers == 0
