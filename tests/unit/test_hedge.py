"""The hedged second question: sent when the first is late, within its budget, and the first answer counts."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import Cluster
from discloud.core.model import Node, NodeId, NodeState, Role, View
from discloud.core.round_trips import MISSES
from discloud.errors import DiscloudError, NoSuchBlob, PeerDown
from discloud.gateway.hedge import BURST, Hedges

ME, A, B, C = (NodeId(name) for name in ("me", "a", "b", "c"))


def node(name: NodeId, state: NodeState = NodeState.ALIVE) -> Node:
    return Node(name, name, Role.ORDINARY, f"{name}:1", f"{name}:2", name, state=state)


class Holders:
    """Holders that answer, fail or stay silent, and what came of each question."""

    def __init__(self, down: tuple[NodeId, ...] = ()) -> None:
        self.cluster = Cluster(node(ME), "mesh", MemoryBlobs(), lambda _: MemoryBlobs())
        states = {name: NodeState.DOWN if name in down else NodeState.ALIVE for name in (A, B, C)}
        self.cluster.update(View(1, (node(ME), *(node(name, state) for name, state in states.items()))))
        for name in (A, B, C):
            self.cluster.rtt.answered(name, 0.0, time.monotonic())  # the shortest patience
        self.hedges = Hedges(self.cluster, time.monotonic)
        self.fails: dict[NodeId, DiscloudError] = {}
        self.silent: dict[NodeId, asyncio.Event] = {}
        self.asked: list[NodeId] = []
        self.cancelled: list[NodeId] = []
        self.dropped: list[NodeId] = []

    def stop(self, *names: NodeId) -> None:
        for name in names:
            self.silent[name] = asyncio.Event()

    async def ask(self, name: NodeId) -> NodeId:
        self.asked.append(name)
        try:
            if name in self.silent:
                await self.silent[name].wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        if name in self.fails:
            raise self.fails[name]
        return name

    async def drop(self, answer: NodeId) -> None:
        self.dropped.append(answer)

    async def read(self, *names: NodeId) -> NodeId:
        self.left = deque(names)
        return await self.hedges.first_answer(self.left, self.ask, self.drop)


async def test_an_answer_in_time_is_the_only_one() -> None:
    holders = Holders()
    assert await holders.read(A, B) == A
    assert holders.asked == [A]
    assert list(holders.left) == [B]


async def test_a_late_holder_costs_a_moment_and_comes_last() -> None:
    holders = Holders()
    holders.stop(A)
    assert await holders.read(A, B, C) == B
    assert holders.asked == [A, B]
    assert holders.cancelled == [A]
    assert list(holders.left) == [C, A], "it may still be the last hope"


async def test_two_late_holders() -> None:
    holders = Holders()
    holders.stop(A, B)
    assert await holders.read(A, B, C) == C
    assert sorted(holders.cancelled) == [A, B]
    assert sorted(holders.left) == [A, B]


async def test_the_first_may_still_win() -> None:
    holders = Holders()
    holders.stop(A, B)
    reading = asyncio.create_task(holders.read(A, B))
    async with asyncio.timeout(5):
        while B not in holders.asked:
            await asyncio.sleep(0)
    holders.silent[A].set()
    assert await reading == A
    assert holders.cancelled == [B]
    assert list(holders.left) == [B]


async def test_both_at_once_and_the_second_is_given_back() -> None:
    holders = Holders()
    holders.stop(A, B)
    reading = asyncio.create_task(holders.read(A, B))
    async with asyncio.timeout(5):
        while B not in holders.asked:
            await asyncio.sleep(0)
    holders.silent[A].set()
    holders.silent[B].set()
    assert await reading in {A, B}
    assert len(holders.dropped) + len(holders.cancelled) == 1


async def test_a_failure_goes_to_the_next_at_once() -> None:
    holders = Holders()
    holders.fails = {A: PeerDown("a"), B: NoSuchBlob("b")}
    assert await holders.read(A, B, C) == C
    assert holders.asked == [A, B, C]


async def test_a_late_one_that_fails_waits_for_the_other() -> None:
    holders = Holders()
    holders.fails = {A: PeerDown("a")}
    holders.stop(A, B)
    reading = asyncio.create_task(holders.read(A, B))
    async with asyncio.timeout(5):
        while B not in holders.asked:
            await asyncio.sleep(0)
    holders.silent[A].set()
    await asyncio.sleep(0)
    holders.silent[B].set()
    assert await reading == B


async def test_the_last_failure_is_told() -> None:
    holders = Holders()
    holders.fails = {A: PeerDown("a"), B: NoSuchBlob("b")}
    with pytest.raises(NoSuchBlob):
        await holders.read(A, B)
    holders.stop(A)
    reading = asyncio.create_task(holders.read(A, B))
    async with asyncio.timeout(5):
        while holders.asked.count(B) < 2:
            await asyncio.sleep(0)
    holders.silent[A].set()
    with pytest.raises((NoSuchBlob, PeerDown)):
        await reading


async def test_no_hedge_to_a_node_that_is_down_nor_for_the_own_disk() -> None:
    holders = Holders(down=(B,))
    holders.stop(A, ME)
    for first, second in ((A, B), (ME, A)):
        reading = asyncio.create_task(holders.read(first, second))
        done, _ = await asyncio.wait({reading}, timeout=0.1)
        assert not done
        assert second not in holders.asked[-1:]
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    holders.fails[A] = PeerDown("a")
    holders.silent[A].set()
    assert await holders.read(A, B) == B, "but it is the last hope"


async def test_the_budget_bounds_the_hedges_and_leaving_a_silent_holder_is_free() -> None:
    holders = Holders()
    holders.stop(A)
    async with asyncio.timeout(30):
        for turn in range(int(BURST) + 10):
            assert await holders.read(A, B) == B
            if turn == MISSES:
                assert A in holders.cluster.rtt.silent
    assert holders.hedges._saved > BURST - MISSES - 2

    both = Holders()
    both.stop(A, B)
    async with asyncio.timeout(30):
        reading = [
            asyncio.create_task(both.hedges.first_answer(deque([A, B]), both.ask, both.drop))
            for _ in range(int(BURST) * 3)
        ]
        while both.hedges._saved >= 1:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        assert both.asked.count(B) <= BURST * 1.4
        both.silent[A].set()
        await asyncio.gather(*reading)


async def test_a_reader_that_leaves_ends_both_questions() -> None:
    holders = Holders()
    holders.stop(A, B)
    reading = asyncio.create_task(holders.read(A, B))
    async with asyncio.timeout(5):
        while B not in holders.asked:
            await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert sorted(holders.cancelled) == [A, B]
