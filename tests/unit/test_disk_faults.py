"""Disks that are full, broken, rotten, locked or of another version."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from discloud import metrics
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.core.model import KIB, MIB, BlobId
from discloud.errors import Conflict, Corrupt, NoSpace, NoSuchBlob, Unavailable
from discloud.ports import FileSource
from tests.contract.blobs_contract import (
    Clock,
    digest,
    eventually,
    new_blob,
    new_label,
    read,
    read_all,
    write,
)
from tests.support.disk_folders import again, flip, open_files, place_of, put, quarantined
from tests.support.faulty_files import FaultyFiles

SMALL, LARGE = 3000, 700 * KIB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def files(tmp_path: Path) -> FaultyFiles:
    spare = tmp_path / "spare"
    spare.mkdir()
    return FaultyFiles(spare)


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Rotten(list[BlobId]):
    """What ``on_corrupt`` was told."""


@pytest.fixture
def rotten() -> Rotten:
    return Rotten()


@pytest.fixture
async def blobs(folder: Path, files: FaultyFiles, clock: Clock, rotten: Rotten) -> AsyncIterator[DiskBlobs]:
    blobs = await DiskBlobs.start(folder, DiskSettings(), clock, rotten.append, files)
    yield blobs
    await blobs.close()


# ---------------------------------------------------------------- full


@pytest.mark.parametrize(
    ("size", "call"), [(SMALL, "allocate"), (SMALL, "write"), (LARGE, "allocate"), (LARGE, "write")]
)
@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
async def test_a_full_disk_keeps_nothing_and_goes_on(
    blobs: DiskBlobs, folder: Path, files: FaultyFiles, size: int, call: str, number: int, begun: bool
) -> None:
    held = [(await put(blobs, SMALL))[0]] if begun and call == "write" else []
    files.faults.once[call] = number
    blob, data = new_blob(), os.urandom(size)
    with pytest.raises(NoSpace):
        await blobs.put(blob, new_label(), data, digest(data))
    with pytest.raises(NoSuchBlob):
        await blobs.stat(blob)
    other, kept = await put(blobs, size)
    assert await blobs.fetch(other) == kept
    usage = await blobs.usage()
    assert (usage.read_only, usage.reserved, usage.blobs) == (False, 0, len(held) + 1)
    assert list((folder / "temp").iterdir()) == []
    blobs = await again(blobs, folder)
    assert {each.blob async for each in blobs.walk()} == {other, *held}
    await blobs.close()


async def test_a_full_disk_at_the_sync_of_a_large_blob_is_no_broken_disk(
    blobs: DiskBlobs, files: FaultyFiles
) -> None:
    await put(blobs, LARGE)
    files.faults.once["sync"] = errno.ENOSPC
    with pytest.raises(NoSpace):
        await put(blobs, LARGE)
    assert not (await blobs.usage()).read_only


async def test_writes_end_before_the_disk_is_full(
    folder: Path, files: FaultyFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FaultyFiles, "room", lambda self, path: (100 * MIB, 5 * MIB + 1000))
    blobs = await DiskBlobs.start(folder, DiskSettings(full=0.95), files=files)
    await put(blobs, 900)
    with pytest.raises(NoSpace, match="disk has"):
        await put(blobs, 1100)
    with pytest.raises(NoSpace):
        async with blobs.create(new_blob(), new_label(), 1100):
            pytest.fail("it was accepted")
    await blobs.close()


async def test_dead_bytes_count_until_compaction(folder: Path) -> None:
    settings = DiskSettings(capacity=MIB, full=1.0, pack_size=300 * KIB, compact_at=0.1)
    blobs = await DiskBlobs.start(folder, settings)
    for _ in range(9):
        blob, _ = await put(blobs, 100 * KIB)
        await blobs.delete(blob)
    with pytest.raises(NoSpace):
        await put(blobs, 120 * KIB)
    while await blobs.run_compaction_once():
        pass
    await put(blobs, 120 * KIB)
    await blobs.close()


# ---------------------------------------------------------------- broken


@pytest.mark.parametrize(
    ("size", "call"),
    [(SMALL, "sync"), (LARGE, "sync"), (LARGE, "sync_folder"), (SMALL, "write"), (LARGE, "write")],
)
async def test_a_disk_that_does_not_keep_turns_read_only(
    blobs: DiskBlobs, files: FaultyFiles, size: int, call: str
) -> None:
    small, large = await put(blobs, SMALL), await put(blobs, LARGE)
    files.faults.once[call] = errno.EIO
    with pytest.raises(Unavailable):
        await put(blobs, size)
    syncs = files.syncs
    for attempt in (
        lambda: put(blobs, SMALL), lambda: put(blobs, LARGE), lambda: blobs.delete(small[0]),
        lambda: blobs.delete(large[0]), lambda: blobs.delete(new_blob()), lambda: write(blobs, new_blob(), b"x"),
    ):  # fmt: skip
        with pytest.raises(Unavailable, match="read-only"):
            await attempt()
    assert files.syncs == syncs
    for blob, data in (small, large):
        assert await read(blobs, blob) == data
    assert (await blobs.usage()).read_only
    assert (await blobs.usage()).reserved == 0


async def test_a_sync_that_fails_fails_all_that_waited_for_it(blobs: DiskBlobs, files: FaultyFiles) -> None:
    await put(blobs, SMALL)
    files.faults.once["sync"] = errno.EIO
    found = await asyncio.gather(*(put(blobs, SMALL) for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, Unavailable) for each in found)


# ---------------------------------------------------------------- rotten


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("how", ["flip", "eio"])
async def test_rotten_bytes_never_leave(
    blobs: DiskBlobs, folder: Path, files: FaultyFiles, rotten: Rotten, size: int, how: str
) -> None:
    (blob, data), (other, fine) = await put(blobs, size), await put(blobs, size)
    counted = metrics.CORRUPT_BLOCKS.samples()[()]
    if how == "flip":
        path, at = place_of(folder, data)
        flip(path, at + size - 1)
        with pytest.raises(Corrupt):
            await read(blobs, blob)
    else:
        await read(blobs, blob)
        files.faults.always["read"] = errno.EIO
        with pytest.raises(Corrupt):
            await read(blobs, blob)
        files.faults.always.clear()
    with pytest.raises(NoSuchBlob):
        await blobs.fetch(blob)
    assert blobs.peek_small(blob) is None
    await eventually(lambda: told(rotten, [blob]))
    assert metrics.CORRUPT_BLOCKS.samples()[()] == counted + 1
    assert await blobs.fetch(other) == fine
    await blobs.close()
    if how == "eio":  # the bytes are well by now: only what was noted keeps the blob from rising again
        (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, DiskSettings())
    with pytest.raises(NoSuchBlob):
        await blobs.stat(blob)
    assert [name.startswith(str(blob)) for name in quarantined(folder)] == [True]
    await blobs.put(blob, new_label(), data, digest(data))
    assert await blobs.fetch(blob) == data
    await blobs.close()


async def told(rotten: Rotten, expected: list[BlobId]) -> bool:
    return rotten == expected


async def test_what_was_read_before_the_rot_stays_valid(blobs: DiskBlobs, folder: Path) -> None:
    blob, data = new_blob(), os.urandom(5 * MIB)
    await write(blobs, blob, data)
    path, _ = place_of(folder, data[:1000])
    flip(path, 3 * MIB + 5)
    async with blobs.open(blob) as reader:
        parts = []
        with pytest.raises(Corrupt):  # noqa: PT012
            while part := await reader.read(100_000):
                parts.append(part)
        found = b"".join(parts)
    assert len(found) >= MIB
    assert data.startswith(found)
    assert len(found) <= 3 * MIB + 5


async def test_the_kernels_source_is_checked_block_by_block(blobs: DiskBlobs, folder: Path) -> None:
    blob, data = new_blob(), os.urandom(2 * MIB)
    await write(blobs, blob, data)
    path, _ = place_of(folder, data[:1000])
    flip(path, 600 * KIB)
    async with blobs.open(blob) as reader:
        assert isinstance(reader.source, FileSource)
        await asyncio.to_thread(reader.source.check, 0, 512 * KIB)
        await asyncio.to_thread(reader.source.check, 800 * KIB, MIB)
        with pytest.raises(Corrupt):
            await asyncio.to_thread(reader.source.check, 512 * KIB, 1)
    with pytest.raises(NoSuchBlob):
        await blobs.stat(blob)


async def test_trust_spares_what_was_verified_just_now(blobs: DiskBlobs, folder: Path, clock: Clock) -> None:
    blob, data = new_blob(), os.urandom(MIB)
    await write(blobs, blob, data)
    await read(blobs, blob)
    path, _ = place_of(folder, data[:1000])
    flip(path, 10)
    clock.now += 60

    async def check(trust: float) -> None:
        async with blobs.open(blob, trust=trust) as reader:
            assert isinstance(reader.source, FileSource)
            await asyncio.to_thread(reader.source.check, 0, MIB)

    await check(trust=61)
    with pytest.raises(Corrupt):
        await check(trust=60)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_damaged_footer_is_found_by_a_walk(
    blobs: DiskBlobs, folder: Path, rotten: Rotten, size: int
) -> None:
    blob, data = await put(blobs, size)
    path, at = place_of(folder, data)
    flip(path, at + size + 20)
    assert [each async for each in blobs.walk()] == []
    await eventually(lambda: told(rotten, [blob]))


async def test_a_file_that_somebody_removed_is_told(blobs: DiskBlobs, folder: Path, rotten: Rotten) -> None:
    blob, data = await put(blobs, LARGE)
    place_of(folder, data)[0].unlink()
    with pytest.raises(NoSuchBlob):
        await blobs.fetch(blob)
    await eventually(lambda: told(rotten, [blob]))
    await blobs.put(blob, new_label(), data, digest(data))
    assert await blobs.fetch(blob) == data


async def test_a_condemned_blob_cannot_be_deleted_before_that_is_durable(
    blobs: DiskBlobs, folder: Path, files: FaultyFiles
) -> None:
    blob, data = await put(blobs, SMALL)
    flip(*place_of(folder, data))
    files.faults.always["write"] = errno.ENOSPC
    with pytest.raises(Corrupt):
        await blobs.fetch(blob)
    with pytest.raises(Unavailable):
        await blobs.delete(blob)


# ---------------------------------------------------------------- peeking


async def test_peek_gives_small_blobs_only(blobs: DiskBlobs, files: FaultyFiles) -> None:
    files.hot = True
    (small, data), (large, _) = await put(blobs, SMALL), await put(blobs, LARGE)
    assert blobs.peek_small(small) == data
    assert blobs.peek_small(small, 10, 20) == data[10:30]
    assert blobs.peek_small(small, 2990) == data[2990:]
    assert blobs.peek_small(large) is None
    assert blobs.peek_small(new_blob()) is None


async def test_what_is_not_in_memory_is_read_by_a_thread(blobs: DiskBlobs, files: FaultyFiles) -> None:
    blob, data = await put(blobs, SMALL)
    files.cold = True
    assert blobs.peek_small(blob) is None
    assert await blobs.fetch(blob) == data


# ---------------------------------------------------------------- opening and closing


async def test_a_folder_belongs_to_one_process(blobs: DiskBlobs, folder: Path) -> None:
    with pytest.raises(Conflict, match="in use"):
        await DiskBlobs.start(folder, DiskSettings())
    blobs = await again(blobs, folder)
    await blobs.close()


async def test_a_closed_disk_says_so(blobs: DiskBlobs) -> None:
    blob, _ = await put(blobs, SMALL)
    await blobs.close()
    await blobs.close()
    attempts: list[Callable[[], object]] = [
        lambda: blobs.fetch(blob), lambda: blobs.stat(blob), lambda: blobs.delete(blob), lambda: put(blobs, 1),
        lambda: write(blobs, new_blob(), b"x"), blobs.usage, blobs.run_compaction_once,
    ]  # fmt: skip
    for attempt in attempts:
        with pytest.raises(Unavailable):
            await attempt()  # type: ignore[misc]


async def test_a_start_removes_what_was_being_written(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings())
    left = folder / "temp" / f"{new_blob()}.0"
    left.write_bytes(bytes(1000))
    blobs = await again(blobs, folder)
    assert not left.exists()
    await blobs.close()


async def test_a_newer_format_is_refused(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings())
    await put(blobs, SMALL)
    await blobs.close()
    pack = next((folder / "packs").iterdir())
    with pack.open("r+b") as file:
        file.write(b"dcP2")
    before = open_files()
    with pytest.raises(Conflict, match="newer"):
        await DiskBlobs.start(folder, DiskSettings())
    assert open_files() == before


async def test_a_folder_that_cannot_be_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Unavailable):
        await DiskBlobs.start(tmp_path / "file", DiskSettings())


async def test_nothing_stays_open(folder: Path) -> None:
    settings = DiskSettings(open_files=2)
    await (await DiskBlobs.start(folder, settings)).close()
    before = open_files()
    for _ in range(20):
        blobs = await DiskBlobs.start(folder, settings)
        ids = [(await put(blobs, size))[0] for size in (SMALL, LARGE, LARGE, LARGE)]
        for blob in ids:
            await read(blobs, blob)
        await blobs.delete(ids[1])
        await blobs.close()
    assert open_files() == before


async def test_a_reader_outlives_the_disk(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings())
    blob, data = await put(blobs, LARGE)
    before = open_files()
    async with blobs.open(blob) as reader:
        first = await reader.read(MIB)
        await blobs.close()
        assert isinstance(reader.source, FileSource)
        await asyncio.to_thread(reader.source.check, 0, LARGE)
        assert os.pread(reader.source.fd, 10, 0) == data[:10]
        assert first + await read_all(reader) == data
    assert open_files() < before


async def test_a_writer_that_is_left_by_cancellation_leaves_no_file(blobs: DiskBlobs, folder: Path) -> None:
    wrote = asyncio.Event()

    async def writing() -> None:
        async with blobs.create(new_blob(), new_label()) as writer:
            await asyncio.to_thread(writer.write, memoryview(bytes(LARGE)))
            wrote.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(writing())
    await wrote.wait()
    assert len(list((folder / "temp").iterdir())) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert list((folder / "temp").iterdir()) == []
    assert (await blobs.usage()).reserved == 0


async def test_a_large_blob_that_cannot_be_removed_stays(blobs: DiskBlobs, files: FaultyFiles) -> None:
    blob, data = await put(blobs, LARGE)
    files.faults.once["remove"] = errno.EACCES
    with pytest.raises(Unavailable):
        await blobs.delete(blob)
    assert await blobs.fetch(blob) == data
    assert not (await blobs.usage()).read_only
    await blobs.delete(blob)
    with pytest.raises(NoSuchBlob):
        await blobs.stat(blob)
