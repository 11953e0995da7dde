"""The way in: the same bytes, errors and connection by takeover and by the copy path."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import gzip
import itertools
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.core.model import KIB, MIB
from discloud.errors import (
    ClientGone,
    DiscloudError,
    Invalid,
    NoSpace,
    TooLarge,
    TooSlow,
    Unavailable,
)
from discloud.transfer.intake import Intake, intake_of
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.transfer import answer, certificates, client, head, noise, pace, serving, threads, until

SIZES = (0, 1, 1000, 64 * KIB, 256 * KIB, MIB - 1, MIB + 1, 8 * MIB + 7, 20 * MIB)
both = pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "copy"])
GIB = 1 << 30


class Site:
    """A server that pumps each body and answers with its length."""

    def __init__(self, pool: Threads, patience: Pace, *, kernel: bool, limit: int) -> None:
        self.pool, self.pace, self.kernel, self.limit = pool, patience, kernel, limit
        self.bodies: list[bytes] = []
        self.error: BaseException | None = None
        self.largest = 0
        self.received = 0
        self.intakes = 0
        self.sink: Callable[[memoryview], None] | None = None
        self.before: Callable[[Intake], Awaitable[None]] | None = None

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = bytearray()

        def keep(data: memoryview) -> None:
            assert threading.current_thread() is not threading.main_thread()
            self.largest = max(self.largest, len(data))
            self.received += len(data)
            body.extend(data)

        try:
            intake = intake_of(request, self.pool, self.pace, limit=self.limit, kernel=self.kernel)
            self.intakes += 1
            if self.before:
                await self.before(intake)
            count = await intake.pump(self.sink or keep)
        except DiscloudError as error:
            self.error = error
            self.bodies.append(bytes(body))
            return web.Response(status=400, text=error.code)
        self.bodies.append(bytes(body))
        return web.Response(text=str(count))


@asynccontextmanager
async def site(
    *, kernel: bool, patience: Pace | None = None, limit: int = GIB, **options: Any
) -> AsyncIterator[tuple[Site, tuple[str, int]]]:
    async with threads(2) as pool:
        place = Site(pool, patience or pace(), kernel=kernel, limit=limit)
        async with serving(place.handle, **options) as address:
            yield place, address


def put(length: int, *fields: str) -> bytes:
    lines = ["PUT / HTTP/1.1", "Host: x", f"Content-Length: {length}", *fields, "", ""]
    return "\r\n".join(lines).encode()


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return (
        b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
        + b"0\r\n\r\n"
    )


@both
@pytest.mark.parametrize("size", SIZES)
async def test_bytes_are_equal_and_the_connection_goes_on(size: int, kernel: bool) -> None:
    """Two bodies and a plain request, all written at once: everything behind a body is the next request."""
    first, second = noise(size, 1), noise(size, 2)
    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        writer.write(put(size) + first + put(size) + second + put(3) + b"end")
        for expected in (size, size, 3):
            status, headers, text = await answer(reader)
            assert (status, text, headers.get("connection")) == (200, str(expected).encode(), None)
    assert place.bodies == [first, second, b"end"]
    assert place.largest <= MIB


@both
@pytest.mark.parametrize("piece", [1000, 70_000, 2 * MIB])
async def test_chunked_bodies(piece: int, kernel: bool) -> None:
    data = noise(3 * MIB)
    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        writer.write(chunked(data, piece) + put(3) + b"end")
        assert (await answer(reader))[2] == str(len(data)).encode()
        assert (await answer(reader))[2] == b"3"
    assert place.bodies == [data, b"end"]
    assert place.largest <= MIB


@settings(max_examples=40)
@given(
    bodies=st.lists(st.integers(0, 2 * MIB), min_size=1, max_size=5),
    cuts=st.lists(st.floats(0, 1), max_size=6),
    kernel=st.booleans(),
    small=st.integers(0, 3 * MIB),
)
def test_pipelined_bodies_cut_anywhere(
    bodies: list[int], cuts: list[float], kernel: bool, small: int
) -> None:
    """However the stream is cut into packets, each body is what its length says; ``small`` changes nothing."""
    contents = [noise(size, number) for number, size in enumerate(bodies)]
    stream = b"".join(put(len(body)) + body for body in contents)
    edges = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]

    async def scenario() -> None:
        async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
            seen: list[bytes | None] = []

            async def look(intake: Intake) -> None:
                seen.append(await intake.small(small))

            place.before = look

            async def send() -> None:
                for first, last in itertools.pairwise(edges):
                    writer.write(stream[first:last])
                    await writer.drain()
                    await asyncio.sleep(0)

            async with asyncio.TaskGroup() as group:
                group.create_task(send())
                for body in contents:
                    assert (await answer(reader))[2] == str(len(body)).encode()
            assert seen == [body if len(body) <= small else None for body in contents]
            assert place.bodies == contents

    asyncio.run(scenario())


@both
async def test_small_then_pump_of_a_chunked_body(kernel: bool) -> None:
    data = noise(MIB)
    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        seen: list[bytes | None] = []

        async def look(intake: Intake) -> None:
            assert intake.length is None
            seen.append(await intake.small(100_000))

        place.before = look
        writer.write(chunked(data, 10_000) + chunked(b"few", 2))
        assert (await answer(reader))[2] == str(len(data)).encode()
        assert (await answer(reader))[2] == b"3"
    assert seen == [None, b"few"]
    assert place.bodies == [data, b"few"]


@both
async def test_client_that_leaves_in_the_middle(kernel: bool) -> None:
    """What had arrived reaches the sink: a resumable upload keeps it."""
    async with site(kernel=kernel) as (place, address):
        async with client(address) as (_, writer):
            writer.write(put(20 * MIB) + noise(5 * MIB))
            await until(lambda: place.received >= 5 * MIB - 256 * KIB, "nothing arrives")
        await until(lambda: place.error is not None, "not noticed")
        assert isinstance(place.error, ClientGone)
        assert place.bodies == [noise(5 * MIB)]
        async with client(address) as (reader, writer):
            writer.write(put(3) + b"end")
            assert (await answer(reader))[2] == b"3"


@both
async def test_client_that_resets_in_the_middle(kernel: bool) -> None:
    async with site(kernel=kernel) as (place, address):
        async with client(address) as (_, writer):
            writer.write(put(20 * MIB) + noise(5 * MIB))
            await until(lambda: place.received > 0, "nothing arrives")
            writer.transport.abort()
        await until(lambda: place.error is not None, "not noticed")
        assert isinstance(place.error, ClientGone)


@both
@pytest.mark.parametrize("declared", [True, False])
async def test_too_large(kernel: bool, declared: bool) -> None:
    async with site(kernel=kernel, limit=MIB) as (place, address), client(address) as (reader, writer):
        data = noise(3 * MIB)
        writer.write(put(len(data)) + data if declared else chunked(data, 65536))
        status, headers, text = await answer(reader)
        assert (status, headers["connection"], text) == (400, "close", b"too-large")
        assert isinstance(place.error, TooLarge)
        assert place.received == 0 if declared else place.received <= MIB
        assert await reader.read() == b""


@both
async def test_exactly_the_limit(kernel: bool) -> None:
    data = noise(MIB)
    async with site(kernel=kernel, limit=MIB) as (place, address), client(address) as (reader, writer):
        writer.write(put(len(data)) + data + chunked(data, 65536))
        assert (await answer(reader))[0] == 200
        assert (await answer(reader))[0] == 200
    assert place.bodies == [data, data]


@both
async def test_failure_of_the_sink_passes_through(kernel: bool) -> None:
    """The answer arrives although the client is still sending, and says that the connection ends."""
    failure = NoSpace("full")

    def refuse(_: memoryview) -> None:
        raise failure

    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        place.sink = refuse
        writer.write(put(30 * MIB) + noise(30 * MIB))
        status, headers, text = await answer(reader)
        assert (status, headers["connection"], text) == (400, "close", b"no-space")
        assert place.error is failure
        await writer.drain()
        assert await reader.read() == b""


@both
async def test_client_below_the_pace(kernel: bool) -> None:
    async with (
        site(kernel=kernel, patience=pace(0.3, 1e9), lingering_time=0.1) as (place, address),
        client(address) as (reader, writer),
    ):
        writer.write(put(2 * MIB) + bytes(10))
        assert (await answer(reader))[2] == b"too-slow"
        assert isinstance(place.error, TooSlow)


@both
async def test_slow_writers_hold_no_thread_and_no_buffers(kernel: bool) -> None:
    """More stalled uploads than threads: a further one is served all the same, and memory does not follow them."""
    async with site(kernel=kernel) as (place, address), contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            _, writer = await stack.enter_async_context(client(address))
            writer.write(put(20 * MIB) + bytes(300_000))
        await until(lambda: place.intakes == 8, "no requests")
        await until(lambda: place.pool.busy == 0, "threads are held")
        async with client(address) as (reader, writer):
            writer.write(put(MIB) + bytes(MIB))
            assert (await answer(reader))[2] == str(MIB).encode()
        assert place.error is None


def _wait(gate: threading.Event) -> None:
    assert gate.wait(30)


@both
async def test_slow_sink_holds_the_client_back(kernel: bool) -> None:
    """Nothing piles up here while the sink works: the sender's own buffer fills."""
    gate = threading.Event()
    async with site(kernel=kernel) as (place, address):
        place.sink = lambda _: _wait(gate)
        loop = asyncio.get_running_loop()
        with socket.create_connection(address) as sock:
            sock.setblocking(False)
            await loop.sock_sendall(sock, put(200 * MIB))
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 200 * MIB:
                    async with asyncio.timeout(0.5):
                        await loop.sock_sendall(sock, bytes(64 * KIB))
                    sent += 64 * KIB
            assert sent < 40 * MIB
            gate.set()
            while sent < 200 * MIB:
                await loop.sock_sendall(sock, bytes(64 * KIB))
                sent += 64 * KIB


