"""The repair worker: copies reach their nodes, the row says so, and what is unknown waits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from blake3 import blake3

from discloud.core.model import (
    GIB,
    Change,
    ChangeKind,
    Key,
    Label,
    Layout,
    NodeId,
    NodeState,
    Repair,
    Version,
)
from discloud.ports import SMALL
from discloud.services.repair import FIRST, MOST, RepairReport, Repairs
from discloud.services.sweep import Sweep, SweepReport

from .mesh import ANY, BUCKET, Mesh, blob_of

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in (1, 2, 3, 4))
TWO, THREE = Layout(copies=2), Layout(copies=3)


def repairs(mesh: Mesh) -> Repairs:
    return Repairs(mesh.clusters[N1], mesh.metadata, mesh.threads, mesh.clock, mesh.draw)


async def queue(mesh: Mesh, version: Version, *missing: NodeId, fragment: int = 0) -> None:
    blob = blob_of(version, fragment)
    await mesh.store.queues.add_repairs([Repair(BUCKET, version.key, blob, missing, mesh.now)])


@pytest.mark.parametrize("size", [0, 10, SMALL + 10])
async def test_a_copy_missed_at_the_ack_is_made_and_recorded(size: int) -> None:
    mesh = await Mesh(3).open()
    data = b"x" * size
    version = await mesh.put("k", data, THREE, (N1, N2))
    await queue(mesh, version, N3)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.where(version) == {N1, N2, N3}
    assert await mesh.holders(version) == (N1, N2, N3)
    assert (await mesh.disks[N3].stat(blob_of(version))).hash == blake3(data).digest()
    assert await mesh.queued() == ()
    head = await mesh.store.versions.get(BUCKET, Key("k"))
    assert head.segments[0].holders == ((N1, N2, N3),)


async def test_the_holder_that_was_repaired_keeps_its_copy() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)
    await repairs(mesh).run_once()
    mesh.now += 301
    sweep = Sweep(mesh.clusters[N3], mesh.metadata, mesh.clock, 300, leads=lambda: False)
    assert await sweep.run_once() == SweepReport(sealed=1)


async def test_a_node_that_is_down_is_waited_for_ever_more_rarely() -> None:
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    mesh.become(N3, NodeState.DOWN)
    await queue(mesh, version, N3)
    waits = []
    for _ in range(9):
        assert await repairs(mesh).run_once() == RepairReport(waiting=1)
        (entry,) = await mesh.queued()
        waits.append(entry.not_before - mesh.now)
        assert await repairs(mesh).run_once() == RepairReport(), "not before its time"
        mesh.now = entry.not_before
    assert waits[:4] == [FIRST, FIRST, 2 * FIRST, 4 * FIRST]
    assert waits[-1] == MOST
    assert await mesh.where(version) == {N1, N2}
    mesh.become(N3, NodeState.ALIVE)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N2, N3)


async def test_a_node_that_is_lost_is_replaced_by_another() -> None:
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    mesh.become(N3, NodeState.LOST)
    await queue(mesh, version, N3)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N2, N4)
    assert await mesh.where(version) == {N1, N2, N4}


async def test_a_lost_holder_stays_recorded_beside_its_substitute() -> None:
    """When it comes back, its blob is still named, so that gc will remove it with the version."""
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2))
    mesh.become(N2, NodeState.LOST)
    await queue(mesh, version)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N2, N3)
    assert await mesh.where(version) == {N1, N2, N3}


@pytest.mark.parametrize(("state", "more"), [(NodeState.REMOVED, {}), (NodeState.ALIVE, {"read_only": True})])
async def test_a_holder_that_will_never_have_it_again_leaves_the_record(
    state: NodeState, more: dict[str, bool]
) -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2), skip=(N2,))
    mesh.become(N2, state, **more)
    await queue(mesh, version)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N3)


async def test_it_stays_recorded_while_nobody_can_take_its_place() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2))
    mesh.become(N2, NodeState.REMOVED)
    mesh.become(N3, NodeState.ALIVE, used=GIB)
    await queue(mesh, version)
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    assert await mesh.holders(version) == (N1, N2)


async def test_without_names_placement_chooses() -> None:
    mesh = await Mesh(3).open()
    mesh.become(N2, NodeState.ALIVE, used=GIB)
    version = await mesh.put("k", b"data", TWO, (N1,))
    await queue(mesh, version)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N3)


async def test_a_recorded_holder_that_lost_its_blob_gets_it_back() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2), skip=(N2,))
    await queue(mesh, version, N2)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.where(version) == {N1, N2}
    assert (await mesh.find(version)).rev == version.rev, "the record was right all the time"


@pytest.mark.parametrize(
    ("state", "more"), [(NodeState.ALIVE, {"used": GIB}), (NodeState.DRAINING, {}), (NodeState.REMOVED, {})]
)
async def test_a_named_node_that_takes_nothing_is_passed_over(state: NodeState, more: dict[str, int]) -> None:
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    mesh.become(N3, state, **more)
    await queue(mesh, version, N3)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N2, N4)


async def test_a_fragment_of_a_raid10_goes_to_a_node_without_fragments() -> None:
    mesh = await Mesh(5).open()
    data = bytes(range(100))
    layout = Layout(data=2, copies=2, unit=10)
    version = await mesh.put("k", data, layout, (N1, N2), (N3,))
    mesh.become(N4, NodeState.DOWN)
    await queue(mesh, version, fragment=1)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version, 1) == (N3, "n5")
    assert await mesh.where(version, 1) == {N3, "n5"}
    assert await mesh.where(version, 0) == {N1, N2}


async def test_a_spoilt_source_is_passed_over() -> None:
    """n1 gives bytes that have its hash but not the recorded one; the nearest source is not believed."""
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2), skip=(N1,))
    label = Label("mesh", BUCKET, "files", version.key, THREE)
    await mesh.disks[N1].put(blob_of(version), label, b"DATA", version.segments[0].hashes[0])
    await queue(mesh, version, N3)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.disks[N3].fetch(blob_of(version)) == b"data"


async def test_an_entry_whose_version_is_dead_or_gone_is_dropped() -> None:
    mesh = await Mesh(3).open()
    dead = await mesh.put("k", b"data", TWO, (N1,))
    await mesh.remove("k")
    await queue(mesh, dead)
    await queue(mesh, mesh.draft("never", b"data", TWO, (N1,)))
    assert await repairs(mesh).run_once() == RepairReport(needless=2)
    assert await mesh.queued() == ()
    assert await mesh.where(dead) == {N1}


async def test_an_entry_that_came_right_by_itself_is_dropped() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2))
    await queue(mesh, version, N2)
    assert await repairs(mesh).run_once() == RepairReport(needless=1)
    assert await mesh.queued() == ()


async def test_a_draft_is_waited_for() -> None:
    mesh = await Mesh(3).open()
    draft = mesh.draft("k", b"data", TWO, (N1, N2))
    await mesh.store.versions.begin(draft)
    await queue(mesh, draft, N2)
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)


async def test_sources_that_do_not_answer_are_no_loss() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1,))
    await queue(mesh, version)
    with mesh.unreachable(N1):
        assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    mesh.now += MOST
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)


async def test_a_loss_is_said_only_when_every_holder_has_answered_and_the_entry_stays() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2), skip=(N1, N2))
    await queue(mesh, version)
    mesh.become(N2, NodeState.DOWN)
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    mesh.now += MOST
    mesh.become(N2, NodeState.LOST)
    assert await repairs(mesh).run_once() == RepairReport(lost=1)
    assert len(await mesh.queued()) == 1
    assert await mesh.holders(version) == (N1, N2)


async def test_a_target_that_dies_in_between_is_not_recorded() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)
    mesh.lines[N3].failing = {"put"}
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    assert await mesh.holders(version) == (N1, N2)
    assert len(await mesh.queued()) == 1


async def test_a_row_that_moves_meanwhile_is_read_again() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)

    async def update(*_: object) -> None:
        head = await mesh.store.versions.get(BUCKET, Key("k"))
        changed = replace(head, content_type="text/x")
        await mesh.store.versions.commit(Change(ChangeKind.UPDATE, BUCKET, Key("k"), changed), ANY)

    mesh.faults.versions.before["relocate"] = update
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    head = await mesh.store.versions.get(BUCKET, Key("k"))
    assert head.segments[0].holders == ((N1, N2, N3),)
    assert head.content_type == "text/x"
    assert mesh.lines[N3].calls.count("put") == 1, "the copy that was made counts"


async def test_a_version_that_dies_meanwhile_is_not_relocated() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)

    async def remove(*_: object) -> None:
        await mesh.remove("k")

    mesh.faults.versions.before["relocate"] = remove
    assert (await repairs(mesh).run_once()).repaired == 0
    # The copy on n3 is an orphan now: its sweep removes it when gc has taken the version.
    mesh.now += 3601
    assert await Sweep(
        mesh.clusters[N3], mesh.metadata, mesh.clock, 300, leads=lambda: False
    ).run_once() == SweepReport(removed=1)


async def test_a_copy_that_a_sweeper_took_is_not_called_repaired() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)

    async def lose(*_: object) -> None:
        await mesh.disks[N3].delete(blob_of(version))

    mesh.faults.versions.after["relocate"] = lose
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    mesh.now += MOST
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.where(version) == {N1, N2, N3}


async def test_the_confirming_read_keeps_a_sweeper_off_that_looked_before() -> None:
    """A copy that lay on n3 for long is adopted while n3's sweeper has already read the old row."""
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await mesh.store_blob(N3, blob_of(version), version, b"data")
    mesh.now += 301
    await queue(mesh, version, N3)

    async def repair(*_: object) -> None:
        assert await repairs(mesh).run_once() == RepairReport(repaired=1)

    mesh.faults.versions.after["find"] = repair
    swept = await Sweep(mesh.clusters[N3], mesh.metadata, mesh.clock, 300, leads=lambda: False).run_once()
    assert swept == SweepReport(left=1)
    assert await mesh.where(version) == {N1, N2, N3}
    assert await mesh.holders(version) == (N1, N2, N3)


