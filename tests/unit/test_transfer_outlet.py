"""The way out: the same bytes and the same errors by the kernel and by the copy path."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from discloud.core.model import KIB, MIB
from discloud.errors import ClientGone, Corrupt, DiscloudError, PeerDown, TooSlow
from discloud.transfer.outlet import Outlet, open_outlet, outlet_of_socket
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.transfer import (
    FileReader,
    MemoryReader,
    SocketReader,
    answer,
    certificates,
    client,
    file_of,
    head,
    noise,
    pace,
    pair,
    serving,
    threads,
    until,
)

SIZES = (0, 1, 255, 64 * KIB, 256 * KIB - 1, 256 * KIB + 1, MIB, 8 * MIB + 3, 20 * MIB)
both = pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "copy"])


class Site:
    """A server whose answer's body is whatever ``send`` moves to the outlet."""

    def __init__(self, pool: Threads, patience: Pace, *, kernel: bool) -> None:
        self.pool, self.pace, self.kernel = pool, patience, kernel
        self.send: Callable[[Outlet], Awaitable[None]] | None = None
        self.length = 0
        self.error: DiscloudError | None = None
        self.outlet: Outlet | None = None
        self.ended = asyncio.Event()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": str(self.length)})
        await response.prepare(request)
        assert request.transport is not None
        assert self.send is not None
        try:
            async with open_outlet(request.transport, self.pool, self.pace, kernel=self.kernel) as outlet:
                self.outlet = outlet
                await self.send(outlet)
        except DiscloudError as error:
            self.error = error
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.ended.set()
        return response


@asynccontextmanager
async def site(
    *, kernel: bool, patience: Pace | None = None, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Site, tuple[str, int]]]:
    async with threads(2) as pool:
        place = Site(pool, patience or pace(), kernel=kernel)
        async with serving(place.handle, context) as address:
            yield place, address


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def fetch(address: tuple[str, int]) -> bytes:
    async with client(address) as (reader, writer):
        writer.write(GET)
        return (await answer(reader))[2]


@both
@pytest.mark.parametrize("size", SIZES)
async def test_file_bytes_are_equal(tmp_path: Path, size: int, kernel: bool) -> None:
    data = noise(size)
    with file_of(tmp_path, b"head" + data + b"foot") as fd:
        reader = FileReader(fd, 4, size)
        async with site(kernel=kernel) as (place, address):
            place.length = size
            place.send = lambda outlet: outlet.move(reader, 0, size)
            assert await fetch(address) == data
            await place.ended.wait()
            assert place.outlet is not None
            assert place.outlet.sent == size
            assert place.outlet.kernel is kernel


@both
async def test_connection_goes_on(tmp_path: Path, kernel: bool) -> None:
    data = noise(3 * MIB)
    with file_of(tmp_path, data) as fd:
        async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
            place.length = len(data)
            place.send = lambda outlet: outlet.move(FileReader(fd, 0, len(data)), 0, len(data))
            writer.write(GET * 3)
            for _ in range(3):
                assert (await answer(reader))[2] == data


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(0, 3 * MIB),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    begin=st.integers(0, 700_000),
    kernel=st.booleans(),
)
def test_ranges_moved_in_pieces(
    tmp_path: Path, size: int, cuts: list[float], begin: int, kernel: bool
) -> None:
    data = noise(size)
    edges = [0, *sorted(int(cut * size) for cut in cuts), size]

    async def scenario() -> None:
        with file_of(tmp_path, bytes(begin) + data) as fd:
            source = FileReader(fd, begin, size)

            async def send(outlet: Outlet) -> None:
                for first, last in itertools.pairwise(edges):
                    await outlet.move(source, first, last - first)
                    await outlet.write(b"|")

            async with site(kernel=kernel) as (place, address):
                place.length, place.send = size + len(edges) - 1, send
                expected = b"".join(data[a:b] + b"|" for a, b in itertools.pairwise(edges))
                assert await fetch(address) == expected
        covered = sorted(source.checked)
        assert covered[-1][0] + covered[-1][1] == begin + size if covered else not size

    asyncio.run(scenario())


