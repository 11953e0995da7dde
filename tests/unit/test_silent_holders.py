"""A holder that stops answering is given up as soon as the view says that it is down or has restarted, and not before."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import RESTARTING, Cluster
from discloud.core.model import (
    BlobId,
    BucketId,
    Key,
    Label,
    Layout,
    Node,
    NodeId,
    NodeState,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
    View,
)
from discloud.core.ranges import Span
from discloud.errors import PeerDown, Unavailable
from discloud.gateway.gather import Gather
from discloud.gateway.hedge import Hedges
from discloud.gateway.scatter import Scatter, Scattered, Target, scatter_small
from discloud.ports import Breakable, FileSource, SocketSource
from discloud.transfer.outlet import Outlet
from discloud.transfer.threads import Threads

NAMES = tuple(NodeId(f"n{number}") for number in range(1, 6))
SILENT = NAMES[1]
WAIT = 10.0
"""Seconds that what is to come may take."""


class Silent:
    """A node that answers nothing from one step of a write on; ``reached`` tells when that step has come."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.reached = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._broken = threading.Event()

    async def put(self, *_: object) -> Any:
        await self._stand_still("put")

    @asynccontextmanager
    async def create(self, *_: object) -> AsyncIterator[Silent]:
        await self._stand_still("create")
        yield self

    def write(self, _: memoryview) -> None:
        if self.step == "write":
            self._loop.call_soon_threadsafe(self.reached.set)
            assert self._broken.wait(WAIT), "nobody broke the connection off"
            raise PeerDown("the connection is lost")

    async def commit(self, _: bytes) -> Any:
        await self._stand_still("commit")

    def break_off(self) -> None:
        self._broken.set()

    async def _stand_still(self, step: str) -> None:
        if self.step == step:
            self.reached.set()
            await asyncio.Event().wait()


def mesh_with(silent: Any) -> tuple[Cluster, dict[NodeId, Any]]:
    blobs: dict[NodeId, Any] = {name: MemoryBlobs() for name in NAMES} | {SILENT: silent}
    nodes = tuple(Node(name, name, Role.ORDINARY, name, name, name, incarnation=7) for name in NAMES)
    connect: Callable[[Node], Any] = lambda node: blobs[node.id]  # noqa: E731
    cluster = Cluster(nodes[0], "mesh", blobs[NAMES[0]], connect)
    cluster.update(View(1, nodes))
    return cluster, blobs


def show(cluster: Cluster, **news: Any) -> None:
    """One more view, in which the silent node is like that."""
    nodes = cluster.view.nodes
    cluster.update(View(2, tuple(replace(each, **news) if each.id == SILENT else each for each in nodes)))


def calls_down(cluster: Cluster) -> None:
    show(cluster, state=NodeState.DOWN)


def loses(cluster: Cluster) -> None:
    cluster.update(View(2, tuple(node for node in cluster.view.nodes if node.id != SILENT)))


def tells_of_a_restart(cluster: Cluster) -> None:
    for _ in range(RESTARTING):
        show(cluster)
    show(cluster, incarnation=8)


async def stored(
    cluster: Cluster, holders: tuple[NodeId, ...], needed: int, length: int, *, spare: bool = True
) -> Scattered:
    """A write of so many bytes, as the gateway makes it."""
    label = Label("mesh", BucketId("b"), "files", Key("k"), Layout(copies=len(holders)))
    spares = tuple(name for name in NAMES if spare and name not in holders)
    target = Target(VersionId("v"), SegmentId(1), label, (holders,), needed, spares)
    data = os.urandom(length)
    if length < 1_000_000:
        return await scatter_small(cluster, target, data)
    threads = Threads("test", 1)
    async with AsyncExitStack() as stack:
        stack.callback(threads.close)
        scatter = Scatter(cluster, target, len(data), stack)
        await scatter.open()
        await threads.run(lambda: scatter.write(memoryview(data)))
        await threads.run(scatter.finish)
        return await scatter.commit()


async def given_up(
    silent: Silent, cluster: Cluster, news: Callable[[Cluster], None], write: asyncio.Task[Scattered]
) -> Scattered:
    """The write's outcome after ``news``; a node that is only suspect is waited for."""
    async with asyncio.timeout(WAIT):
        await silent.reached.wait()
        show(cluster, state=NodeState.SUSPECT)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not write.done()
        news(cluster)
        return await write


