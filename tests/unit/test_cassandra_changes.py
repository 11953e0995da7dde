"""Changes and moves over a table in memory whose transactions lose their answers or whose callers die; no server is needed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters import heads
from discloud.adapters.cassandra.changes import Change as Work
from discloud.adapters.cassandra.changes import Changes
from discloud.adapters.cassandra.mover import Mover
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.objects import HEAD, NULL, Edit, Row, Rows, newborn
from discloud.adapters.cassandra.snapshot import Snapshot
from discloud.core.model import BucketId, Change, Committed, Key, Precondition, State, Version, VersionId
from discloud.errors import Aborted, Conflict, NoSuchKey, OutcomeUnknown, PreconditionFailed, Unavailable
from tests.contract.metadata_objects import (
    ABSENT,
    ANY,
    BUCKET,
    N1,
    N3,
    blob,
    delete_of,
    draft,
    move_of,
    put_of,
)
from tests.support.objects_table import Fate, Table

A, B = (BUCKET.id, Key("a")), (BUCKET.id, Key("b"))
NOW = 1_700_000_000.0
UNKNOWN = [fate for fate in Fate if fate is not Fate.ANSWERED]


class Followed:
    """Stands for ``Consequences`` and ``Intents``."""

    def __init__(self) -> None:
        self.followed = 0

    async def follow(self, _: Snapshot) -> None:
        self.followed += 1

    async def publish(self, _: object) -> None:
        return

    def end(self, *_: object) -> None:
        return

    async def note(self, intent: object) -> object:
        return intent


class Mesh:
    """One process of the mesh over a table. ``draw`` is how long it lets others go first."""

    def __init__(self, table: Table, draw: Callable[[], float] = lambda: 0.0) -> None:
        self.table = table
        self.keep = 0.0
        moves = Moves(table)  # type: ignore[arg-type]  # what they use of it
        self.moves = moves
        self.changes = Changes(table, moves, 5.0, lambda: NOW, draw)  # type: ignore[arg-type]
        stands: Any = Followed()
        self.mover = Mover(self.changes, moves, stands, stands, 5.0, lambda: NOW)

    async def put(self, version: Version, only: Precondition = ANY) -> Committed:
        name = (version.bucket, version.key)
        return await self.changes.run(
            Work(
                name,
                lambda rows, now: heads.put(rows, version, only, (), 60.0, now),
                (version.id,),
                partial(self.changes.guess, name, {version.id: None}),
                keep=self.keep,
            )
        )

    async def commit(self, change: Change, only: Precondition = ANY) -> Committed:
        known = (change.version.id,) if change.version else ()
        name = (change.bucket, change.key)
        return await self.changes.run(
            Work(name, lambda rows, now: heads.commit(rows, change, only, now), known)
        )

    async def abort(self, version: Version) -> bool:
        name = (version.bucket, version.key)
        return await self.changes.run(Work(name, lambda rows, _: heads.abort(rows, version), (version.id,)))

    async def move(self, head: Version, to: str, only: Precondition = ANY) -> Committed:
        return await self.mover.move(move_of(head, to), only)


async def head_of(mesh: Mesh, key: str) -> Version:
    put = await mesh.put(draft(key))
    assert put.version is not None
    return put.version


# ---------------------------------------------------------------- one partition


async def test_a_first_put_is_one_transaction_without_reading() -> None:
    table = Table()
    version = draft("a")
    committed = await Mesh(table).put(version)
    assert table.applied == 1
    assert committed.version == table.head(A) == table.row(A, version.id)


async def test_an_expected_put_over_an_unknown_head_is_one_transaction() -> None:
    table, steps = Table(), []
    first, mesh = await head_of(Mesh(table), "a"), Mesh(table)
    table.steps = lambda: steps.append(1)
    mesh.changes.expect(A)
    assert (await mesh.put(draft("a"))).replaced == table.row(A, first.id)
    assert len(steps) == 1


async def test_what_was_seen_late_hides_no_change_of_our_own() -> None:
    """The look began before the change and ended after it."""
    table, steps = Table(), []
    mesh = Mesh(table)
    await head_of(mesh, "a")
    seen, answer = table.rows, asyncio.Event()

    async def late(*name: Any, **how: Any) -> Any:
        rows = await seen(*name, **how)
        await answer.wait()
        return rows

    table.rows = late  # type: ignore[method-assign]
    mesh.changes.expect(A)
    await asyncio.sleep(0)
    looking, mesh.changes._expected = mesh.changes._expected, {}
    await mesh.put(draft("a"))
    mesh.changes._expected = looking
    answer.set()
    table.steps = lambda: steps.append(1)
    await mesh.put(draft("a"))
    assert len(steps) == 1


async def test_a_look_that_fails_or_a_change_under_way_costs_nothing() -> None:
    table = Table()
    mesh, asked = Mesh(table), []

    async def none(*_: object, **__: object) -> Any:
        asked.append(1)
        raise Unavailable("nobody answers")

    table.rows = none  # type: ignore[method-assign]
    mesh.changes.expect(A)
    mesh.changes.expect(A)
    under_way = [asyncio.create_task(mesh.put(draft("a"))) for _ in range(3)]
    await asyncio.sleep(0)
    mesh.changes.expect(A)
    await asyncio.gather(*under_way)
    assert (len(asked), table.applied) == (1, 3)
    await mesh.changes.close()


async def test_where_much_is_under_way_nobody_looks() -> None:
    table = Table()
    mesh = Mesh(table)
    under_way = [asyncio.create_task(mesh.put(draft(f"b{number}"))) for number in range(8)]
    await asyncio.sleep(0)
    mesh.changes.expect(A)
    assert not mesh.changes._expected
    await asyncio.gather(*under_way)
    mesh.changes.expect(A)
    assert mesh.changes._expected
    await mesh.changes.close()
    assert not mesh.changes._expected


async def test_a_put_over_an_unknown_head_is_refused_once_and_then_knows_it() -> None:
    table, steps = Table(), []
    first = await head_of(Mesh(table), "a")
    table.steps = lambda: steps.append(1)
    committed = await Mesh(table).put(draft("a"))
    assert len(steps) == 2
    assert committed.replaced is not None
    assert (committed.replaced.id, committed.replaced.state) == (first.id, State.REPLACED)
    assert table.row(A, first.id) == committed.replaced


@pytest.mark.parametrize("fate", UNKNOWN)
async def test_an_unknown_outcome_is_settled(fate: Fate) -> None:
    table = Table()
    mesh = Mesh(table)
    first = await head_of(mesh, "a")
    table.fates = [fate]
    second = draft("a")
    committed = await mesh.put(second)
    assert committed.version is not None
    assert committed.version.id == second.id
    assert committed.replaced is not None
    assert committed.replaced.id == first.id
    assert table.head(A) == committed.version
    table.fates = [fate]
    deleted = await mesh.commit(delete_of("a"))
    assert deleted.replaced is not None
    assert (deleted.replaced.id, deleted.replaced.state) == (second.id, State.DELETED)
    assert table.head(A) is None
    assert table.row(A, second.id) == deleted.replaced


async def test_what_cannot_be_settled_is_said_to_be_unknown() -> None:
    class Silent(Table):
        async def rows(self, *_: object, **__: object) -> dict[VersionId, Row | None]:
            raise Unavailable("no quorum")

    table = Silent(fates=[Fate.LOST])
    with pytest.raises(OutcomeUnknown):
        await Mesh(table).put(draft("a"))


class Overtaken(Table):
    """Before its caller learns that the answer of a transaction is lost, ``meanwhile`` runs, once."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def apply(self, bucket: BucketId, key: Key, edits: Sequence[Edit]) -> tuple[bool, Rows | None]:
        try:
            return await super().apply(bucket, key, edits)
        except OutcomeUnknown:
            meanwhile, self.meanwhile = self.meanwhile, None
            if meanwhile:
                await meanwhile()
            raise


