"""A node with many blobs and a bucket with many keys."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from blake3 import blake3

from benchmarks.servers import mesh
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.core.model import BlobId, BucketId, Key, Label, Layout, SegmentId, VersionId

BLOBS = 100_000


def start_with_blobs(folder: Path) -> None:
    """Seconds from the start of the disk adapter to its first answer with 100,000 blobs on it."""
    asyncio.run(_start_with_blobs(folder / "blobs"))


async def _start_with_blobs(folder: Path) -> None:
    disk = await DiskBlobs.start(folder, DiskSettings())
    label = Label("mesh", BucketId("b"), "files", Key("k"), Layout(copies=1))
    data = os.urandom(512)
    digest = blake3(data).digest()

    async def put(number: int) -> None:
        version = VersionId(f"00000000-0000-7000-8000-{number:012x}")
        await disk.put(BlobId(version, SegmentId(number), 0), label, data, digest)

    for start in range(0, BLOBS, 500):
        await asyncio.gather(*(put(number) for number in range(start, start + 500)))
    await disk.close()
    started = time.perf_counter()
    disk = await DiskBlobs.start(folder, DiskSettings())
    seconds = time.perf_counter() - started
    usage = await disk.usage()
    assert usage.blobs == BLOBS, usage
    await disk.close()
    print(f"| start with {BLOBS:,} blobs | {seconds:.2f} s | - | - |")


def listing(folder: Path, keys: int = 1_000_000) -> None:
    """Milliseconds for 1,000 of 1,000,000 keys over HTTP, flat and with a delimiter."""
    from benchmarks.sqlite_metadata import fill

    with mesh(folder / "list", 1) as running:
        running.api("PUT", "/v1/buckets/many", {})
    asyncio.run(fill(folder / "list" / "node1" / "metadata.db", "many", keys))
    with mesh(folder / "list", 1) as running:
        for query in ("limit=1000&after=d500/", "limit=1000&delimiter=/"):
            times: list[float] = []
            page = running.api("GET", f"/v1/files/many?{query}")
            for _ in range(9):
                started = time.perf_counter()
                page = running.api("GET", f"/v1/files/many?{query}")
                times.append(time.perf_counter() - started)
            count = len(page["objects"]) + len(page["prefixes"])
            print(f"| list {count} of {keys:,} ({query}) | {sorted(times)[4] * 1000:.1f} ms | - | - |")
