"""What every adapter of ``Buckets``, ``Queues``, ``Accounts`` and ``Nodes`` does, and the listings of ``Versions``."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hypothesis import strategies as st

from discloud.core.model import Account, BucketId, BucketState, Key, NodeId, Page, State
from discloud.errors import (
    BadKey,
    BucketExists,
    BucketNotEmpty,
    Conflict,
    NoSuchBucket,
    NoSuchVersion,
    NotFound,
)
from discloud.ports import CLAIM, LogEntry, Metadata
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import (
    ANY,
    BUCKET,
    N1,
    N2,
    N3,
    delete_of,
    draft,
    everywhere,
    move_of,
    node,
    put_of,
    repair_of,
    update_of,
)

OTHER = replace(BUCKET, id=BucketId("b0000000-0000-4000-8000-000000000002"), name="other")


def naive_page(keys: set[str], prefix: str, delimiter: str, after: str, limit: int) -> tuple[list[str], bool]:
    """Entries of a page and whether more follow: every key is looked at."""
    entries = set()
    for key in keys:
        if key.startswith(prefix):
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entries.add(prefix + head + delimiter if found else key)
    behind = sorted((entry for entry in entries if entry.encode() > after.encode()), key=str.encode)
    return behind[:limit], len(behind) > limit


def entries_of(page: Page) -> list[str]:
    return sorted([*(version.key for version in page.versions), *page.prefixes], key=str.encode)


KEYS = st.text(st.sampled_from("ab/-é😀\uffff\x7f. "), min_size=1, max_size=6)
"""Keys that share prefixes, with characters of one to four bytes."""


async def fill(metadata: Metadata, *keys: str) -> None:
    for key in keys:
        await metadata.versions.put(draft(key), ANY)


class ListingContract:
    """Needs the fixture ``metadata`` (with BUCKET)."""

    async def test_a_listing_is_in_byte_order(self, metadata: Metadata) -> None:
        await fill(metadata, "b", "a", "é", "B", "a/b", "a-b", "\uffff", "😀")
        page = await metadata.versions.list_keys(BUCKET.id, "", "", "", 100)
        assert [version.key for version in page.versions] == [
            "B",
            "a",
            "a-b",
            "a/b",
            "b",
            "é",
            "\uffff",
            "😀",
        ]
        assert page.after is None
        assert page.versions[1] == await metadata.versions.get(BUCKET.id, Key("a"))

    async def test_only_heads_of_that_bucket_are_listed(self, metadata: Metadata) -> None:
        await metadata.buckets.create(OTHER)
        await fill(metadata, "a", "a", "b")
        await metadata.versions.begin(draft("c"))
        await metadata.versions.commit(delete_of("b"), ANY)
        await metadata.versions.put(replace(draft("d"), bucket=OTHER.id), ANY)
        assert entries_of(await metadata.versions.list_keys(BUCKET.id, "", "", "", 100)) == ["a"]
        assert entries_of(await metadata.versions.list_keys(OTHER.id, "", "", "", 100)) == ["d"]
        assert await metadata.versions.list_keys(BucketId("none"), "", "", "", 100) == Page(())

    async def test_keys_beyond_the_delimiter_are_rolled_up(self, metadata: Metadata) -> None:
        await fill(metadata, "a", "a/", "a/b", "a/b/c", "a/d/e", "a0", "b/c")
        page = await metadata.versions.list_keys(BUCKET.id, "", "/", "", 100)
        assert ([version.key for version in page.versions], page.prefixes) == (["a", "a0"], ("a/", "b/"))
        page = await metadata.versions.list_keys(BUCKET.id, "a/", "/", "", 100)
        assert ([version.key for version in page.versions], page.prefixes) == (
            ["a/", "a/b"],
            ("a/b/", "a/d/"),
        )

    async def test_pages_follow_each_other(self, metadata: Metadata) -> None:
        await fill(metadata, "a", "b/1", "b/2", "c", "d/1", "e")
        after, found = "", []
        while True:
            page = await metadata.versions.list_keys(BUCKET.id, "", "/", after, 2)
            found.append(entries_of(page))
            if page.after is None:
                break
            after = page.after
        assert found == [["a", "b/"], ["c", "d/"], ["e"]]

    async def test_a_page_that_is_exactly_full_is_the_last(self, metadata: Metadata) -> None:
        await fill(metadata, "a", "b")
        assert (await metadata.versions.list_keys(BUCKET.id, "", "", "", 2)).after is None
        assert (await metadata.versions.list_keys(BUCKET.id, "", "", "", 1)).after == "a"
        assert await metadata.versions.list_keys(BUCKET.id, "", "", "", 0) == Page(())

    async def test_a_prefix_without_utf8_is_refused(self, metadata: Metadata) -> None:
        with pytest.raises(BadKey):
            await metadata.versions.list_keys(BUCKET.id, "\udfff", "", "", 1)


class BucketsContract:
    """Needs the fixture ``metadata`` (with BUCKET)."""

    async def test_a_bucket_is_what_was_created(self, metadata: Metadata) -> None:
        full = replace(OTHER, layout="ec:4+2", regions=("eu", "us"), cache_control="max-age=1", max_stale=1.5)
        await metadata.buckets.create(full)
        assert await metadata.buckets.get("other") == full
        assert await metadata.buckets.all() == (BUCKET, full)

    async def test_a_name_is_given_once_at_a_time_and_an_id_never_twice(self, metadata: Metadata) -> None:
        with pytest.raises(BucketExists):
            await metadata.buckets.create(replace(OTHER, name=BUCKET.name))
        with pytest.raises(BucketExists):
            await metadata.buckets.create(replace(OTHER, id=BUCKET.id))
        await metadata.buckets.remove(BUCKET)
        with pytest.raises(BucketExists):
            await metadata.buckets.create(BUCKET)
        again = replace(OTHER, name=BUCKET.name)
        await metadata.buckets.create(again)
        assert await metadata.buckets.get(BUCKET.name) == again
        for call in (metadata.buckets.remove(BUCKET), metadata.buckets.update(BUCKET)):
            with pytest.raises(NoSuchBucket):
                await call

    async def test_an_unknown_bucket_is_definitely_absent(self, metadata: Metadata) -> None:
        for call in (
            metadata.buckets.get("other"),
            metadata.buckets.update(OTHER),
            metadata.buckets.remove(OTHER),
        ):
            with pytest.raises(NoSuchBucket):
                await call

    async def test_an_update_is_a_compare_and_set(self, metadata: Metadata) -> None:
        wish = replace(BUCKET, state=BucketState.READ_ONLY)
        assert await metadata.buckets.update(wish) == replace(wish, rev=1)
        assert await metadata.buckets.get(BUCKET.name) == replace(wish, rev=1)
        with pytest.raises(Conflict):
            await metadata.buckets.update(replace(BUCKET, layout="mirror:2"))

    async def test_only_an_empty_bucket_is_removed(self, metadata: Metadata) -> None:
        version, begun = draft("a"), draft("b")
        await metadata.versions.put(version, ANY)
        await metadata.versions.begin(begun)
        with pytest.raises(BucketNotEmpty):
            await metadata.buckets.remove(BUCKET)
        await metadata.versions.commit(delete_of("a"), ANY)
        with pytest.raises(BucketNotEmpty):
            await metadata.buckets.remove(BUCKET)
        await metadata.versions.abort(begun)
        await metadata.buckets.remove(BUCKET)
        with pytest.raises(NoSuchBucket):
            await metadata.versions.begin(draft("c"))
        assert {each.id for each in await metadata.queues.collectable(2e9, 10)} == {version.id, begun.id}


class QueuesContract:
    """Needs the fixtures ``metadata`` (with BUCKET) and ``clock``."""

    async def test_expired_drafts_come_oldest_first(self, metadata: Metadata) -> None:
        late, early, later = draft("a", due=20.0), draft("b", due=10.0), draft("c", due=30.0)
        for version in (late, early, later):
            await metadata.versions.begin(version)
        assert await metadata.queues.expired(25.0, 10) == (early, late)
        assert await metadata.queues.expired(25.0, 1) == (early,)
        await metadata.versions.commit(put_of(early), ANY)
        await metadata.versions.abort(late)
        assert await metadata.queues.expired(35.0, 10) == (later,)

    async def test_dead_versions_come_when_they_are_due(self, metadata: Metadata, clock: Clock) -> None:
        replaced, deleted, aborted = draft("a"), draft("b"), draft("c")
        await metadata.versions.put(replaced, ANY)
        await metadata.versions.put(draft("a"), ANY, keep=20.0)
        await metadata.versions.put(deleted, ANY)
        await metadata.versions.commit(delete_of("b", keep=10.0), ANY)
        await metadata.versions.abort(aborted)
        due = await metadata.queues.collectable(clock.now + 15.0, 10)
        assert [(each.id, each.state) for each in due] == [
            (aborted.id, State.ABORTED),
            (deleted.id, State.DELETED),
        ]
        due = await metadata.queues.collectable(clock.now + 25.0, 10)
        assert [each.id for each in due] == [aborted.id, deleted.id, replaced.id]
        assert len(await metadata.queues.collectable(clock.now + 25.0, 2)) == 2

    async def test_a_dead_version_can_wait(self, metadata: Metadata, clock: Clock) -> None:
        dead, head = draft("a"), draft("a")
        await metadata.versions.put(dead, ANY)
        await metadata.versions.put(head, ANY, keep=0.0)
        for version in (dead, head, draft("unknown")):
            await metadata.queues.postpone(version, clock.now + 50.0)
        assert await metadata.queues.collectable(clock.now + 49.0, 10) == ()
        (due,) = await metadata.queues.collectable(clock.now + 51.0, 10)
        assert (due.id, due.due) == (dead.id, clock.now + 50.0)
        assert (await metadata.versions.get(BUCKET.id, head.key)).due == 0.0
        with pytest.raises(NoSuchVersion):
            await metadata.versions.find(BUCKET.id, Key("unknown"), draft("unknown").id)

    async def test_repairs_come_oldest_first_when_it_is_time(self, metadata: Metadata) -> None:
        first, second, later = (
            repair_of(draft(key), since) for key, since in (("a", 1.0), ("b", 2.0), ("c", 0.0))
        )
        await metadata.queues.add_repairs([second, first, replace(later, not_before=100.0)])
        assert await metadata.queues.repairs(99.0, 10) == (first, second)
        assert await metadata.queues.repairs(99.0, 1) == (first,)
        assert len(await metadata.queues.repairs(100.0, 10)) == 3

    async def test_a_repair_of_the_same_blob_is_replaced(self, metadata: Metadata) -> None:
        repair = repair_of(draft("a"), since=1.0)
        again = replace(repair, missing=(N1, N2), not_before=5.0)
        await metadata.queues.add_repairs([repair])
        await metadata.queues.add_repairs([again])
        assert await metadata.queues.repairs(9.0, 10) == (again,)

    async def test_a_repair_that_is_done_leaves_but_not_a_newer_one(self, metadata: Metadata) -> None:
        repair = repair_of(draft("a"), since=1.0)
        newer = replace(repair, since=2.0)
        await metadata.queues.add_repairs([newer])
        await metadata.queues.repaired(repair)
        assert await metadata.queues.repairs(9.0, 10) == (newer,)
        for _ in range(2):
            await metadata.queues.repaired(newer)
        assert await metadata.queues.repairs(9.0, 10) == ()

    async def test_the_log_tells_what_every_node_shall_hold_or_drop(self, metadata: Metadata) -> None:
        first, second, third = everywhere("a"), everywhere("a"), everywhere("b")
        await metadata.versions.put(draft("plain"), ANY)
        await metadata.versions.put(first, ANY)
        await metadata.versions.begin(second)
        await metadata.versions.commit(put_of(second), ANY)
        await metadata.versions.put(second, ANY)  # repeated: not told again
        head = (await metadata.versions.put(third, ANY)).version
        assert head is not None
        await metadata.versions.commit(update_of(replace(head, content_type="x/y")), ANY)
        head = await metadata.versions.get(BUCKET.id, Key("b"))
        await metadata.versions.commit(move_of(head, "a"), ANY)
        await metadata.versions.commit(delete_of("a"), ANY)
        entries = await metadata.queues.log(0, 100)
        assert [(entry.key, entry.version, entry.removed) for entry in entries] == [
            ("a", first.id, False),
            ("a", second.id, False),
            ("a", first.id, True),
            ("b", third.id, False),
            ("a", third.id, False),
            ("a", second.id, True),
            ("a", third.id, True),
        ]
        assert all(entry.bucket == BUCKET.id for entry in entries)
        numbers = [entry.number for entry in entries]
        assert numbers == sorted(set(numbers))
        assert await metadata.queues.log(numbers[1], 2) == entries[2:4]
        assert await metadata.queues.log(numbers[-1], 2) == ()

    async def test_a_replacement_by_a_plain_version_is_logged_too(self, metadata: Metadata) -> None:
        first = everywhere("a")
        await metadata.versions.put(first, ANY)
        await metadata.versions.put(draft("a"), ANY)
        last = (await metadata.queues.log(0, 100))[-1]
        assert last == LogEntry(last.number, BUCKET.id, Key("a"), first.id, removed=True)


class RegistryContract:
    """Accounts and nodes. Needs the fixture ``metadata``."""

    async def test_an_account_is_found_by_the_digest_of_its_token(self, metadata: Metadata) -> None:
        account = Account("1", "root", b"d" * 32, admin=True, created=3.0)
        await metadata.accounts.add(Account("2", "other", b"e" * 32))
        await metadata.accounts.add(account)
        assert await metadata.accounts.by_digest(b"d" * 32) == account
        with pytest.raises(NotFound):
            await metadata.accounts.by_digest(b"f" * 32)

    async def test_an_account_is_replaced_by_its_id(self, metadata: Metadata) -> None:
        account = Account("1", "root", b"d" * 32)
        changed = replace(account, digest=b"f" * 32)
        await metadata.accounts.add(account)
        await metadata.accounts.add(changed)
        assert await metadata.accounts.by_digest(b"f" * 32) == changed
        with pytest.raises(NotFound):
            await metadata.accounts.by_digest(b"d" * 32)

    async def test_nodes_are_as_they_last_registered(self, metadata: Metadata) -> None:
        assert await metadata.nodes.all() == ()
        await metadata.nodes.register(node(N2, "two"), "x", 100.0)
        await metadata.nodes.register(node(N1, "one"), "y", 100.0)
        later = node(N1, "uno", incarnation=2)
        await metadata.nodes.register(later, "y", 101.0)
        assert set(await metadata.nodes.all()) == {node(N2, "two"), later}

    async def test_an_id_is_claimed_by_one_process_at_a_time(self, metadata: Metadata) -> None:
        await metadata.nodes.register(node(N1, "one"), "x", 100.0)
        with pytest.raises(Conflict):
            await metadata.nodes.register(node(N1, "one"), "y", 100.0 + CLAIM - 1)
        await metadata.nodes.register(node(N1, "one"), "x", 105.0)
        with pytest.raises(Conflict):
            await metadata.nodes.register(node(N1, "one"), "y", 105.0 + CLAIM - 1)
        await metadata.nodes.register(node(N1, "one"), "y", 105.0 + CLAIM)
        with pytest.raises(Conflict):
            await metadata.nodes.register(node(N1, "one"), "x", 106.0 + CLAIM)

    async def test_a_claim_is_given_up_by_its_owner_only(self, metadata: Metadata) -> None:
        await metadata.nodes.register(node(N1, "one"), "x", 100.0)
        await metadata.nodes.release(N1, "y")
        with pytest.raises(Conflict):
            await metadata.nodes.register(node(N1, "one"), "y", 101.0)
        await metadata.nodes.release(N1, "x")
        await metadata.nodes.release(NodeId("unknown"), "x")
        await metadata.nodes.register(node(N1, "one"), "y", 101.0)

    async def test_a_name_belongs_to_one_node(self, metadata: Metadata) -> None:
        await metadata.nodes.register(node(N1, "one"), "x", 100.0)
        with pytest.raises(Conflict):
            await metadata.nodes.register(node(N2, "one"), "y", 900.0)
        await metadata.nodes.register(node(N1, "uno"), "x", 101.0)
        await metadata.nodes.register(node(N2, "one"), "y", 102.0)
        await metadata.nodes.register(node(N3, "three"), "z", 102.0)
        assert len(await metadata.nodes.all()) == 3


class LeasesContract:
    """Needs the fixture ``metadata``."""

    async def test_one_owner_at_a_time(self, metadata: Metadata) -> None:
        first = await metadata.leases.hold("work", NodeId("a"), 60)
        assert first is not None
        assert await metadata.leases.hold("work", NodeId("b"), 60) is None
        assert await metadata.leases.hold("work", NodeId("a"), 60) == first, "a renewal keeps the epoch"
        assert await metadata.leases.hold("other", NodeId("b"), 60) is not None, (
            "each name is a lease of its own"
        )

    async def test_the_epoch_grows_with_each_new_owner(self, metadata: Metadata) -> None:
        epochs = []
        for owner in "abab":
            epochs.append(await metadata.leases.hold("work", NodeId(owner), 60) or 0)
            await metadata.leases.release("work", NodeId(owner))
        assert epochs == sorted(set(epochs))
        assert epochs[0] > 0

    async def test_only_the_owner_gives_it_up(self, metadata: Metadata) -> None:
        await metadata.leases.hold("work", NodeId("a"), 60)
        await metadata.leases.release("work", NodeId("b"))
        assert await metadata.leases.hold("work", NodeId("b"), 60) is None

    async def test_a_lease_ends_by_itself(self, metadata: Metadata) -> None:
        assert await metadata.leases.hold("work", NodeId("a"), 1) is not None
        async with asyncio.timeout(20):
            while (epoch := await metadata.leases.hold("work", NodeId("b"), 1)) is None:
                await asyncio.sleep(0.05)
        assert epoch > 1