async def test_a_put_that_others_replaced_before_it_knew_is_not_made_again() -> None:
    table, lost, next_one = Overtaken(), draft("a"), draft("a")
    mesh, other = Mesh(table), Mesh(table)

    async def replaced_and_collected() -> None:
        await other.put(next_one)
        del table.cells[A][lost.id]  # gc

    table.fates, table.meanwhile = [Fate.APPLIED], replaced_and_collected
    with pytest.raises(OutcomeUnknown):
        await mesh.put(lost)
    head = table.head(A)
    assert head is not None
    assert head.id == next_one.id


async def test_a_put_that_others_replaced_before_it_knew_is_told_by_its_row() -> None:
    table, lost, next_one = Overtaken(), draft("a"), draft("a")
    mesh, other = Mesh(table), Mesh(table)
    table.fates, table.meanwhile = [Fate.APPLIED], lambda: other.put(next_one)
    committed = await mesh.put(lost)
    assert committed.version is not None
    head = table.head(A)
    assert head is not None
    assert head.id == next_one.id


async def test_a_put_that_was_not_made_is_tried_again_after_others() -> None:
    table, lost, first_one = Overtaken(), draft("a"), draft("a")
    mesh, other = Mesh(table), Mesh(table)
    other.changes = Changes(table, other.moves, 5.0, lambda: NOW - 1, lambda: 0.0)  # type: ignore[arg-type]
    table.fates, table.meanwhile = [Fate.LOST], lambda: other.put(first_one)
    committed = await mesh.put(lost)
    assert committed.replaced is not None
    assert committed.replaced.id == first_one.id


