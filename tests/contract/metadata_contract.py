"""What every adapter of ``Versions`` does: each sentence of the port is a test."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace

import pytest

from discloud.core.model import BucketId, Committed, Key, Precondition, State, Version, VersionId
from discloud.errors import (
    Aborted,
    Conflict,
    DiscloudError,
    Gone,
    Invalid,
    NoSuchBucket,
    NoSuchKey,
    NoSuchVersion,
    PreconditionFailed,
    Unavailable,
)
from discloud.ports import Metadata
from tests.contract.metadata_adapters import CLUSTER, Clock
from tests.contract.metadata_objects import (
    ABSENT,
    ANY,
    BUCKET,
    N1,
    N2,
    N3,
    blob,
    delete_of,
    draft,
    long,
    move_of,
    put_of,
    repair_of,
    update_of,
)


async def put(metadata: Metadata, version: Version, only: Precondition = ANY) -> Version:
    """Store a version; gives the head."""
    committed = await metadata.versions.put(version, only)
    assert committed.version is not None
    return committed.version


class VersionsContract:
    """Needs the fixtures ``metadata`` (with BUCKET) and ``clock``."""

    # ------------------------------------------------------------ begin, renew

    async def test_a_draft_is_found_but_not_seen(self, metadata: Metadata) -> None:
        version = draft("a")
        await metadata.versions.begin(version)
        assert await metadata.versions.find(BUCKET.id, version.key, version.id) == version
        with pytest.raises(NoSuchKey):
            await metadata.versions.get(BUCKET.id, version.key)
        with pytest.raises(NoSuchVersion):
            await metadata.versions.get(BUCKET.id, version.key, version.id)
        assert (await metadata.versions.list_keys(BUCKET.id, "", "", "", 10)).versions == ()

    async def test_begin_may_be_repeated_also_after_the_commit(self, metadata: Metadata) -> None:
        version = draft("a")
        await metadata.versions.begin(version)
        await metadata.versions.begin(replace(version, due=1.0))
        assert (await metadata.versions.find(BUCKET.id, version.key, version.id)).due == version.due
        await metadata.versions.commit(put_of(version), ANY)
        await metadata.versions.begin(version)
        assert (await metadata.versions.get(BUCKET.id, version.key)).state is State.COMMITTED

    async def test_begin_of_an_aborted_id_is_refused(self, metadata: Metadata) -> None:
        version = draft("a")
        await metadata.versions.abort(version)
        with pytest.raises(Aborted):
            await metadata.versions.begin(version)

    async def test_begin_and_put_need_the_bucket(self, metadata: Metadata) -> None:
        version = replace(draft("a"), bucket=BucketId("b0000000-0000-4000-8000-00000000000f"))
        with pytest.raises(NoSuchBucket):
            await metadata.versions.begin(version)
        with pytest.raises(NoSuchBucket):
            await metadata.versions.put(version, ANY)
        with pytest.raises(NoSuchVersion):
            await metadata.versions.find(version.bucket, version.key, version.id)

    async def test_renew_moves_the_lease(self, metadata: Metadata) -> None:
        version = draft("a", due=10.0)
        await metadata.versions.begin(version)
        await metadata.versions.renew(version, 50.0)
        assert (await metadata.versions.find(BUCKET.id, version.key, version.id)).due == 50.0
        assert await metadata.queues.expired(49.0, 10) == ()
        assert [each.id for each in await metadata.queues.expired(51.0, 10)] == [version.id]

    async def test_only_a_draft_can_be_renewed(self, metadata: Metadata) -> None:
        committed, aborted, unknown = draft("a"), draft("b"), draft("c")
        await put(metadata, committed)
        await metadata.versions.abort(aborted)
        for version in (committed, aborted, unknown):
            with pytest.raises(Aborted):
                await metadata.versions.renew(version, 50.0)

    # ------------------------------------------------------------ put and commit of a PUT

    @pytest.mark.parametrize("whole", [True, False], ids=["put", "begin and commit"])
    async def test_a_put_makes_the_version_the_head(
        self, metadata: Metadata, clock: Clock, whole: bool
    ) -> None:
        version = draft("a")
        if whole:
            committed = await metadata.versions.put(version, ANY)
        else:
            await metadata.versions.begin(replace(version, etag="", size=0))
            committed = await metadata.versions.commit(put_of(version), ANY)
        head = replace(version, state=State.COMMITTED, seq=int(clock.now * 1e6), rev=version.rev + 1, due=0.0)
        assert committed == Committed(head, None)
        assert await metadata.versions.get(BUCKET.id, version.key) == head
        assert await metadata.versions.get(BUCKET.id, version.key, version.id) == head
        assert await metadata.versions.find(BUCKET.id, version.key, version.id) == head
        assert metadata.versions.peek(BUCKET.id, version.key) in (None, head)

    @pytest.mark.parametrize("whole", [True, False], ids=["put", "begin and commit"])
    async def test_a_put_replaces_the_head(self, metadata: Metadata, clock: Clock, whole: bool) -> None:
        first, second = draft("a"), draft("a")
        before = await put(metadata, first)
        if whole:
            committed = await metadata.versions.put(second, ANY, keep=60.0)
        else:
            await metadata.versions.begin(second)
            committed = await metadata.versions.commit(put_of(second, keep=60.0), ANY)
        assert committed.version is not None
        assert committed.version.replaced == first.id
        assert committed.version.seq == before.seq + 1
        dead = committed.replaced
        assert dead == replace(before, state=State.REPLACED, due=clock.now + 60.0, rev=before.rev + 1)
        assert await metadata.versions.get(BUCKET.id, first.key) == committed.version
        assert await metadata.versions.find(BUCKET.id, first.key, first.id) == dead
        with pytest.raises(Gone):
            await metadata.versions.get(BUCKET.id, first.key, first.id)

    async def test_seq_grows_also_when_the_clock_goes_back(self, metadata: Metadata, clock: Clock) -> None:
        first = await put(metadata, draft("a"))
        clock.now -= 1000
        second = await put(metadata, draft("a"))
        assert second.seq == first.seq + 1
        await metadata.versions.commit(delete_of("a"), ANY)
        third = await put(metadata, draft("a"))
        assert third.seq > second.seq + 1
        clock.now += 5000
        fourth = await put(metadata, draft("a"))
        assert fourth.seq == int(clock.now * 1e6)

    @pytest.mark.parametrize("whole", [True, False], ids=["put", "begin and commit"])
    async def test_a_repeated_put_gives_the_first_answer(self, metadata: Metadata, whole: bool) -> None:
        first, second = draft("a"), draft("a")
        await put(metadata, first)
        await metadata.versions.begin(second)
        answer = await metadata.versions.commit(put_of(second), Precondition(if_match=(first.etag,)))
        only = Precondition(if_match=(first.etag,))  # it does not hold any more
        if whole:
            assert await metadata.versions.put(second, only) == answer
        else:
            assert await metadata.versions.commit(put_of(second), only) == answer
        assert (await metadata.versions.get(BUCKET.id, first.key)).id == second.id

    async def test_a_repeated_put_does_not_come_back_from_the_dead(self, metadata: Metadata) -> None:
        first, second = draft("a"), draft("a")
        await put(metadata, first)
        await put(metadata, second)
        await metadata.versions.put(first, ANY)
        await metadata.versions.commit(put_of(first), ANY)
        assert (await metadata.versions.get(BUCKET.id, first.key)).id == second.id
        await metadata.versions.commit(delete_of("a"), ANY)
        await metadata.versions.put(second, ANY)
        with pytest.raises(NoSuchKey):
            await metadata.versions.get(BUCKET.id, first.key)

    async def test_a_put_commits_a_draft_that_was_begun(self, metadata: Metadata) -> None:
        version = draft("a")
        await metadata.versions.begin(version)
        head = await put(metadata, version)
        assert await metadata.versions.get(BUCKET.id, version.key) == head
        assert await metadata.queues.expired(2e9, 10) == ()

    async def test_what_was_aborted_or_never_begun_cannot_be_committed(self, metadata: Metadata) -> None:
        aborted, unknown = draft("a"), draft("b")
        await metadata.versions.begin(aborted)
        assert await metadata.versions.abort(aborted)
        for change in (put_of(aborted), put_of(unknown)):
            with pytest.raises(Aborted):
                await metadata.versions.commit(change, ANY)
        with pytest.raises(Aborted):
            await metadata.versions.put(aborted, ANY)
        for version in (aborted, unknown):
            with pytest.raises(NoSuchKey):
                await metadata.versions.get(BUCKET.id, version.key)

    async def test_a_put_checks_what_must_hold_of_the_head(self, metadata: Metadata) -> None:
        with pytest.raises(PreconditionFailed):
            await metadata.versions.put(draft("a"), Precondition(if_match=("*",)))
        head = await put(metadata, draft("a"), ABSENT)
        for only in (ABSENT, Precondition(if_match=("other",)), Precondition(if_none_match=(head.etag,))):
            refused = draft("a")
            with pytest.raises(PreconditionFailed):
                await metadata.versions.put(refused, only)
            await metadata.versions.begin(refused)
            with pytest.raises(PreconditionFailed):
                await metadata.versions.commit(put_of(refused), only)
            assert await metadata.versions.abort(refused)  # it is a draft still
        assert await metadata.versions.get(BUCKET.id, head.key) == head
        await put(metadata, draft("a"), Precondition(if_match=("other", head.etag)))

    async def test_a_change_without_its_version_or_target_is_invalid(self, metadata: Metadata) -> None:
        version = await put(metadata, draft("a"))
        for change in (
            replace(put_of(version), version=None),
            replace(update_of(version), version=None),
            replace(move_of(version, "b"), target=None),
            move_of(version, "a"),
        ):
            with pytest.raises(Invalid):
                await metadata.versions.commit(change, ANY)

    # ------------------------------------------------------------ DELETE

    async def test_a_delete_makes_the_head_null(self, metadata: Metadata, clock: Clock) -> None:
        head = await put(metadata, draft("a"))
        committed = await metadata.versions.commit(delete_of("a", keep=60.0), ANY)
        assert committed.version is None
        assert committed.replaced is not None
        assert committed.replaced.id == head.id
        assert committed.replaced.state is State.DELETED
        assert committed.replaced.due == clock.now + 60.0
        assert committed.replaced.seq > head.seq
        assert await metadata.versions.find(BUCKET.id, head.key, head.id) == committed.replaced
        assert metadata.versions.peek(BUCKET.id, head.key) is None
        with pytest.raises(NoSuchKey):
            await metadata.versions.get(BUCKET.id, head.key)
        with pytest.raises(Gone):
            await metadata.versions.get(BUCKET.id, head.key, head.id)
        assert (await metadata.versions.list_keys(BUCKET.id, "", "", "", 10)).versions == ()

    async def test_a_delete_of_nothing_is_no_such_key(self, metadata: Metadata) -> None:
        with pytest.raises(NoSuchKey):
            await metadata.versions.commit(delete_of("a"), Precondition(if_match=("x",)))

    async def test_a_delete_checks_the_head(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        with pytest.raises(PreconditionFailed):
            await metadata.versions.commit(delete_of("a"), Precondition(if_match=("x",)))
        assert await metadata.versions.get(BUCKET.id, head.key) == head

    async def test_a_delete_of_what_was_read_takes_nothing_else(self, metadata: Metadata) -> None:
        first = await put(metadata, draft("a"))
        second = await put(metadata, draft("a"))
        with pytest.raises(Conflict):
            await metadata.versions.commit(delete_of("a", first), ANY)
        answer = await metadata.versions.commit(delete_of("a", second), ANY)
        third = await put(metadata, draft("a"))
        assert await metadata.versions.commit(delete_of("a", second), ANY) == answer
        assert await metadata.versions.get(BUCKET.id, third.key) == third

    # ------------------------------------------------------------ UPDATE

    async def test_an_update_changes_what_is_said_of_the_head(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        wish = replace(head, metadata=(("k", "v"),), content_type="x/y", segments=(), size=99, etag="no")
        committed = await metadata.versions.commit(update_of(wish), ANY)
        changed = replace(
            head, metadata=(("k", "v"),), content_type="x/y", rev=head.rev + 1, seq=head.seq + 1
        )
        assert committed == Committed(changed, None)
        assert await metadata.versions.get(BUCKET.id, head.key) == changed
        assert metadata.versions.peek(BUCKET.id, head.key) in (None, changed)

    async def test_an_update_may_be_repeated_but_not_after_another(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        wish = replace(head, content_type="x/y")
        answer = await metadata.versions.commit(update_of(wish), ANY)
        assert await metadata.versions.commit(update_of(wish), ANY) == answer
        with pytest.raises(Conflict):
            await metadata.versions.commit(update_of(replace(head, content_type="other/one")), ANY)
        assert answer.version is not None
        with pytest.raises(PreconditionFailed):
            await metadata.versions.commit(update_of(answer.version), Precondition(if_match=("x",)))

    async def test_an_update_of_another_or_no_head_is_refused(self, metadata: Metadata) -> None:
        first = await put(metadata, draft("a"))
        await put(metadata, draft("a"))
        with pytest.raises(Conflict):
            await metadata.versions.commit(update_of(first), ANY)
        await metadata.versions.commit(delete_of("a"), ANY)
        with pytest.raises(NoSuchKey):
            await metadata.versions.commit(update_of(first), ANY)

    # ------------------------------------------------------------ MOVE

    async def test_a_move_gives_the_version_another_key(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        committed = await metadata.versions.commit(move_of(head, "b"), ANY)
        moved = committed.version
        assert moved == replace(head, key=Key("b"), seq=head.seq + 1, rev=head.rev + 1)
        assert committed.replaced is None
        assert await metadata.versions.get(BUCKET.id, Key("b")) == moved
        assert await metadata.versions.get(BUCKET.id, Key("b"), head.id) == moved
        assert metadata.versions.peek(BUCKET.id, Key("a")) is None
        with pytest.raises(NoSuchKey):
            await metadata.versions.get(BUCKET.id, Key("a"))
        with pytest.raises(Gone):
            await metadata.versions.get(BUCKET.id, Key("a"), head.id)

    async def test_a_moved_version_is_found_by_its_old_key_and_stays_committed(
        self, metadata: Metadata
    ) -> None:
        head = await put(metadata, draft("a"))
        for source, target in (("a", "b"), ("b", "c"), ("c", "b")):
            at = await metadata.versions.get(BUCKET.id, Key(source))
            await metadata.versions.commit(move_of(at, target), ANY)
        moved = await metadata.versions.get(BUCKET.id, Key("b"))
        for key in ("a", "b", "c"):
            assert await metadata.versions.find(BUCKET.id, Key(key), head.id) == moved
            assert not await metadata.versions.abort(replace(head, key=Key(key)))
        back = await metadata.versions.commit(move_of(moved, "a"), ANY)
        assert await metadata.versions.get(BUCKET.id, Key("a")) == back.version
        assert await metadata.versions.find(BUCKET.id, Key("c"), head.id) == back.version

    async def test_a_move_replaces_what_is_at_the_target(self, metadata: Metadata, clock: Clock) -> None:
        there = await put(metadata, draft("b"))
        head = await put(metadata, draft("a"))
        with pytest.raises(PreconditionFailed):
            await metadata.versions.commit(move_of(head, "b"), ABSENT)
        committed = await metadata.versions.commit(move_of(head, "b", keep=60.0), ANY)
        assert committed.version is not None
        assert committed.version.replaced == there.id
        assert committed.version.seq > max(head.seq, there.seq)
        dead = replace(there, state=State.REPLACED, rev=there.rev + 1, due=clock.now + 60.0)
        assert committed.replaced == dead
        assert await metadata.versions.find(BUCKET.id, Key("b"), there.id) == dead
        await put(metadata, draft("a"))
        assert await metadata.versions.commit(move_of(head, "b"), ANY) == committed

    async def test_a_move_of_another_or_no_head_is_refused(self, metadata: Metadata) -> None:
        first = await put(metadata, draft("a"))
        with pytest.raises(NoSuchKey):
            await metadata.versions.commit(move_of(replace(first, key=Key("x")), "b"), ANY)
        await put(metadata, draft("a"))
        with pytest.raises(Conflict):
            await metadata.versions.commit(move_of(first, "b"), ANY)

    async def test_a_key_that_was_moved_away_from_starts_anew(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        moved = (await metadata.versions.commit(move_of(head, "b"), ANY)).version
        fresh = await put(metadata, draft("a"), ABSENT)
        assert moved is not None
        assert fresh.seq > head.seq
        assert fresh.replaced is None
        assert await metadata.versions.get(BUCKET.id, Key("b")) == moved

    # ------------------------------------------------------------ abort, find, forget

    async def test_an_abort_is_for_ever_and_due_at_once(self, metadata: Metadata, clock: Clock) -> None:
        version = draft("a")
        await metadata.versions.begin(version)
        assert await metadata.versions.abort(version)
        assert await metadata.versions.abort(version)
        row = await metadata.versions.find(BUCKET.id, version.key, version.id)
        assert row.state is State.ABORTED
        assert row.segments == version.segments
        assert [each.id for each in await metadata.queues.collectable(clock.now, 10)] == [version.id]
        assert await metadata.queues.expired(2e9, 10) == ()
        with pytest.raises(NoSuchVersion):
            await metadata.versions.get(BUCKET.id, version.key, version.id)

    async def test_an_unknown_version_is_recorded_as_aborted(self, metadata: Metadata, clock: Clock) -> None:
        lost = replace(draft("lost"), bucket=BucketId("b0000000-0000-4000-8000-00000000000f"))
        for version in (draft("a"), lost):
            assert await metadata.versions.abort(version)
            row = await metadata.versions.find(version.bucket, version.key, version.id)
            assert (row.state, row.segments) == (State.ABORTED, version.segments)
        assert len(await metadata.queues.collectable(clock.now, 10)) == 2

    async def test_what_was_committed_is_not_aborted(self, metadata: Metadata) -> None:
        head, replaced, deleted = draft("a"), draft("b"), draft("c")
        for version in (head, replaced, draft("b"), deleted):
            await put(metadata, version)
        await metadata.versions.commit(delete_of("c"), ANY)
        for version in (head, replaced, deleted):
            before = await metadata.versions.find(BUCKET.id, version.key, version.id)
            assert not await metadata.versions.abort(version)
            assert await metadata.versions.find(BUCKET.id, version.key, version.id) == before

    async def test_find_is_definite_about_what_has_no_row(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        for key, version in (("a", VersionId("none")), ("b", head.id)):
            with pytest.raises(NoSuchVersion):
                await metadata.versions.find(BUCKET.id, Key(key), version)
            with pytest.raises(NoSuchVersion):
                await metadata.versions.get(BUCKET.id, Key(key), version)

    async def test_forget_removes_only_what_is_dead(self, metadata: Metadata) -> None:
        dead, head, open_draft = draft("a"), draft("a"), draft("c")
        await put(metadata, dead)
        await put(metadata, head)
        await metadata.versions.begin(open_draft)
        for _ in range(2):
            await metadata.versions.forget(dead)
        with pytest.raises(NoSuchVersion):
            await metadata.versions.find(BUCKET.id, dead.key, dead.id)
        for version in (head, open_draft):
            before = await metadata.versions.find(BUCKET.id, version.key, version.id)
            with pytest.raises(Conflict):
                await metadata.versions.forget(version)
            assert await metadata.versions.find(BUCKET.id, version.key, version.id) == before
        assert await metadata.queues.collectable(2e9, 10) == ()

    async def test_forget_takes_along_what_a_move_left(self, metadata: Metadata) -> None:
        head = await put(metadata, draft("a"))
        moved = (await metadata.versions.commit(move_of(head, "b"), ANY)).version
        assert moved is not None
        with pytest.raises(Conflict):
            await metadata.versions.forget(head)
        dead = (await metadata.versions.commit(delete_of("b"), ANY)).replaced
        assert dead is not None
        assert await metadata.versions.find(BUCKET.id, Key("a"), head.id) == dead
        await metadata.versions.forget(dead)
        for key in ("a", "b"):
            with pytest.raises(NoSuchVersion):
                await metadata.versions.find(BUCKET.id, Key(key), head.id)

    # ------------------------------------------------------------ relocate, on_node

    @pytest.mark.parametrize("committed", [True, False], ids=["head", "draft"])
    async def test_relocate_sets_holders_by_compare_and_set(
        self, metadata: Metadata, committed: bool
    ) -> None:
        read = draft("a")
        await metadata.versions.begin(read)
        if committed:
            read = await put(metadata, read)
        assert await metadata.versions.relocate(read, blob(read), (N1, N3))
        row = await metadata.versions.find(BUCKET.id, read.key, read.id)
        assert row == replace(
            read, rev=read.rev + 1, segments=(replace(read.segments[0], holders=((N1, N3),)),)
        )
        assert await metadata.versions.relocate(read, blob(read), (N1, N3))  # the answer of the first
        assert not await metadata.versions.relocate(read, blob(read), (N2, N3))
        assert await metadata.versions.find(BUCKET.id, read.key, read.id) == row
        if committed:
            assert await metadata.versions.get(BUCKET.id, read.key) == row
            assert metadata.versions.peek(BUCKET.id, read.key) in (None, row)

    async def test_a_version_of_many_segments_is_kept_like_any_other(
        self, metadata: Metadata, clock: Clock
    ) -> None:
        begun = long("a")
        await metadata.versions.begin(begun)
        assert await metadata.versions.find(BUCKET.id, begun.key, begun.id) == begun
        head = (await metadata.versions.commit(put_of(begun), ANY)).version
        assert head is not None
        assert await metadata.versions.get(BUCKET.id, begun.key) == head
        (listed,) = (await metadata.versions.list_keys(BUCKET.id, "", "", "", 10)).versions
        assert listed in (head, replace(head, segments=()))
        last = head.blobs()[-1][0]
        assert await metadata.versions.relocate(head, last, (N3,))
        moved = replace(head.segments[-1], holders=((N3,),))
        relocated = replace(head, rev=head.rev + 1, segments=(*head.segments[:-1], moved))
        assert await metadata.versions.get(BUCKET.id, begun.key) == relocated
        replaced = (await metadata.versions.put(long("a"), ANY)).replaced
        assert replaced is not None
        assert replaced.segments == relocated.segments
        assert await metadata.queues.collectable(clock.now + 1e6, 10) == (replaced,)
        await metadata.versions.forget(replaced)
        with pytest.raises(NoSuchVersion):
            await metadata.versions.find(BUCKET.id, begun.key, begun.id)

    async def test_relocate_of_what_is_dead_or_elsewhere_is_refused(self, metadata: Metadata) -> None:
        replaced, moved = await put(metadata, draft("a")), await put(metadata, draft("b"))
        await put(metadata, draft("a"))
        await metadata.versions.commit(move_of(moved, "c"), ANY)
        for version in (replaced, moved, draft("d")):
            assert not await metadata.versions.relocate(version, blob(version), (N3,))
        now = await metadata.versions.find(BUCKET.id, moved.key, moved.id)
        assert await metadata.versions.relocate(now, blob(now), (N3,))
        dead = await metadata.versions.find(BUCKET.id, replaced.key, replaced.id)
        assert not await metadata.versions.relocate(dead, blob(dead), (N3,))
        with pytest.raises(Invalid):
            await metadata.versions.relocate(now, replace(blob(now), fragment=1), (N3,))

    async def test_on_node_gives_live_versions_that_name_it(self, metadata: Metadata) -> None:
        begun, head, elsewhere = draft("d"), draft("a"), draft("b", gateway=N2)
        await metadata.versions.begin(begun)
        await put(metadata, draft("a"))
        await put(metadata, head)
        await metadata.versions.abort(draft("e"))
        other = await put(metadata, elsewhere)
        await metadata.versions.relocate(other, blob(other), (N1, N3))
        found = [version.id async for version in metadata.versions.on_node(N2)]
        assert Counter(found) == Counter([begun.id, head.id])
        assert [version.id async for version in metadata.versions.on_node(N3)] == [elsewhere.id]

    # ------------------------------------------------------------ races

    async def test_of_fifty_that_want_to_be_the_first_one_wins(self, metadata: Metadata) -> None:
        versions = [draft("a") for _ in range(50)]

        async def attempt(number: int, version: Version) -> bool:
            try:
                if number % 2:
                    await metadata.versions.begin(version)
                    await metadata.versions.commit(put_of(version), ABSENT)
                else:
                    await metadata.versions.put(version, ABSENT)
            except PreconditionFailed:
                return False
            return True

        won = await asyncio.gather(*(attempt(number, version) for number, version in enumerate(versions)))
        assert won.count(True) == 1
        head = await metadata.versions.get(BUCKET.id, Key("a"))
        assert head.id == versions[won.index(True)].id

    async def test_fifty_writers_of_one_key_all_succeed_one_after_another(self, metadata: Metadata) -> None:
        heads = await asyncio.gather(*(put(metadata, draft("a")) for _ in range(50)))
        ordered = sorted(heads, key=lambda head: head.seq)
        assert len({head.seq for head in heads}) == 50
        assert [head.replaced for head in ordered] == [None, *(head.id for head in ordered[:-1])]
        assert await metadata.versions.get(BUCKET.id, Key("a")) == ordered[-1]
        assert len(await metadata.queues.collectable(2e9, 100)) == 49

    async def test_commit_and_abort_exclude_each_other(self, metadata: Metadata) -> None:
        for attempt in range(30):
            version = draft(f"a{attempt}")
            await metadata.versions.begin(version)
            calls = [metadata.versions.commit(put_of(version), ANY), metadata.versions.abort(version)]
            order = (0, 1) if attempt % 2 else (1, 0)
            outcomes = await asyncio.gather(*(calls[each] for each in order), return_exceptions=True)
            committed, aborted = (outcomes[order.index(each)] for each in (0, 1))
            row = await metadata.versions.find(BUCKET.id, version.key, version.id)
            if aborted is True:
                assert isinstance(committed, Aborted)
                assert row.state is State.ABORTED
            else:
                assert isinstance(committed, Committed)
                assert row.state is State.COMMITTED

    async def test_a_cancelled_put_has_happened_or_not(self, metadata: Metadata) -> None:
        versions = [draft(f"a{number}") for number in range(20)]
        tasks = [asyncio.create_task(metadata.versions.put(version, ANY)) for version in versions]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for version, task in zip(versions, tasks, strict=True):
            try:
                head = await metadata.versions.get(BUCKET.id, version.key)
            except NoSuchKey:
                assert task.cancelled()
            else:
                assert replace(version, state=head.state, seq=head.seq, rev=head.rev, due=0.0) == head

    # ------------------------------------------------------------ repairs, closing, keys

    async def test_repairs_are_queued_in_the_same_step(self, metadata: Metadata) -> None:
        whole, stepped, refused = draft("a"), draft("b"), draft("a")
        await metadata.versions.put(whole, ANY, (repair_of(whole, since=1.0),))
        await metadata.versions.begin(stepped)
        await metadata.versions.commit(put_of(stepped, repairs=(repair_of(stepped, since=2.0),)), ANY)
        with pytest.raises(PreconditionFailed):
            await metadata.versions.put(refused, ABSENT, (repair_of(refused),))
        assert await metadata.queues.repairs(5.0, 10) == (repair_of(whole, 1.0), repair_of(stepped, 2.0))

    async def test_hostile_keys_are_keys_like_any_other(self, metadata: Metadata) -> None:
        keys = [
            "/",
            "//",
            ".",
            "..",
            "a/../b",
            "%2f",
            "'\"; --",
            "\x7f",
            "é",
            "e\u0301",
            "\uffff",
            "😀",
            "k" * 1024,
        ]
        for key in keys:
            await put(metadata, draft(key))
        for key in keys:
            assert (await metadata.versions.get(BUCKET.id, Key(key))).key == key
        page = await metadata.versions.list_keys(BUCKET.id, "", "", "", 100)
        assert [version.key for version in page.versions] == sorted(keys, key=str.encode)

    async def test_text_without_utf8_is_refused_and_harms_nobody(self, metadata: Metadata) -> None:
        bad = draft("\ud800")
        head = await put(metadata, draft("a"))
        for call in (
            metadata.versions.put(bad, ANY),
            metadata.versions.begin(bad),
            metadata.versions.commit(move_of(head, "\ud800"), ANY),
        ):
            with pytest.raises(DiscloudError):
                await call
        assert await metadata.versions.get(BUCKET.id, Key("a")) == head

    async def test_after_the_close_everything_is_unavailable(self, metadata: Metadata) -> None:
        assert metadata.cluster == CLUSTER
        version = draft("a")
        last = asyncio.create_task(metadata.versions.put(version, ANY))
        await asyncio.sleep(0)
        await metadata.close()
        await metadata.close()
        assert (await last).version is not None
        assert metadata.versions.peek(BUCKET.id, version.key) is None
        for call in (
            metadata.versions.get(BUCKET.id, version.key),
            metadata.versions.find(BUCKET.id, version.key, version.id),
            metadata.versions.put(draft("b"), ANY),
            metadata.versions.list_keys(BUCKET.id, "", "", "", 1),
            metadata.buckets.get("files"),
            metadata.buckets.all(),
            metadata.queues.expired(0.0, 1),
            metadata.queues.repairs(0.0, 1),
            metadata.queues.add_repairs([repair_of(version)]),
            metadata.queues.log(0, 1),
            metadata.accounts.by_digest(b""),
            metadata.nodes.all(),
        ):
            with pytest.raises(Unavailable):
                await call
        with pytest.raises(Unavailable):
            assert [each async for each in metadata.versions.on_node(N1)] == []
