"""Metadata and membership through roots: the next root at once, lost commits repeated, an unknown outcome told as such."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_membership import MemoryMembership
from discloud.adapters.memory_metadata import MemoryMetadata, MemoryVersions
from discloud.core.model import (
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Committed,
    Key,
    Layout,
    Node,
    NodeId,
    NodeState,
    Precondition,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
)
from discloud.errors import (
    BucketExists,
    Conflict,
    Invalid,
    NoSuchKey,
    OutcomeUnknown,
    PreconditionFailed,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from discloud.peer import wire
from discloud.peer.handshake import ClusterSecret, Identity
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
from discloud.peer.metadata import PeerMetadata
from discloud.ports import Membership, Metadata
from tests.support.peer_loopback import CALLER, SECRET, Relay, pair

BUCKET = Bucket(BucketId(str(uuid.uuid4())), "files", 1.0)
ANY = Precondition()
HOLDER = NodeId("holder")


@dataclass
class Mesh:
    """Roots that share one metadata, each behind a relay, and an ordinary node's view of it."""

    local: MemoryMetadata
    relays: list[Relay]
    addresses: list[str]
    links: Links
    metadata: PeerMetadata


MakeMesh = Callable[[int], Awaitable[Mesh]]


@pytest.fixture
async def mesh() -> AsyncIterator[MakeMesh]:
    async with AsyncExitStack() as stack:

        async def make(roots: int) -> Mesh:
            local = MemoryMetadata("mesh")
            await local.buckets.create(BUCKET)
            relays = [Relay() for _ in range(roots)]
            nodes = [await stack.enter_async_context(pair(metadata=local, relay=relay)) for relay in relays]
            links = Links(Identity(SECRET, CALLER))
            stack.push_async_callback(links.close)
            addresses = [each.address for each in nodes]
            metadata = await PeerMetadata.connect(links, addresses, patience=4.0)
            return Mesh(local, relays, addresses, links, metadata)

        yield make


def version(key: str = "k", state: State = State.DRAFT) -> Version:
    segment = Segment(SegmentId(1), 5, Layout(), ((HOLDER,),))
    return Version(
        BUCKET.id, Key(key), VersionId(str(uuid.uuid4())), state, 5, (segment,), created=1.0, due=1e12
    )


def put(draft: Version) -> Change:
    return Change(ChangeKind.PUT, draft.bucket, draft.key, draft)


def lose_answers(relay: Relay, count: int = 1) -> None:
    """The next ``count`` answers are lost, each with its connection."""
    left = [count]

    def hook(data: bytes) -> bytes | None:
        left[0] -= 1
        return data if left[0] < 0 else None

    relay.to_client = hook


async def test_every_part_answers_through_a_root(mesh: MakeMesh) -> None:
    it = await mesh(1)
    metadata: Metadata = it.metadata
    assert metadata.cluster == "mesh"
    draft = version()
    await metadata.versions.begin(draft)
    done = await metadata.versions.commit(put(draft), ANY)
    assert isinstance(done, Committed)
    assert await metadata.versions.get(BUCKET.id, Key("k")) == await it.local.versions.get(
        BUCKET.id, Key("k")
    )
    assert metadata.versions.peek(BUCKET.id, Key("k")) is None
    assert [each async for each in metadata.versions.on_node(HOLDER)] == [done.version]
    assert await metadata.buckets.all() == (BUCKET,)
    assert await metadata.queues.log(0, 10) == ()
    with pytest.raises(NoSuchKey):
        await metadata.versions.get(BUCKET.id, key=Key("other"))
    with pytest.raises(PreconditionFailed):
        await metadata.versions.put(version(), Precondition(if_none_match=("*",)))


async def test_the_next_root_is_asked_at_once_and_kept(mesh: MakeMesh) -> None:
    it = await mesh(3)
    await it.metadata.versions.put(version(), ANY)
    for relay in it.relays[:2]:
        await relay.close()
    for _ in range(3):
        assert (await it.metadata.versions.get(BUCKET.id, Key("k"))).size == 5
    assert [each async for each in it.metadata.versions.on_node(HOLDER)]


async def test_a_silent_root_costs_its_share_of_the_patience_once(mesh: MakeMesh) -> None:
    it = await mesh(2)
    await it.metadata.versions.put(version(), ANY)
    it.relays[0].open.clear()
    assert (await it.metadata.versions.get(BUCKET.id, Key("k"))).size == 5
    async with asyncio.timeout(1.0):  # the other root is asked first now
        await it.metadata.versions.get(BUCKET.id, Key("k"))
    it.relays[0].open.set()


@pytest.mark.parametrize("roots", [1, 2])
async def test_a_commit_whose_answer_was_lost_is_repeated_and_gives_the_first_answer(
    mesh: MakeMesh, roots: int
) -> None:
    it = await mesh(roots)
    old, new = version(), version()
    first = await it.metadata.versions.put(old, ANY)
    await it.metadata.versions.begin(new)
    lose_answers(it.relays[0])
    done = await it.metadata.versions.commit(put(new), Precondition(if_match=("*",)))
    assert done.version is not None
    assert done.version.id == new.id
    assert done.replaced is not None
    assert done.replaced.id == old.id
    head = await it.local.versions.get(BUCKET.id, Key("k"))
    assert first.version is not None
    assert (head.id, head.seq > first.version.seq) == (new.id, True)