async def test_a_put_that_was_not_made_is_tried_again_while_its_row_would_be_there() -> None:
    table, lost, first_one = Overtaken(), draft("a"), draft("a")
    mesh, other = Mesh(table), Mesh(table)
    mesh.keep = 3600.0
    table.fates, table.meanwhile = [Fate.LOST], lambda: other.put(first_one)
    committed = await mesh.put(lost)
    assert committed.replaced is not None
    assert committed.replaced.id == first_one.id


async def test_a_delete_does_not_take_what_was_put_after_it() -> None:
    table, next_one = Overtaken(), draft("a")
    mesh, other = Mesh(table), Mesh(table)
    first = await head_of(mesh, "a")

    async def put_and_collected() -> None:
        await other.put(next_one)
        del table.cells[A][first.id]

    table.fates, table.meanwhile = [Fate.APPLIED], put_and_collected
    with pytest.raises(OutcomeUnknown):
        await mesh.commit(delete_of("a"))
    assert table.head(A) is not None


async def test_a_precondition_is_judged_by_what_is_there_not_by_what_was_guessed() -> None:
    table = Table()
    one, other = Mesh(table), Mesh(table)
    first = await head_of(one, "a")
    second = (await other.put(draft("a"))).version
    assert second is not None
    with pytest.raises(PreconditionFailed):
        await one.put(draft("a"), Precondition(if_match=(first.etag,)))
    with pytest.raises(PreconditionFailed):
        await Mesh(table).put(draft("a"), ABSENT)
    third = (await other.put(draft("a"), Precondition(if_match=(second.etag,)))).version
    assert third is not None
    assert (await one.put(draft("a"), Precondition(if_match=(third.etag,)))).replaced is not None
    with pytest.raises(NoSuchKey):
        await Mesh(table).commit(delete_of("b"))


async def test_what_is_read_at_first_is_only_a_guess() -> None:
    """A stale head, or none: neither a refusal nor "nothing to do" is told of it, and no change is made on it."""
    table = Table(stale=lambda: True)
    first = await head_of(Mesh(table), "a")
    replaced = (await Mesh(table).commit(delete_of("a"))).replaced
    assert replaced is not None
    assert replaced.id == first.id
    with pytest.raises(NoSuchKey):
        await Mesh(table).commit(delete_of("a"))
    second = await head_of(Mesh(table), "a")
    moved = (await Mesh(table).move(second, "b")).version
    assert (table.head(A), table.head(B)) == (None, moved)