@both
async def test_failed_check_leaves_sent_exact(tmp_path: Path, kernel: bool) -> None:
    data = noise(4 * MIB)
    rotten = 2 * MIB + 5
    with file_of(tmp_path, data) as fd:
        bad, good = FileReader(fd, 0, len(data), rotten), FileReader(fd, 0, len(data))

        async def send(outlet: Outlet) -> None:
            with pytest.raises(Corrupt):
                await outlet.move(bad, 0, len(data))
            assert outlet.sent == 2 * MIB
            good.given = outlet.sent
            await outlet.move(good, outlet.sent, len(data) - outlet.sent)

        async with site(kernel=kernel) as (place, address):
            place.length, place.send = len(data), send
            assert await fetch(address) == data


async def test_truncated_file_is_corrupt(tmp_path: Path) -> None:
    with file_of(tmp_path, noise(1000)) as fd:
        async with site(kernel=True) as (place, address), client(address) as (reader, writer):
            place.length = 2000
            place.send = lambda outlet: outlet.move(FileReader(fd, 0, 2000), 0, 2000)
            writer.write(GET)
            await until(lambda: place.error is not None, "no error")
            assert isinstance(place.error, Corrupt)
            assert place.outlet is not None
            assert place.outlet.sent == 1000
            with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
                await answer(reader)


@both
async def test_bytes_of_another_node(kernel: bool) -> None:
    data = noise(20 * MIB)
    near, far = pair()
    with near, far:
        async with site(kernel=kernel) as (place, address):
            loop = asyncio.get_running_loop()
            reader = SocketReader(near, len(data))

            async def send(outlet: Outlet) -> None:
                await outlet.move(reader, 0, 3 * MIB)
                await outlet.move(reader, 3 * MIB, len(data) - 3 * MIB)

            place.length, place.send = len(data), send
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.sock_sendall(far, data + b"next answer"))
                assert await fetch(address) == data
            assert await loop.sock_recv(near, 100) == b"next answer"


@both
async def test_source_cut_in_the_middle_goes_on_with_another(kernel: bool) -> None:
    data = noise(5 * MIB)
    first, second = pair(), pair()
    cut = 3 * MIB + 17
    with first[0], first[1], second[0], second[1]:
        async with site(kernel=kernel) as (place, address):
            loop = asyncio.get_running_loop()

            async def send(outlet: Outlet) -> None:
                with pytest.raises(PeerDown):
                    await outlet.move(SocketReader(first[0], len(data)), 0, len(data))
                assert outlet.sent == cut
                await outlet.move(SocketReader(second[0], len(data) - cut), 0, len(data) - cut)

            async def holders() -> None:
                await loop.sock_sendall(first[1], data[:cut])
                first[1].close()
                await loop.sock_sendall(second[1], data[cut:])

            place.length, place.send = len(data), send
            async with asyncio.TaskGroup() as group:
                group.create_task(holders())
                assert await fetch(address) == data


async def test_source_that_stalls_is_too_slow() -> None:
    """By the kernel only: a reader's own read() keeps the pace of its source."""
    near, far = pair()
    with near, far:
        async with site(kernel=True, patience=pace(0.2, 1e9)) as (place, address):
            place.length = 1000
            place.send = lambda outlet: outlet.move(SocketReader(near, 1000), 0, 1000)
            far.send(b"x" * 10)
            async with client(address) as (_, writer):
                writer.write(GET)
                await until(lambda: place.error is not None, "no error")
            assert isinstance(place.error, TooSlow)
            assert place.outlet is not None
            assert place.outlet.sent == 10


async def test_bytes_left_in_a_pipe_never_reach_another_receiver() -> None:
    """The client stalls while a pipe holds bytes for it, and is dropped: the next transfer's bytes are its own."""
    data, loop = noise(MIB), asyncio.get_running_loop()
    async with site(kernel=True, patience=pace(0.2, 1e9)) as (place, address):
        near, far = pair()
        with near, far, socket.create_connection(address) as stalled:
            place.length = 200 * MIB
            place.send = lambda outlet: outlet.move(SocketReader(near, 200 * MIB), 0, 200 * MIB)
            stalled.sendall(GET)
            flood = asyncio.create_task(loop.sock_sendall(far, bytes(200 * MIB)))
            await until(lambda: place.error is not None, "not dropped")
            assert isinstance(place.error, ClientGone)
            flood.cancel()
        place.error = None
        near, far = pair()
        with near, far:
            place.length = len(data)
            place.send = lambda outlet: outlet.move(SocketReader(near, len(data)), 0, len(data))
            async with asyncio.TaskGroup() as group:
                group.create_task(loop.sock_sendall(far, data))
                assert await fetch(address) == data


