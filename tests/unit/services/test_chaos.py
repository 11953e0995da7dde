"""All services of a mesh at once, while any call may fail at any time: nothing that lives is lost, nothing that is dead stays."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from operator import contains
from typing import Protocol

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.core.model import Change, ChangeKind, Key, Layout, NodeId, NodeState, Repair, State, Version
from discloud.errors import Aborted, NoSuchBlob, NoSuchKey, Unavailable
from discloud.services.gc import FENCE, Collect
from discloud.services.pull import Pull
from discloud.services.repair import Repairs
from discloud.services.sweep import Sweep

from .mesh import ANY, BUCKET, Mesh, blob_of

NODES = [NodeId(f"n{number}") for number in range(1, 5)]
LEADERS = NODES[:2]
"""Two roots that both believe they lead, all the time."""
LAYOUTS = [Layout(copies=1), Layout(copies=2), Layout(copies=3), Layout(copies=0)]


class Runs(Protocol):
    async def run_once(self) -> object: ...


class Position:
    number = 0

    async def load(self) -> int:
        return self.number

    async def save(self, number: int) -> None:
        self.number = number


@dataclass
class World:
    """A mesh, its services, and what a client was told."""

    mesh: Mesh
    chance: random.Random
    services: list[Runs] = field(default_factory=list)
    running: list[Runs] = field(default_factory=list)
    drafts: list[tuple[Version, bytes]] = field(default_factory=list)
    committed: dict[Key, tuple[Version, bytes]] = field(default_factory=dict)

    def start(self) -> None:
        mesh = self.mesh
        for node, cluster in mesh.clusters.items():
            leads = partial(contains, LEADERS, node)
            self.services.append(Sweep(cluster, mesh.metadata, mesh.clock, 300, leads=leads))
            self.services.append(Pull(cluster, mesh.metadata, Position(), mesh.threads, mesh.draw))
        for root in (mesh.clusters[node] for node in LEADERS):
            self.services.append(Collect(root, mesh.metadata, mesh.clock))
            self.services.append(Repairs(root, mesh.metadata, mesh.threads, mesh.clock, mesh.draw))

    @contextmanager
    def failing(self, share: float) -> Iterator[None]:
        """Within, each call of anything fails with that probability."""
        parts = [self.mesh.faults.versions, self.mesh.faults.queues, *self.mesh.lines.values()]
        for part in parts:
            part.fails = lambda: self.chance.random() < share
            part.yields = lambda: self.chance.randrange(4)
        yield
        for part in parts:
            part.fails = lambda: False

    async def later(self, action: Callable[[], Awaitable[None]]) -> None:
        """The action, after others have run a little."""
        for _ in range(self.chance.randrange(30)):
            await asyncio.sleep(0)
        await action()

    # ------------------------------------------------------------ what clients and gateways do

    async def begin(self) -> None:
        """A gateway stores the blobs (some holder may miss them), with or without a draft row, and goes no further yet."""
        layout = self.chance.choice(LAYOUTS)
        count = layout.copies or 2
        holders = tuple(self.chance.sample(NODES, count))
        data = self.chance.randbytes(20)
        version = self.mesh.draft(f"k{self.chance.randrange(3)}", data, layout, holders)
        await self.mesh.store_blobs(version, data)
        if self.chance.random() < 0.5:
            await self.mesh.store.versions.begin(version)
        self.drafts.append((version, data))

    async def commit(self) -> None:
        """A gateway, perhaps after a long pause, commits: with one copy missing in some cases."""
        if not self.drafts:
            return
        version, data = self.drafts.pop(self.chance.randrange(len(self.drafts)))
        repairs: tuple[Repair, ...] = ()
        holders = version.segments[0].holders[0]
        if len(holders) > 1 and self.chance.random() < 0.5:
            segment = replace(version.segments[0], holders=(holders[:-1],))
            version = replace(version, segments=(segment,))
            repairs = (Repair(BUCKET, version.key, blob_of(version), holders[-1:], self.mesh.now),)
        try:
            await self.mesh.store.versions.put(version, ANY, repairs)
        except Aborted:
            return
        self.committed[version.key] = (version, data)

    async def delete(self) -> None:
        key = Key(f"k{self.chance.randrange(3)}")
        try:
            await self.mesh.remove(key, keep=self.chance.choice([0, 3600]))
        except NoSuchKey:
            return
        del self.committed[key]

    async def rename(self) -> None:
        source, target = Key(f"k{self.chance.randrange(3)}"), Key(f"k{self.chance.randrange(3)}")
        if source == target or source not in self.committed:
            return
        head = await self.mesh.store.versions.get(BUCKET, source)
        change = Change(ChangeKind.MOVE, BUCKET, source, head, target)
        await self.mesh.store.versions.commit(change, ANY)
        self.committed[target] = self.committed.pop(source)

    async def stumble(self) -> None:
        """A node changes its state in the view."""
        node = self.chance.choice(NODES[1:])
        self.mesh.become(node, self.chance.choice([NodeState.ALIVE, NodeState.DOWN, NodeState.LOST]))

    async def run(self) -> None:
        """One run of a service."""
        service = self.chance.choice([each for each in self.services if each not in self.running])
        self.running.append(service)
        with suppress(Unavailable):
            await service.run_once()
        self.running.remove(service)

    async def wait(self) -> None:
        self.mesh.now += self.chance.choice([1, 100, 1000, 4000])

    # ------------------------------------------------------------ what must hold

    async def check_living(self) -> None:
        """I5, I8: every committed object is its client's, and each recorded copy of it is there and equal."""
        for key, (written, data) in self.committed.items():
            head = await self.mesh.store.versions.get(BUCKET, key)
            assert head.id == written.id
            assert head.state is State.COMMITTED
            (holders,) = head.segments[0].holders
            assert set(holders) >= set(written.segments[0].holders[0]), "a holder left the record"
            assert len(set(holders)) == len(holders)
            copies = [await self.copy(node, head) for node in holders]
            assert data in copies
            queued = [repair.missing for repair in await self.mesh.queued() if repair.blob == blob_of(head)]
            for node, copy in zip(holders, copies, strict=True):
                assert copy == data or (copy is None and (node,) in queued)

    async def copy(self, node: NodeId, version: Version) -> bytes | None:
        try:
            return await self.mesh.disks[node].fetch(blob_of(version))
        except NoSuchBlob:
            return None

    async def check_clean(self) -> None:
        """I9: every blob on a disk is named by the row of a committed version."""
        for node, disk in self.mesh.disks.items():
            async for stored in disk.walk():
                version = await self.mesh.store.versions.find(stored.bucket, stored.key, stored.blob.version)
                assert version.state is State.COMMITTED
                segment = version.segments[0]
                assert segment.layout.everywhere or node in segment.holders[0]

    async def settle(self) -> None:
        """Everything answers again, and time passes: long enough for every wait and fence."""
        for node in NODES:
            self.mesh.become(node, NodeState.ALIVE)
        self.drafts.clear()
        for pause in (4000, 4000, 4000, FENCE, 4000, 4000):
            self.mesh.now += pause
            for service in self.services:
                await service.run_once()