async def test_moves_and_changes_of_one_process_do_not_refuse_each_other() -> None:
    table, steps = Table(), []
    mesh = Mesh(table)
    head = await head_of(mesh, "a")
    table.steps = lambda: steps.append(1)
    await asyncio.gather(mesh.move(head, "b"), mesh.put(draft("b")), mesh.put(draft("a")))
    assert len(steps) == table.applied - 1 == 5


async def test_a_put_over_a_head_that_was_relocated_meanwhile_keeps_its_new_holders() -> None:
    table = Table()
    one = Mesh(table)
    head = await head_of(one, "a")
    work = Work(A, lambda rows, _: heads.relocate(rows, head, blob(head), (N1, N3)), (head.id,))
    assert await Mesh(table).changes.run(work)
    replaced = (await one.put(draft("a"))).replaced
    assert replaced is not None
    assert replaced.segments[0].holders == ((N1, N3),)
    assert table.row(A, head.id) == replaced


@pytest.mark.parametrize("fate", list(Fate))
async def test_a_commit_after_an_abort_never_applies(fate: Fate) -> None:
    table = Table()
    version = draft("a")
    table.cells[A][version.id] = newborn(version)
    assert await Mesh(table).abort(version)
    table.fates = [fate]
    stale = Mesh(table)
    work = Work(
        A,
        lambda rows, now: heads.commit(rows, put_of(version), ANY, now),
        (version.id,),
        partial(stale.changes.guess, A, {version.id: newborn(version)}),
    )
    with pytest.raises(Aborted):
        await stale.changes.run(work)
    assert table.head(A) is None


async def test_many_writers_in_many_processes_all_come_to_their_turn() -> None:
    table = Table()
    meshes = [Mesh(table) for _ in range(5)]
    committed = await asyncio.gather(*(meshes[number % 5].put(draft("a")) for number in range(50)))
    heads_ = sorted((each.version for each in committed if each.version), key=lambda head: head.seq)
    assert len({head.seq for head in heads_}) == 50
    assert [head.replaced for head in heads_] == [None, *(head.id for head in heads_[:-1])]
    assert table.applied == 50


async def test_what_fails_beside_is_said_when_the_change_is_made_and_its_rest_done() -> None:
    table, after = Table(), []
    version = draft("a")

    async def fails() -> None:
        raise Unavailable("the intent has no answer")

    async def follow(_: Snapshot) -> None:
        after.append(1)

    with pytest.raises(OutcomeUnknown):
        await Mesh(table).changes.run(
            Work(
                A,
                lambda rows, now: heads.put(rows, version, ANY, (), 60.0, now),
                (version.id,),
                beside=lambda _: [fails],
                after=follow,
            )
        )
    assert table.head(A) is not None
    assert after == [1]


# ---------------------------------------------------------------- two partitions


async def test_a_move_that_dies_after_any_step_is_finished_by_whoever_meets_it() -> None:
    for last in range(4):
        table = Table()
        head = await head_of(Mesh(table), "a")
        there = await head_of(Mesh(table), "b")
        left = last

        def count() -> None:
            nonlocal left
            if left == 0:
                raise asyncio.CancelledError
            left -= 1

        table.steps = count
        outcome = await _caught(Mesh(table).move(head, "b"))
        table.steps = lambda: None
        other = Mesh(table)
        source = (await other.moves.settled(A, (HEAD, head.id)))[HEAD]
        moved = last > 0  # the mark was there
        assert (table.head(A), source is not None and source.body is None) == (
            (None, True) if moved else (head, False)
        )
        at = table.head(B)
        assert at is not None
        assert at.id == (head.id if moved else there.id)
        assert isinstance(outcome, Committed) is (last == 3)
        if moved:
            again = await other.move(head, "b")
            assert again.version == at
            assert again.replaced is not None
            assert (again.replaced.id, again.replaced.state) == (there.id, State.REPLACED)


@pytest.mark.parametrize("fate", [Fate.APPLIED, Fate.LOST])
@pytest.mark.parametrize("step", [0, 1, 2])
async def test_a_move_of_which_one_answer_is_lost_is_answered(step: int, fate: Fate) -> None:
    table = Table()
    mesh = Mesh(table)
    head = await head_of(mesh, "a")
    table.fates = [Fate.ANSWERED] * step + [fate]
    moved = await mesh.move(head, "b")
    assert moved.version is not None
    assert table.head(B) == moved.version
    assert table.head(A) is None
    source = table.cells[A][HEAD]
    assert source.state == NULL


