"""Intents, the queues that read them, and the ``all`` log, on a real Cassandra."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters.cassandra.all_log import SLOW, AllLog
from discloud.adapters.cassandra.hints import Hints
from discloud.adapters.cassandra.intents import (
    FOREVER,
    MINUTE,
    OVER,
    Intent,
    Intents,
    Kind,
    dead,
    lease,
    minute_of,
    repairing,
    settling,
)
from discloud.adapters.cassandra.queues import CassandraQueues
from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.together import together
from discloud.core.model import BucketId, Key, NodeId, State, Version, VersionId
from discloud.errors import Corrupt, NoSuchVersion, Unavailable
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import N1, N2, N3, draft, everywhere, repair_of
from tests.unit.cassandra_session import opened

NOW = 1_700_000_000.0


class Watched:
    """A session that counts what is asked of it; ``before`` is called with the text of every call."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.texts: list[str] = []
        self.before: Callable[[str], None] = lambda text: None

    def _see(self, text: str) -> None:
        self.texts.append(text)
        self.before(text)

    async def read(self, text: str, *values: object, **how: bool) -> list[Any]:
        self._see(text)
        return await self.session.read(text, *values, **how)

    async def write(self, text: str, *values: object) -> None:
        self._see(text)
        await self.session.write(text, *values)

    async def write_all(self, statements: Any) -> None:
        for text, _ in statements:
            self._see(text)
        await self.session.write_all(statements)


