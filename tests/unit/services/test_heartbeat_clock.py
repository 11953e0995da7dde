"""A node whose clock differs from the mesh's by more than five seconds says so once, and once when it is right again."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import CLOCK, Cluster
from discloud.core.model import Node, NodeId, Role, View
from discloud.errors import PeerDown
from discloud.services.heartbeat import EXACT, Heartbeat

ME = Node(NodeId("n1"), "node1", Role.ORDINARY, "a:1", "a:2", "host1")


class Setup:
    """A node whose clock is ``ahead`` of the root's; a beat takes ``slow`` seconds, ``there`` of them until the root hears it."""

    def __init__(self) -> None:
        self.now, self.ahead, self.slow, self.there = 1000.0, 0.0, 0.0, 0.5
        self.silent = self.timeless = False
        self.cluster = Cluster(ME, "mesh", MemoryBlobs(), lambda _: MemoryBlobs())
        self.heartbeat = Heartbeat(self.cluster, self, self.describe, lambda: self.now + self.ahead)

    async def describe(self) -> Node:
        return ME

    async def announce(self, me: Node) -> View:
        self.now += self.slow * self.there
        told = 0.0 if self.timeless else self.now
        self.now += self.slow * (1 - self.there)
        if self.silent:
            raise PeerDown("no root answers")
        return View(1, (me,), told)

    async def leave(self, node: NodeId) -> None:
        raise NotImplementedError

    async def beat(self, ahead: float) -> bool:
        self.ahead = ahead
        await self.heartbeat.run_once()
        return self.cluster.clock_is_off


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, Any]]:
    return [(each.message, each.__dict__["fields"].get("detail")) for each in caplog.records]


async def test_it_is_told_when_it_begins_and_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "discloud")
    setup = Setup()
    assert [await setup.beat(ahead) for ahead in (0.0, CLOCK, 20.1, 20.1, 19.0, 4.9, 4.9, -6.0)] == [
        False, False, True, True, True, False, False, True,
    ]  # fmt: skip
    refused = "writes are refused here until it is right"
    assert told(caplog) == [
        ("clock_is_off", f"this node's clock is 20.1 s ahead of the mesh: {refused}"),
        ("clock_is_right_again", None),
        ("clock_is_off", f"this node's clock is 6.0 s behind the mesh: {refused}"),
    ]


async def test_the_offset_is_how_much_the_mesh_is_ahead_and_half_the_way_is_taken_off() -> None:
    setup = Setup()
    setup.slow = 0.8
    await setup.beat(-3.0)
    assert setup.cluster.clock_offset == pytest.approx(3.0)


async def test_an_answer_that_took_long_an_older_root_and_silence_say_nothing() -> None:
    setup = Setup()
    await setup.beat(1.0)
    setup.slow, setup.there = EXACT + 11, 0.0
    await setup.beat(1.0)
    assert setup.cluster.clock_offset == pytest.approx(-1.0)
    setup.slow, setup.timeless = 0.0, True
    await setup.beat(30.0)
    setup.silent = True
    await setup.beat(30.0)
    assert setup.cluster.clock_offset == pytest.approx(-1.0)


async def test_before_any_root_answered_nothing_is_off() -> None:
    setup = Setup()
    setup.silent = True
    assert not await setup.beat(100.0)
    assert setup.cluster.clock_offset is None