@both
async def test_asks_for_the_body_when_it_is_wanted(kernel: bool) -> None:
    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        asked = asyncio.Event()
        go = asyncio.Event()

        async def look(_: Intake) -> None:
            asked.set()
            await go.wait()

        place.before = look
        data = noise(2 * MIB)
        writer.write(put(len(data), "Expect: 100-continue"))
        await asked.wait()
        go.set()
        assert (await head(reader))[0] == 100
        writer.write(data)
        assert (await answer(reader))[2] == str(len(data)).encode()
    assert place.bodies == [data]


async def test_does_not_ask_for_what_came_unasked() -> None:
    async with site(kernel=True) as (_, address), client(address) as (reader, writer):
        writer.write(put(3, "Expect: 100-continue") + b"end")
        assert (await answer(reader))[0] == 200


@both
async def test_malformed_chunks(kernel: bool) -> None:
    async with site(kernel=kernel) as (place, address), client(address) as (reader, writer):
        writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        await until(lambda: place.intakes == 1, "no request")
        writer.write(b"zz\r\n")
        assert (await answer(reader))[2] == b"invalid"
        assert isinstance(place.error, Invalid)


@both
async def test_compressed_bodies_are_unpacked_or_kept(kernel: bool) -> None:
    data = gzip.compress(noise(MIB))
    for unpack, expected in ((True, noise(MIB)), (False, data)):
        async with (
            site(kernel=kernel, auto_decompress=unpack) as (place, address),
            client(address) as (reader, writer),
        ):
            writer.write(put(len(data), "Content-Encoding: gzip") + data + put(3) + b"end")
            assert (await answer(reader))[2] == str(len(expected)).encode()
            assert (await answer(reader))[2] == b"3"
            assert place.bodies == [expected, b"end"]