async def test_an_everywhere_version_gets_its_copy_back_without_being_recorded() -> None:
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"data", Layout(copies=0), (N1, N2, N3))
    await queue(mesh, version, N4)
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.where(version) == {N1, N2, N3, N4}
    assert await mesh.holders(version) == (N1, N2, N3)


async def test_a_pulled_copy_saves_an_everywhere_version_whose_homes_are_gone() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", Layout(copies=0), (N1,), skip=(N1,))
    await mesh.store_blob(N3, blob_of(version), version, b"data")
    await queue(mesh, version, N1)
    await repairs(mesh).run_once()
    assert N1 in await mesh.where(version)


@pytest.mark.parametrize("call", ["find", "relocate"])
async def test_without_an_answer_of_the_metadata_the_entry_stays(call: str) -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("k", b"data", THREE, (N1, N2))
    await queue(mesh, version, N3)
    mesh.faults.versions.failing = {call}
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    assert await mesh.holders(version) == (N1, N2)
    mesh.faults.versions.failing = set()
    mesh.now += MOST
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version) == (N1, N2, N3)


async def test_many_blobs_of_one_version_are_repaired_at_once() -> None:
    mesh = await Mesh(16).open()
    layout = Layout(data=8, copies=2, unit=1)
    holders = [(f"n{number}",) for number in range(1, 9)]
    version = await mesh.put("k", bytes(64), layout, *holders)
    for fragment in range(8):
        await queue(mesh, version, fragment=fragment)
    assert await repairs(mesh).run_once() == RepairReport(repaired=8)
    recorded = [node for _, nodes in (await mesh.find(version)).blobs() for node in nodes]
    assert len(recorded) == len(set(recorded)) == 16


