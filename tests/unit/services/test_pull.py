"""Every node gets the copies of mirror:all, also one that joins later, and lets them go."""

from __future__ import annotations

from pathlib import Path

import pytest

from discloud.core.model import Change, ChangeKind, Key, Layout, NodeId, Version
from discloud.errors import Unavailable
from discloud.ports import LATE, LogEntry
from discloud.services.cursor import CursorFile
from discloud.services.gc import Collect
from discloud.services.pull import Pull, PullReport
from discloud.services.sweep import Sweep, SweepReport

from .mesh import ANY, BUCKET, Mesh, blob_of

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in (1, 2, 3, 4))
ALL = Layout(copies=0)


class Position:
    """A cursor that outlives a Pull, as the file does."""

    def __init__(self) -> None:
        self.number = 0

    async def load(self) -> int:
        return self.number

    async def save(self, number: int) -> None:
        assert number > self.number
        self.number = number


def pull(mesh: Mesh, node: NodeId = N3, position: Position | None = None) -> Pull:
    return Pull(
        mesh.clusters[node], mesh.metadata, position or Position(), mesh.threads, mesh.draw, mesh.clock
    )


async def test_a_node_that_joins_copies_what_lives_and_keeps_it() -> None:
    mesh = await Mesh(2).open()
    kept = await mesh.put("a", b"a", ALL, (N1, N2))
    gone = await mesh.put("b", b"b", ALL, (N1, N2))
    await mesh.put("mirror", b"m", Layout(copies=2), (N1, N2))
    await mesh.remove("b")
    assert mesh.join() == N3
    report = await pull(mesh).run_once()
    assert (report.pulled, report.removed, report.waiting) == (1, 0, 0)
    assert await mesh.where(kept) == {N1, N2, N3}
    assert await mesh.where(gone) == {N1, N2}
    assert (await mesh.disks[N3].usage()).blobs == 1
    stored = await mesh.disks[N3].stat(blob_of(kept))
    assert (stored.sealed, stored.key, stored.bucket) == (True, "a", BUCKET)
    mesh.now += 1e6
    assert (
        await Sweep(mesh.clusters[N3], mesh.metadata, mesh.clock, 300, leads=lambda: False).run_once()
        == SweepReport()
    )


async def test_the_cursor_goes_on_where_it_was() -> None:
    mesh = await Mesh(3).open()
    position = Position()
    await mesh.put("a", b"a", ALL, (N1, N2))
    assert (await pull(mesh, position=position).run_once()).pulled == 1
    assert await pull(mesh, position=position).run_once() == PullReport()
    await mesh.put("b", b"b", ALL, (N1, N2))
    assert await pull(mesh, position=position).run_once() == PullReport(entries=1, pulled=1)


async def test_a_home_copies_nothing() -> None:
    mesh = await Mesh(2).open()
    await mesh.put("a", b"a", ALL, (N1, N2))
    assert await pull(mesh, N2).run_once() == PullReport(entries=1)


async def test_what_is_removed_goes_but_home_copies_wait_for_gc() -> None:
    mesh = await Mesh(3).open()
    puller, home = pull(mesh), pull(mesh, N1)
    old = await mesh.put("a", b"a", ALL, (N1, N2))
    await puller.run_once()
    await home.run_once()
    new = await mesh.put("a", b"new", ALL, (N1, N2))
    report = await puller.run_once()
    assert (report.pulled, report.removed) == (1, 1)
    assert (await home.run_once()).removed == 0
    assert await mesh.where(old) == {N1, N2}
    assert await mesh.where(new) == {N1, N2, N3}
    mesh.now += 3601
    await Collect(mesh.clusters[N1], mesh.metadata, mesh.clock).run_once()
    assert await mesh.where(old) == set()


async def test_a_node_that_was_away_while_gc_forgot_the_version_removes_it_when_it_is_back() -> None:
    mesh = await Mesh(3).open()
    puller = pull(mesh)
    old = await mesh.put("a", b"a", ALL, (N1, N2))
    await puller.run_once()
    await mesh.remove("a", keep=0)
    mesh.now += 1
    with mesh.unreachable(N3):
        await Collect(mesh.clusters[N1], mesh.metadata, mesh.clock).run_once()
    assert await mesh.where(old) == {N3}
    assert (await puller.run_once()).removed == 1
    assert await mesh.where(old) == set()


async def test_a_renamed_object_keeps_its_copies() -> None:
    mesh = await Mesh(3).open()
    position = Position()
    version = await mesh.put("old", b"a", ALL, (N1, N2))
    await pull(mesh, position=position).run_once()
    change = Change(ChangeKind.MOVE, BUCKET, Key("old"), version, Key("new"))
    await mesh.store.versions.commit(change, ANY)
    await pull(mesh, position=position).run_once()
    assert await mesh.where(version) == {N1, N2, N3}
    mesh.join()
    await pull(mesh, N4).run_once()
    assert await mesh.where(version) == {N1, N2, N3, N4}, "also on a node that joins after the rename"