@both
async def test_cancelled_pump_gives_the_connection_back(kernel: bool) -> None:
    async with (
        site(kernel=kernel, lingering_time=0.1) as (place, address),
        client(address) as (reader, writer),
    ):

        async def hurry(intake: Intake) -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await intake.pump(lambda _: None)
            raise NoSpace("no time")

        place.before = hurry
        writer.write(put(2 * MIB) + bytes(MIB))
        status, headers, _ = await answer(reader)
        assert (status, headers["connection"]) == (400, "close")
        await until(lambda: place.pool.busy == 0, "still busy")


async def test_small_bodies_need_no_thread() -> None:
    async with threads() as pool:
        pool.close()

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            intake = intake_of(request, pool, pace(), limit=MIB)
            return web.Response(body=await intake.small(64 * KIB))

        async with serving(handle) as address, client(address) as (reader, writer):
            data = noise(40_000)
            writer.write(put(len(data)) + data + put(0))
            assert (await answer(reader))[2] == data
            assert (await answer(reader))[2] == b""


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_no_descriptor_is_left() -> None:
    async with site(kernel=True) as (_, address):
        before = _descriptors()
        for _ in range(5):
            async with client(address) as (reader, writer):
                writer.write(put(MIB) + bytes(MIB))
                await answer(reader)
            async with client(address) as (_, writer):
                writer.write(put(MIB) + bytes(1000))
        gc.collect()
        await until(lambda: _descriptors() <= before, "descriptors are left")