class Rows:
    """The rows of versions, as the queues see them."""

    def __init__(self, intents: Intents) -> None:
        self.rows: dict[VersionId, Version] = {}
        self.settled: list[Intent] = []
        self.failing: type[Exception] | None = None
        self._intents = intents

    async def find(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        if self.failing is not None:
            raise self.failing("not now")
        if version not in self.rows:
            raise NoSuchVersion(version)
        return self.rows[version]

    async def abort(self, version: Version) -> bool:
        self.rows[version.id] = replace(version, state=State.ABORTED, due=0.0)
        await self._intents.note(dead(self.rows[version.id]))
        return True

    async def settle(self, intent: Intent, version: Version) -> None:
        self.settled.append(intent)

    async def postpone(self, version: Version, due: float) -> bool:
        row = self.rows.get(version.id)
        if row is None or row.state not in {State.REPLACED, State.DELETED, State.ABORTED}:
            return False
        self.rows[version.id] = replace(row, due=due)
        return True


class Mesh:
    """One root's queues, its clock, and what it asks of Cassandra."""

    def __init__(self, session: Session) -> None:
        self.clock = Clock()
        self.session = Watched(session)
        self.intents = Intents(self.session, self.clock)  # type: ignore[arg-type]
        self.rows = Rows(self.intents)
        self.log = AllLog(self.session, self.clock)  # type: ignore[arg-type]
        self.tidied: list[float] = []
        self.queues = CassandraQueues(
            self.session,  # type: ignore[arg-type]
            self.intents,
            self.log,
            self.rows,
            self.tidy,
            self.clock,
        )

    async def tidy(self, now: float) -> None:
        self.tidied.append(now)

    async def begin(self, **given: Any) -> Version:
        version = draft("a", **{"due": NOW + 300, **given})
        await self.intents.note(lease(version))
        self.rows.rows[version.id] = version
        return version

    async def kill(self, due: float, state: State = State.REPLACED) -> Version:
        version = replace(draft("a"), state=state, due=due)
        self.rows.rows[version.id] = version
        await self.intents.note(dead(version))
        return version

    async def left(self, kind: Kind) -> list[Intent]:
        return [intent async for some in self.intents.due(kind, FOREVER) for intent in some]


@pytest.fixture
async def mesh(keyspace: str) -> AsyncIterator[Mesh]:
    async with opened(keyspace) as session:
        yield Mesh(session)


# ---------------------------------------------------------------- drafts and half-done commits


async def test_a_draft_is_expired_when_its_lease_is_over(mesh: Mesh) -> None:
    late, early = await mesh.begin(due=NOW + 400), await mesh.begin(due=NOW + 300)
    assert await mesh.queues.expired(NOW + 299, 10) == ()
    assert await mesh.queues.expired(NOW + 300, 10) == (early,)
    assert await mesh.queues.expired(NOW + 500, 10) == (early, late)
    assert await mesh.queues.expired(NOW + 500, 1) == (early,)


async def test_a_commit_takes_its_lease_along(mesh: Mesh) -> None:
    version = await mesh.begin()
    await mesh.intents.done(lease(version))
    assert await mesh.left(Kind.OPEN) == []


async def test_a_renewed_lease_counts_and_the_old_one_goes(mesh: Mesh) -> None:
    version = await mesh.begin()
    later = replace(version, due=NOW + 900)
    await mesh.intents.note(lease(later))
    mesh.rows.rows[version.id] = later
    assert await mesh.queues.expired(NOW + 300, 10) == ()
    assert [intent.due for intent in await mesh.left(Kind.OPEN)] == [NOW + 900]
    assert await mesh.queues.expired(NOW + 900, 10) == (later,)


async def test_a_renewal_that_noted_nothing_is_made_good(mesh: Mesh) -> None:
    version = await mesh.begin()
    mesh.rows.rows[version.id] = later = replace(version, due=NOW + 900)
    assert await mesh.queues.expired(NOW + 300, 10) == ()
    assert await mesh.queues.expired(NOW + 900, 10) == (later,)


@pytest.mark.parametrize("state", [State.COMMITTED, State.REPLACED, State.DELETED])
async def test_a_commit_that_was_not_done_to_its_end_is_settled_once(mesh: Mesh, state: State) -> None:
    version = await mesh.begin(due=NOW + 20)
    noted = await mesh.intents.note(settling(version, NOW + 60, Key("target")))
    mesh.rows.rows[version.id] = replace(version, state=state)
    for _ in range(2):
        assert await mesh.queues.expired(NOW + 60, 10) == ()
    assert mesh.rows.settled == [lease(version).placed(minute_of(NOW)), noted]
    assert await mesh.left(Kind.OPEN) == []


async def test_what_was_aborted_is_owed_to_gc(mesh: Mesh) -> None:
    version = await mesh.begin()
    mesh.rows.rows[version.id] = aborted = replace(version, state=State.ABORTED)
    assert await mesh.queues.expired(NOW + 300, 10) == ()
    assert (mesh.rows.settled, await mesh.left(Kind.OPEN)) == ([], [])
    assert await mesh.queues.collectable(NOW + 300, 10) == (aborted,)


async def test_a_draft_without_a_row_is_fenced_before_it_is_forgotten(mesh: Mesh) -> None:
    version = await mesh.begin()
    del mesh.rows.rows[version.id]
    assert await mesh.queues.expired(NOW + 300, 10) == ()
    assert mesh.rows.rows[version.id].state is State.ABORTED
    assert await mesh.left(Kind.OPEN) == []
    assert [each.id for each in await mesh.queues.collectable(NOW + 300, 10)] == [version.id]


async def test_without_an_answer_nothing_is_ended(mesh: Mesh) -> None:
    await mesh.begin()
    mesh.rows.failing = Unavailable
    with pytest.raises(Unavailable):
        await mesh.queues.expired(NOW + 300, 10)
    assert len(await mesh.left(Kind.OPEN)) == 1


async def test_a_row_that_cannot_be_read_does_not_stop_the_others(mesh: Mesh) -> None:
    await mesh.begin()
    mesh.rows.failing = Corrupt
    assert await mesh.queues.expired(NOW + 300, 10) == ()
    assert len(await mesh.left(Kind.OPEN)) == 1


# ---------------------------------------------------------------- dead versions


async def test_a_dead_version_that_waits_is_noted_anew(mesh: Mesh) -> None:
    version = await mesh.kill(NOW)
    await mesh.queues.postpone(version, NOW + 600)
    assert await mesh.queues.collectable(NOW + 599, 10) == ()
    (due,) = await mesh.queues.collectable(NOW + 600, 10)
    assert (due.id, due.due) == (version.id, NOW + 600)
    assert len(await mesh.left(Kind.DEAD)) == 1, "waiting again and again must not leave more and more"


async def test_a_live_row_keeps_its_entry_while_a_change_may_be_under_way(mesh: Mesh) -> None:
    version = await mesh.kill(NOW, State.COMMITTED)
    assert await mesh.queues.collectable(NOW + 1, 10) == ()
    mesh.rows.rows[version.id] = dying = replace(version, state=State.REPLACED)
    assert await mesh.queues.collectable(NOW + 1, 10) == (dying,)
    mesh.rows.rows[version.id] = version
    mesh.clock.now += OVER + MINUTE
    assert await mesh.queues.collectable(mesh.clock.now, 10) == ()
    assert await mesh.left(Kind.DEAD) == []


async def test_what_is_forgotten_leaves_the_queue(mesh: Mesh) -> None:
    version = await mesh.kill(NOW)
    del mesh.rows.rows[version.id]
    assert await mesh.queues.collectable(NOW, 10) == ()
    assert await mesh.left(Kind.DEAD) == []


# ---------------------------------------------------------------- repairs


async def test_a_repair_that_waits_is_met_at_its_time(mesh: Mesh) -> None:
    repair = repair_of(draft("a"), since=NOW)
    await mesh.queues.add_repairs([repair])
    later = replace(repair, not_before=NOW + 600)
    await mesh.queues.add_repairs([later])
    assert await mesh.queues.repairs(NOW + 599, 10) == ()
    assert await mesh.queues.repairs(NOW + 600, 10) == (later,)
    await mesh.queues.repaired(later)
    mesh.clock.now = NOW + 600 + OVER + MINUTE
    assert await mesh.queues.repairs(mesh.clock.now, 10) == ()
    assert await mesh.left(Kind.REPAIR) == []


async def test_a_repair_whose_row_came_late_is_noted_again(mesh: Mesh) -> None:
    def pause(text: str) -> None:
        if "INTO repair_queue" in text and mesh.clock.now == NOW:
            mesh.clock.now += MINUTE

    mesh.session.before = pause
    repair = repair_of(draft("a"), since=NOW)
    await mesh.queues.add_repairs([repair])
    assert {intent.minute for intent in await mesh.left(Kind.REPAIR)} == {
        minute_of(NOW),
        minute_of(NOW + MINUTE),
    }


# ---------------------------------------------------------------- minutes


async def test_deleted_rows_are_never_read_again(mesh: Mesh) -> None:
    for step in range(5):
        mesh.clock.now = NOW + step * MINUTE
        noted = await mesh.intents.note(settling(draft("a"), mesh.clock.now))
        await mesh.intents.done(noted)
    mesh.clock.now = NOW + 5 * MINUTE + OVER
    assert await mesh.left(Kind.OPEN) == []
    mesh.session.texts.clear()
    assert await mesh.left(Kind.OPEN) == []
    assert not [text for text in mesh.session.texts if "FROM intents" in text]


async def test_a_minute_with_work_left_stays_but_holds_up_no_other(mesh: Mesh) -> None:
    stuck = await mesh.intents.note(settling(draft("a"), NOW))
    for step in range(1, 4):
        mesh.clock.now = NOW + step * MINUTE
        await mesh.intents.done(await mesh.intents.note(settling(draft("a"), mesh.clock.now)))
    mesh.clock.now += OVER + MINUTE
    assert await mesh.left(Kind.OPEN) == [stuck]
    mesh.session.texts.clear()
    assert await mesh.left(Kind.OPEN) == [stuck]
    assert len([text for text in mesh.session.texts if "FROM intents" in text]) == 1


async def test_a_late_clock_cannot_write_where_nobody_reads(mesh: Mesh) -> None:
    other = Mesh(mesh.session.session)
    await mesh.intents.done(await mesh.intents.note(settling(draft("a"), NOW)))
    mesh.clock.now += 10 * MINUTE
    assert await mesh.left(Kind.OPEN) == []
    noted = await other.intents.note(settling(draft("b"), NOW))
    assert noted.minute > minute_of(NOW)
    assert await mesh.left(Kind.OPEN) == [noted]
    await mesh.intents.done(noted)
    assert await mesh.left(Kind.OPEN) == []


async def test_a_root_that_stood_still_while_it_wrote_writes_again(mesh: Mesh) -> None:
    other = Mesh(mesh.session.session)

    def stand_still(text: str) -> None:
        if "INTO intents" in text and mesh.clock.now == NOW:
            mesh.clock.now = other.clock.now = NOW + 10 * MINUTE

    await mesh.intents.done(await mesh.intents.note(settling(draft("a"), NOW)))
    mesh.session.before = stand_still
    noted = await mesh.intents.note(settling(draft("b"), NOW))
    assert noted.minute == minute_of(NOW + 10 * MINUTE)


async def test_a_partition_of_more_than_a_page_is_read_to_its_end(mesh: Mesh) -> None:
    drafts = [draft("a", due=NOW + 1) for _ in range(20_000)]
    partition = lease(drafts[0]).partition
    versions = [each for each in drafts if lease(each).partition == partition][:1100]
    for start in range(0, len(versions), 100):
        await together(mesh.intents.note, [lease(each) for each in versions[start : start + 100]])
    found = await mesh.left(Kind.OPEN)
    assert sorted(intent.version for intent in found) == sorted(version.id for version in versions)


Step = tuple[str, int, float]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["note", "note", "done", "read", "time"]), st.integers(0, 1), st.floats(-300, 600)
    ),
    max_size=25,
)


