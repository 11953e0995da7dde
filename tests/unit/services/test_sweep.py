"""The sweeper removes what no row names, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discloud.core.model import Change, ChangeKind, Key, Layout, NodeId, State, Version
from discloud.errors import Aborted
from discloud.services.sweep import Sweep, SweepReport

from .mesh import ANY, BUCKET, Mesh, blob_of

N1, N2 = NodeId("n1"), NodeId("n2")
ONE, TWO = Layout(copies=1), Layout(copies=2)
AGE = 300.0


def sweep(mesh: Mesh, node: NodeId = N1, *, leader: bool = False) -> Sweep:
    return Sweep(mesh.clusters[node], mesh.metadata, mesh.clock, AGE, leads=lambda: leader)


async def sealed(mesh: Mesh, version: Version, node: NodeId = N1) -> bool:
    return (await mesh.disks[node].stat(blob_of(version))).sealed


async def orphan(mesh: Mesh, key: str = "k") -> Version:
    """Bytes on n1 whose gateway died before it wrote any row."""
    version = mesh.draft(key, b"data", ONE, (N1,))
    await mesh.store_blobs(version, b"data")
    return version


async def test_a_committed_blob_is_sealed_and_kept() -> None:
    mesh = await Mesh(1).open()
    version = await mesh.put("k", b"data", ONE, (N1,))
    mesh.now += AGE + 1
    assert await sweep(mesh).run_once() == SweepReport(sealed=1)
    assert await sealed(mesh, version)
    assert await sweep(mesh).run_once() == SweepReport()


async def test_a_young_blob_is_not_looked_at() -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    mesh.now += AGE - 1
    assert await sweep(mesh).run_once() == SweepReport()
    assert await mesh.where(version) == {N1}


async def test_a_blob_without_a_row_goes_and_its_writer_can_never_commit() -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    mesh.now += AGE + 1
    assert await sweep(mesh).run_once() == SweepReport(removed=1)
    assert await mesh.where(version) == set()
    with pytest.raises(Aborted):
        await mesh.store.versions.put(version, ANY)
    with pytest.raises(Aborted):
        await mesh.store.versions.begin(version)


async def test_a_draft_under_way_is_left_alone() -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    await mesh.store.versions.begin(replace(version, due=mesh.now + AGE + 100))
    mesh.now += AGE + 1
    assert await sweep(mesh).run_once() == SweepReport(left=1)
    assert await mesh.where(version) == {N1}
    await mesh.store.versions.commit(Change(ChangeKind.PUT, BUCKET, version.key, version), ANY)


async def test_an_expired_draft_is_aborted_before_its_blob_goes() -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    await mesh.store.versions.begin(version)
    mesh.now += AGE + 1
    assert await sweep(mesh).run_once() == SweepReport(removed=1)
    assert (await mesh.find(version)).state is State.ABORTED
    with pytest.raises(Aborted):
        await mesh.store.versions.commit(Change(ChangeKind.PUT, BUCKET, version.key, version), ANY)


@pytest.mark.parametrize("begun", [True, False])
async def test_a_writer_that_commits_while_the_sweeper_looks_keeps_its_blob(*, begun: bool) -> None:
    """The commit lands between the sweeper's look and its abort: exactly one of them wins."""
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    if begun:
        await mesh.store.versions.begin(version)
    mesh.now += AGE + 1

    async def commit(*_: object) -> None:
        await mesh.store.versions.put(version, ANY)

    mesh.faults.versions.before["abort"] = commit
    assert await sweep(mesh).run_once() == SweepReport(left=1)
    assert (await mesh.find(version)).state is State.COMMITTED
    assert await mesh.where(version) == {N1}
    assert await sweep(mesh).run_once() == SweepReport(sealed=1)


async def test_a_dead_version_is_left_to_gc_until_it_is_due() -> None:
    mesh = await Mesh(1).open()
    version = await mesh.put("k", b"data", ONE, (N1,))
    await mesh.remove("k", keep=1000)
    mesh.now += AGE + 1
    assert await sweep(mesh).run_once() == SweepReport(left=1)
    assert await mesh.where(version) == {N1}
    mesh.now += 1000
    assert await sweep(mesh).run_once() == SweepReport(removed=1)
    assert await mesh.where(version) == set()


async def test_a_copy_that_the_row_does_not_name_goes() -> None:
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"data", ONE, (N1,))
    await mesh.store_blob(N2, blob_of(version), version, b"data")
    mesh.now += AGE + 1
    assert await sweep(mesh, N2).run_once() == SweepReport(removed=1)
    assert await mesh.where(version) == {N1}