@both
async def test_steady_slow_writer_is_served(kernel: bool) -> None:
    """It takes longer than the grace in all and between two wake-ups, but its bytes keep coming."""
    async with (
        site(kernel=kernel, patience=pace(1.0, 128 * KIB)) as (place, address),
        client(address) as (reader, writer),
    ):
        writer.write(put(600 * KIB))
        for _ in range(60):
            writer.write(bytes(10 * KIB))
            await asyncio.sleep(0.05)
        assert (await answer(reader))[2] == str(600 * KIB).encode()
        assert place.error is None


async def test_tls_goes_through_aiohttp(tmp_path: Path) -> None:
    server, browser = certificates(tmp_path)
    data = noise(5 * MIB)
    async with threads() as pool:
        place = Site(pool, pace(), kernel=True, limit=GIB)
        async with serving(place.handle, server) as address, client(address, browser) as (reader, writer):
            writer.write(put(len(data)) + data + put(3) + b"end")
            assert (await answer(reader))[2] == str(len(data)).encode()
            assert (await answer(reader))[2] == b"3"
        assert place.bodies == [data, b"end"]


@both
async def test_complete_body_counts_although_its_client_left(kernel: bool) -> None:
    data = noise(300_000)
    async with site(kernel=kernel) as (place, address):
        gate = asyncio.Event()

        async def look(_: Intake) -> None:
            await gate.wait()

        place.before = look
        async with client(address) as (_, writer):
            writer.write(put(len(data)) + data)
            await writer.drain()
            await until(lambda: place.intakes == 1, "no request")
        gate.set()
        await until(lambda: len(place.bodies) == 1, "no body")
        assert place.error is None or isinstance(place.error, ClientGone)
        assert place.bodies == [data]


@both
async def test_what_arrived_before_the_handler_looked_reaches_the_sink(kernel: bool) -> None:
    async with site(kernel=kernel) as (place, address):
        gate = asyncio.Event()

        async def look(_: Intake) -> None:
            await gate.wait()

        place.before = look
        async with client(address) as (_, writer):
            writer.write(put(2 * MIB) + noise(100_000))
            await writer.drain()
            await until(lambda: place.intakes == 1, "no request")
            writer.transport.abort()
        await asyncio.sleep(0.05)
        gate.set()
        await until(lambda: len(place.bodies) == 1, "no end")
        assert isinstance(place.error, ClientGone)
        assert noise(100_000).startswith(place.bodies[0])
        assert place.bodies[0]


async def test_a_body_that_a_shutdown_ends_is_not_taken_for_a_client_that_left() -> None:
    """aiohttp ends the bodies under way by an error in their reader; the client waits for an answer all the same."""
    async with site(kernel=False) as (place, address):

        async def shut_down(intake: Intake) -> None:
            intake._request._cancel(asyncio.CancelledError())

        place.before = shut_down
        async with client(address) as (reader, writer):
            writer.write(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
            assert (await head(reader))[0] == 400
    assert isinstance(place.error, Unavailable)