async def test_an_entry_whose_holders_do_not_answer_waits_and_the_others_go_on() -> None:
    mesh = await Mesh(4).open()
    position = Position()
    puller = pull(mesh, N4, position)
    first = await mesh.put("a", b"a", ALL, (N1, N2))
    second = await mesh.put("b", b"b", ALL, (N3,))
    with mesh.unreachable(N1, N2):
        assert await puller.run_once() == PullReport(entries=1, waiting=1, pulled=1)
    assert await mesh.where(second) == {N3, N4}
    assert position.number == 0, "the cursor does not pass what is not done"
    assert await puller.run_once() == PullReport(entries=1, pulled=1)
    assert await mesh.where(first) == {N1, N2, N4}
    assert position.number == (await mesh.store.queues.log(0, 10))[-1].number


async def test_another_home_is_asked_when_the_nearest_fails() -> None:
    mesh = await Mesh(3).open()
    version = await mesh.put("a", b"a", ALL, (N1, N2), skip=(N1,))
    assert (await pull(mesh).run_once()).pulled == 1
    assert await mesh.where(version) == {N2, N3}


@pytest.mark.parametrize("call", ["find", "abort"])
async def test_without_an_answer_of_the_metadata_no_copy_goes(call: str) -> None:
    mesh = await Mesh(3).open()
    puller = pull(mesh)
    version = await mesh.put("a", b"a", ALL, (N1, N2))
    await puller.run_once()
    await mesh.remove("a", keep=0)
    mesh.now += 1
    if call == "abort":
        with mesh.unreachable(N3):
            await Collect(mesh.clusters[N1], mesh.metadata, mesh.clock).run_once()
    mesh.faults.versions.failing = {call}
    assert (await puller.run_once()).waiting == 1
    assert N3 in await mesh.where(version)
    mesh.faults.versions.failing = set()
    assert (await puller.run_once()).removed == 1


async def test_an_entry_that_says_removed_of_a_living_version_removes_nothing() -> None:
    """The row decides, not the log."""
    mesh = await Mesh(3).open()
    puller = pull(mesh)
    version = await mesh.put("a", b"a", ALL, (N1, N2))
    await puller.run_once()

    async def mistaken(after: int, _: int) -> tuple[LogEntry, ...]:
        return () if after >= 99 else (LogEntry(99, BUCKET, version.key, version.id, removed=True),)

    mesh.faults.queues.log = mistaken
    assert await puller.run_once() == PullReport(entries=1)
    assert await mesh.where(version) == {N1, N2, N3}


async def test_more_than_a_page_is_followed_to_the_end() -> None:
    mesh = await Mesh(2).open()
    for number in range(450):
        await mesh.put(f"k{number}", b"x", ALL, (N1,))
    assert await pull(mesh, N2).run_once() == PullReport(entries=450, pulled=450)


class LateLog:
    """A log whose numbers are micros, and whose entries are seen when the test says so."""

    def __init__(self, mesh: Mesh) -> None:
        self.entries: list[LogEntry] = []
        self.asked: list[int] = []
        mesh.faults.queues.log = self.log

    async def log(self, after: int, limit: int) -> tuple[LogEntry, ...]:
        self.asked.append(after)
        found = sorted((each for each in self.entries if each.number > after), key=lambda entry: entry.number)
        return tuple(each for each in found if each.number <= found[min(limit, len(found)) - 1].number)

    def see(self, version: Version, at: float) -> None:
        self.entries.append(LogEntry(int(at * 1e6), BUCKET, version.key, version.id, removed=False))


async def test_an_entry_that_is_seen_late_is_not_missed_and_none_is_done_twice() -> None:
    mesh = await Mesh(3).open()
    log, position = LateLog(mesh), Position()
    puller = pull(mesh, position=position)
    on_time, late, twin = [await mesh.put(key, b"x", ALL, (N1, N2)) for key in ("a", "b", "c")]
    log.see(on_time, mesh.now)
    assert await puller.run_once() == PullReport(entries=1, pulled=1)
    log.see(late, mesh.now - LATE + 1)
    log.see(twin, mesh.now)
    assert await puller.run_once() == PullReport(entries=2, pulled=2)
    assert await puller.run_once() == PullReport()
    assert position.number <= (mesh.now - LATE) * 1e6, "a node that starts again looks at the same stretch"
    mesh.now += 2 * LATE
    assert await puller.run_once() == PullReport()
    assert position.number == log.entries[0].number
    log.asked.clear()
    assert await puller.run_once() == PullReport()
    assert log.asked == [position.number], "what is settled is not read again"


async def test_a_number_from_the_future_hides_nothing() -> None:
    mesh = await Mesh(3).open()
    log = LateLog(mesh)
    puller = pull(mesh)
    first, second = [await mesh.put(key, b"x", ALL, (N1, N2)) for key in ("a", "b")]
    log.see(first, mesh.now + 86_400)
    assert (await puller.run_once()).pulled == 1
    mesh.now += 10 * LATE
    log.see(second, mesh.now)
    assert await puller.run_once() == PullReport(entries=1, pulled=1)


async def test_a_cursor_file_keeps_its_number(tmp_path: Path) -> None:
    mesh = await Mesh(1).open()
    path = tmp_path / "pull.cursor"
    assert await CursorFile(path, mesh.threads).load() == 0
    await CursorFile(path, mesh.threads).save(7)
    await CursorFile(path, mesh.threads).save(12)
    assert await CursorFile(path, mesh.threads).load() == 12
    path.write_text("garbage")
    assert await CursorFile(path, mesh.threads).load() == 0
    with pytest.raises(Unavailable):
        await CursorFile(tmp_path / "no" / "folder", mesh.threads).save(1)
