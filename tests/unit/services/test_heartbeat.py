"""The heartbeat tells this node's fill, takes over views, and keeps the last one when nobody answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import Cluster
from discloud.core.model import (
    BlobId,
    Key,
    Label,
    Layout,
    Node,
    NodeId,
    NodeState,
    Role,
    SegmentId,
    VersionId,
    View,
)
from discloud.errors import PeerDown
from discloud.services.heartbeat import Heartbeat, HeartbeatReport

from .mesh import BUCKET, Faults

ME = Node(NodeId("n1"), "node1", Role.ROOT, "a:1", "a:2", "host1")
OTHER = replace(ME, id=NodeId("n2"), name="node2", state=NodeState.DOWN)


class Root:
    """A membership that remembers what was announced."""

    def __init__(self) -> None:
        self.heard: list[Node] = []
        self.down = False

    async def announce(self, me: Node) -> View:
        if self.down:
            raise PeerDown("no root answers")
        self.heard.append(me)
        return View(len(self.heard), (me, OTHER))

    async def leave(self, node: NodeId) -> None:
        raise NotImplementedError


class Setup:
    def __init__(self) -> None:
        self.root = Root()
        self.disk = MemoryBlobs(capacity=1000)
        self.line = Faults(self.disk)
        self.cluster = Cluster(ME, "mesh", self.line, lambda _: self.disk)
        self.now = 100.0
        self.heartbeat = Heartbeat(self.cluster, self.root, self.describe, lambda: self.now)

    async def describe(self) -> Node:
        return replace(ME, incarnation=7)


async def test_a_beat_tells_the_fill_and_takes_over_the_view() -> None:
    setup = Setup()
    label = Label("mesh", BUCKET, "files", Key("k"), Layout())
    await setup.disk.put(BlobId(VersionId("v"), SegmentId(1), 0), label, b"12345", b"h")
    assert await setup.heartbeat.run_once() == HeartbeatReport(heard=True, nodes=2, alive=1)
    told = setup.root.heard[0]
    assert (told.beat, told.incarnation, told.used, told.capacity, told.blobs) == (1, 7, 5, 1000, 1)
    assert setup.cluster.view == View(1, (told, OTHER))


async def test_the_beat_grows_also_when_nobody_hears_it() -> None:
    setup = Setup()
    await setup.heartbeat.run_once()
    setup.root.down = True
    await setup.heartbeat.run_once()
    setup.root.down = False
    await setup.heartbeat.run_once()
    assert [node.beat for node in setup.root.heard] == [1, 3]


async def test_without_an_answer_the_last_view_stays_and_last_success_grows_old() -> None:
    setup = Setup()
    assert setup.heartbeat.last_success is None
    await setup.heartbeat.run_once()
    view = setup.cluster.view
    setup.root.down, setup.now = True, 160.0
    assert await setup.heartbeat.run_once() == HeartbeatReport(heard=False, nodes=2, alive=1)
    assert setup.cluster.view is view
    assert setup.heartbeat.last_success == 100.0
    setup.root.down = False
    await setup.heartbeat.run_once()
    assert setup.heartbeat.last_success == 160.0


async def test_a_disk_that_does_not_answer_takes_no_new_blobs() -> None:
    setup = Setup()
    setup.line.down = True
    await setup.heartbeat.run_once()
    assert setup.root.heard[0].read_only


async def test_a_disk_that_does_not_tell_its_fill_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="discloud")
    setup = Setup()
    for down in (True, True, False, False, True):
        setup.line.down = down
        await setup.heartbeat.run_once()
        assert setup.root.heard[-1].read_only == down
    told = [each.getMessage() for each in caplog.records if each.getMessage().startswith("usage")]
    assert told == ["usage_unknown", "usage_known_again", "usage_unknown"]