async def test_a_copy_of_an_everywhere_version_belongs_on_every_node() -> None:
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"data", Layout(copies=0), (N1,))
    await mesh.store_blob(N2, blob_of(version), version, b"data")
    mesh.now += AGE + 1
    assert await sweep(mesh, N2).run_once() == SweepReport(sealed=1)
    assert await mesh.where(version) == {N1, N2}


async def test_a_blob_of_a_renamed_object_is_kept() -> None:
    """Its label still says the old key, under which there may be no row any more."""
    mesh = await Mesh(1).open()
    version = await mesh.put("old", b"data", ONE, (N1,))
    change = Change(ChangeKind.MOVE, BUCKET, Key("old"), version, Key("new"))
    await mesh.store.versions.commit(change, ANY)
    mesh.now += AGE + 1
    for _ in range(3):
        assert (await sweep(mesh).run_once()).removed == 0
        mesh.now += 100_000
    assert await mesh.where(version) == {N1}
    assert (await mesh.store.versions.get(BUCKET, Key("new"))).id == version.id


async def test_a_blob_touched_since_the_look_is_kept() -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    mesh.now += AGE + 1

    async def read(*_: object) -> None:
        await mesh.disks[N1].fetch(blob_of(version))

    mesh.faults.versions.after["find"] = read
    # find() raises for an orphan: the hook after abort is the one that runs.
    mesh.faults.versions.after["abort"] = read
    assert await sweep(mesh).run_once() == SweepReport(left=1)
    assert await mesh.where(version) == {N1}


async def test_a_relocation_between_look_and_removal_is_made_good() -> None:
    """The worst case: the row names this node only after it was read, and the copy was verified before it went."""
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"data", TWO, (N1,))
    await mesh.store_blob(N2, blob_of(version), version, b"data")
    mesh.now += AGE + 1

    async def relocate(*_: object) -> None:
        assert await mesh.store.versions.relocate(version, blob_of(version), (N1, N2))

    mesh.lines[N2].before["delete"] = relocate
    assert await sweep(mesh, N2).run_once() == SweepReport(removed=1)
    (repair,) = await mesh.queued()
    assert (repair.blob, repair.missing) == (blob_of(version), (N2,))


@pytest.mark.parametrize("call", ["find", "abort"])
async def test_without_an_answer_of_the_metadata_nothing_goes(call: str) -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    mesh.now += AGE + 1
    mesh.faults.versions.failing = {call}
    assert await sweep(mesh).run_once() == SweepReport(unknown=1)
    assert await mesh.where(version) == {N1}
    mesh.faults.versions.failing = set()
    assert await sweep(mesh).run_once() == SweepReport(removed=1)


@pytest.mark.parametrize("call", ["stat", "delete"])
async def test_a_failing_disk_is_no_answer(call: str) -> None:
    mesh = await Mesh(1).open()
    version = await orphan(mesh)
    kept = await mesh.put("kept", b"data", ONE, (N1,))
    mesh.now += AGE + 1
    mesh.lines[N1].failing = {call}
    assert await sweep(mesh).run_once() == SweepReport(unknown=1, sealed=1)
    assert await mesh.where(version) == {N1}
    assert await sealed(mesh, kept)


async def test_only_the_leader_ends_drafts_whose_bytes_never_came() -> None:
    mesh = await Mesh(2).open()
    version = mesh.draft("k", b"data", ONE, (N1,))
    await mesh.store.versions.begin(version)
    mesh.now += 121
    assert await sweep(mesh, N2).run_once() == SweepReport()
    assert (await mesh.find(version)).state is State.DRAFT
    assert await sweep(mesh, leader=True).run_once() == SweepReport(aborted=1)
    assert (await mesh.find(version)).state is State.ABORTED
    assert await sweep(mesh, leader=True).run_once() == SweepReport()


async def test_a_renewed_lease_holds() -> None:
    mesh = await Mesh(1).open()
    version = mesh.draft("k", b"data", ONE, (N1,))
    await mesh.store.versions.begin(version)
    await mesh.store.versions.renew(version, mesh.now + 1000)
    mesh.now += 500
    assert await sweep(mesh, leader=True).run_once() == SweepReport()


async def test_one_look_serves_all_fragments_of_a_version() -> None:
    mesh = await Mesh(1).open()
    version = mesh.draft("k", b"0123456789", Layout(data=2, copies=1, unit=2), (N1,), (N1,))
    await mesh.store_blobs(version, b"0123456789")
    await mesh.store.versions.put(version, ANY)
    mesh.now += AGE + 1
    mesh.faults.versions.calls.clear()
    assert await sweep(mesh).run_once() == SweepReport(sealed=2)
    assert mesh.faults.versions.calls == ["find"]
