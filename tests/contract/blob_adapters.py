"""Every adapter of the ``Blobs`` port, made for a test: one more adapter is one more entry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from discloud.adapters.disk.blobs import DiskBlobs
from discloud.adapters.disk.settings import DiskSettings
from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import MIB
from discloud.ports import Blobs
from discloud.transfer.tls import Certificates
from tests.support.certificates import authority, files
from tests.support.peer_loopback import pair

Clock = Callable[[], float]
Factory = Callable[[Path, Clock], AbstractAsyncContextManager[Blobs]]
CAPACITY = 64 * MIB
"""What every adapter of these tests may hold."""


@asynccontextmanager
async def memory(folder: Path, clock: Clock) -> AsyncIterator[Blobs]:
    """A node without a disk."""
    yield MemoryBlobs(CAPACITY, clock)


@asynccontextmanager
async def disk(folder: Path, clock: Clock) -> AsyncIterator[Blobs]:
    """A folder of this machine."""
    blobs = await DiskBlobs.start(folder, DiskSettings(capacity=CAPACITY, full=1.0, seal_delay=0.01), clock)
    try:
        yield blobs
    finally:
        await blobs.close()


@asynccontextmanager
async def peer_memory(folder: Path, clock: Clock) -> AsyncIterator[Blobs]:
    """Another node without a disk, over a real socket."""
    async with memory(folder, clock) as local, pair(local) as nodes:
        yield nodes.blobs


@asynccontextmanager
async def peer_disk(folder: Path, clock: Clock) -> AsyncIterator[Blobs]:
    """A folder of another node, over a real socket."""
    async with disk(folder, clock) as local, pair(local) as nodes:
        yield nodes.blobs


@asynccontextmanager
async def peer_disk_tls(folder: Path, clock: Clock) -> AsyncIterator[Blobs]:
    """A folder of another node, over TLS: both sides show a certificate."""
    signer = authority(folder)
    caller, answerer = (Certificates(files(signer, folder / name)) for name in ("caller", "answerer"))
    async with disk(folder / "blobs", clock) as local, pair(local, caller=caller, answerer=answerer) as nodes:
        yield nodes.blobs


ADAPTERS: dict[str, Factory] = {
    "memory": memory,
    "disk": disk,
    "peer of memory": peer_memory,
    "peer of disk": peer_disk,
    "peer of disk with TLS": peer_disk_tls,
}