async def test_a_commit_that_stays_lost_is_outcome_unknown(mesh: MakeMesh) -> None:
    it = await mesh(1)
    draft = version()
    await it.metadata.versions.begin(draft)
    lose_answers(it.relays[0], 1000)
    with pytest.raises(OutcomeUnknown):
        await it.metadata.versions.commit(put(draft), ANY)
    assert (await it.local.versions.get(BUCKET.id, Key("k"))).id == draft.id


async def test_a_commit_that_the_root_could_not_finish_in_time_is_outcome_unknown() -> None:
    class Slow(MemoryVersions):
        async def commit(self, change: Change, only: Precondition) -> Committed:
            await super().commit(change, only)
            await asyncio.Event().wait()
            raise AssertionError

    local = MemoryMetadata("mesh")
    local.versions = Slow(local._rows, lambda: 1.0)
    await local.buckets.create(BUCKET)
    draft = version()
    await local.versions.begin(draft)
    async with pair(metadata=local) as nodes:
        metadata = await PeerMetadata.connect(nodes.links, [nodes.address], patience=0.4)
        with pytest.raises(OutcomeUnknown):
            await metadata.versions.commit(put(draft), ANY)


async def test_a_commit_during_which_the_root_failed_inside_is_outcome_unknown() -> None:
    class Faulty(MemoryVersions):
        async def commit(self, change: Change, only: Precondition) -> Committed:
            await super().commit(change, only)
            raise ZeroDivisionError

    local = MemoryMetadata("mesh")
    local.versions = Faulty(local._rows, lambda: 1.0)
    await local.buckets.create(BUCKET)
    draft = version()
    await local.versions.begin(draft)
    async with pair(metadata=local) as nodes:
        metadata = await PeerMetadata.connect(nodes.links, [nodes.address])
        with pytest.raises(OutcomeUnknown):
            await metadata.versions.commit(put(draft), ANY)


async def test_a_commit_that_was_never_sent_is_unavailable_and_not_unknown(mesh: MakeMesh) -> None:
    it = await mesh(1)
    await it.relays[0].close()
    with pytest.raises(Unavailable) as caught:
        await it.metadata.versions.commit(put(version()), ANY)
    assert not isinstance(caught.value, OutcomeUnknown)


async def test_a_delete_of_whatever_is_there_is_not_sent_twice(mesh: MakeMesh) -> None:
    it = await mesh(2)
    await it.metadata.versions.put(version(), ANY)
    lose_answers(it.relays[0])
    with pytest.raises(OutcomeUnknown):
        await it.metadata.versions.commit(Change(ChangeKind.DELETE, BUCKET.id, Key("k")), ANY)
    with pytest.raises(NoSuchKey):
        await it.local.versions.get(BUCKET.id, Key("k"))


async def test_a_bucket_whose_creation_was_lost_is_not_said_to_exist(mesh: MakeMesh) -> None:
    it = await mesh(2)
    other = Bucket(BucketId(str(uuid.uuid4())), "other", 1.0)
    lose_answers(it.relays[0])
    with pytest.raises(OutcomeUnknown):
        await it.metadata.buckets.create(other)
    assert await it.metadata.buckets.get("other") == other
    with pytest.raises(BucketExists):
        await it.metadata.buckets.create(other)


async def test_a_read_whose_answer_was_lost_is_repeated(mesh: MakeMesh) -> None:
    it = await mesh(1)
    await it.metadata.versions.put(version(), ANY)
    lose_answers(it.relays[0])
    assert (await it.metadata.versions.get(BUCKET.id, Key("k"))).size == 5


async def test_unknown_is_never_absent(mesh: MakeMesh) -> None:
    it = await mesh(2)
    for relay in it.relays:
        await relay.close()
    for attempt in (
        it.metadata.versions.get(BUCKET.id, Key("nothing")),
        it.metadata.versions.find(BUCKET.id, Key("nothing"), VersionId("v")),
        it.metadata.buckets.get("nothing"),
        it.metadata.accounts.by_digest(b"d"),
        it.metadata.versions.forget(version(state=State.ABORTED)),
    ):
        with pytest.raises(Unavailable):
            await attempt
    with pytest.raises(Unavailable):
        _ = [each async for each in it.metadata.versions.on_node(HOLDER)]


async def test_many_versions_come_in_pages_and_long_listings_whole(mesh: MakeMesh) -> None:
    it = await mesh(1)
    for number in range(1200):
        await it.local.versions.put(version(f"key {number:04}"), ANY)
    found = {each.key async for each in it.metadata.versions.on_node(HOLDER)}
    assert len(found) == 1200
    page = await it.metadata.versions.list_keys(BUCKET.id, "", "", "", 1000)
    assert page == await it.local.versions.list_keys(BUCKET.id, "", "", "", 1000)


