"""Which root is asked: the view's roots too, the living ones first, each node in an order of its own, a silent one not for long."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from discloud import metrics
from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_membership import MemoryMembership
from discloud.adapters.memory_metadata import MemoryBuckets, MemoryMetadata
from discloud.core.model import Bucket, BucketId, Node, NodeId, NodeState, Role, View
from discloud.errors import Invalid, NoSuchBucket, OutcomeUnknown, Unavailable
from discloud.peer.handshake import Identity
from discloud.peer.known_roots import AVOIDED, KnownRoots
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
from discloud.peer.metadata import PeerMetadata
from discloud.peer.server import PeerServer
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.peer_loopback import CALLER, SECRET, Relay, eventually

ME = Node(NodeId("me"), "me", Role.ORDINARY, "me:1", "me:2", "h", capacity=10, incarnation=1)
BUCKET = Bucket(BucketId("b"), "files", 1.0)


def root_node(peer: str, state: NodeState = NodeState.ALIVE, region: str = "") -> Node:
    return replace(
        ME, id=NodeId(f"root {peer}"), name=peer, role=Role.ROOT, peer=peer, state=state, region=region
    )


def addresses(known: KnownRoots, *, beat: bool = False) -> list[str]:
    return [target.address for target in known.order(beat=beat)]


# ---------------------------------------------------------------- the order


def test_the_views_roots_are_known_beside_the_configured_ones() -> None:
    known = KnownRoots(["a:2", "b:2", "a:2"])
    assert addresses(known) == ["a:2", "b:2"]
    known.follow(View(1, (root_node("b:2"), root_node("c:2"), ME)))
    assert set(addresses(known)) == {"a:2", "b:2", "c:2"}
    assert [target.node for target in known.order() if target.address == "c:2"] == ["root c:2"]
    known.follow(View(2, (root_node("d:2"), root_node("c:2", NodeState.REMOVED))))
    assert set(addresses(known)) == {"a:2", "b:2", "d:2"}


def test_the_living_are_asked_first_and_strangers_before_the_dead() -> None:
    known = KnownRoots(["stranger:2", "down:2", "suspect:2", "alive:2"])
    nodes = [
        root_node("down:2", NodeState.DOWN),
        root_node("suspect:2", NodeState.SUSPECT),
        root_node("alive:2"),
    ]
    known.follow(View(1, tuple(nodes)))
    assert addresses(known) == ["alive:2", "stranger:2", "suspect:2", "down:2"]


def test_the_own_region_is_asked_first_while_it_lives() -> None:
    known = KnownRoots(["us:2", "eu:2"], region="eu")
    known.follow(View(1, (root_node("us:2", region="us"), root_node("eu:2", region="eu"))))
    assert addresses(known) == ["eu:2", "us:2"]
    known.follow(View(1, (root_node("us:2", region="us"), root_node("eu:2", NodeState.SUSPECT, "eu"))))
    assert addresses(known) == ["us:2", "eu:2"]


def test_a_root_that_failed_is_tried_again_by_a_beat_after_a_while_and_by_others_when_it_answered() -> None:
    now = [100.0]
    known = KnownRoots(["a:2", "b:2", "c:2"], clock=lambda: now[0])
    a, b, _ = known.order()
    known.failed(a)
    assert addresses(known) == addresses(known, beat=True) == ["b:2", "c:2", "a:2"]
    now[0] += 1
    known.failed(b)
    assert addresses(known) == ["c:2", "a:2", "b:2"], "who failed first is tried first"
    now[0] += AVOIDED - 1
    assert addresses(known, beat=True) == ["a:2", "c:2", "b:2"]
    assert addresses(known) == ["c:2", "a:2", "b:2"]
    known.answered(a)
    assert addresses(known) == ["a:2", "c:2", "b:2"]


def test_the_nodes_of_a_dead_root_spread_over_the_others() -> None:
    roots = [f"r{number}:2" for number in range(5)]
    first, second = Counter[str](), Counter[str]()
    for seed in range(500):
        known = KnownRoots(roots, draw=random.Random(seed).randrange)
        order = known.order()
        first[order[0].address] += 1
        if order[0].address == "r0:2":
            known.failed(order[0])
            second[known.order()[0].address] += 1
        assert known.order()[0] == known.order()[0]
    assert len(first) == 5
    assert min(first.values()) > 60
    assert set(second) == {"r1:2", "r2:2", "r3:2", "r4:2"}
    assert max(second.values()) < sum(second.values()) / 2


def test_without_an_address_there_is_nothing_to_ask() -> None:
    with pytest.raises(Invalid, match="--roots"):
        KnownRoots([])


# ---------------------------------------------------------------- real sockets


class Slow(MemoryBuckets):
    """Buckets that answer when they are told to."""

    def __init__(self, buckets: MemoryBuckets) -> None:
        self.__dict__ = buckets.__dict__
        self.go = asyncio.Event()

    async def get(self, name: str) -> Bucket:
        await self.go.wait()
        return await super().get(name)


@dataclass
class Root:
    """One root of a mesh, behind a relay that can fall silent as a paused process does."""

    relay: Relay
    server: PeerServer
    node: Node
    metadata: MemoryMetadata
    membership: MemoryMembership

    def slow(self) -> Slow:
        """From now on its buckets wait until they are told to go on."""
        calls = self.server._dispatch._calls
        slow = Slow(self.metadata.buckets)
        calls["buckets.get"] = (calls["buckets.get"][0], slow.get)
        return slow

    async def kill(self) -> None:
        await self.relay.close()
        await self.server.close(grace=0.1)


@dataclass
class Caller:
    """An ordinary node's end."""

    known: KnownRoots
    metadata: PeerMetadata
    membership: PeerMembership

    async def beat(self, number: int) -> View:
        return await self.membership.announce(replace(ME, beat=number))


