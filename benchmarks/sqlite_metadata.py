"""How fast the SQLite metadata is by itself: durable puts, reads, peeks, listings of a large bucket.

Usage: python benchmarks/sqlite_metadata.py [--folder DIR] [--puts N] [--keys N]
CPU is that of all threads of the process, the callers' included. The large bucket is filled with random keys: the
worst case for a B-tree.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import statistics
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from discloud.adapters.sqlite import SqliteMetadata
from discloud.core.model import (
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Key,
    Layout,
    NodeId,
    Precondition,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
)

CALLERS = 32
ANY = Precondition()
BUCKET = Bucket(BucketId(str(uuid.uuid4())), "files", 0.0)
NODES = tuple(NodeId(str(uuid.uuid4())) for _ in range(3))


def draft(key: str) -> Version:
    """A small object in three copies."""
    segment = Segment(SegmentId(1 << 63), 4096, Layout(), (NODES,), b"h" * 32, (b"h" * 32,))
    id = VersionId(str(uuid.uuid4()))
    return Version(
        BUCKET.id, Key(key), id, State.DRAFT, 4096, (segment,), etag="e" * 64, created=1.7e9, gateway=NODES[0]
    )


def random_key(number: int) -> str:
    """Keys in four levels of folders, in no order."""
    name = hashlib.md5(str(number).encode()).hexdigest()
    return f"{name[0]}/{name[1:3]}/{name[3:]}"


async def together(
    name: str, count: int, call: Callable[[int], Awaitable[object]], callers: int = CALLERS
) -> None:
    """Make ``count`` calls from so many callers; print calls a second, CPU and the latencies."""
    numbers = iter(range(count))
    waits: list[float] = []

    async def caller() -> None:
        for number in numbers:
            began = time.perf_counter()
            await call(number)
            waits.append(time.perf_counter() - began)

    began, cpu = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    waits.sort()
    print(
        f"{name:44} {count / seconds:9,.0f}/s  {cpu / count * 1e6:6.1f} us CPU  "
        f"p50 {waits[len(waits) // 2] * 1e3:7.2f} ms  p99 {waits[len(waits) * 99 // 100] * 1e3:7.2f} ms"
    )


async def small(metadata: SqliteMetadata, count: int) -> None:
    """Calls of 32 callers on a bucket that grows."""
    versions = metadata.versions
    drafts = [draft(f"new/{random_key(number)}") for number in range(count)]
    await together("put, new keys", count, lambda number: versions.put(drafts[number], ANY))
    again = [draft(f"new/{random_key(number)}") for number in range(count)]
    await together("put, replacing", count, lambda number: versions.put(again[number], ANY))
    hot = [draft("hot") for _ in range(count)]
    await together("put, one hot key", count, lambda number: versions.put(hot[number], ANY))
    stepped = [draft(f"step/{random_key(number)}") for number in range(count)]

    async def begin_and_commit(number: int) -> None:
        version = stepped[number]
        await versions.begin(version)
        await versions.commit(Change(ChangeKind.PUT, BUCKET.id, version.key, version), ANY)

    await together("begin + commit, new keys", count, begin_and_commit)


async def reads(metadata: SqliteMetadata, keys: int, count: int) -> None:
    """Calls on a bucket of ``keys`` keys, of which the cache holds a few."""
    versions = metadata.versions
    cold = [Key(random_key(number * 7919 % keys)) for number in range(count)]
    await together("get, from the file", count, lambda number: versions.get(BUCKET.id, cold[number]))
    other = [Key(random_key((number * 104_729 + 13) % keys)) for number in range(count // 10)]
    await together("get, from the file, 1 caller", len(other), lambda n: versions.get(BUCKET.id, other[n]), 1)
    began, hot = time.perf_counter(), cold[-1]
    for _ in range(count * 10):
        versions.peek(BUCKET.id, hot)
    seconds = time.perf_counter() - began
    print(f"{'peek':44} {count * 10 / seconds:9,.0f}/s  {seconds / count * 1e5:6.2f} us")
    await listing(metadata, "list 1,000 of all keys", "", "")
    await listing(metadata, "list a folder of 256 folders", "a/", "/")
    fresh = [draft(f"more/{number}") for number in range(count)]
    await together("put, new keys in the large bucket", count, lambda n: versions.put(fresh[n], ANY))
    began = time.perf_counter()
    found = [version.id async for version in versions.on_node(NODES[0])]
    print(f"{'on_node':44} {len(found) / (time.perf_counter() - began):9,.0f} versions/s")


async def listing(metadata: SqliteMetadata, name: str, prefix: str, delimiter: str) -> None:
    """Pages from places all over the bucket, one after another."""
    waits, cpu = [], time.process_time()
    for number in range(50):
        after = random_key(number) if not prefix else ""
        began = time.perf_counter()
        page = await metadata.versions.list_keys(BUCKET.id, prefix, delimiter, after, 1000)
        waits.append(time.perf_counter() - began)
        assert page.versions or page.prefixes
    cpu = (time.process_time() - cpu) / len(waits)
    print(
        f"{name:44} median {statistics.median(waits) * 1e3:.2f} ms, worst {max(waits) * 1e3:.2f} ms, CPU {cpu * 1e3:.2f} ms"
    )


async def run(folder: Path, puts: int, keys: int) -> None:
    """Everything once."""
    async with await SqliteMetadata.open(folder / "small.db") as metadata:
        await metadata.buckets.create(BUCKET)
        await small(metadata, puts)
    async with await SqliteMetadata.open(folder / "large.db") as metadata:
        await metadata.buckets.create(BUCKET)
        await together(
            f"put, filling a bucket with {keys:,}",
            keys,
            lambda number: metadata.versions.put(draft(random_key(number)), ANY),
            256,
        )
    async with await SqliteMetadata.open(folder / "large.db") as metadata:
        await reads(metadata, keys, puts)
    print(f"{'file':44} {(folder / 'large.db').stat().st_size / keys:9,.0f} bytes a key")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, help="where to put the databases (default: a temporary folder)"
    )
    parser.add_argument("--puts", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=1_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        uvloop.run(run(Path(folder), given.puts, given.keys))


if __name__ == "__main__":
    main()
