"""Views and heartbeats: simulated nodes in this process, each with connections, a heartbeat and a view of its own, at real roots."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

from benchmarks.measure import HOST, cpu_seconds
from benchmarks.servers import BenchMesh
from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import Cluster
from discloud.core.model import Node, NodeId, NodeState, Role
from discloud.peer.handshake import ClusterSecret, Identity
from discloud.peer.known_roots import KnownRoots
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
from discloud.services.heartbeat import Heartbeat
from discloud.services.loop import Periodic, ServiceLoop

WATCHERS, BEATING = 50, 200
PERIOD = 1.0
SUSPECT = 3.0
"""Seconds after which silence is judged, as roots are set by default."""
STRETCH = 20.0
LOOK = 0.005


class SimulatedNode:
    """What an ordinary node does towards roots, and nothing else. Use as ``async with``; ``stop`` ends it without a goodbye."""

    def __init__(self, name: str, secret: str, roots: tuple[str, ...]) -> None:
        self.id = NodeId(str(uuid4()))
        own = Node(
            self.id, name, Role.ORDINARY, f"{HOST}:1", f"{HOST}:1", name, capacity=1 << 40, incarnation=1
        )
        self._links = Links(Identity(ClusterSecret.parse(secret), self.id))
        known = KnownRoots(roots, time.monotonic, random.randrange)
        self._membership = PeerMembership(self._links, known)
        self._cluster = Cluster(own, "", MemoryBlobs(), _nobody)
        self._own = own
        heartbeat = Heartbeat(self._cluster, self._membership, self._describe, time.time)
        self._heartbeat = heartbeat
        self._loop = ServiceLoop([Periodic("heartbeat", heartbeat, PERIOD)], time.monotonic, random.randrange)
        self.beats = 0
        self.spoke = 0.0

    async def start(self) -> None:
        await self._heartbeat.run_once()
        await self._loop.__aenter__()

    async def stop(self) -> None:
        await self._loop.__aexit__(None, None, None)

    async def leave(self) -> None:
        await self.stop()
        self.spoke = time.perf_counter()
        await self._membership.leave(self.id)

    async def close(self) -> None:
        await self.stop()
        await self._membership.close()
        await self._links.close()

    def sees(self, node: NodeId) -> NodeState | None:
        found = self._cluster.view.find(node)
        return found.state if found else None

    @property
    def alive(self) -> int:
        return sum(node.state is NodeState.ALIVE for node in self._cluster.view.nodes)

    async def _describe(self) -> Node:
        self.beats += 1
        self.spoke = time.perf_counter()
        return self._own


def _nobody(node: Node) -> MemoryBlobs:
    raise AssertionError(f"nothing is asked of {node.name}")


async def until_all(nodes: Iterable[SimulatedNode], seen: Callable[[SimulatedNode], bool]) -> None:
    """Come back when each of the nodes has seen it."""
    end, left = time.perf_counter() + 60, list(nodes)
    while left:
        left = [node for node in left if not seen(node)]
        if time.perf_counter() > end:
            raise TimeoutError(f"{len(left)} nodes do not see it")
        await asyncio.sleep(LOOK)


async def seen_by(nodes: Iterable[SimulatedNode], one: SimulatedNode, state: NodeState) -> float:
    """Seconds from the last word of ``one`` until all see it in that state."""
    await until_all(nodes, lambda node: node.sees(one.id) is state)
    return time.perf_counter() - one.spoke


async def views(running: BenchMesh, secret_file: Path, rounds: int) -> None:
    """Seconds until 50 nodes at three roots see a change: a join, a goodbye, and a silence (less the time until it is judged)."""
    secret = secret_file.read_text()
    roots = tuple(f"{HOST}:{node.port + 2}" for node in running.nodes)
    joined, left, silent = list[float](), list[float](), list[float]()
    async with AsyncExitStack() as stack:
        nodes = [SimulatedNode(f"sim{number}", secret, roots) for number in range(WATCHERS)]
        for node in nodes:
            stack.push_async_callback(node.close)
            await node.start()
        await until_all(nodes, lambda node: node.alive >= WATCHERS)
        for number in range(rounds * 2):
            another = SimulatedNode(f"other{number}", secret, roots)
            stack.push_async_callback(another.close)
            await another.start()
            joined.append(await seen_by(nodes, another, NodeState.ALIVE))
            await asyncio.sleep(random.random())
            if number % 2:
                await another.leave()
                left.append(await seen_by(nodes, another, NodeState.DOWN))
            else:
                await another.stop()
                ended = await seen_by(nodes, another, NodeState.SUSPECT)
                silent.append(ended - SUSPECT)
    print(
        f"\n| until all of {WATCHERS} nodes see it, 3 roots, beats each second | median s | worst s |\n|---|---|---|"
    )
    for name, times in (("a node joined", joined), ("a node said goodbye", left),
                        (f"a node fell silent (after the {SUSPECT:.0f} s that make it suspect)", silent)):  # fmt: skip
        print(f"| {name} | {statistics.median(times):.2f} | {max(times):.2f} |", flush=True)


async def heartbeats(running: BenchMesh, secret_file: Path) -> None:
    """The share of a core that 200 nodes cost their only root."""
    secret, root = secret_file.read_text(), running.nodes[0]
    idle = await _share(root.pid, STRETCH / 2)
    async with AsyncExitStack() as stack:
        nodes = [
            SimulatedNode(f"sim{number}", secret, (f"{HOST}:{root.port + 2}",)) for number in range(BEATING)
        ]
        for node in nodes:
            stack.push_async_callback(node.close)
            await node.start()
        await until_all(nodes, lambda node: node.alive > BEATING)
        shares, rates = list[float](), list[float]()
        for _ in range(3):
            before, began = sum(node.beats for node in nodes), time.perf_counter()
            shares.append(await _share(root.pid, STRETCH))
            rates.append((sum(node.beats for node in nodes) - before) / (time.perf_counter() - began))
    busy, rate = statistics.median(shares), statistics.median(rates)
    print("\n| CPU of a root | share of a core |\n|---|---|")
    print(f"| alone | {idle:.1%} |")
    print(
        f"| with {rate:.0f} heartbeats a second of {BEATING} nodes | {busy:.1%} ({min(shares):.1%}..{max(shares):.1%}) |"
    )
    print(f"| the heartbeats | {busy - idle:.1%}, {(busy - idle) / rate * 1e6:.0f} us each |", flush=True)


async def _share(pid: int, seconds: float) -> float:
    before, began = cpu_seconds([pid]), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_seconds([pid]) - before) / (time.perf_counter() - began)