@both
async def test_reader_without_source(kernel: bool) -> None:
    data = noise(2 * MIB)
    async with site(kernel=kernel) as (place, address):
        place.length = len(data)
        place.send = lambda outlet: outlet.move(MemoryReader(data), 0, len(data))
        assert await fetch(address) == data


def endless(folder: Path, length: int) -> int:
    """A sparse file: bytes that cost nothing."""
    fd = os.open(folder / "sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, length)
    return fd


@both
async def test_client_that_leaves_is_noticed(tmp_path: Path, kernel: bool) -> None:
    fd = endless(tmp_path, 1 << 30)
    async with site(kernel=kernel) as (place, address):
        place.length = 1 << 30
        place.send = lambda outlet: outlet.move(FileReader(fd, 0, 1 << 30), 0, 1 << 30)
        async with client(address) as (reader, writer):
            writer.write(GET)
            await reader.readexactly(MIB)
            writer.transport.abort()
        await until(lambda: place.error is not None, "not noticed")
        assert isinstance(place.error, ClientGone)
    os.close(fd)


@both
async def test_slow_reader_holds_no_thread(tmp_path: Path, kernel: bool) -> None:
    """More stalled clients than threads: a further client is served all the same."""
    fd = endless(tmp_path, 64 * MIB)
    stalled: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    async with site(kernel=kernel) as (place, address):
        place.length = 64 * MIB
        place.send = lambda outlet: outlet.move(FileReader(fd, 0, 64 * MIB), 0, 64 * MIB)
        for _ in range(6):
            sock = socket.create_connection(address)
            sock.setblocking(False)
            await loop.sock_sendall(sock, GET)
            stalled.append(sock)
        assert await fetch(address) == bytes(64 * MIB)
        await until(lambda: place.pool.busy == 0, "threads are held")
        assert place.error is None
        for sock in stalled:
            sock.close()
    os.close(fd)


@both
async def test_reader_below_the_pace_is_dropped(tmp_path: Path, kernel: bool) -> None:
    fd = endless(tmp_path, 64 * MIB)
    async with site(kernel=kernel, patience=pace(0.3, 1e9)) as (place, address):
        place.length = 64 * MIB
        place.send = lambda outlet: outlet.move(FileReader(fd, 0, 64 * MIB), 0, 64 * MIB)
        with socket.create_connection(address) as sock:
            sock.sendall(GET)
            await until(lambda: place.error is not None, "not dropped")
        assert isinstance(place.error, ClientGone)
        assert isinstance(place.error.__cause__, TooSlow)
    os.close(fd)


@both
async def test_steady_slow_reader_is_served(tmp_path: Path, kernel: bool) -> None:
    """It takes longer than the grace until the kernel asks for more, but bytes arrive all the time."""
    length = 8 * MIB
    fd = endless(tmp_path, length)
    loop = asyncio.get_running_loop()
    async with site(kernel=kernel, patience=pace(1.0, 128 * KIB)) as (place, address):
        place.length = length
        place.send = lambda outlet: outlet.move(FileReader(fd, 0, length), 0, length)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * KIB)
            sock.connect(address)
            sock.setblocking(False)
            await loop.sock_sendall(sock, GET)
            begun = loop.time()
            while loop.time() < begun + 4 and place.error is None:
                await loop.sock_recv(sock, 32 * KIB)
                await asyncio.sleep(0.08)
            assert place.error is None
            assert not place.ended.is_set()
    os.close(fd)


@both
async def test_several_outlets_at_once(tmp_path: Path, kernel: bool) -> None:
    data = noise(9 * MIB)
    with file_of(tmp_path, data) as fd:
        async with site(kernel=kernel) as (place, address):
            place.length = len(data)
            place.send = lambda outlet: outlet.move(FileReader(fd, 0, len(data)), 0, len(data))
            answers = await asyncio.gather(*(fetch(address) for _ in range(5)))
            assert all(each == data for each in answers)