Start = Callable[[int], Awaitable[list[Root]]]
Join = Callable[..., Awaitable[Caller]]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


@pytest.fixture
async def start(stack: AsyncExitStack) -> Start:
    """Roots that share their metadata and know each other's nodes."""

    async def go(count: int) -> list[Root]:
        threads = Threads("holder", 1)
        stack.callback(threads.close)
        local, roots = MemoryMetadata("mesh"), []
        await local.buckets.create(BUCKET)
        for number in range(count):
            membership = MemoryMembership()
            relay = Relay()
            me = Identity(SECRET, NodeId(f"root {number}"), "mesh")
            server = PeerServer(me, MemoryBlobs(), threads, Pace(10.0, 1e6), local, membership, membership)
            await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.close, 0.1)
            address = await relay.start(server.port)
            stack.push_async_callback(relay.close)
            node = replace(root_node(address), id=me.node)
            roots.append(Root(relay, server, node, local, membership))
        for one in roots:
            for other in roots:
                await one.membership.announce(replace(other.node, beat=1))
        return roots

    return go


@pytest.fixture
async def join(stack: AsyncExitStack) -> Join:
    async def go(*roots: Root, patience: float = 4.0) -> Caller:
        links = Links(Identity(SECRET, CALLER))
        stack.push_async_callback(links.close)
        known = KnownRoots([root.node.peer for root in roots])
        membership = PeerMembership(links, known)
        stack.push_async_callback(membership.close)
        return Caller(known, await PeerMetadata.connect(links, known, patience), membership)

    return go


async def test_a_root_that_joined_later_takes_over_when_the_configured_one_dies(
    start: Start, join: Join
) -> None:
    one, two = await start(2)
    caller = await join(one)
    await caller.beat(1)
    await one.kill()
    assert (await caller.beat(2)).find(ME.id)
    assert two.membership.view().find(ME.id)
    assert await caller.metadata.buckets.get("files") == BUCKET


