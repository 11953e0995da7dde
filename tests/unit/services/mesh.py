"""A mesh in one process: one metadata, one Blobs per node, a clock that tests move, and faults on any call."""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, cast

from blake3 import blake3

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.cluster import Cluster
from discloud.core.layout import pieces
from discloud.core.model import (
    GIB,
    BlobId,
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Key,
    Label,
    Layout,
    Node,
    NodeId,
    NodeState,
    Precondition,
    Repair,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
    View,
)
from discloud.errors import NoSuchBlob, PeerDown
from discloud.ports import Blobs, Metadata
from discloud.transfer.threads import Threads

BUCKET = BucketId("b0000000-0000-4000-8000-000000000000")
ANY = Precondition()
Hook = Callable[..., Awaitable[None]]


class Faults:
    """An adapter behind a line that may fail. ``down``: every call; ``failing``: calls of that name; ``fails``: asked each time.

    ``before[name]`` and ``after[name]`` run around a call, once: that is where another party gets in between; ``yields`` says how
    often others run before a call and after it.
    """

    def __init__(self, inner: object) -> None:
        self.inner = inner
        self.down = False
        self.failing: set[str] = set()
        self.fails: Callable[[], bool] = lambda: False
        self.yields: Callable[[], int] = lambda: 0
        self.before: dict[str, Hook] = {}
        self.after: dict[str, Hook] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.inner, name)
        if not callable(method):
            return method

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            if self.down or name in self.failing or self.fails():
                raise PeerDown(f"{name} was not answered")
            if inspect.iscoroutinefunction(method):
                return self._between(name, method, arguments, named)
            return method(*arguments, **named)

        return call

    async def _between(self, name: str, method: Any, arguments: Any, named: Any) -> Any:
        await self._let_others()
        if before := self.before.pop(name, None):
            await before(*arguments)
        result = await method(*arguments, **named)
        if after := self.after.pop(name, None):
            await after(*arguments)
        await self._let_others()
        return result

    async def _let_others(self) -> None:
        for _ in range(self.yields()):
            await asyncio.sleep(0)


@dataclass(slots=True)
class FaultyMetadata:
    """A Metadata whose parts may fail."""

    cluster: str
    versions: Any
    buckets: Any
    queues: Any


