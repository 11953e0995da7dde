"""The adapters of the ``Metadata`` port that pass its contract: one entry each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.adapters.sqlite import SqliteMetadata
from discloud.peer.metadata import PeerMetadata
from discloud.ports import Metadata
from tests.support.cassandra_tables import keyspace_session
from tests.support.peer_loopback import pair

CLUSTER = "c0000000-0000-4000-8000-000000000000"


class Clock:
    """Epoch seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


Factory = Callable[[Path, Clock], AbstractAsyncContextManager[Metadata]]
"""An empty mesh's metadata in a folder of its own; opened again in the same folder it is what it was, if ``LASTING``."""


@asynccontextmanager
async def memory(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    metadata = MemoryMetadata(CLUSTER, clock)
    yield metadata
    await metadata.close()


@asynccontextmanager
async def sqlite(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    async with await SqliteMetadata.open(folder / "metadata.db", clock, lambda: CLUSTER) as metadata:
        yield metadata


@asynccontextmanager
async def peer_memory(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """A root's metadata in memory, over a real socket."""
    async with memory(folder, clock) as local, through_a_root(local) as metadata:
        yield metadata


@asynccontextmanager
async def peer_sqlite(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """A root's database, over a real socket."""
    async with sqlite(folder, clock) as local, through_a_root(local) as metadata:
        yield metadata


@asynccontextmanager
async def cassandra(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """A real cluster; all tests of a process use one keyspace in turn. The folder only says whether the mesh is a new one."""
    known = folder / "known"
    session = await keyspace_session(CLUSTER, keep=known.exists())
    known.touch()
    async with CassandraMetadata(session, clock, settle=0.0) as metadata:
        yield metadata


@asynccontextmanager
async def peer_cassandra(folder: Path, clock: Clock) -> AsyncIterator[Metadata]:
    """A root of several, over a real socket."""
    async with cassandra(folder, clock) as local, through_a_root(local) as metadata:
        yield metadata


@asynccontextmanager
async def through_a_root(local: Metadata) -> AsyncIterator[Metadata]:
    """What an ordinary node sees of ``local``."""
    async with pair(metadata=local) as nodes:
        metadata = await PeerMetadata.connect(nodes.links, [nodes.address], patience=20.0)
        yield metadata
        await metadata.close()


ADAPTERS: dict[str, Factory] = {
    "memory": memory,
    "sqlite": sqlite,
    "peer of memory": peer_memory,
    "peer of sqlite": peer_sqlite,
    "cassandra": cassandra,
    "peer of cassandra": peer_cassandra,
}
LASTING = frozenset(ADAPTERS) - {"memory", "peer of memory"}