async def test_calls_under_way_at_a_root_that_dies_are_answered_by_another(start: Start, join: Join) -> None:
    one, two = await start(2)
    caller = await join(one, two)
    one.slow()
    calls = [asyncio.create_task(caller.metadata.buckets.get("files")) for _ in range(20)]
    await eventually(lambda: one.relay.connections == 2, "both connections for calls are in use")
    await one.kill()
    assert await asyncio.gather(*calls) == [BUCKET] * 20


async def test_a_paused_root_costs_its_callers_less_than_their_patience_and_is_avoided(
    start: Start, join: Join
) -> None:
    one, two = await start(2)
    caller = await join(one, two, patience=60.0)
    assert await caller.metadata.buckets.get("files") == BUCKET
    one.relay.open.clear()
    async with asyncio.timeout(
        20
    ):  # 0.65 s on a machine with nothing else to do; without the look after it 60
        calls = [caller.metadata.buckets.get("files") for _ in range(20)]
        assert await asyncio.gather(*calls) == [BUCKET] * 20
    passed = two.relay.connections
    for _ in range(20):
        assert await caller.metadata.buckets.get("files") == BUCKET
    assert addresses(caller.known)[0] == two.node.peer
    assert two.relay.connections == passed
    one.relay.open.set()


async def test_a_root_that_lives_and_never_answers_leaves_time_for_another(start: Start, join: Join) -> None:
    one, two = await start(2)
    caller = await join(one, two, patience=1.0)
    one.slow()
    assert await caller.metadata.buckets.get("files") == BUCKET
    assert addresses(caller.known)[0] == two.node.peer


async def test_a_beat_that_failed_spares_the_other_calls_the_wait(start: Start, join: Join) -> None:
    one, two = await start(2)
    caller = await join(one, two, patience=60.0)
    await caller.beat(1)
    one.relay.open.clear()
    assert (await caller.beat(2)).find(ME.id)
    assert addresses(caller.known)[0] == two.node.peer
    one.relay.open.set()


async def test_a_root_that_lives_but_takes_its_time_is_waited_for(start: Start, join: Join) -> None:
    one, two = await start(2)
    caller = await join(one, two)
    slow = one.slow()
    call = asyncio.create_task(caller.metadata.buckets.get("files"))
    looked = metrics_of("membership.leave")
    await eventually(lambda: metrics_of("membership.leave") >= looked + 2, "it is looked after twice")
    slow.go.set()
    assert await call == BUCKET
    assert two.relay.connections == 0
    assert addresses(caller.known)[0] == one.node.peer


def metrics_of(method: str) -> float:
    return metrics.PEER_CALLS.values[method, "ok"]


async def test_what_must_not_be_sent_twice_is_not_sent_to_another_root(start: Start, join: Join) -> None:
    one, two = await start(2)
    caller = await join(one, two, patience=1.0)
    one.relay.open.clear()
    with pytest.raises(OutcomeUnknown):
        await caller.metadata.buckets.create(replace(BUCKET, id=BucketId("c"), name="other"))
    one.relay.open.set()
    with pytest.raises(NoSuchBucket):
        await two.metadata.buckets.get("never")


async def test_when_all_roots_are_gone_it_is_said_and_the_first_that_is_back_is_used(
    start: Start, join: Join
) -> None:
    roots = await start(3)
    caller = await join(*roots, patience=2.0)
    await caller.beat(1)
    for each in roots[:2]:
        await each.kill()
    roots[2].relay.open.clear()
    began = time.monotonic()
    with pytest.raises(Unavailable):
        await caller.beat(2)
    with pytest.raises(Unavailable):
        await caller.metadata.buckets.get("files")
    assert time.monotonic() - began < 60
    roots[2].relay.open.set()
    async with asyncio.timeout(30):
        while True:
            try:
                assert (await caller.beat(3)).find(ME.id)
                break
            except Unavailable:
                continue
    assert await caller.metadata.buckets.get("files") == BUCKET