@pytest.mark.parametrize("news", [calls_down, loses, tells_of_a_restart])
@pytest.mark.parametrize("step", ["put", "create", "write", "commit"])
async def test_a_silent_holder_is_given_up(step: str, news: Callable[[Cluster], None]) -> None:
    silent = Silent(step)
    assert isinstance(silent, Breakable)
    cluster, _ = mesh_with(silent)
    length = 1000 if step == "put" else 3_000_000
    write = asyncio.create_task(stored(cluster, NAMES[:3], 2, length))
    scattered = await given_up(silent, cluster, news, write)
    replaced = step in ("put", "create")
    assert SILENT not in scattered.holders[0]
    assert len(scattered.holders[0]) == (3 if replaced else 2)
    assert scattered.missing[0] == (() if replaced else (SILENT,))


@pytest.mark.parametrize("step", ["put", "write", "commit"])
async def test_a_write_that_nobody_else_can_take_is_refused(step: str) -> None:
    silent = Silent(step)
    cluster, _ = mesh_with(silent)
    length = 1000 if step == "put" else 3_000_000
    write = asyncio.create_task(stored(cluster, (SILENT,), 1, length, spare=False))
    with pytest.raises(Unavailable, match="node n2 is down"):
        await given_up(silent, cluster, calls_down, write)


async def test_a_holder_that_is_down_when_its_turn_comes_is_not_asked() -> None:
    cluster, _ = mesh_with(Silent("put"))
    calls_down(cluster)
    async with asyncio.timeout(WAIT):
        assert SILENT not in (await stored(cluster, NAMES[:3], 3, 1000)).holders[0]


async def test_a_restart_that_shows_late_breaks_no_write_to_the_new_process() -> None:
    silent = Silent("commit")
    cluster, _ = mesh_with(silent)
    write = asyncio.create_task(stored(cluster, NAMES[:3], 2, 3_000_000))
    async with asyncio.timeout(WAIT):
        await silent.reached.wait()
        show(cluster, incarnation=8)
        for _ in range(20):
            await asyncio.sleep(0)
        assert not write.done()
        for _ in range(RESTARTING):
            show(cluster)
        show(cluster, incarnation=9)
        assert SILENT not in (await write).holders[0]


def test_nobody_is_told_twice_or_after_he_has_left() -> None:
    cluster, told = Cluster(Node(NAMES[0], "n1", Role.ROOT, "a", "b", "c"), "mesh", MemoryBlobs(), None), []  # type: ignore[arg-type, var-annotated]
    nodes = tuple(Node(name, name, Role.ORDINARY, name, name, name) for name in NAMES)
    cluster.update(View(1, nodes))
    with cluster.watched(SILENT, told.append), cluster.watched(NAMES[0], told.append):
        calls_down(cluster)
        calls_down(cluster)
        assert told == ["node n2 is down"]
    with cluster.watched(SILENT, lambda _: None):
        pass
    loses(cluster)
    assert len(told) == 1


class HalfARead:
    """A holder that sends the first half of what it should and then nothing."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.reached = asyncio.Event()

    @asynccontextmanager
    async def open(self, _: BlobId, offset: int, length: int, __: float) -> AsyncIterator[Any]:
        self.length, self._at = length, offset
        self.source: FileSource | SocketSource | None = None
        yield self

    async def read(self, limit: int) -> bytes:
        if self._at >= self.length // 2:
            self.reached.set()
            await asyncio.Event().wait()
        part = self._data[self._at : min(self._at + limit, self.length // 2)]
        self._at += len(part)
        return part


class Kept(Outlet):
    """A client that keeps what it gets."""

    def __init__(self) -> None:
        super().__init__(kernel=False)
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data
        self.sent += len(data)


async def test_a_read_goes_on_elsewhere_when_its_holder_is_down() -> None:
    data = os.urandom(1 << 20)
    silent = HalfARead(data)
    cluster, blobs = mesh_with(silent)
    blob = BlobId(VersionId("v"), SegmentId(1), 0)
    label = Label("mesh", BucketId("b"), "files", Key("k"), Layout(copies=2))
    await blobs[NAMES[2]].put(blob, label, data, bytes(32))
    segment = Segment(SegmentId(1), len(data), Layout(copies=2), ((SILENT, NAMES[2]),))
    version = Version(BucketId("b"), Key("k"), VersionId("v"), State.COMMITTED, len(data), (segment,))
    outlet = Kept()
    async with Gather(
        cluster,
        version,
        Span(0, len(data)),
        0.0,
        lambda count: count - 1,
        None,
        Hedges(cluster, time.monotonic),
    ) as gather:
        await gather.open()
        assert gather.sources == (SILENT,)
        move = asyncio.create_task(gather.move(outlet))
        async with asyncio.timeout(WAIT):
            await silent.reached.wait()
            calls_down(cluster)
            await move
    assert outlet.data == data