@dataclass(slots=True)
class Mesh:
    """``nodes`` named n1, n2, ...; each has a disk (``disks``), a line to it (``lines``) and a Cluster."""

    count: int
    now: float = 1_000_000.0
    seed: int = 1
    disks: dict[NodeId, MemoryBlobs] = field(default_factory=dict)
    lines: dict[NodeId, Faults] = field(default_factory=dict)
    clusters: dict[NodeId, Cluster] = field(default_factory=dict)
    view: View = field(default=View(1, ()))
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.store = MemoryMetadata("mesh", clock=self.clock)
        self.faults = FaultyMetadata(
            "mesh", Faults(self.store.versions), Faults(self.store.buckets), Faults(self.store.queues)
        )
        self.threads = Threads("test", 2)
        for _ in range(self.count):
            self.join()

    random: random.Random = field(init=False)
    store: MemoryMetadata = field(init=False)
    faults: FaultyMetadata = field(init=False)
    threads: Threads = field(init=False)

    def clock(self) -> float:
        return self.now

    def draw(self, below: int) -> int:
        return self.random.randrange(below)

    @property
    def metadata(self) -> Metadata:
        return cast("Metadata", self.faults)

    async def open(self) -> Mesh:
        await self.store.buckets.create(Bucket(BUCKET, "files", self.now))
        return self

    # ------------------------------------------------------------ nodes

    def join(self, **more: Any) -> NodeId:
        number = len(self.disks) + 1
        node = Node(
            id=NodeId(f"n{number}"),
            name=f"node{number}",
            role=Role.ROOT if number == 1 else Role.ORDINARY,
            api=f"127.0.0.1:{7000 + number}",
            peer=f"127.0.0.1:{8000 + number}",
            host=f"host{number}",
            capacity=GIB,
            free=GIB,
        )
        node = replace(node, **more)
        self.disks[node.id] = MemoryBlobs(clock=self.clock)
        self.lines[node.id] = Faults(self.disks[node.id])
        self.clusters[node.id] = Cluster(
            node,
            "mesh",
            cast("Blobs", self.lines[node.id]),
            lambda other: cast("Blobs", self.lines[other.id]),
        )
        self.show(View(self.view.epoch + 1, (*self.view.nodes, node)))
        return node.id

    def show(self, view: View) -> None:
        self.view = view
        for cluster in self.clusters.values():
            cluster.update(view)

    def become(self, node: str, state: NodeState, **more: Any) -> None:
        """Change a node in everybody's view."""
        nodes = tuple(
            replace(each, state=state, **more) if each.id == node else each for each in self.view.nodes
        )
        self.show(View(self.view.epoch + 1, nodes))

    @contextmanager
    def unreachable(self, *nodes: str) -> Iterator[None]:
        """Nodes that do not answer although the view still shows them."""
        for node in nodes:
            self.lines[NodeId(node)].down = True
        yield
        for node in nodes:
            self.lines[NodeId(node)].down = False

    # ------------------------------------------------------------ writing as a gateway does

    def draft(self, key: str, data: bytes, layout: Layout, *holders: tuple[str, ...]) -> Version:
        """A draft with its hashes: fragment f on the nodes ``holders[f]``."""
        number = next(self.ids)
        segment = Segment(
            SegmentId(number),
            len(data),
            layout,
            tuple(tuple(NodeId(node) for node in nodes) for nodes in holders),
            blake3(data).digest(),
            tuple(blake3(part).digest() for part in cut(layout, data)),
        )
        return Version(
            bucket=BUCKET,
            key=Key(key),
            id=VersionId(f"00000000-0000-4000-8000-{number:012x}"),
            state=State.DRAFT,
            size=len(data),
            segments=(segment,),
            created=self.now,
            due=self.now + 120,
            gateway=NodeId("n1"),
        )

    async def store_blobs(self, version: Version, data: bytes, skip: tuple[str, ...] = ()) -> None:
        """The bytes of a version at its holders (but those of ``skip``), as its gateway would leave them."""
        for segment in version.segments:
            parts = cut(segment.layout, data)
            for fragment, nodes in enumerate(segment.holders):
                for node in nodes:
                    if node not in skip:
                        blob = BlobId(version.id, segment.id, fragment)
                        await self.store_blob(node, blob, version, parts[fragment])

    async def store_blob(self, node: str, blob: BlobId, version: Version, data: bytes) -> None:
        label = Label("mesh", version.bucket, "files", version.key, version.segments[0].layout)
        disk = self.disks[NodeId(node)]
        async with disk.create(blob, label, len(data)) as writer:
            writer.write(memoryview(data))
            await writer.commit(blake3(data).digest())

    async def put(
        self,
        key: str,
        data: bytes,
        layout: Layout,
        *holders: tuple[str, ...],
        repairs: tuple[Repair, ...] = (),
        skip: tuple[str, ...] = (),
    ) -> Version:
        """A committed version, its blobs at its holders, not sealed."""
        version = self.draft(key, data, layout, *holders)
        await self.store_blobs(version, data, skip)
        await self.store.versions.put(version, ANY, repairs)
        return await self.store.versions.get(BUCKET, version.key)

    async def remove(self, key: str, keep: float = 3600.0) -> None:
        await self.store.versions.commit(Change(ChangeKind.DELETE, BUCKET, Key(key), keep=keep), ANY)

    # ------------------------------------------------------------ looking

    async def find(self, version: Version) -> Version:
        return await self.store.versions.find(version.bucket, version.key, version.id)

    async def holders(self, version: Version, fragment: int = 0) -> tuple[NodeId, ...]:
        """Who is recorded for a fragment of the first segment now."""
        return (await self.find(version)).segments[0].holders[fragment]

    async def where(self, version: Version, fragment: int = 0) -> set[str]:
        """Nodes whose disk has a fragment of the first segment."""
        blob = BlobId(version.id, version.segments[0].id, fragment)
        return {node for node in self.disks if await self.has(node, blob)}

    async def has(self, node: NodeId, blob: BlobId) -> bool:
        try:
            await self.disks[node].stat(blob)
        except NoSuchBlob:
            return False
        return True

    async def queued(self) -> tuple[Repair, ...]:
        return await self.store.queues.repairs(self.now + 1e9, 1000)


def cut(layout: Layout, data: bytes) -> list[bytes]:
    """The fragments of a segment."""
    if layout.data == 1:
        return [data]
    parts = [bytearray() for _ in range(layout.data)]
    position = 0
    for piece in pieces(layout, len(data), 0, len(data)):
        parts[piece.fragment] += data[position : position + piece.length]
        position += piece.length
    return [bytes(part) for part in parts]


def blob_of(version: Version, fragment: int = 0) -> BlobId:
    return BlobId(version.id, version.segments[0].id, fragment)