async def test_many_results_that_end_in_a_failure_are_not_begun_again_elsewhere() -> None:
    """The next root would repeat what was given out."""

    class Failing(MemoryVersions):
        async def on_node(self, node: NodeId) -> AsyncIterator[Version]:
            for number in range(3000):
                yield version(f"key {number}")
            raise Unavailable("the database is gone")

    local = MemoryMetadata("mesh")
    local.versions = Failing(local._rows, lambda: 1.0)
    async with pair(metadata=local) as one, pair(metadata=local) as two:
        metadata = await PeerMetadata.connect(one.links, [one.address, two.address])
        found: list[Version] = []

        async def collect() -> None:
            async for each in metadata.versions.on_node(HOLDER):
                found.append(each)

        with pytest.raises(Unavailable, match="database is gone"):
            await collect()
        assert 0 < len(found) <= 3000


async def test_a_page_too_large_to_cross_is_cut_shorter(
    mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    it = await mesh(1)
    for number in range(100):
        await it.local.versions.put(version(f"key {number:04}"), ANY)
    monkeypatch.setattr(wire, "FRAME_LIMIT", 3000)
    keys: list[str] = []
    after: str | None = ""
    while after is not None:
        page = await it.metadata.versions.list_keys(BUCKET.id, "key", "", after, 100)
        keys += [each.key for each in page.versions]
        after = page.after
    assert keys == [f"key {number:04}" for number in range(100)]
    monkeypatch.setattr(wire, "FRAME_LIMIT", 150)
    with pytest.raises(TooLarge):
        await it.metadata.versions.list_keys(BUCKET.id, "", "", "", 100)


async def test_closed_metadata_is_unavailable_and_leaves_the_links(mesh: MakeMesh) -> None:
    it = await mesh(1)
    await it.metadata.close()
    with pytest.raises(Unavailable):
        await it.metadata.versions.get(BUCKET.id, Key("k"))
    with pytest.raises(Unavailable):
        _ = [each async for each in it.metadata.versions.on_node(HOLDER)]
    again = await PeerMetadata.connect(it.links, it.addresses)
    assert await again.buckets.all() == (BUCKET,)


async def test_connecting_tells_a_refusal_from_an_absence(mesh: MakeMesh) -> None:
    it = await mesh(1)
    stranger = Links(Identity(ClusterSecret(b"z" * 32), CALLER))
    with pytest.raises(Unauthenticated):
        await PeerMetadata.connect(stranger, it.addresses)
    elsewhere = Links(Identity(SECRET, CALLER, "another mesh"))
    with pytest.raises(Conflict):
        await PeerMetadata.connect(elsewhere, it.addresses)
    await it.relays[0].close()
    with pytest.raises(Unavailable):
        await PeerMetadata.connect(Links(Identity(SECRET, CALLER)), it.addresses)
    with pytest.raises(Invalid, match="--roots"):
        await PeerMetadata.connect(it.links, [])
    await stranger.close()
    await elsewhere.close()


async def test_an_ordinary_node_is_not_taken_for_a_root() -> None:
    async with pair() as nodes:
        metadata = await PeerMetadata.connect(nodes.links, [nodes.address])
        with pytest.raises(Unavailable, match="ask a root"):
            await metadata.buckets.all()


# ---------------------------------------------------------------- membership


def node(name: str) -> Node:
    return Node(
        NodeId(name), name, Role.ORDINARY, "127.0.0.1:7070", "127.0.0.1:7072", "host", capacity=10, free=10
    )


async def test_a_heartbeat_brings_the_view() -> None:
    local = MemoryMembership()
    async with pair(membership=local) as nodes:
        membership: Membership = PeerMembership(nodes.links, [nodes.address])
        view = await membership.announce(node("a"))
        assert [each.name for each in view.nodes] == ["a"]
        view = await membership.announce(node("b"))
        assert {each.name for each in view.nodes} == {"a", "b"}
        await membership.leave(NodeId("a"))
        gone = (await membership.announce(node("b"))).find(NodeId("a"))
        assert gone is None or gone.state is NodeState.DOWN
        await membership.close()  # type: ignore[attr-defined]


async def test_a_missed_beat_goes_to_the_next_root_at_once() -> None:
    silent = Relay()
    async with (
        pair(membership=MemoryMembership(), relay=silent) as one,
        pair(membership=MemoryMembership()) as two,
    ):
        membership = PeerMembership(one.links, [one.address, two.address], patience=0.4)
        await membership.announce(node("a"))
        silent.open.clear()
        assert (await membership.announce(node("a"))).find(NodeId("a"))
        silent.open.set()
        await silent.close()
        assert (await membership.announce(node("a"))).find(NodeId("a"))
        await membership.close()


async def test_no_other_call_holds_the_heartbeat_up() -> None:
    relay = Relay()
    async with pair(MemoryBlobs(), membership=MemoryMembership(), relay=relay) as nodes:
        await nodes.blobs.usage()
        membership = PeerMembership(nodes.links, [nodes.address])
        await membership.announce(node("a"))
        assert relay.connections == 2
        await nodes.links.close()
        assert (await membership.announce(node("a"))).find(NodeId("a"))
        await membership.close()
