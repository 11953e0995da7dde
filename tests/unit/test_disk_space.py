"""A declared length is promised, not taken; what is on the disk already does not count twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from blake3 import blake3

from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.disk.files import Files
from discloud.core.model import GIB, MIB, BlobId, BucketId, Key, Label, Layout, SegmentId, VersionId
from discloud.errors import NoSpace

LABEL = Label("mesh", BucketId("b"), "files", Key("k"), Layout(copies=1))


def blob(number: int) -> BlobId:
    return BlobId(VersionId(f"00000000-0000-7000-8000-{number:012x}"), SegmentId(1), 0)


class SmallDisk(Files):
    """A disk of 1 GiB that counts what its folder takes."""

    folder: Path

    def room(self, path: Path) -> tuple[int, int]:
        taken = sum(each.stat().st_blocks * 512 for each in self.folder.rglob("*") if each.is_file())
        return GIB, GIB - taken


async def start(folder: Path) -> DiskBlobs:
    files = SmallDisk()
    files.folder = folder
    folder.mkdir(exist_ok=True)
    return await DiskBlobs.start(folder, DiskSettings(full=1.0, pack_size=4 * MIB), files=files)


async def test_a_declared_length_takes_no_room_before_its_bytes(tmp_path: Path) -> None:
    disk = await start(tmp_path / "disk")
    async with disk.create(blob(1), LABEL, 700 * MIB) as writer:
        writer.write(memoryview(bytes(MIB)))
        taken = sum(each.stat().st_blocks * 512 for each in tmp_path.rglob("*") if each.is_file())
        assert taken < 64 * MIB
        with pytest.raises(NoSpace):
            async with disk.create(blob(2), LABEL, 400 * MIB):
                raise AssertionError("promised twice")
    await disk.close()


async def test_bytes_on_the_disk_are_not_counted_twice(tmp_path: Path) -> None:
    disk = await start(tmp_path / "disk")
    step = memoryview(bytes(MIB))
    async with disk.create(blob(1), LABEL, 600 * MIB) as writer:
        digest = blake3()
        for _ in range(600):
            writer.write(step)
            digest.update(step)
        disk._folder.space.measure()
        async with disk.create(blob(2), LABEL, 300 * MIB):
            assert (await disk.usage()).reserved >= 900 * MIB
        await writer.commit(digest.digest())
    disk._folder.space.measure()
    async with disk.create(blob(3), LABEL, 300 * MIB):
        pass
    with pytest.raises(NoSpace):
        async with disk.create(blob(4), LABEL, 500 * MIB):
            raise AssertionError("the kept blob was forgotten")
    assert (await disk.usage()).reserved == 0
    await disk.close()