@settings(max_examples=15)
@given(steps=STEPS, skew=st.floats(-5, 5))
def test_nothing_is_lost_whatever_the_order(keyspace: str, steps: list[Step], skew: float) -> None:
    """Two roots whose clocks differ note, end and read; what is left is what was noted and not ended."""

    async def history() -> None:
        async with opened(keyspace) as session:
            roots = (Mesh(session), Mesh(session))
            roots[1].clock.now += skew
            left: dict[uuid.UUID, Intent] = {}
            for kind, number, offset in steps:
                root = roots[number]
                if kind == "note":
                    noted = await root.intents.note(settling(draft("a"), max(root.clock.now + offset, 0)))
                    left[noted.tag] = noted
                elif kind == "done" and left:
                    await root.intents.done(left.pop(next(iter(left))))
                elif kind == "time":
                    for each in roots:
                        each.clock.now += abs(offset)
                now = root.clock.now + offset
                found = [each async for some in root.intents.due(Kind.OPEN, now) for each in some]
                assert {each.tag for each in found} == {tag for tag, each in left.items() if each.due <= now}
            assert {each.tag for each in await roots[0].left(Kind.OPEN)} == left.keys()

    asyncio.run(history())


# ---------------------------------------------------------------- the log


async def test_the_log_follows_the_order_of_writing(mesh: Mesh) -> None:
    versions = [everywhere("a") for _ in range(5)]
    await mesh.log.add(versions[0], removed=False)
    mesh.clock.now -= 3 * MINUTE  # a clock that is set back does not turn the order round
    await mesh.log.add(versions[1], removed=False)
    await mesh.log.add(versions[0], removed=True)
    mesh.clock.now += 30 * MINUTE
    await mesh.log.add(versions[2], removed=False)
    entries = await mesh.queues.log(0, 100)
    expected = [
        (versions[0].id, False),
        (versions[1].id, False),
        (versions[0].id, True),
        (versions[2].id, False),
    ]
    assert [(entry.version, entry.removed) for entry in entries] == expected
    pages = [await mesh.queues.log(after, 1) for after in (0, *(entry.number for entry in entries))]
    assert pages == [*((entry,) for entry in entries), ()]


