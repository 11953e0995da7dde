"""Compaction gives room back and loses nothing, whoever reads, writes or deletes meanwhile."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.disk.compaction import Compaction, Supersede
from discloud.adapters.disk.pack_writer import PackRequest
from discloud.core.model import KIB, BlobId, BucketId, Key, Seal, State
from discloud.errors import NoSpace, NoSuchBlob, Unavailable
from tests.contract.blobs_contract import digest, eventually, new_label
from tests.support.disk_folders import again, flip, missing, packs, place_of, put, quarantined
from tests.support.faulty_files import FaultyFiles

SETTINGS = DiskSettings(pack_size=64 * KIB, compact_at=0.3, seal_delay=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "disk"


@pytest.fixture
def files(tmp_path: Path) -> FaultyFiles:
    spare = tmp_path / "spare"
    spare.mkdir()
    return FaultyFiles(spare)


async def half_dead(folder: Path, files: FaultyFiles | None = None) -> tuple[DiskBlobs, dict[BlobId, bytes]]:
    """A folder with several packs of which every second blob was deleted."""
    blobs = await DiskBlobs.start(folder, SETTINGS, files=files)
    held: dict[BlobId, bytes] = {}
    for first in range(0, 200, 20):
        held |= dict(await asyncio.gather(*(put(blobs, 1000 + first + each) for each in range(20))))
    dead = list(held)[::2]
    await asyncio.gather(*(blobs.delete(blob) for blob in dead))
    for blob in dead:
        del held[blob]
    return blobs, held


async def compact_all(blobs: DiskBlobs) -> int:
    freed = 0
    while part := await blobs.run_compaction_once():
        freed += part
    return freed


def length(folder: Path) -> int:
    return sum(path.stat().st_size for path in packs(folder))


@pytest.mark.parametrize("index", ["kept", "removed"])
async def test_it_gives_the_dead_bytes_back(folder: Path, index: str) -> None:
    blobs, held = await half_dead(folder)
    before, number = length(folder), len(packs(folder))
    freed = await compact_all(blobs)
    assert freed > before // 4
    assert length(folder) <= before - freed + 16 * KIB * number
    assert await missing(blobs, held) == []
    assert await blobs.run_compaction_once() == 0
    await blobs.close()
    if index == "removed":
        (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await missing(blobs, held) == []
    assert {stored.blob async for stored in blobs.walk()} == held.keys()
    assert quarantined(folder) == []
    await blobs.close()


async def test_when_all_is_deleted_all_packs_but_the_active_one_go(folder: Path) -> None:
    blobs, held = await half_dead(folder)
    for blob in held:
        await blobs.delete(blob)
    await compact_all(blobs)
    assert len(packs(folder)) <= 2  # the active one, and tombstones that the active one still needs
    blobs = await again(blobs, folder, SETTINGS)
    assert [stored async for stored in blobs.walk()] == []
    await blobs.close()


async def test_what_dies_while_it_is_copied_stays_dead(folder: Path) -> None:
    for _ in range(5):
        blobs, held = await half_dead(folder)
        dying = list(held)[::5]

        async def die(blobs: DiskBlobs = blobs, dying: list[BlobId] = dying) -> None:
            for blob in dying:
                await blobs.delete(blob)

        async with asyncio.TaskGroup() as group:
            group.create_task(compact_all(blobs))
            group.create_task(die())
        await compact_all(blobs)
        for blob in dying:
            del held[blob]
        await blobs.close()
        (folder / "index").unlink()
        blobs = await DiskBlobs.start(folder, SETTINGS)
        assert await missing(blobs, held) == []
        for blob in dying:
            with pytest.raises(NoSuchBlob):
                await blobs.stat(blob)
        for blob in held:
            await blobs.delete(blob)
        await blobs.close()


async def test_readers_go_on(folder: Path) -> None:
    blobs, held = await half_dead(folder)
    stop = asyncio.Event()

    async def reading() -> None:
        while not stop.is_set():
            for blob, data in held.items():
                async with blobs.open(blob) as reader:
                    assert await reader.read(10_000) == data
                assert blobs.peek_small(blob) in {data, None}
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(reading())
        assert await compact_all(blobs)
        stop.set()
    await blobs.close()


async def test_seals_move_too(folder: Path) -> None:
    blobs, held = await half_dead(folder)
    await blobs.seal([Seal(b.version, BucketId("b"), Key("k"), State.COMMITTED, 1, bytes(800)) for b in held])
    await blobs.seal([Seal(b.version, BucketId("b"), Key("k"), State.COMMITTED, 2, bytes(800)) for b in held])

    async def sealed() -> bool:
        return [each async for each in blobs.unsealed(2e9)] == []

    await eventually(sealed)
    before = length(folder)
    assert await compact_all(blobs) > 800 * len(held) // 2
    assert length(folder) < before
    for index in ("kept", "removed"):
        await blobs.close()
        if index == "removed":
            (folder / "index").unlink()
        blobs = await DiskBlobs.start(folder, SETTINGS)
        assert await sealed()
        assert await missing(blobs, held) == []
    await blobs.close()


async def test_damage_is_not_copied_but_told(folder: Path) -> None:
    blobs, held = await half_dead(folder)
    await blobs.close()
    first = packs(folder)[0]
    victims = [blob for blob, data in held.items() if place_of(folder, data)[0] == first][:2]
    for blob, shift in zip(victims, (5, -20), strict=True):  # one in its data, one in its header
        path, at = place_of(folder, held[blob])
        flip(path, at + shift)
    told: list[BlobId] = []
    blobs = await DiskBlobs.start(folder, SETTINGS, on_corrupt=told.append)
    await compact_all(blobs)
    assert await missing(blobs, held) == victims
    assert sorted(told, key=str) == sorted(victims, key=str)
    for blob in victims:
        await blobs.put(blob, new_label(), held[blob], digest(held[blob]))
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await missing(blobs, held) == []
    await blobs.close()


async def test_a_full_disk_leaves_all_as_it_was(folder: Path, files: FaultyFiles) -> None:
    blobs, held = await half_dead(folder, files)
    before = packs(folder)
    files.faults.once["write"] = errno.ENOSPC
    with pytest.raises(NoSpace):
        await blobs.run_compaction_once()
    assert packs(folder) == before
    assert list((folder / "temp").iterdir()) == []
    assert await missing(blobs, held) == []
    assert await compact_all(blobs)
    assert await missing(blobs, held) == []
    await blobs.close()


async def test_a_crash_before_the_old_packs_are_removed_is_finished(folder: Path, files: FaultyFiles) -> None:
    blobs, held = await half_dead(folder, files)
    before = packs(folder)
    files.faults.always["remove"] = errno.EIO
    with pytest.raises(Unavailable):
        await blobs.run_compaction_once()
    assert len(packs(folder)) == len(before) + 1
    assert await missing(blobs, held) == []
    blobs = await again(blobs, folder, SETTINGS)
    assert len(packs(folder)) < len(before)
    assert await missing(blobs, held) == []
    assert {stored.blob async for stored in blobs.walk()} == held.keys()
    await blobs.close()


def compaction(
    blobs: DiskBlobs, when: str, meanwhile: Callable[[], Coroutine[Any, Any, object]]
) -> Compaction:
    """A compaction during which something else happens: behind the 50th record, or when the copy has its name."""
    folder, seen = blobs._folder, count()

    def stopping() -> bool:
        if next(seen) == 50 and when == "copying":
            asyncio.run_coroutine_threadsafe(meanwhile(), folder.loop).result()
        return False

    def ask(request: PackRequest) -> object:
        result = folder._ask(request)
        if isinstance(request, Supersede) and when == "named":
            asyncio.run_coroutine_threadsafe(meanwhile(), folder.loop).result()
        return result

    return Compaction(folder.files, folder.packs, folder.index, folder.clock, ask, folder.condemn, stopping)


@pytest.mark.parametrize("when", ["copying", "named"])
async def test_what_died_meanwhile_stays_dead_when_its_tombstone_was_compacted(
    folder: Path, when: str
) -> None:
    blobs, held = await half_dead(folder)
    dying = list(held)[::5]

    async def die() -> None:
        for blob in dying:
            await blobs.delete(blob)

    # Some of them were copied already when they die; their tombstones name packs that go.
    await asyncio.to_thread(compaction(blobs, when, die).run, 0.3, 64 * KIB)
    for blob in dying:
        del held[blob]
    # Now the packs with those first tombstones are rewritten, so that only those that name the copy are left.
    for _ in range(3):
        filler = dict(await asyncio.gather(*(put(blobs, 1000) for _ in range(60))))
        await asyncio.gather(*(blobs.delete(blob) for blob in filler))
        await compact_all(blobs)
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert {stored.blob async for stored in blobs.walk()} == held.keys()
    await blobs.close()


async def test_a_tombstone_stays_as_long_as_what_it_kills(folder: Path) -> None:
    blobs = await DiskBlobs.start(folder, SETTINGS)
    first = dict(
        await asyncio.gather(*(put(blobs, 3000) for _ in range(25)))
    )  # a pack that stays mostly alive
    dead = next(iter(first))
    await blobs.delete(dead)
    del first[dead]
    for _ in range(4):  # packs around the tombstone that die
        filler = dict(await asyncio.gather(*(put(blobs, 1000) for _ in range(60))))
        await asyncio.gather(*(blobs.delete(blob) for blob in filler))
    assert await compact_all(blobs)
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert {stored.blob async for stored in blobs.walk()} == first.keys()
    await blobs.close()


async def test_small_packs_are_merged(folder: Path) -> None:
    held: dict[BlobId, bytes] = {}
    for _ in range(10):  # a pack size that every start finds too small
        blobs = await DiskBlobs.start(folder, DiskSettings(pack_size=4 * KIB))
        held |= dict([await put(blobs, 1000) for _ in range(4)])
        await blobs.close()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert len(packs(folder)) >= 10
    assert await blobs.run_compaction_once() > 0
    assert len(packs(folder)) <= 3
    assert await blobs.run_compaction_once() == 0
    assert await missing(blobs, held) == []
    await blobs.close()
    (folder / "index").unlink()
    blobs = await DiskBlobs.start(folder, SETTINGS)
    assert await missing(blobs, held) == []
    await blobs.close()
