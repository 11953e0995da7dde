"""Heads with and without a quorum: what is served is labelled right, and never what is known to be replaced."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.core.model import (
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Key,
    Layout,
    Precondition,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
)
from discloud.errors import Gone, NoSuchKey, Unavailable
from discloud.gateway import heads as module
from discloud.gateway.breaker import PAUSE, Breaker
from discloud.gateway.heads import Freshness, Heads
from tests.support.quorum import Quorum, QuorumMetadata

BUCKET = Bucket(BucketId("b0000000-0000-4000-8000-000000000000"), "files", 1.0)
LAGGING = replace(BUCKET, max_stale=10.0)
KEY = Key("k")
ANYTHING = Precondition()


class Gateway:
    """Heads over metadata that can fail, a clock to move, and writes here and elsewhere."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.metadata = QuorumMetadata(MemoryMetadata("mesh"))
        self.heads = Heads(self.metadata.port().versions, Breaker(lambda: self.now), lambda: self.now)
        self.written = 0

    @classmethod
    async def started(cls) -> Gateway:
        gateway = cls()
        await gateway.metadata.real.buckets.create(BUCKET)
        return gateway

    async def elsewhere(self, key: Key = KEY, segments: int = 1) -> Version:
        """A write through another gateway."""
        self.written += 1
        parts = tuple(Segment(SegmentId(number), 1, Layout(copies=1), ()) for number in range(segments))
        draft = Version(
            BUCKET.id,
            key,
            VersionId(f"v{self.written}"),
            State.DRAFT,
            segments,
            parts,
            etag=f"{self.written}",
        )
        committed = (await self.metadata.real.versions.put(draft, ANYTHING)).version
        assert committed is not None
        return committed

    async def here(self) -> Version:
        version = await self.elsewhere()
        self.heads.learn(version)
        return version

    async def removed_elsewhere(self) -> Version:
        change = Change(ChangeKind.DELETE, BUCKET.id, KEY)
        removed = (await self.metadata.real.versions.commit(change, ANYTHING)).replaced
        assert removed is not None
        return removed

    async def found_out(self) -> None:
        """The next read after a while has it found out, beside itself, how the metadata is."""
        self.now += PAUSE
        asked = self.metadata.asked.count("versions.get")
        await self.read()
        async with asyncio.timeout(5):
            while self.metadata.asked.count("versions.get") == asked or self.heads._breaker._asking:
                await asyncio.sleep(0)

    async def read(
        self, freshness: Freshness = Freshness.ANY, bucket: Bucket = BUCKET
    ) -> tuple[VersionId, bool]:
        version, stale = await self.heads.read(bucket, KEY, freshness)
        return version.id, stale


@pytest.fixture
async def gateway() -> Gateway:
    return await Gateway.started()


# ---------------------------------------------------------------- with a quorum


@pytest.mark.parametrize("freshness", list(Freshness))
async def test_with_a_quorum_every_read_is_strict(gateway: Gateway, freshness: Freshness) -> None:
    with pytest.raises(NoSuchKey):
        await gateway.read(freshness)
    for _ in range(3):
        version = await gateway.elsewhere()
        assert await gateway.read(freshness) == (version.id, False)
    await gateway.removed_elsewhere()
    with pytest.raises(NoSuchKey):
        await gateway.read(freshness)


# ---------------------------------------------------------------- without


@pytest.mark.parametrize("freshness", [Freshness.STRICT, Freshness.LAGGING])
async def test_without_a_quorum_whoever_needs_the_present_is_refused(
    gateway: Gateway, freshness: Freshness
) -> None:
    await gateway.here()
    gateway.metadata.state = Quorum.LOST
    with pytest.raises(Unavailable):
        await gateway.read(freshness)
    with pytest.raises(Unavailable):
        await gateway.heads.version(BUCKET.id, KEY, VersionId("v1"))


async def test_without_a_quorum_a_replica_answers_and_it_is_said(gateway: Gateway) -> None:
    version = await gateway.elsewhere()
    gateway.metadata.state = Quorum.LOST
    assert await gateway.read() == (version.id, True)
    gateway.metadata.state = Quorum.THERE
    await gateway.found_out()
    assert await gateway.read() == (version.id, False)


