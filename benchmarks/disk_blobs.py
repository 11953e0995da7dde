"""How fast the disk adapter is by itself: durable small writes, small reads, a long write, a start with many blobs.

Usage: python benchmarks/disk_blobs.py [--folder DIR] [--blobs N] [--large BYTES]
Everything is measured beside what the machine can do at that moment (dd); CPU seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvloop
from blake3 import blake3

from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.core.model import GIB, KIB, MIB, BlobId, BucketId, Key, Label, Layout, SegmentId, VersionId

LABEL = Label(
    "5e0b6f0e-4a37-4a52-9d3c-0f6a4ce1d0aa", BucketId(str(uuid.uuid4())), "files", Key("a/b/c.txt"), Layout()
)
CALLERS = 32


@dataclass
class Taken:
    """What a measured stretch took."""

    seconds: float = 0.0
    cpu: float = 0.0


@contextmanager
def measured() -> Iterator[Taken]:
    """Measure wall and CPU seconds of the block."""
    taken = Taken()
    began, cpu = time.perf_counter(), _cpu()
    yield taken
    taken.seconds, taken.cpu = time.perf_counter() - began, _cpu() - cpu


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def new_blob() -> BlobId:
    """A fresh id."""
    return BlobId(VersionId(str(uuid.uuid4())), SegmentId(int.from_bytes(os.urandom(8))), 0)


async def put_many(blobs: DiskBlobs, count: int, size: int) -> list[BlobId]:
    """Write ``count`` blobs of ``size`` bytes with ``CALLERS`` at a time."""
    data = os.urandom(size)
    digest = blake3(data).digest()
    ids = [new_blob() for _ in range(count)]
    todo = iter(ids)

    async def caller() -> None:
        for blob in todo:
            await blobs.put(blob, LABEL, data, digest)

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(caller())
    return ids


async def small(blobs: DiskBlobs, count: int) -> None:
    """4 KiB: durable writes, then reads in all three ways."""
    await put_many(blobs, 2000, 4 * KIB)
    with measured() as taken:
        ids = await put_many(blobs, count, 4 * KIB)
    told("4 KiB put, durable, 32 callers", count, taken)
    with measured() as taken:
        found = sum(blobs.peek_small(blob) is not None for blob in ids)
    told("4 KiB peek_small", count, taken)
    print(f"{'  of which in memory':34} {found:9}")
    with measured() as taken:
        for blob in ids:
            await blobs.fetch(blob)
    told("4 KiB fetch", count, taken)
    with measured() as taken:
        walked = [stored async for stored in blobs.walk()]
    told("walk", len(walked), taken)


async def large(blobs: DiskBlobs, size: int) -> None:
    """One long write and the verification of all of it."""
    piece = memoryview(os.urandom(MIB))
    blob = new_blob()

    def fill(write: object) -> None:
        assert callable(write)
        for _ in range(size // MIB):
            write(piece)

    with measured() as taken:
        async with blobs.create(blob, LABEL, size) as writer:
            await asyncio.to_thread(fill, writer.write)
            await writer.commit(bytes(32))
    print(
        f"{'long write, durable':34} {size / taken.seconds / 1e6:9.0f} MB/s {taken.cpu / size * GIB:8.2f} s CPU/GiB"
    )
    async with blobs.open(blob) as reader:
        source = reader.source
        assert source is not None
        assert hasattr(source, "check")
        with measured() as taken:
            for offset in range(0, size, 8 * MIB):
                await asyncio.to_thread(source.check, offset, 8 * MIB)
    print(
        f"{'verification':34} {size / taken.seconds / 1e6:9.0f} MB/s {taken.cpu / size * GIB:8.2f} s CPU/GiB"
    )


def told(what: str, count: int, taken: Taken) -> None:
    """One line of the report."""
    print(f"{what:34} {count / taken.seconds:9.0f} /s   {taken.cpu / count * 1e6:8.1f} us CPU each")


def dd(folder: Path, size: int) -> None:
    """What the disk takes from dd."""
    with measured() as taken:
        subprocess.run(
            ["dd", "if=/dev/zero", f"of={folder / 'dd'}", "bs=1M", f"count={size // MIB}", "conv=fdatasync"],
            check=True, capture_output=True,
        )  # fmt: skip
    (folder / "dd").unlink()
    print(f"{'dd conv=fdatasync':34} {size / taken.seconds / 1e6:9.0f} MB/s")


async def start(folder: Path, what: str) -> None:
    """How long it takes to open the folder."""
    with measured() as taken:
        blobs = await DiskBlobs.start(folder, DiskSettings())
    count = (await blobs.usage()).blobs
    print(f"{what:34} {taken.seconds:9.2f} s    {taken.cpu:8.2f} s CPU, {count} blobs")
    await blobs.close()


async def main() -> None:
    """Run all of it in a folder that is removed afterwards."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments.add_argument("--blobs", type=int, default=100_000)
    arguments.add_argument("--large", type=int, default=GIB)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        folder = Path(name)
        blobs = await DiskBlobs.start(folder / "disk", DiskSettings())
        await small(blobs, chosen.blobs)
        for _ in range(3):
            dd(folder, chosen.large)
            await large(blobs, chosen.large)
        await blobs.close()
        await start(folder / "disk", "start after a clean stop")
        (folder / "disk" / "index").unlink()
        await start(folder / "disk", "start without the saved index")


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