ACTIONS = (
    "begin",
    "begin",
    "commit",
    "commit",
    "delete",
    "rename",
    "stumble",
    "wait",
    "run",
    "run",
    "run",
    "run",
)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 32))
async def test_nothing_that_lives_is_lost_and_nothing_dead_stays(share: float, seed: int) -> None:
    mesh = await Mesh(len(NODES), seed=seed).open()
    world = World(mesh, random.Random(seed))
    world.start()
    for _ in range(60):
        actions = [getattr(world, action) for action in world.chance.choices(ACTIONS, k=4)]
        with world.failing(share):
            await asyncio.gather(*(world.later(action) for action in actions))
        await world.check_living()
    await world.settle()
    await world.check_living()
    await world.check_clean()
    for key, (written, _) in world.committed.items():
        if not written.segments[0].layout.everywhere:
            head = await mesh.store.versions.get(BUCKET, key)
            assert len(head.segments[0].holders[0]) >= written.segments[0].layout.copies
    assert await mesh.queued() == ()


async def test_without_any_answer_no_service_deletes_anything() -> None:
    """The metadata is away for good: whatever the services try, every blob stays where it is."""
    mesh = await Mesh(4).open()
    world = World(mesh, random.Random(3))
    world.start()
    for _ in range(200):
        await getattr(world, world.chance.choice(ACTIONS[:6]))()
    before = {node: {stored.blob async for stored in disk.walk()} for node, disk in mesh.disks.items()}
    assert any(before.values())
    mesh.faults.versions.down = True
    for _ in range(10):
        mesh.now += FENCE
        for service in world.services:
            await service.run_once()
    after = {node: {stored.blob async for stored in disk.walk()} for node, disk in mesh.disks.items()}
    assert after == before
