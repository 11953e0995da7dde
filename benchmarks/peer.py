"""What node-to-node traffic costs: `python benchmarks/peer.py`.

Both ends run in this process over loopback, so the CPU figures hold for both together, all threads included. The
answering node keeps nothing (a sink that only counts) and reads from a cached file, so that the protocol is measured
and no disk.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop
from blake3 import blake3

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import (
    GIB,
    MIB,
    BlobId,
    BucketId,
    Key,
    Label,
    Layout,
    NodeId,
    SegmentId,
    Stored,
    VersionId,
)
from discloud.peer.blobs import PeerBlobs
from discloud.peer.handshake import ClusterSecret, Identity
from discloud.peer.links import Links
from discloud.peer.server import PeerServer
from discloud.ports import BlobReader, BlobWriter, FileSource, SocketSource
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

LABEL = Label("mesh", BucketId("b"), "files", Key("k"), Layout())
CALLS = 40_000
CALLERS = 16
ROUNDS = 5


class SinkWriter:
    """Counts what it is given."""

    def __init__(self, blob: BlobId) -> None:
        self._blob = blob
        self._length = 0

    def write(self, data: memoryview) -> None:
        """Drop it."""
        self._length += len(data)

    async def commit(self, hash: bytes) -> Stored:
        """Say what it was."""
        return Stored(self._blob, self._length, hash, 0.0)


class FileReader:
    """The whole of a file, sent by the kernel."""

    def __init__(self, fd: int, length: int) -> None:
        self.length = length
        self.source: FileSource | SocketSource | None = FileSource(
            fd, 0, length, lambda _offset, _length: None
        )

    async def read(self, limit: int) -> bytes:
        """Never used: the kernel moves it."""
        raise NotImplementedError(limit)


class BenchBlobs(MemoryBlobs):
    """Small blobs in memory, large ones to nowhere and from a file."""

    def __init__(self, fd: int, length: int) -> None:
        super().__init__()
        self._fd = fd
        self._length = length

    @asynccontextmanager
    async def create(
        self, blob: BlobId, label: Label, length: int | None = None
    ) -> AsyncIterator[BlobWriter]:
        """A sink."""
        del label, length
        yield SinkWriter(blob)

    @asynccontextmanager
    async def open(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> AsyncIterator[BlobReader]:
        """The file."""
        del blob, offset, length, trust
        yield FileReader(self._fd, self._length)


async def measure(name: str, units: float, unit: str, run: Callable[[], Awaitable[object]]) -> None:
    """Print the best and the median of a few rounds."""
    results = []
    for _ in range(ROUNDS):
        cpu, wall = time.process_time(), time.perf_counter()
        await run()
        results.append(((time.process_time() - cpu) / units, units / (time.perf_counter() - wall)))
    costs, rates = sorted(cost for cost, _ in results), sorted(rate for _, rate in results)
    scale, per = (1e6, "us") if unit == "call" else (1.0, "s")
    middle = ROUNDS // 2
    print(
        f"{name:42} CPU {costs[middle] * scale:8.2f} {per}/{unit} (best {costs[0] * scale:.2f})"
        f"   {rates[middle]:10.2f} {unit}/s (best {rates[-1]:.2f})"
    )


async def small(blobs: PeerBlobs) -> None:
    """4 KiB calls, pipelined by sixteen callers."""
    data = os.urandom(4096)
    blob = BlobId(VersionId("v"), SegmentId(1), 0)
    await blobs.put(blob, LABEL, data, blake3(data).digest())

    async def caller(call: Callable[[], Awaitable[object]], count: int) -> None:
        for _ in range(count):
            await call()

    async def fetches(callers: int) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(callers):
                tasks.create_task(caller(lambda: blobs.fetch(blob), CALLS // callers))

    async def puts() -> None:
        hash = blake3(data).digest()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLERS):
                tasks.create_task(caller(lambda: blobs.put(blob, LABEL, data, hash), CALLS // CALLERS))

    await measure(f"fetch 4 KiB, {CALLERS} callers", CALLS, "call", lambda: fetches(CALLERS))
    await measure("fetch 4 KiB, 1 caller", CALLS, "call", lambda: fetches(1))
    await measure(f"put 4 KiB, {CALLERS} callers", CALLS, "call", puts)


async def large(blobs: PeerBlobs, threads: Threads, size: int) -> None:
    """Whole bodies: written with the sender's and the holder's BLAKE3, read by a receiver that drops the bytes."""
    chunk = memoryview(os.urandom(MIB))
    blob = BlobId(VersionId("v"), SegmentId(2), 0)

    async def write(*, hashed: bool) -> None:
        hasher = blake3()

        def feed() -> None:
            for _ in range(size // MIB):
                if hashed:
                    hasher.update(chunk)
                writer.write(chunk)

        async with blobs.create(blob, LABEL, size) as writer:
            await threads.run(feed)
            await writer.commit(hasher.digest() if hashed else expected)

    async def read() -> None:
        async with blobs.open(blob) as reader:
            assert isinstance(reader.source, SocketSource)
            await threads.run(lambda: drop(reader.source.fd, reader.length))  # type: ignore[union-attr]

    whole = blake3()
    for _ in range(size // MIB):
        whole.update(chunk)
    expected = whole.digest()
    gib = size / GIB
    await measure("write a body, hashed at both ends", gib, "GiB", lambda: write(hashed=True))
    await measure("write a body, hashed by the holder", gib, "GiB", lambda: write(hashed=False))
    await measure("read a body, sendfile, received and dropped", gib, "GiB", read)


def drop(fd: int, length: int) -> None:
    """Receive into one buffer, as a client's copy does."""
    import select
    import socket

    sock = socket.socket(fileno=os.dup(fd))
    buffer = bytearray(MIB)
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    with sock:
        while length:
            try:
                length -= sock.recv_into(buffer, min(length, MIB))
            except BlockingIOError:
                poll.poll()


async def main(size: int) -> None:
    """Everything."""
    secret, pace = ClusterSecret(os.urandom(32)), Pace(30.0, 1e6)
    holder, gateway = Threads("holder", 4), Threads("gateway", 4)
    with tempfile.TemporaryFile() as file:
        for _ in range(size // MIB):
            file.write(bytes(MIB))
        file.flush()
        server = PeerServer(
            Identity(secret, NodeId("b"), "mesh"), BenchBlobs(file.fileno(), size), holder, pace
        )
        await server.start("127.0.0.1", 0)
        links = Links(Identity(secret, NodeId("a"), "mesh"))
        blobs = PeerBlobs(links, f"127.0.0.1:{server.port}", pace, NodeId("b"))
        await small(blobs)
        await large(blobs, gateway, size)
        await links.close()
        await server.close()
    holder.close()
    gateway.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]) * MIB if len(sys.argv) > 1 else GIB))
