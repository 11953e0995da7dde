"""A node with many blobs and a bucket with many keys."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from benchmarks.servers import mesh
from benchmarks.sqlite_metadata import ANY, draft, random_key
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.sqlite import SqliteMetadata
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


async def _fill(database: Path, bucket: str, count: int) -> None:
    """Give a bucket ``count`` objects, by the metadata alone: a listing asks nothing else."""
    async with await SqliteMetadata.open(database) as metadata:
        home = (await metadata.buckets.get(bucket)).id

        async def put(number: int) -> None:
            version = replace(draft(random_key(number)), bucket=home)
            await metadata.versions.put(version, ANY)

        for start in range(0, count, 1000):
            await asyncio.gather(*(put(number) for number in range(start, min(start + 1000, count))))


def listing(folder: Path, keys: int = 1_000_000) -> None:
    """Milliseconds for 1,000 of 1,000,000 keys over HTTP, flat and with a delimiter."""
    with mesh(folder / "list", 1) as running:
        running.api("PUT", "/v1/buckets/many", {})
    asyncio.run(_fill(folder / "list" / "node1" / "metadata.db", "many", keys))
    with mesh(folder / "list", 1) as running:
        for query in ("limit=1000&after=8/", "limit=1000&delimiter=/&prefix=8/"):
            times: list[float] = []
            page = running.api("GET", f"/v1/files/many?{query}")
            for _ in range(9):
                started = time.perf_counter()
                page = running.api("GET", f"/v1/files/many?{query}")
                times.append(time.perf_counter() - started)
            count = len(page["objects"]) + len(page["prefixes"])
            print(f"| list {count} of {keys:,} ({query}) | {sorted(times)[4] * 1000:.1f} ms | - | - |")
