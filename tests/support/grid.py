"""A mesh inside the test's own process: real gateways and real HTTP, blobs in memory, nodes that fail on command.

Nothing but the adapters differs from a real mesh; it starts in milliseconds. Its metadata are in memory too, or in the Cassandra
that tests share, and its nodes meet at their Redis: then it starts in half a second.
"""

from __future__ import annotations

import io
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.adapters.redis_membership import RedisMembership
from discloud.api.app import App
from discloud.api.call import Surface
from discloud.api.server import Listening, serve
from discloud.api.shortcut import PlainGet
from discloud.api.table import native_router
from discloud.cluster import Cluster
from discloud.core.model import (
    Account,
    BlobId,
    Bucket,
    BucketId,
    Node,
    NodeId,
    NodeState,
    Role,
    View,
)
from discloud.errors import PeerDown
from discloud.gateway.accounts import Accounts, token_digest
from discloud.gateway.breaker import Breaker
from discloud.gateway.buckets import Buckets
from discloud.gateway.change import Changer
from discloud.gateway.heads import Heads
from discloud.gateway.memory import BodyMemory
from discloud.gateway.read import PeekBlob, Reader
from discloud.gateway.seals import Seals
from discloud.gateway.write import WritePolicy, Writer
from discloud.ports import Blobs, Metadata
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.cassandra_tables import keyspace_session
from tests.support.servers import shared_redis

TOKEN = "test-token"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
MESH = "11111111-1111-4111-8111-111111111111"


async def met_at_once(nodes: Sequence[Node]) -> View:
    """Everybody knows everybody."""
    return View(1, tuple(nodes))


@dataclass(frozen=True)
class Kept:
    """An empty mesh's servers: ``metadata`` gives what a gateway has of them, ``meet`` the nodes as the roots see them."""

    metadata: Callable[[], Metadata]
    meet: Callable[[Sequence[Node]], Awaitable[View]] = met_at_once


Keeping = Callable[[], AbstractAsyncContextManager[Kept]]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Kept]:
    """One for all gateways, as with a root that keeps it."""
    metadata = MemoryMetadata(MESH)
    yield Kept(lambda: metadata)


