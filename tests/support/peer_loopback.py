"""What the tests of discloud.peer share: two nodes over a real loopback socket, and a relay that harms what passes."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from blake3 import blake3

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import BlobId, BucketId, Key, Label, Layout, NodeId, SegmentId, VersionId
from discloud.errors import PeerDown
from discloud.peer.blobs import PeerBlobs
from discloud.peer.handshake import ClusterSecret, Identity
from discloud.peer.links import Links
from discloud.peer.server import PeerServer
from discloud.ports import Blobs, BlobWriter, Membership, Metadata
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from discloud.transfer.tls import Certificates

SECRET = ClusterSecret(b"the secret of these tests, 32 by")
LABEL = Label("mesh", BucketId("b1"), "files", Key("a key"), Layout())
CALLER, ANSWERER = NodeId("caller"), NodeId("answerer")
DEADLINE = 30.0
T = TypeVar("T")


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


def new_blob(fragment: int = 0) -> BlobId:
    return BlobId(VersionId(str(uuid.uuid4())), SegmentId(random.getrandbits(64)), fragment)


def digest(data: bytes) -> bytes:
    return blake3(data).digest()


async def patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat what a peer that just went away may refuse, until it works."""
    async with asyncio.timeout(DEADLINE):
        while True:
            try:
                return await attempt()
            except PeerDown:
                await asyncio.sleep(0.01)


async def eventually(holds: Callable[[], object], what: str = "it") -> None:
    """Wait until ``holds()``, or fail."""
    async with asyncio.timeout(DEADLINE):
        while not holds():
            await asyncio.sleep(0.005)
    assert holds(), what


@dataclass
class Pair:
    """A node that calls and a node that answers."""

    local: Blobs
    blobs: PeerBlobs
    links: Links
    server: PeerServer
    address: str
    threads: Threads
    """The calling gateway's."""
    holder_threads: Threads

    async def write(self, writer: BlobWriter, data: bytes, step: int = 1 << 20) -> None:
        view = memoryview(data)

        def feed() -> None:
            for start in range(0, len(view), step):
                writer.write(view[start : start + step])

        await self.threads.run(feed)

    async def store(
        self,
        data: bytes,
        blob: BlobId | None = None,
        length: int | None = None,
        claimed: bytes | None = None,
        begun: Callable[[], object] = lambda: None,
    ) -> BlobId:
        """Stream a blob to the answering node; ``begun`` is called before the first byte."""
        blob = blob or new_blob()
        async with self.blobs.create(blob, LABEL, length) as writer:
            begun()
            await self.write(writer, data)
            await writer.commit(claimed or digest(data))
        return blob

    async def read(self, blob: BlobId, got: bytearray, begun: Callable[[], object] = lambda: None) -> bytes:
        """Stream a blob from the answering node; what came before an error is in ``got``."""
        async with self.blobs.open(blob) as reader:
            begun()
            while piece := await reader.read(1 << 16):
                got += piece
        return bytes(got)


@asynccontextmanager
async def pair(
    local: Blobs | None = None,
    *,
    metadata: Metadata | None = None,
    membership: Membership | None = None,
    relay: Relay | None = None,
    pace: Pace | None = None,
    holder_threads: int = 2,
    connections: int = 2,
    caller: Certificates | None = None,
    answerer: Certificates | None = None,
) -> AsyncIterator[Pair]:
    """Both nodes, through ``relay`` if there is one. ``caller`` and ``answerer``: what they show each other over TLS."""
    pace = pace or Pace(10.0, 1e6)
    local = local if local is not None else MemoryBlobs()
    holder, gateway = Threads("holder", holder_threads), Threads("gateway", 4)
    mesh = metadata.cluster if metadata is not None else "mesh"
    server = PeerServer(
        Identity(SECRET, ANSWERER, mesh), local, holder, pace, metadata, membership, certificates=answerer
    )
    links = Links(Identity(SECRET, CALLER), connections, certificates=caller)
    await server.start("127.0.0.1", 0)
    address = f"127.0.0.1:{server.port}"
    try:
        if relay is not None:
            address = await relay.start(server.port)
        blobs = PeerBlobs(links, address, pace, ANSWERER)
        yield Pair(local, blobs, links, server, address, gateway, holder)
    finally:
        await links.close()
        if relay is not None:
            await relay.close()
        await server.close(grace=1.0)
        holder.close()
        gateway.close()


class Relay:
    """Passes connections on, and harms them: ``to_server`` and ``to_client`` see each piece and may change or hold it.

    A hook that returns None cuts the connection at that piece.
    """

    def __init__(
        self,
        to_server: Callable[[bytes], bytes | None] = lambda data: data,
        to_client: Callable[[bytes], bytes | None] = lambda data: data,
    ) -> None:
        self.to_server = to_server
        self.to_client = to_client
        self.open = asyncio.Event()
        self.open.set()
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> str:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._relay(port, reader, writer)
            except asyncio.CancelledError:
                pass
            finally:
                self._tasks.discard(task)

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Cut every connection now."""
        for task in tuple(self._tasks):
            task.cancel()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        await eventually(lambda: not self._tasks)
        await asyncio.sleep(0)  # the loop ends the aborted transports

    async def _relay(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", port)
        except BaseException as error:
            writer.transport.abort()
            if isinstance(error, OSError):
                return  # nobody listens there any more
            raise

        async def pump(
            source: asyncio.StreamReader,
            target: asyncio.StreamWriter,
            hook: Callable[[], Callable[[bytes], bytes | None]],
        ) -> None:
            while data := await source.read(1 << 16):
                await self.open.wait()
                changed = hook()(data)
                if changed is None:
                    return
                target.write(changed)
                await target.drain()

        try:
            there = asyncio.create_task(pump(reader, back, lambda: self.to_server))
            home = asyncio.create_task(pump(onward, writer, lambda: self.to_client))
            try:
                await asyncio.wait([there, home], return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (there, home):
                    task.cancel()
                await asyncio.gather(there, home, return_exceptions=True)
        finally:
            for each in (writer, back):
                each.transport.abort()