async def test_a_move_that_its_target_refuses_is_taken_back_also_where_the_version_was_before() -> None:
    table = Table()
    mesh = Mesh(table)
    head = await head_of(mesh, "a")
    there = (await mesh.move(head, "b")).version
    assert there is not None
    back = (await mesh.move(there, "a")).version
    assert back is not None
    after_the_mark = 1

    def interrupt() -> None:
        nonlocal after_the_mark
        if after_the_mark == 0:
            raise asyncio.CancelledError
        after_the_mark -= 1

    table.steps = interrupt
    await _caught(mesh.move(back, "b"))
    table.steps = lambda: None
    fresh = await head_of(Mesh(table), "b")
    assert not await mesh.moves.complete(A)
    assert (table.head(A), table.row(A, back.id)) == (back, back)
    assert table.head(B) == fresh


@given(st.lists(st.sampled_from(list(Fate)), max_size=6))
def test_a_move_whose_answers_are_lost_happens_once(fates: list[Fate]) -> None:
    async def run() -> None:
        table = Table()
        mesh = Mesh(table)
        head = await head_of(mesh, "a")
        table.fates = list(fates)
        moved = await _caught(mesh.move(head, "b"))
        table.fates = []
        await mesh.moves.settled(A, (HEAD,))
        again = (await mesh.move(head, "b")).version
        assert again is not None
        assert (table.head(A), table.head(B)) == (None, again)
        assert isinstance(moved, OutcomeUnknown) or (isinstance(moved, Committed) and moved.version == again)
        assert (await mesh.put(draft("a"))).replaced is None

    asyncio.run(run())


@given(
    st.integers(0, 2**32),
    st.lists(st.sampled_from(["ab", "ba", "put a", "put b", "delete a"]), min_size=2, max_size=6),
)
def test_a_version_is_never_lost_between_its_keys(seed: int, steps: list[str]) -> None:
    """Moves there and back, puts and deletes at once, by several processes whose reads are stale now and then: every version ends
    in one place and state."""

    async def run() -> None:
        draw = random.Random(seed).random
        table = Table(stale=lambda: draw() < 0.3)
        made = {"a": await head_of(Mesh(table), "a"), "b": await head_of(Mesh(table), "b")}
        wishes = {
            "ab": lambda mesh: mesh.move(made["a"], "b"),
            "ba": lambda mesh: mesh.move(made["b"], "a"),
            "put a": lambda mesh: mesh.put(draft("a")),
            "put b": lambda mesh: mesh.put(draft("b")),
            "delete a": lambda mesh: mesh.commit(delete_of("a")),
        }
        await asyncio.gather(
            *(
                _later(seed >> number & 7, wishes[step], Mesh(table, draw))
                for number, step in enumerate(steps)
            )
        )
        mesh = Mesh(table)
        shown = []
        for name in (A, B):
            await mesh.moves.settled(name, (HEAD,))
            head = table.head(name)
            shown += [head.id] if head else []
            assert head is None or table.row(name, head.id) == head
        assert len(shown) == len(set(shown))
        own = [
            (version, row) for name in (A, B) for version, row in table.cells[name].items() if version != HEAD
        ]
        for version in {version for version, _ in own}:
            states = [row.state for id, row in own if id == version and row.state != State.MOVED]
            assert len(states) == 1
            assert (states[0] == State.COMMITTED) == (version in shown)

    asyncio.run(run())


async def _later(turns: int, wish: Callable[[Mesh], Awaitable[object]], mesh: Mesh) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)
    try:
        await wish(mesh)
    except (Conflict, NoSuchKey):
        return


async def _caught(work: Coroutine[Any, Any, Committed]) -> Committed | BaseException:
    """The result; a CancelledError from inside stands for the death of the process."""
    return (await asyncio.gather(work, return_exceptions=True))[0]
