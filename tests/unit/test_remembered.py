"""Tokens and buckets without metadata: what was known goes on for ten minutes, for reads, without being held up."""

from __future__ import annotations

import asyncio

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.cluster import CLOCK, Cluster
from discloud.core.model import Account, Node, NodeId, Role
from discloud.errors import Invalid, NoSuchBucket, Unauthenticated, Unavailable
from discloud.gateway import accounts as accounts_module
from discloud.gateway import buckets as buckets_module
from discloud.gateway.accounts import Accounts, token_digest
from discloud.gateway.breaker import PAUSE, Breaker
from discloud.gateway.buckets import LONGEST_STALE, Buckets, BucketWish
from tests.support.quorum import Quorum, QuorumMetadata

TOKEN = b"token"
ADMIN = Account("admin", "admin", token_digest(TOKEN), admin=True)


class Node1:
    """What one node knows of accounts and buckets, over metadata that can fail, with a clock to move."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.metadata = QuorumMetadata(MemoryMetadata("mesh"))
        me = Node(NodeId("n"), "node1", Role.ROOT, "a:1", "a:2", "host")
        self.cluster = Cluster(me, "mesh", MemoryBlobs(), lambda _: MemoryBlobs())
        port, clock = self.metadata.port(), lambda: self.now
        self.accounts = Accounts(port.accounts, clock, Breaker(clock))
        self.buckets = Buckets(port, self.cluster, clock, lambda: "id", Breaker(clock))


@pytest.fixture
async def node() -> Node1:
    node = Node1()
    await node.metadata.real.accounts.add(ADMIN)
    await node.buckets.create(ADMIN, "files", BucketWish())
    assert await node.accounts.of_token(TOKEN) == ADMIN
    return node


@pytest.mark.parametrize("state", [Quorum.LOST, Quorum.GONE])
async def test_a_known_token_goes_on_for_ten_minutes(node: Node1, state: Quorum) -> None:
    node.metadata.state = state
    node.now += accounts_module.GRACE - 1
    assert await node.accounts.of_token(TOKEN) == ADMIN
    assert node.accounts.peek(TOKEN) == ADMIN, "the short path goes on too"
    node.now += 1
    assert node.accounts.peek(TOKEN) is None
    with pytest.raises(Unavailable):
        await node.accounts.of_token(TOKEN)
    node.metadata.state = Quorum.THERE
    assert await node.accounts.of_token(TOKEN) == ADMIN


async def test_an_unknown_token_is_not_refused_but_unknown(node: Node1) -> None:
    with pytest.raises(Unauthenticated):
        await node.accounts.of_token(b"other")
    node.metadata.state = Quorum.LOST
    with pytest.raises(Unavailable):
        await node.accounts.of_token(b"other")


async def test_a_revoked_token_ends_within_the_time_it_is_fresh(node: Node1) -> None:
    node.metadata.real.accounts._rows.accounts.clear()
    node.now += accounts_module.FRESH
    assert node.accounts.peek(TOKEN) is None
    with pytest.raises(Unauthenticated):
        await node.accounts.of_token(TOKEN)


async def test_only_one_question_in_a_while(node: Node1) -> None:
    node.metadata.state = Quorum.GONE
    node.now += accounts_module.FRESH
    node.metadata.asked.clear()
    for _ in range(10):
        assert await node.accounts.of_token(TOKEN) == ADMIN
        assert (await node.buckets.read("files")).name == "files"
    assert sorted(node.metadata.asked) == ["accounts.by_digest", "buckets.get"]
    node.now += PAUSE
    node.metadata.asked.clear()
    node.metadata.state = Quorum.THERE
    for _ in range(3):
        assert await node.accounts.of_token(TOKEN) == ADMIN
        assert (await node.buckets.read("files")).name == "files"
    async with asyncio.timeout(5):
        while len(node.metadata.asked) < 2:
            await asyncio.sleep(0)
    assert sorted(node.metadata.asked) == ["accounts.by_digest", "buckets.get"], (
        "one each, beside the requests"
    )


async def test_reads_go_on_with_a_known_bucket_and_writes_do_not(node: Node1) -> None:
    node.metadata.state = Quorum.LOST
    node.now += buckets_module.GRACE - 1
    bucket = await node.buckets.read("files")
    assert node.buckets.peek("files") == bucket
    with pytest.raises(Unavailable):
        await node.buckets.writable(ADMIN, "files")
    node.now += 1
    with pytest.raises(Unavailable):
        await node.buckets.read("files")
    with pytest.raises(Unavailable):
        await node.buckets.read("never-seen")
    node.metadata.state = Quorum.THERE
    assert await node.buckets.writable(ADMIN, "files") == bucket
    with pytest.raises(NoSuchBucket):
        await node.buckets.read("never-seen")


@pytest.mark.parametrize(
    ("offset", "told"),
    [(CLOCK + 15, "20.0 s behind"), (-CLOCK - 0.1, "5.1 s ahead of"), (CLOCK - 1, ""), (None, "")],
)
async def test_a_clock_that_is_off_refuses_writes_not_reads(
    node: Node1, offset: float | None, told: str
) -> None:
    node.cluster.clock_offset = offset
    assert (await node.buckets.read("files")).name == "files"
    if told:
        with pytest.raises(Unavailable, match=f"{told} the mesh's.*NTP"):
            await node.buckets.writable(ADMIN, "files")
    else:
        await node.buckets.writable(ADMIN, "files")


async def test_how_far_a_bucket_may_be_behind(node: Node1) -> None:
    assert (await node.buckets.read("files")).max_stale == 0
    assert (await node.buckets.change(ADMIN, "files", BucketWish(max_stale=60))).max_stale == 60
    assert (await node.buckets.change(ADMIN, "files", BucketWish(verify="window"))).max_stale == 60
    for wrong in (-1, LONGEST_STALE + 1, float("nan"), float("inf")):
        with pytest.raises(Invalid, match="max_stale"):
            await node.buckets.change(ADMIN, "files", BucketWish(max_stale=wrong))
