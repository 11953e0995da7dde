"""Bodies between nodes: both ways with the right hash, cut anywhere without a trace, bounded in memory and threads."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import MIB, BlobId, Label, Stored
from discloud.errors import BadDigest, Corrupt, NoSpace, NoSuchBlob, PeerDown, TooSlow, Unavailable
from discloud.peer.blobs import PeerBlobs
from discloud.peer.channel import Channel
from discloud.peer.handshake import Identity, Kind, greet
from discloud.peer.links import Links, Target
from discloud.peer.streams import Stream
from discloud.ports import BlobReader, Blobs, BlobWriter, FileSource, SocketSource
from discloud.transfer.outlet import outlet_of_socket
from discloud.transfer.pace import Pace
from tests.support.peer_loopback import (
    ANSWERER,
    CALLER,
    LABEL,
    SECRET,
    Pair,
    Relay,
    digest,
    eventually,
    new_blob,
    noise,
    pair,
    patiently,
)


@pytest.fixture
async def both() -> AsyncIterator[Pair]:
    async with pair() as nodes:
        yield nodes


async def read_all(reader: BlobReader, limit: int = 1 << 18) -> bytes:
    pieces = []
    while piece := await reader.read(limit):
        pieces.append(piece)
    return b"".join(pieces)


async def contents(blobs: Blobs, blob: BlobId) -> bytes:
    async with blobs.open(blob) as reader:
        return await read_all(reader)


def idle(links: Links) -> int:
    return sum(len(peer.streams) for peer in links._peers.values())


async def test_a_large_blob_both_ways_with_its_hash(both: Pair) -> None:
    data = noise(64 * MIB)
    blob = new_blob()
    async with both.blobs.create(blob, LABEL, len(data)) as writer:
        await both.write(writer, data)
        stored = await writer.commit(digest(data))
    assert stored == await both.local.stat(blob)
    assert (stored.length, stored.hash, stored.key) == (len(data), digest(data), LABEL.key)
    assert await contents(both.blobs, blob) == data
    assert idle(both.links) == 1  # one connection carried both, one after the other


@given(length=st.integers(0, 3 * MIB), step=st.integers(1, MIB), seed=st.integers(0, 5))
@settings(max_examples=15)
def test_any_length_in_chunks_of_any_size(length: int, step: int, seed: int) -> None:
    async def attempt() -> None:
        async with pair() as nodes:
            blob, data = new_blob(), noise(length, seed)
            async with nodes.blobs.create(blob, LABEL) as writer:
                await nodes.write(writer, data, max(step, length // 50))
                await writer.commit(digest(data))
            assert await contents(nodes.blobs, blob) == data

    asyncio.run(attempt())


async def test_a_stretch_of_a_blob(both: Pair) -> None:
    data = noise(3 * MIB)
    blob = await both.store(data)
    async with both.blobs.open(blob, 1000, MIB) as reader:
        assert reader.length == MIB
        assert await read_all(reader, 999) == data[1000 : 1000 + MIB]
    async with both.blobs.open(blob, 3 * MIB - 5, 100) as reader:
        assert (reader.length, await read_all(reader)) == (5, data[-5:])
    assert idle(both.links) == 1


async def test_the_kernel_moves_a_blob_from_one_peer_to_another_socket(both: Pair) -> None:
    data = noise(20 * MIB)
    blob = await both.store(data)
    ours, theirs = await _tcp_pair()
    with ours, theirs:
        async with both.blobs.open(blob) as reader:
            assert isinstance(reader.source, SocketSource)
            outlet = outlet_of_socket(ours, both.threads, Pace(10.0, 1e6))
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(outlet.move(reader, 0, reader.length))
                got = tasks.create_task(_take(theirs, len(data)))
        assert got.result() == data
    assert idle(both.links) == 1  # spliced to the last byte: the connection is kept


async def test_a_reader_left_early_costs_its_connection_and_nothing_else(both: Pair) -> None:
    blob = await both.store(noise(8 * MIB))
    async with both.blobs.open(blob) as reader:
        await reader.read(1000)
    assert idle(both.links) == 0
    async with both.blobs.open(blob):
        pass  # nothing was taken
    assert idle(both.links) == 0
    assert len(await contents(both.blobs, blob)) == 8 * MIB


async def test_a_body_that_looks_like_frames_is_still_a_body(both: Pair) -> None:
    """Left unread, its first bytes announce a small frame: only the seal tells."""
    blob = await both.store(bytes(2000))
    async with both.blobs.open(blob):
        pass
    assert idle(both.links) == 0


async def test_a_failed_begin_keeps_the_connection(both: Pair) -> None:
    with pytest.raises(NoSuchBlob):
        async with both.blobs.open(new_blob()):
            pytest.fail("there is nothing to open")
    assert idle(both.links) == 1


@pytest.mark.parametrize("leave", ["quietly", "with an error", "half way"])
async def test_a_blob_left_without_commit_is_not_there(both: Pair, leave: str) -> None:
    blob = new_blob()
    with suppress(ZeroDivisionError):
        async with both.blobs.create(blob, LABEL, MIB) as writer:
            if leave == "half way":
                await both.write(writer, noise(MIB // 2))
            if leave == "with an error":
                raise ZeroDivisionError
    with pytest.raises(NoSuchBlob):
        await both.local.stat(blob)
    assert (await both.local.usage()).reserved == 0  # not only soon
    assert idle(both.links) == 1


async def test_a_wrong_hash_is_refused_and_nothing_is_kept(both: Pair) -> None:
    blob = new_blob()
    with pytest.raises(BadDigest):
        await both.store(b"these bytes", blob, claimed=digest(b"other bytes"))
    with pytest.raises(NoSuchBlob):
        await both.local.stat(blob)
    assert idle(both.links) == 1


async def test_a_flipped_bit_on_the_way_is_found_by_the_hash() -> None:
    body = [False]

    def flip(data: bytes) -> bytes:
        return data.replace(b"\x55" * 100, b"\x55" * 99 + b"\x54") if body[0] else data

    async with pair(relay=Relay(to_server=flip)) as nodes:
        with pytest.raises(BadDigest):
            await nodes.store(b"\x55" * MIB, begun=lambda: body.__setitem__(0, True))
        assert (await nodes.local.usage()).blobs == 0


@pytest.mark.parametrize("after", [0, 1, 5000, 3 * MIB])
async def test_a_connection_cut_in_the_middle_of_create_leaves_nothing(after: int) -> None:
    passed = [-1]

    def cut(data: bytes) -> bytes | None:
        if passed[0] < 0:
            return data
        passed[0] += len(data)
        return None if passed[0] > after else data

    async with pair(relay=Relay(to_server=cut)) as nodes:
        blob, data = new_blob(), noise(4 * MIB)
        with pytest.raises(PeerDown):
            await nodes.store(data, blob, len(data), begun=lambda: passed.__setitem__(0, 0))
        passed[0] = -1
        with pytest.raises(NoSuchBlob):
            await patiently(lambda: nodes.blobs.stat(blob))
        await _reserved_is_given_back(nodes)
        assert await contents(nodes.blobs, await nodes.store(data, blob)) == data


@pytest.mark.parametrize("after", [100, 3 * MIB])
async def test_a_connection_cut_in_the_middle_of_open_is_peer_down(after: int) -> None:
    passed = [0]

    def cut(data: bytes) -> bytes | None:
        passed[0] += len(data)
        return None if passed[0] > after else data

    relay = Relay()
    async with pair(relay=relay) as nodes:
        data = noise(4 * MIB)
        blob = await nodes.store(data)
        relay.to_client = cut
        got = bytearray()
        with pytest.raises(PeerDown):
            await nodes.read(blob, got)
        assert data.startswith(bytes(got))
        relay.to_client = lambda piece: piece
        assert await patiently(lambda: nodes.read(blob, bytearray())) == data


async def test_a_lost_answer_to_put_is_unavailable_and_putting_again_is_fine() -> None:
    relay = Relay()
    async with pair(relay=relay) as nodes:
        await nodes.blobs.usage()
        relay.to_client = lambda _: None
        blob, data = new_blob(), noise(1000)
        with pytest.raises(PeerDown):
            await nodes.blobs.put(blob, LABEL, data, digest(data))
        relay.to_client = lambda piece: piece
        await nodes.blobs.put(blob, LABEL, data, digest(data))
        assert await nodes.blobs.fetch(blob) == data


async def test_a_full_disk_is_told_before_the_first_byte() -> None:
    async with pair(MemoryBlobs(capacity=MIB)) as nodes:
        with pytest.raises(NoSpace):
            async with nodes.blobs.create(new_blob(), LABEL, 2 * MIB):
                pytest.fail("there is no room")
        assert idle(nodes.links) == 1


async def test_a_disk_that_fills_up_in_the_middle_is_told_while_the_body_is_sent() -> None:
    """Its failure arrives although the sender is still sending."""
    async with pair(MemoryBlobs(capacity=3 * MIB)) as nodes:
        data = noise(64 * MIB)
        with pytest.raises(NoSpace):
            await nodes.store(data)
        assert idle(nodes.links) == 0
        await _reserved_is_given_back(nodes)
        assert await contents(nodes.blobs, await nodes.store(data[:MIB])) == data[:MIB]


async def test_a_disk_that_fails_while_a_chunk_is_under_way_is_told() -> None:
    """The holder reads on for a while: closing at once would reset the connection, and its reason be lost."""

    class Full(MemoryBlobs):
        def create(self, blob: BlobId, label: Label, length: int | None = None) -> Any:
            @asynccontextmanager
            async def created() -> AsyncIterator[BlobWriter]:
                yield FullWriter()

            return created()

    async with pair(Full()) as nodes:
        data = noise(64 * MIB)
        for _ in range(5):
            with pytest.raises(NoSpace):
                await _write_at_once(nodes, data)


async def _write_at_once(nodes: Pair, data: bytes) -> None:
    async with nodes.blobs.create(new_blob(), LABEL) as writer:
        await nodes.write(writer, data, len(data))
        await writer.commit(digest(data))


class FullWriter:
    """A disk that is full at the first byte."""

    def write(self, data: memoryview) -> None:
        raise NoSpace("full")

    async def commit(self, hash: bytes) -> Stored:
        raise AssertionError


class RottenReader:
    """A reader whose bytes are found corrupt half way."""

    source: FileSource | SocketSource | None = None

    def __init__(self, data: bytes) -> None:
        self.length = len(data)
        self._data = data
        self._given = 0

    async def read(self, limit: int) -> bytes:
        if self._given >= self.length // 2:
            raise Corrupt("block 7")
        piece = self._data[self._given : min(self._given + limit, self.length // 2)]
        self._given += len(piece)
        return piece


class RottenBlobs(MemoryBlobs):
    """Blobs that fail in the middle of a read."""

    def open(self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0) -> Any:
        @asynccontextmanager
        async def opened() -> AsyncIterator[BlobReader]:
            yield RottenReader(await self.fetch(blob, offset, length))

        return opened()


async def test_a_source_that_fails_in_the_middle_is_never_a_clean_end() -> None:
    async with pair(RottenBlobs()) as nodes:
        data = noise(MIB)
        blob = await nodes.store(data)
        got = bytearray()
        with pytest.raises(PeerDown):
            await nodes.read(blob, got)
        assert bytes(got) == data[: MIB // 2]


async def test_a_stale_idle_connection_is_replaced_without_an_error() -> None:
    relay = Relay()
    async with pair(relay=relay) as nodes:
        blob = await nodes.store(noise(MIB))
        assert idle(nodes.links) == 1
        relay.cut()
        assert len(await contents(nodes.blobs, blob)) == MIB


async def test_many_slow_writers_hold_no_thread_of_the_holder() -> None:
    """Twenty bodies wait for their bytes while others come through, with two threads."""
    async with pair(holder_threads=2) as nodes:
        data = noise(2 * MIB)
        blobs = [new_blob() for _ in range(20)]
        half = asyncio.Barrier(len(blobs) + 1)
        rest = asyncio.Event()

        async def slowly(blob: BlobId) -> Stored:
            async with nodes.blobs.create(blob, LABEL, len(data)) as writer:
                await nodes.write(writer, data[:MIB])
                await half.wait()
                await rest.wait()
                await nodes.write(writer, data[MIB:])
                return await writer.commit(digest(data))

        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(slowly(blob)) for blob in blobs]
            await half.wait()
            await eventually(lambda: nodes.holder_threads.busy == 0)
            quick = await nodes.store(noise(MIB, 7))
            assert await contents(nodes.blobs, quick) == noise(MIB, 7)
            rest.set()
        assert all(task.result().hash == digest(data) for task in running)


async def test_a_holder_that_stops_taking_bytes_is_too_slow() -> None:
    release = threading.Event()

    class Stuck(MemoryBlobs):
        def create(self, blob: BlobId, label: Label, length: int | None = None) -> Any:
            @asynccontextmanager
            async def created() -> AsyncIterator[BlobWriter]:
                yield StuckWriter(release)

            return created()

    async with pair(Stuck(), pace=Pace(0.2, 1e9)) as nodes:
        try:
            with pytest.raises(TooSlow):
                await nodes.store(noise(64 * MIB))
        finally:
            release.set()


class StuckWriter:
    """A disk that hangs."""

    def __init__(self, release: threading.Event) -> None:
        self._release = release

    def write(self, data: memoryview) -> None:
        self._release.wait(30)

    async def commit(self, hash: bytes) -> Stored:
        raise Unavailable("stuck")


async def test_a_writer_that_falls_silent_is_given_up_in_the_end() -> None:
    async with pair(pace=Pace(0.05, 1e9)) as nodes:
        patient = PeerBlobs(nodes.links, nodes.address, Pace(10.0, 1e6), ANSWERER)
        async with patient.create(new_blob(), LABEL, MIB):
            assert (await nodes.local.usage()).reserved == MIB
            await _reserved_is_given_back(nodes)


async def test_a_silent_holder_is_too_slow_for_a_reader() -> None:
    relay = Relay()
    async with pair(relay=relay, pace=Pace(0.2, 1e9)) as nodes:
        blob, data = new_blob(), noise(8 * MIB)
        async with nodes.local.create(
            blob, LABEL
        ) as writer:  # not through the peer: the machine may be slow, too
            writer.write(memoryview(data))
            await writer.commit(digest(data))
        with pytest.raises(TooSlow):
            await nodes.read(blob, bytearray(), begun=relay.open.clear)
        relay.open.set()


async def test_walking_many_blobs_in_order_and_from_the_middle(both: Pair) -> None:
    blobs = [new_blob(number % 3) for number in range(1500)]
    for blob in blobs:
        await both.local.put(blob, LABEL, b"x", digest(b"x"))
    walked = [stored async for stored in both.blobs.walk()]
    assert walked == [stored async for stored in both.local.walk()]
    assert len(walked) == 1500
    after = walked[700].blob
    assert [stored async for stored in both.blobs.walk(after)] == walked[701:]
    assert [stored async for stored in both.blobs.unsealed(0.0)] == []
    assert len([stored async for stored in both.blobs.unsealed(1e12)]) == 1500
    assert idle(both.links) == 1


async def test_a_walk_left_early_closes_its_connection(both: Pair) -> None:
    for _ in range(5000):
        await both.local.put(new_blob(), LABEL, b"x", digest(b"x"))
    walk = both.blobs.walk()
    await anext(walk)
    await walk.aclose()  # type: ignore[attr-defined]
    assert idle(both.links) == 0
    assert len([stored async for stored in both.blobs.walk()]) == 5000


async def test_a_walk_that_fails_in_the_middle_is_not_an_end() -> None:
    class Failing(MemoryBlobs):
        async def walk(self, after: BlobId | None = None) -> AsyncIterator[Stored]:
            yield Stored(new_blob(), 1, b"", 0.0)
            raise Unavailable("the index is broken")

    async with pair(Failing()) as nodes:
        with pytest.raises(Unavailable, match="index is broken"):
            async for _ in nodes.blobs.walk():
                pass


async def test_a_closing_server_lets_a_transfer_finish(both: Pair) -> None:
    data = noise(4 * MIB)
    blob = new_blob()
    async with both.blobs.create(blob, LABEL, len(data)) as writer:
        await both.write(writer, data[:MIB])
        closing = asyncio.create_task(both.server.close(grace=20.0))
        await asyncio.sleep(0)
        await both.write(writer, data[MIB:])
        assert (await writer.commit(digest(data))).length == len(data)
    await closing
    assert await contents(both.local, blob) == data


async def test_a_stream_that_speaks_out_of_turn_is_closed_and_others_go_on(both: Pair) -> None:
    host, port = both.address.split(":")
    for messages in ([[9, 1]], [[1, 0, "blobs.create", [], 1000, "", ""]], [["no", "kind"]]):
        sock = socket.create_connection((host, int(port)))
        sock.setblocking(False)
        session = await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), Kind.STREAM)
        with Stream(Channel(sock), session, "test") as stream:
            for message in messages:
                await stream.send(message, 5.0)
            if messages[0][0] == 1:
                assert (await stream.receive(5.0))[0] == 3  # told, and in step
            else:
                with pytest.raises(PeerDown):
                    await stream.receive(5.0)
    assert await contents(both.blobs, await both.store(b"still there")) == b"still there"


async def test_descriptors_are_given_back(both: Pair) -> None:
    await both.store(noise(MIB))
    before = _descriptors()
    for number in range(30):
        blob = await both.store(noise(1000, number))
        async with both.blobs.open(blob) as reader:
            await reader.read(10)
    await eventually(lambda: _descriptors() <= before + 2)


async def test_the_right_target_is_in_the_error(both: Pair) -> None:
    await both.server.close(grace=0.1)
    with pytest.raises(PeerDown, match=str(Target(both.address, ANSWERER))):
        await both.blobs.stat(new_blob())


async def _reserved_is_given_back(nodes: Pair) -> None:
    async with asyncio.timeout(10):
        while (await nodes.local.usage()).reserved:
            await asyncio.sleep(0.005)


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def _take(sock: socket.socket, count: int) -> bytes:
    loop = asyncio.get_running_loop()
    got = bytearray()
    while len(got) < count:
        piece = await loop.sock_recv(sock, 1 << 20)
        assert piece
        got += piece
    return bytes(got)
