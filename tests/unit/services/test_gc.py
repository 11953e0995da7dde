"""gc removes dead bytes on every holder before it forgets who holds them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discloud.core.model import Layout, NodeId, NodeState, State, Version
from discloud.errors import Aborted, NoSuchVersion
from discloud.services.gc import AGAIN, FENCE, Collect, CollectReport

from .mesh import ANY, Mesh, blob_of

N1, N2, N3 = (NodeId(f"n{number}") for number in (1, 2, 3))
TWO = Layout(copies=2)


def collect(mesh: Mesh) -> Collect:
    return Collect(mesh.clusters[N1], mesh.metadata, mesh.clock)


async def forgotten(mesh: Mesh, version: Version) -> bool:
    try:
        await mesh.find(version)
    except NoSuchVersion:
        return True
    return False


async def test_a_replaced_version_goes_when_it_is_due_and_the_new_one_stays() -> None:
    mesh = await Mesh(2).open()
    old = await mesh.put("k", b"old", TWO, (N1, N2))
    new = await mesh.put("k", b"new", TWO, (N1, N2))
    mesh.now += 3599
    assert await collect(mesh).run_once() == CollectReport()
    mesh.now += 2
    assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await mesh.where(old) == set()
    assert await forgotten(mesh, old)
    assert await mesh.where(new) == {N1, N2}
    mesh.now += 1e6
    assert await collect(mesh).run_once() == CollectReport()


@pytest.mark.parametrize("how", ["down", "unreachable", "unknown"])
async def test_the_row_stays_until_every_holder_has_answered(how: str) -> None:
    mesh = await Mesh(3).open()
    old = await mesh.put("k", b"old", TWO, (N1, N2))
    await mesh.remove("k", keep=0)
    mesh.now += 1
    view = mesh.view
    if how == "down":
        mesh.become(N2, NodeState.DOWN)
    elif how == "unknown":
        mesh.show(replace(view, nodes=tuple(node for node in view.nodes if node.id != N2)))
    mesh.lines[N2].down = how == "unreachable"
    if how == "unknown":
        # NoSuchNode says that the view lacks the node, not that its disk lacks the blob.
        assert not mesh.clusters[N1].serving(N2)
    assert await collect(mesh).run_once() == CollectReport(postponed=1)
    assert await mesh.where(old) == {N2}
    assert (await mesh.find(old)).segments[0].holders == ((N1, N2),)
    mesh.lines[N2].down = False
    mesh.show(view)
    assert await collect(mesh).run_once() == CollectReport(), "not before its time"
    mesh.now += AGAIN + 1
    assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await mesh.where(old) == set()
    assert await forgotten(mesh, old)


async def test_a_holder_that_is_back_is_asked_at_once() -> None:
    mesh = await Mesh(2).open()
    old = await mesh.put("k", b"old", TWO, (N1, N2))
    await mesh.remove("k", keep=0)
    mesh.now += 1
    collector, view = collect(mesh), mesh.view
    mesh.become(N2, NodeState.DOWN)
    mesh.lines[N2].down = True
    assert await collector.run_once() == CollectReport(postponed=1)
    assert await collector.run_once() == CollectReport(), "a node that is down is left alone"
    mesh.lines[N2].down = False
    mesh.show(view)
    assert await collector.run_once() == CollectReport(collected=1)
    assert await forgotten(mesh, old)


async def test_one_run_collects_all_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Writers that replace faster than one page per period must not outrun it."""
    monkeypatch.setattr("discloud.services.gc.LIMIT", 2)
    mesh = await Mesh(2).open()
    for number in range(6):
        await mesh.put(f"k{number % 2}", b"%d" % number, TWO, (N1, N2))
    mesh.now += 3601
    assert await collect(mesh).run_once() == CollectReport(collected=4)


async def test_a_node_that_a_person_removed_is_not_waited_for() -> None:
    mesh = await Mesh(2).open()
    old = await mesh.put("k", b"old", TWO, (N1, N2))
    await mesh.remove("k", keep=0)
    mesh.become(N2, NodeState.REMOVED)
    mesh.now += 1
    assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await forgotten(mesh, old)


async def test_an_aborted_draft_loses_its_bytes_at_once_but_stays_a_fence() -> None:
    mesh = await Mesh(2).open()
    draft = mesh.draft("k", b"data", TWO, (N1, N2))
    await mesh.store_blobs(draft, b"data")
    await mesh.store.versions.begin(draft)
    await mesh.store.versions.abort(draft)
    mesh.now += 1
    assert await collect(mesh).run_once() == CollectReport(fenced=1)
    assert await mesh.where(draft) == set()
    with pytest.raises(Aborted):
        await mesh.store.versions.put(draft, ANY)
    # A holder that was slow to take the bytes has them after all.
    await mesh.store_blob(N2, blob_of(draft), draft, b"data")
    mesh.now += FENCE
    assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await mesh.where(draft) == set()
    assert await forgotten(mesh, draft)


async def test_copies_of_an_everywhere_version_go_from_every_serving_node() -> None:
    mesh = await Mesh(3).open()
    old = await mesh.put("k", b"old", Layout(copies=0), (N1, N2))
    await mesh.store_blob(N3, blob_of(old), old, b"old")
    await mesh.remove("k", keep=0)
    mesh.now += 1
    assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await mesh.where(old) == set()


async def test_a_puller_that_does_not_answer_is_not_waited_for() -> None:
    """It removes its copy by the log, when it is back."""
    mesh = await Mesh(3).open()
    old = await mesh.put("k", b"old", Layout(copies=0), (N1, N2))
    await mesh.store_blob(N3, blob_of(old), old, b"old")
    await mesh.remove("k", keep=0)
    mesh.now += 1
    with mesh.unreachable(N3):
        assert await collect(mesh).run_once() == CollectReport(collected=1)
    assert await mesh.where(old) == {N3}


async def test_the_row_decides_not_the_queue() -> None:
    """A queue that is behind (another root's, a replica's) lists a version whose row lives."""
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"data", TWO, (N1, N2))

    async def behind(*_: object) -> tuple[Version, ...]:
        return (replace(version, state=State.REPLACED, due=mesh.now - 1),)

    mesh.faults.queues.collectable = behind
    assert await collect(mesh).run_once() == CollectReport(alive=1)
    assert await mesh.where(version) == {N1, N2}


@pytest.mark.parametrize("call", ["find", "forget"])
async def test_without_an_answer_of_the_metadata_the_row_stays(call: str) -> None:
    mesh = await Mesh(2).open()
    old = await mesh.put("k", b"old", TWO, (N1, N2))
    await mesh.remove("k", keep=0)
    mesh.now += 1
    mesh.faults.versions.failing = {call}
    assert await collect(mesh).run_once() == CollectReport(unknown=1)
    assert not await forgotten(mesh, old)
    assert await mesh.where(old) == ({N1, N2} if call == "find" else set())
    mesh.faults.versions.failing = set()
    assert await collect(mesh).run_once() == CollectReport(collected=1)
