"""What a start makes of a folder: with and without the saved index, with torn ends and with damage in the middle."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud import metrics
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.disk.files import Files
from discloud.adapters.disk.record import HEADER, PACK_HEAD, Header, key_of, pack_header
from discloud.adapters.disk.scan import Found, Gap, scan
from discloud.core.model import KIB, BlobId, BucketId, Key, Seal, State
from discloud.errors import NoSpace, NoSuchBlob
from tests.contract.blobs_contract import digest, eventually, new_blob, new_label
from tests.support.disk_folders import again, flip, missing, packs, place_of, put, quarantined
from tests.support.faulty_files import FaultyFiles

SETTINGS = DiskSettings(pack_size=64 * KIB, seal_delay=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "disk"


async def filled(folder: Path, count: int = 60) -> tuple[DiskBlobs, dict[BlobId, bytes]]:
    """A folder with several packs and large files, some of it deleted."""
    blobs = await DiskBlobs.start(folder, SETTINGS)
    held = dict([await put(blobs, 100 + 200 * number) for number in range(count)])
    held |= dict([await put(blobs, 200 * KIB) for _ in range(3)])
    for blob in list(held)[::5]:
        await blobs.delete(blob)
        del held[blob]
    return blobs, held


async def listed(blobs: DiskBlobs) -> set[BlobId]:
    return {stored.blob async for stored in blobs.walk()}


@pytest.mark.parametrize("index", ["kept", "removed", "damaged", "cut", "old"])
async def test_a_start_finds_everything(folder: Path, index: str) -> None:
    blobs, held = await filled(folder)
    await blobs.close()
    shutil.copy(folder / "index", folder.parent / "old")
    blobs = await DiskBlobs.start(folder, SETTINGS)
    deleted = next(iter(held))
    await blobs.delete(deleted)
    del held[deleted]
    held |= dict([await put(blobs, 5000)])
    await blobs.close()
    saved = folder / "index"
    if index == "removed":
        saved.unlink()
    elif index == "damaged":
        flip(saved, saved.stat().st_size // 2)
    elif index == "cut":
        os.truncate(saved, 1000)
    elif index == "old":
        shutil.copy(folder.parent / "old", saved)
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await missing(blobs, held) == []
    assert await listed(blobs) == held.keys()
    assert quarantined(folder) == []
    assert (await blobs.usage()).blobs == len(held)
    await blobs.close()


async def test_an_index_of_other_packs_is_not_believed(folder: Path) -> None:
    blobs, held = await filled(folder)
    other, _ = await filled(folder.parent / "other")
    await blobs.close()
    await other.close()
    shutil.copy(folder.parent / "other" / "index", folder / "index")
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await listed(blobs) == held.keys()
    assert await missing(blobs, held) == []
    await blobs.close()


async def test_stored_is_the_same_after_a_start(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    ids = [new_blob(), new_blob()]
    label = new_label("ünï/code")
    for blob, size in zip(ids, (1000, 200 * KIB), strict=True):
        await blobs.put(blob, label, bytes(size), digest(bytes(size)))
    before = [await blobs.stat(blob) for blob in ids]
    blobs = await again(blobs, folder, SETTINGS)
    for stored in before:
        found = await blobs.stat(stored.blob)
        assert (found.length, found.hash, found.created) == (stored.length, stored.hash, stored.created)
        assert (found.bucket, found.key) == (label.bucket, label.key)
    await blobs.close()


@pytest.mark.parametrize("index", ["kept", "removed"])
async def test_seals_survive_and_the_newest_counts(folder: Path, index: str) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    (sealed, _), (other, _) = await put(blobs, 1000), await put(blobs, 1000)

    def seal(seq: int) -> Seal:
        return Seal(sealed.version, BucketId("b"), Key("k"), State.COMMITTED, seq, str(seq).encode())

    await blobs.seal([seal(5)])
    await blobs.seal([seal(9), seal(7)])
    await blobs.close()
    if index == "removed":
        (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert (await blobs.stat(sealed)).sealed
    assert [stored.blob async for stored in blobs.unsealed(2e9)] == [other]
    known = blobs._folder.index.seal_of(bytes.fromhex(sealed.version.replace("-", "")))
    assert known is not None
    assert known.seq == 9
    await blobs.close()


async def test_a_seal_goes_with_the_last_blob_of_its_version(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    blob, data = await put(blobs, 1000)
    await blobs.seal([Seal(blob.version, BucketId("b"), Key("k"), State.COMMITTED, 5)])

    async def sealed() -> bool:
        return (await blobs.stat(blob)).sealed

    await eventually(sealed)
    await blobs.delete(blob)
    await blobs.put(blob, new_label(), data, digest(data))
    assert not (await blobs.stat(blob)).sealed
    await blobs.close()


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize("part", ["header", "data", "footer"])
async def test_damage_costs_one_record_and_is_put_aside(folder: Path, part: str) -> None:
    blobs, held = await filled(folder)
    await blobs.close()
    (folder / "index").unlink()
    victim = list(held)[3]
    path, at = place_of(folder, held[victim])
    flip(path, at + {"header": -10, "data": 5, "footer": len(held[victim]) + 3}[part])
    counted = metrics.CORRUPT_BLOCKS.samples()[()]
    told: list[BlobId] = []
    blobs = await DiskBlobs.start(folder, SETTINGS, on_corrupt=told.append)
    assert await missing(blobs, held) == [victim]
    assert metrics.CORRUPT_BLOCKS.samples()[()] == counted + 1
    assert quarantined(folder) == [f"{path.name}.{at - HEADER}"]
    # Of a header that cannot be read nobody knows whose it was.
    assert told == ([] if part == "header" else [victim])
    await blobs.put(victim, new_label(), held[victim], digest(held[victim]))
    blobs = await again(blobs, folder, SETTINGS)
    assert await missing(blobs, held) == []
    await blobs.close()


async def test_a_damaged_pack_head_costs_nothing(folder: Path) -> None:
    blobs, held = await filled(folder)
    await blobs.close()
    for path in packs(folder):
        flip(path, 10)
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await missing(blobs, held) == []
    held |= dict([await put(blobs, 500)])
    blobs = await again(blobs, folder, SETTINGS)
    assert await missing(blobs, held) == []
    await blobs.close()


async def test_a_torn_end_is_cut_off(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings())
    held = dict([await put(blobs, 1000) for _ in range(5)])
    pack = next(iter(blobs._folder.packs))
    end, salt = pack.end, pack.head.salt
    await blobs.close()
    # A write of two records of which the disk kept a sector of the first and the header of the second.
    ghost = new_blob()
    header = Header(1, key_of(ghost), salt, end + 2048, 99, 1.0, 3000, 100, 1, 2)
    with packs(folder)[0].open("r+b") as file:
        file.seek(end + 512)
        file.write(b"x" * 512)
        file.seek(end + 2048)
        file.write(pack_header(header))
    counted = metrics.CORRUPT_BLOCKS.samples()[()]
    blobs = await DiskBlobs.start(folder, DiskSettings())
    assert await missing(blobs, held) == []
    assert metrics.CORRUPT_BLOCKS.samples()[()] == counted
    found = quarantined(folder)
    held |= dict([await put(blobs, 100)])
    await blobs.close()
    (folder / "index").unlink()
    # Nothing of it is found again behind what was written since.
    blobs = await DiskBlobs.start(folder, DiskSettings())
    assert quarantined(folder) == found
    assert await missing(blobs, held) == []
    assert await listed(blobs) == held.keys()
    await blobs.close()


@pytest.fixture
def files(tmp_path: Path) -> FaultyFiles:
    spare = tmp_path / "spare"
    spare.mkdir()
    return FaultyFiles(spare)


async def held_back(blobs: DiskBlobs, files: FaultyFiles) -> asyncio.Task[tuple[BlobId, bytes]]:
    """A write that keeps the writer busy, so that all that comes until the gate opens is one batch."""
    files.gate.clear()
    first = asyncio.create_task(put(blobs, 1000))
    await asyncio.sleep(0)
    while not blobs._folder.pack_writer._queue.empty():
        await asyncio.sleep(0)
    return first


async def test_a_write_that_failed_is_not_found_by_a_start(folder: Path, files: FaultyFiles) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings(), files=files)
    held = dict([await put(blobs, 1000)])
    first = await held_back(blobs, files)
    batch = [asyncio.create_task(put(blobs, size)) for size in (3000, 200, 200)]
    await asyncio.sleep(0)
    files.faults.always["written"] = errno.ENOSPC
    files.gate.set()
    found = await asyncio.gather(first, *batch, return_exceptions=True)
    assert all(isinstance(each, NoSpace) for each in found)
    files.faults.always.clear()
    held |= dict([await put(blobs, 200)])
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, DiskSettings())
    assert await listed(blobs) == held.keys()
    await blobs.close()


async def test_writers_of_one_id_at_the_same_time_leave_one_record(folder: Path, files: FaultyFiles) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings(), files=files)
    blob, data = await put(blobs, 1000)
    await blobs.delete(blob)
    first = await held_back(blobs, files)
    batch = [asyncio.create_task(blobs.put(blob, new_label(), data, digest(data))) for _ in range(3)]
    await asyncio.sleep(0)
    files.gate.set()
    other, _ = await first
    await asyncio.gather(*batch)
    await blobs.delete(blob)
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, DiskSettings())
    assert await listed(blobs) == {other}
    await blobs.close()


async def test_a_pack_stored_as_an_object_is_not_taken_for_one(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings())
    ghost, _ = await put(blobs, 600)
    blobs = await again(blobs, folder)
    inside = packs(folder)[0].read_bytes()[: 16 * KIB]
    await blobs.delete(ghost)
    carrier = new_blob()
    # The data begins behind the header: shifted so that what it holds lies on sectors again.
    await blobs.put(carrier, new_label(), bytes(512 - HEADER) + inside, bytes(32))
    await blobs.close()
    (folder / "index").unlink()
    path, at = place_of(folder, bytes(512 - HEADER) + inside[:600])
    flip(path, at - 5)
    blobs = await DiskBlobs.start(folder, DiskSettings())
    assert await listed(blobs) == set()
    await blobs.close()


async def test_a_strange_file_among_the_blobs_is_put_aside(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    blob, _ = await put(blobs, 200 * KIB)
    await blobs.close()
    (folder / "large" / "00" / "strange").write_bytes(b"x")
    empty = new_blob()
    (folder / "large" / empty.version[:2] / str(empty)).write_bytes(b"")
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await listed(blobs) == {blob}
    assert quarantined(folder) == sorted(["strange", str(empty)])
    await blobs.close()


async def test_the_index_is_saved_while_the_disk_is_used(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, DiskSettings(checkpoint_every=10))
    held = dict([await put(blobs, 100) for _ in range(25)])

    async def saved() -> bool:
        return (folder / "index").exists()

    await eventually(saved)
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    await blobs.close()
    blobs = await DiskBlobs.start(copy, DiskSettings())
    assert await missing(blobs, held) == []
    await blobs.close()


@settings(max_examples=15)
@given(st.data())
def test_a_scan_finds_every_whole_record_whatever_lies_between(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("scan")

    async def fill() -> None:
        blobs = await DiskBlobs.start(folder, DiskSettings())
        sizes = data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=12))
        await asyncio.gather(*(put(blobs, size) for size in sizes))
        await blobs.close()

    asyncio.run(fill())
    path = packs(folder)[0]
    files, fd = Files(), os.open(path, os.O_RDWR)
    whole = [each for each in _scan(files, fd) if isinstance(each, Found)]
    places = [(each.header.position, each.header.position + each.header.size) for each in whole]
    broken: set[int] = set()
    for at in data.draw(st.lists(st.integers(PACK_HEAD, places[-1][1] - 1), max_size=4)):
        flip(path, at)
        broken ^= {at}
    used = {p: p + HEADER + e.header.data + e.header.footer for (p, _), e in zip(places, whole, strict=True)}
    expected = [p for p, end in used.items() if not any(p <= at < end for at in broken)]
    found = list(_scan(files, fd))
    os.close(fd)
    assert [each.header.position for each in found if isinstance(each, Found)] == expected
    stretches = [
        (each.start, each.end)
        if isinstance(each, Gap)
        else (each.header.position, each.header.position + each.header.size)
        for each in found
    ]
    assert [start for start, _ in stretches[1:]] == [end for _, end in stretches[:-1]]


def _scan(files: Files, fd: int) -> list[Found | Gap]:
    return list(scan(files, fd, files.size(fd), PACK_HEAD, None))


async def test_what_was_deleted_stays_deleted_without_the_index(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    (small, data), (large, _) = await put(blobs, 100), await put(blobs, 200 * KIB)
    for _ in range(3):
        await blobs.delete(small)
        await blobs.put(small, new_label(), data, digest(data))
    await blobs.delete(small)
    await blobs.delete(large)
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    for blob in (small, large):
        with pytest.raises(NoSuchBlob):
            await blobs.stat(blob)
    await blobs.close()