async def test_a_page_never_ends_between_entries_of_one_number(mesh: Mesh) -> None:
    roots = [Mesh(mesh.session.session) for _ in range(3)]
    versions = [everywhere("a") for _ in roots]
    for root, version in zip(roots, versions, strict=True):
        await root.log.add(version, removed=False)
    page = await mesh.queues.log(0, 1)
    assert {entry.version for entry in page} == {version.id for version in versions}
    assert await mesh.queues.log(page[-1].number, 1) == ()


async def test_an_entry_that_took_too_long_gets_a_later_number(mesh: Mesh) -> None:
    def pause(text: str) -> None:
        if "INTO all_log (" in text and mesh.clock.now == NOW:
            mesh.clock.now += SLOW

    mesh.session.before = pause
    version = everywhere("a")
    await mesh.log.add(version, removed=False)
    entries = await mesh.queues.log(0, 10)
    assert [entry.version for entry in entries] == [version.id] * 2
    assert entries[-1].number >= (NOW + SLOW) * 1e6


# ---------------------------------------------------------------- hints


async def test_hints_tell_at_least_who_holds_what(mesh: Mesh) -> None:
    hints = Hints(mesh.session.session)
    node = NodeId(str(uuid.uuid4()))
    versions = [draft(f"é{number}") for number in range(40)]
    for version in versions:
        await hints.add(version)
        await hints.add(version, (node, node))
    found = [hint async for some in hints.of(node) for hint in some]
    assert sorted(found) == sorted((each.bucket, each.key, each.id) for each in versions)
    await hints.remove(versions[0])
    for holder in (N1, N2):
        ids = {version async for some in hints.of(holder) for _, _, version in some}
        assert {each.id for each in versions[1:]} <= ids
        assert versions[0].id not in ids
    assert not {id async for some in hints.of(N3) for _, _, id in some} & {each.id for each in versions}


def test_an_intent_of_a_repair_is_told_apart_by_its_blob() -> None:
    version = draft("a")
    first = repair_of(version)
    second = replace(first, blob=replace(first.blob, fragment=1))
    assert repairing(first).tag != repairing(second).tag