async def test_without_any_metadata_what_was_seen_is_left(gateway: Gateway) -> None:
    version = await gateway.elsewhere()
    await gateway.read()
    gateway.metadata.state = Quorum.GONE
    assert await gateway.read() == (version.id, True)


@pytest.mark.parametrize("state", [Quorum.LOST, Quorum.GONE])
async def test_unknown_is_never_absent(gateway: Gateway, state: Quorum) -> None:
    gateway.metadata.state = state
    for _ in range(3):
        with pytest.raises(Unavailable):
            await gateway.read()
    gateway.metadata.state = Quorum.THERE
    with pytest.raises(NoSuchKey):
        await gateway.read()


async def test_an_absence_without_a_quorum_is_unknown_too(gateway: Gateway) -> None:
    """Even where the adapter is certain: who could not be asked strictly may not say 404."""
    versions = gateway.metadata.port().versions
    gateway.metadata.state = Quorum.LOST

    async def certain(bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        raise NoSuchKey(f"nothing at {key} in {bucket}, {version}")

    versions.get_stale = certain  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await gateway.read()


async def test_what_is_known_to_be_replaced_is_never_shown(gateway: Gateway) -> None:
    old = await gateway.elsewhere()
    new = await gateway.here()
    gateway.metadata.replica[BUCKET.id, KEY] = old
    gateway.metadata.state = Quorum.LOST
    assert await gateway.read() == (new.id, True)
    gateway.metadata.state = Quorum.THERE
    gateway.heads.forget(await gateway.removed_elsewhere())
    gateway.metadata.state = Quorum.LOST
    gateway.now += PAUSE
    for replica in (old, new):
        gateway.metadata.replica[BUCKET.id, KEY] = replica
        with pytest.raises(Unavailable):
            await gateway.read()
    gateway.metadata.replica.clear()
    newer = await gateway.elsewhere()
    assert await gateway.read() == (newer.id, True), "written again elsewhere"


async def test_what_a_strict_read_found_absent_is_not_shown_again(gateway: Gateway) -> None:
    old = await gateway.elsewhere()
    await gateway.read()
    await gateway.removed_elsewhere()
    with pytest.raises(NoSuchKey):
        await gateway.read()
    gateway.metadata.replica[BUCKET.id, KEY] = old
    for state in (Quorum.LOST, Quorum.GONE):
        gateway.metadata.state = state
        with pytest.raises(Unavailable):
            await gateway.read()


async def test_after_a_failure_nobody_waits_for_the_quorum(gateway: Gateway) -> None:
    version = await gateway.here()
    gateway.metadata.state = Quorum.LOST
    assert await gateway.read() == (version.id, True)
    gateway.metadata.asked.clear()
    for _ in range(5):
        assert await gateway.read() == (version.id, True)
    assert set(gateway.metadata.asked) == {"versions.get_stale"}
    await gateway.found_out()
    assert gateway.metadata.asked.count("versions.get") == 1, "one finds out"
    assert await gateway.read() == (version.id, True)


async def test_silent_metadata_holds_a_read_up_once(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaker.ask, "__defaults__", (0.01,))
    monkeypatch.setattr(module, "HURRY", 0.01)
    version = await gateway.here()
    gateway.metadata.state = Quorum.SILENT
    assert await gateway.read() == (version.id, True)
    gateway.metadata.asked.clear()
    reads = await asyncio.gather(*(gateway.read() for _ in range(100)))
    assert set(reads) == {(version.id, True)}
    assert not gateway.metadata.asked


async def test_a_cold_key_is_asked_for_all_the_same(gateway: Gateway) -> None:
    gateway.metadata.state = Quorum.GONE
    with pytest.raises(Unavailable):
        await gateway.read()
    gateway.metadata.state = Quorum.THERE
    version = await gateway.elsewhere()
    assert await gateway.read() == (version.id, False), "the quorum is back within the pause"


async def test_pages(gateway: Gateway) -> None:
    await gateway.elsewhere()
    page, stale = await gateway.heads.page(BUCKET.id, "", "", "", 10)
    assert ([version.key for version in page.versions], stale) == ([KEY], False)
    gateway.metadata.state = Quorum.LOST
    for _ in range(3):
        page, stale = await gateway.heads.page(BUCKET.id, "", "", "", 10)
        assert ([version.key for version in page.versions], stale) == ([KEY], True)
    gateway.metadata.state = Quorum.GONE
    for _ in range(3):
        with pytest.raises(Unavailable):
            await gateway.heads.page(BUCKET.id, "", "", "", 10)


# ---------------------------------------------------------------- max_stale


async def test_a_lagging_bucket_is_read_from_memory_as_long_as_it_allows(gateway: Gateway) -> None:
    old = await gateway.here()
    new = await gateway.elsewhere()
    gateway.metadata.replica[BUCKET.id, KEY] = new
    assert await gateway.read(Freshness.LAGGING, LAGGING) == (old.id, True)
    assert await gateway.read(Freshness.STRICT, LAGGING) == (new.id, False)
    assert not [call for call in gateway.metadata.asked if call == "versions.get_stale"]
    newest = await gateway.elsewhere()
    gateway.metadata.replica[BUCKET.id, KEY] = newest
    gateway.now += LAGGING.max_stale + 0.1
    assert await gateway.read(Freshness.ANY, LAGGING) == (newest.id, True)
    assert gateway.metadata.asked[-1] == "versions.get_stale"
    with pytest.raises(NoSuchKey):
        await gateway.heads.read(LAGGING, Key("unknown"), Freshness.ANY)


async def test_a_lagging_bucket_shows_own_changes_at_once(gateway: Gateway) -> None:
    await gateway.here()
    new = await gateway.here()
    assert await gateway.read(Freshness.ANY, LAGGING) == (new.id, True)
    gateway.heads.forget(await gateway.removed_elsewhere())
    gateway.metadata.replica[BUCKET.id, KEY] = new
    with pytest.raises(NoSuchKey):
        await gateway.read(Freshness.ANY, LAGGING)


async def test_others_are_not_read_from_memory(gateway: Gateway) -> None:
    await gateway.here()
    assert gateway.heads.peek(BUCKET, KEY) is None
    known = gateway.heads.peek(LAGGING, KEY)
    assert known is not None
    assert known[1]
    gateway.now += LAGGING.max_stale + 0.1
    assert gateway.heads.peek(LAGGING, KEY) is None


# ---------------------------------------------------------------- memory


async def test_the_memory_is_bounded(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    for number in range(30):
        gateway.heads.learn(await gateway.elsewhere(Key(f"k{number}")))
    assert len(gateway.heads._seen) == 10
    assert gateway.heads.peek(LAGGING, Key("k29"))
    gateway.heads.learn(await gateway.elsewhere(Key("long"), segments=module.LONGEST + 1))
    assert gateway.heads.peek(LAGGING, Key("long")) is None


@given(st.permutations(range(6)), st.integers(0, 5))
def test_in_whatever_order_it_hears_the_newest_counts(order: list[int], removal: int) -> None:
    heads = Heads(QuorumMetadata(MemoryMetadata("mesh")).port().versions, Breaker(lambda: 0.0), lambda: 0.0)
    versions = [
        Version(BUCKET.id, KEY, VersionId(f"v{seq}"), State.COMMITTED, 0, (), seq=seq) for seq in range(6)
    ]
    heard: list[int] = []
    for seq in order:
        if seq == removal:
            heads.forget(versions[seq])
        else:
            heads.learn(versions[seq])
        heard.append(seq)
        known = heads.peek(LAGGING, KEY)
        wanted = None if max(heard) == removal else f"v{max(heard)}"
        assert (known[0].id if known else None) == wanted


async def test_a_gone_version_is_gone(gateway: Gateway) -> None:
    version = await gateway.elsewhere()
    await gateway.elsewhere()
    with pytest.raises(Gone):
        await gateway.heads.version(BUCKET.id, KEY, version.id)