async def test_a_node_that_got_another_fragment_meanwhile_is_not_recorded_for_a_second_one() -> None:
    """Two workers choose the same node for two fragments: the compare-and-set lets one of them choose again."""
    mesh = await Mesh(3).open()
    version = await mesh.put("k", bytes(64), Layout(data=2, copies=2, unit=1), (N1,), (N2,))
    await queue(mesh, version, fragment=0)

    async def take(*_: object) -> None:
        assert await mesh.store.versions.relocate(version, blob_of(version, 1), (N2, N3))

    mesh.faults.versions.before["relocate"] = take
    assert await repairs(mesh).run_once() == RepairReport(waiting=1)
    assert await mesh.holders(version, 0) == (N1,)
    assert mesh.join() == N4
    mesh.now += MOST
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.holders(version, 0) == (N1, N4)


async def test_a_chosen_node_is_chosen_once_although_the_row_moved() -> None:
    mesh = await Mesh(12).open()
    version = await mesh.put("k", b"data", TWO, (N1,))
    await queue(mesh, version)

    async def update(*_: object) -> None:
        head = await mesh.store.versions.get(BUCKET, Key("k"))
        changed = replace(head, content_type="text/x")
        await mesh.store.versions.commit(Change(ChangeKind.UPDATE, BUCKET, Key("k"), changed), ANY)

    mesh.faults.versions.before["relocate"] = update
    assert await repairs(mesh).run_once() == RepairReport(repaired=1)
    assert await mesh.where(version) == set(await mesh.holders(version))
    assert len(await mesh.where(version)) == 2