@asynccontextmanager
async def in_cassandra() -> AsyncIterator[Kept]:
    """Every gateway is a root with a memory of its own; they share a connection. The keyspace is the process's, emptied.

    Half of the nodes beat at one root and half at another, which meet at Redis.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(await keyspace_session(MESH))

        def of_a_root() -> Metadata:
            metadata = CassandraMetadata(session, settle=0.0)
            stack.push_async_callback(metadata.versions.close)
            return metadata

        yield Kept(of_a_root, met_at_redis)


async def met_at_redis(nodes: Sequence[Node]) -> View:
    """The view of a root that heard only of half of the nodes itself."""
    url, mesh, key = shared_redis().url, str(uuid.uuid4()), b"k" * 32
    async with AsyncExitStack() as stack:
        roots = [RedisMembership(url, mesh, node.id, (key,), patience=5.0) for node in nodes[:2]]
        for root in roots:
            stack.push_async_callback(root.close)
        for number, node in enumerate(nodes):
            await roots[number % len(roots)].announce(node)
        for root in (*roots, roots[0]):
            await root.run_once()
        view = roots[0].view()
    assert len(view.nodes) == len(nodes), view
    return replace(view, nodes=tuple(view.find(node.id) or node for node in nodes))


class Reachable:
    """The blobs of a node as others reach them: as they are, or not at all while ``down``."""

    def __init__(self, blobs: Blobs) -> None:
        self.blobs = blobs
        self.down = False

    def __getattr__(self, name: str) -> Any:
        if self.down:
            raise PeerDown("the node is down")
        return getattr(self.blobs, name)


@dataclass
class GridNode:
    """One node: its blobs, its gateway's parts and its HTTP port."""

    node: Node
    blobs: MemoryBlobs
    reach: Reachable
    cluster: Cluster
    surface: Surface
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Grid:
    """The nodes, the metadata as the first of them has it and a client session that carries the token."""

    nodes: list[GridNode]
    metadata: Metadata
    session: aiohttp.ClientSession  # noqa: TID251 - the tests are a client
    bucket: Bucket
    view: View = field(default_factory=lambda: View(0, ()))

    def set_state(self, position: int, state: NodeState) -> None:
        """Show a node in another state to everybody, and cut it off when it is down."""
        changed = tuple(
            replace(node, state=state) if number == position else node
            for number, node in enumerate(self.view.nodes)
        )
        self.view = View(self.view.epoch + 1, changed)
        for each in self.nodes:
            each.cluster.update(self.view)
        self.nodes[position].reach.down = state in (NodeState.DOWN, NodeState.LOST)

    async def put(
        self, key: str, data: bytes, query: str = "", node: int = 0, headers: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Store an object; gives the answer."""
        url = f"{self.nodes[node].url}/v1/files/files/{key}{'?' + query if query else ''}"
        async with self.session.put(url, data=io.BytesIO(data), headers=headers) as answer:
            body: dict[str, Any] = await answer.json()
            assert answer.status in (200, 201), body
            return body

    async def get(self, key: str, query: str = "", node: int = 0, **headers: str) -> bytes:
        """Read an object that must be there."""
        url = f"{self.nodes[node].url}/v1/files/files/{key}{'?' + query if query else ''}"
        async with self.session.get(url, headers=headers) as answer:
            data = await answer.read()
            assert answer.status in (200, 206), data[:300]
            return data

    async def problem(self, method: str, path: str, node: int = 0, **more: Any) -> tuple[int, str]:
        """Status and code of a request that must be refused with a problem."""
        if isinstance(data := more.get("data"), bytes):
            more["data"] = io.BytesIO(data)
        async with self.session.request(method, self.nodes[node].url + path, **more) as answer:
            assert answer.content_type == "application/problem+json", (answer.status, await answer.text())
            body = await answer.json()
            assert body["status"] == answer.status
            assert body["detail"]
            assert body["request_id"]
            return answer.status, body["code"]

    def held(self) -> list[int]:
        """Blobs that each node holds."""
        return [len(each.blobs._held) for each in self.nodes]


def grid_node(number: int, region: str = "") -> Node:
    """A node with 1 GiB on a host of its own."""
    name = f"node{number + 1}"
    return Node(
        id=NodeId(str(uuid.UUID(int=number + 1))),
        name=name,
        role=Role.ORDINARY if number else Role.ROOT,
        api=f"{name}:7070",
        peer=f"{name}:7072",
        host=name,
        region=region,
        capacity=1 << 30,
        free=1 << 30,
    )


@asynccontextmanager
async def grid(
    count: int = 3,
    regions: Sequence[str] = (),
    *,
    max_object: int = 1 << 30,
    layout: str = "mirror:3",
    kernel: bool = True,
    grace: float = 5.0,
    kept: Keeping = in_memory,
) -> AsyncIterator[Grid]:
    """A running grid with bucket ``files``. ``kept`` says where its metadata are and where its nodes meet."""
    async with AsyncExitStack() as stack:
        servers = await stack.enter_async_context(kept())
        metadata = [servers.metadata() for _ in range(count)]
        await metadata[0].accounts.add(Account("admin", "admin", token_digest(TOKEN.encode()), admin=True))
        bucket = Bucket(BucketId(str(uuid.uuid4())), "files", time.time())
        await metadata[0].buckets.create(bucket)
        known = [grid_node(number, regions[number] if regions else "") for number in range(count)]
        view = await servers.meet(known)
        reaches = {node.id: Reachable(MemoryBlobs()) for node in known}
        nodes = []
        for node, own in zip(known, metadata, strict=True):
            nodes.append(await _start(node, view, reaches, own, stack, max_object, layout, kernel, grace))
        session = await stack.enter_async_context(aiohttp.ClientSession(headers=HEADERS))  # noqa: TID251
        yield Grid(nodes, metadata[0], session, bucket, view)


async def _start(
    node: Node,
    view: View,
    reaches: dict[NodeId, Reachable],
    metadata: Metadata,
    stack: AsyncExitStack,
    max_object: int,
    layout: str,
    kernel: bool,
    grace: float,
) -> GridNode:
    reach = reaches[node.id]
    blobs = reach.blobs
    assert isinstance(blobs, MemoryBlobs)
    cluster = Cluster(node, MESH, blobs, lambda other: reaches[other.id])
    cluster.update(view)
    threads = Threads(node.name, 8)
    stack.callback(threads.close)
    seals = await stack.enter_async_context(Seals(cluster))
    draw: Callable[[int], int] = random.Random(7).randrange
    breaker = Breaker(time.monotonic)
    heads = Heads(metadata.versions, breaker, time.monotonic)
    buckets = Buckets(metadata, cluster, time.time, lambda: str(uuid.uuid4()), breaker)
    policy = WritePolicy(max_object, 120, 3600, layout)
    memory = BodyMemory(64 << 20)
    surface = Surface(
        cluster=cluster,
        reader=Reader(
            cluster, metadata, buckets, clock=time.time, draw=draw, peek_blob=_peek(blobs), heads=heads
        ),
        writer=Writer(
            cluster, metadata, buckets, seals, policy, threads, memory,
            clock=time.time, draw=draw, new_version=lambda: str(uuid.uuid4()), heads=heads,
        ),
        changer=Changer(metadata.versions, buckets, seals, policy.keep, heads),
        buckets=buckets,
        accounts=Accounts(metadata.accounts, time.time, breaker),
        threads=threads,
        memory=memory,
        pace=Pace(grace, 16 * 1024),
        max_object=max_object,
        max_list=1000,
        default_layout=layout,
        kernel=kernel,
        ready=list,
        clock=time.time,
        new_id=lambda: str(uuid.uuid4()),
    )  # fmt: skip
    app = App(surface, native_router())
    port = await stack.enter_async_context(serve(app, PlainGet(surface), Listening("127.0.0.1", 0)))
    return GridNode(node, blobs, reach, cluster, surface, port)


def _peek(blobs: MemoryBlobs) -> PeekBlob:
    def peek(blob: BlobId, offset: int, length: int) -> bytes | None:
        held = blobs._held.get(blob)
        return bytes(held.data[offset : offset + length]) if held else None

    return peek