async def test_waits_for_what_was_written_before(tmp_path: Path) -> None:
    """Headers and a big preamble lie in the transport's buffer: nothing may overtake them."""
    data, before = noise(MIB, 1), noise(24 * MIB, 2)
    seen: list[object] = []
    with file_of(tmp_path, data) as fd:
        async with threads() as pool:

            async def handle(request: web.BaseRequest) -> web.StreamResponse:
                response = web.StreamResponse(headers={"Content-Length": str(len(data) + len(before))})
                await response.prepare(request)
                transport = request.transport
                assert transport is not None
                transport.write(before)
                limits = transport.get_write_buffer_limits()
                async with open_outlet(transport, pool, pace()) as outlet:
                    seen.append(transport.get_write_buffer_size())
                    seen.append(transport.get_write_buffer_limits() == limits)
                    await outlet.move(FileReader(fd, 0, len(data)), 0, len(data))
                return response

            async with serving(handle) as address:
                assert await fetch(address) == before + data
    assert seen == [0, True]


async def test_to_a_peer(tmp_path: Path) -> None:
    data = noise(10 * MIB)
    near, far = pair()
    loop = asyncio.get_running_loop()
    with file_of(tmp_path, data) as fd, near, far:
        async with threads() as pool:
            outlet = outlet_of_socket(near, pool, pace())
            received = bytearray()

            async def receive() -> None:
                while len(received) < len(data) + 4:
                    received.extend(await loop.sock_recv(far, MIB))

            async with asyncio.TaskGroup() as group:
                group.create_task(receive())
                await outlet.write(b"head")
                await outlet.move(FileReader(fd, 0, len(data)), 0, len(data))
            assert received == b"head" + data
            assert outlet.sent == len(data) + 4
            far.close()
            with pytest.raises(ClientGone):
                await outlet.move(FileReader(fd, 0, len(data)), 0, len(data))


@both
async def test_cancelled_move_leaves_nothing_running(tmp_path: Path, kernel: bool) -> None:
    fd = endless(tmp_path, 1 << 30)
    async with site(kernel=kernel) as (place, address):
        place.length = 1 << 30
        started = asyncio.Event()

        async def send(outlet: Outlet) -> None:
            started.set()
            async with asyncio.timeout(0.1):
                await outlet.move(FileReader(fd, 0, 1 << 30), 0, 1 << 30)

        place.send = send
        async with client(address) as (reader, writer):
            writer.write(GET)
            await head(reader)
            await started.wait()
            await until(lambda: place.pool.busy == 0 and place.outlet is not None, "still busy")
    os.close(fd)


async def test_steady_slow_source_is_waited_for() -> None:
    """It needs longer than the grace in all, but its bytes keep coming."""
    near, far = pair()
    loop = asyncio.get_running_loop()
    length = 400 * KIB
    with near, far:
        async with site(kernel=True, patience=pace(1.0, 128 * KIB)) as (place, address):
            place.length = length
            place.send = lambda outlet: outlet.move(SocketReader(near, length), 0, length)

            async def trickle() -> None:
                for _ in range(40):
                    await loop.sock_sendall(far, bytes(length // 40))
                    await asyncio.sleep(0.05)

            async with asyncio.TaskGroup() as group:
                group.create_task(trickle())
                assert await fetch(address) == bytes(length)
            assert place.error is None


async def test_tls_is_copied(tmp_path: Path) -> None:
    server, browser = certificates(tmp_path)
    data = noise(5 * MIB)
    with file_of(tmp_path, data) as fd:
        async with (
            site(kernel=True, context=server) as (place, address),
            client(address, browser) as (reader, writer),
        ):
            place.length = len(data)
            place.send = lambda outlet: outlet.move(FileReader(fd, 0, len(data)), 0, len(data))
            writer.write(GET * 2)
            assert (await answer(reader))[2] == data
            assert (await answer(reader))[2] == data
            assert place.outlet is not None
            assert not place.outlet.kernel


async def test_tls_client_that_does_not_read_is_dropped(tmp_path: Path) -> None:
    server, browser = certificates(tmp_path)
    fd = endless(tmp_path, 256 * MIB)
    async with site(kernel=True, context=server, patience=pace(0.3, 1e9)) as (place, address):
        place.length = 256 * MIB
        place.send = lambda outlet: outlet.move(FileReader(fd, 0, 256 * MIB), 0, 256 * MIB)
        async with client(address, browser) as (reader, writer):
            writer.write(GET)
            await head(reader)
            await until(lambda: place.error is not None, "not dropped")
        assert isinstance(place.error, ClientGone)
    os.close(fd)
