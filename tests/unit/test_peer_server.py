"""Strangers and broken peers: whatever they send, they lose their own connection and the others are served."""

import asyncio
import logging
import socket

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.peer import server as server_module
from discloud.peer.channel import Channel
from discloud.peer.handshake import MAGIC, Identity, Kind, Session, greet
from discloud.peer.links import tune
from discloud.peer.wire import ANSWER, CALL, END, FAILED, PAGE, Incoming, Outgoing
from tests.support.peer_loopback import CALLER, SECRET, Pair, eventually, new_blob, pair, patiently

VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=8), st.binary(max_size=8)
    ),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)
METHODS = st.sampled_from(
    ["blobs.fetch", "blobs.put", "blobs.walk", "blobs.create", "blobs.open", "versions.get", "x"]
)
KINDS = st.sampled_from(Kind)


def connect(nodes: Pair) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", nodes.server.port))
    tune(sock)
    return sock


async def send_and_leave(sock: socket.socket, data: bytes) -> bytes:
    """Send, end the sending side, and read until the server closes; a reset is as good as an end."""
    loop = asyncio.get_running_loop()
    got = b""
    try:
        await loop.sock_sendall(sock, data)
        sock.shutdown(socket.SHUT_WR)
        while piece := await loop.sock_recv(sock, 1 << 16):
            got += piece
    except OSError:
        pass
    return got


async def still_serves(nodes: Pair, caplog: pytest.LogCaptureFixture | None = None) -> None:
    assert (await nodes.blobs.usage()).blobs == 0


@given(st.one_of(st.binary(max_size=2000), st.binary(max_size=500).map(lambda data: MAGIC + data)))
def test_garbage_from_a_stranger(data: bytes) -> None:
    async def attempt() -> None:
        async with pair() as nodes, asyncio.timeout(20):
            with connect(nodes) as sock:
                await send_and_leave(sock, data)
            await still_serves(nodes)

    asyncio.run(attempt())


@given(KINDS, st.binary(min_size=1, max_size=2000))
def test_garbage_from_a_peer(kind: Kind, data: bytes) -> None:
    """Without a seal nothing is read: the answer to it is the end of the connection."""

    async def attempt() -> None:
        async with pair() as nodes, asyncio.timeout(20):
            with connect(nodes) as sock:
                await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), kind)
                assert await send_and_leave(sock, data) == b""
            await still_serves(nodes)

    asyncio.run(attempt())


@given(KINDS, METHODS, VALUES, st.integers(0, 40))
@settings(max_examples=150)
def test_sealed_nonsense_from_a_peer(kind: Kind, method: str, arguments: object, cut: int) -> None:
    """A peer of another kind of mind: its calls fail one by one, a message that is none ends its connection."""

    async def attempt() -> None:
        async with pair() as nodes, asyncio.timeout(20):
            with connect(nodes) as sock:
                session = await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), kind)
                frame = Outgoing(session.send_key).frame([CALL, 1, method, arguments, 5000, "", ""])
                got = await send_and_leave(sock, frame[: len(frame) - cut])
            answers = Incoming(session.receive_key).feed(got)
            assert [message[0] for message in answers] in ([], [FAILED], [ANSWER], [ANSWER, PAGE, END])
            assert all(message[1] == 1 for message in answers)
            await still_serves(nodes)

    asyncio.run(attempt())


@given(KINDS, VALUES)
def test_a_sealed_message_that_is_no_call(kind: Kind, message: object) -> None:
    async def attempt() -> None:
        async with pair() as nodes, asyncio.timeout(20):
            with connect(nodes) as sock:
                session = await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), kind)
                frame = Outgoing(session.send_key).frame([ANSWER, message])
                assert await send_and_leave(sock, frame) == b""
            await still_serves(nodes)

    asyncio.run(attempt())


async def test_a_replayed_call_ends_the_connection_after_its_first_answer() -> None:
    async with pair() as nodes, asyncio.timeout(20):
        with connect(nodes) as sock:
            session, loop = await _greeted(sock), asyncio.get_running_loop()
            frame = Outgoing(session.send_key).frame([CALL, 1, "blobs.usage", [], 5000, "", ""])
            incoming = Incoming(session.receive_key)
            await loop.sock_sendall(sock, frame)
            assert incoming.feed(await loop.sock_recv(sock, 4096))[0][0] == ANSWER
            assert await send_and_leave(sock, frame) == b""
        await still_serves(nodes)


async def test_reordered_calls_end_the_connection() -> None:
    async with pair() as nodes, asyncio.timeout(20):
        with connect(nodes) as sock:
            session = await _greeted(sock)
            outgoing = Outgoing(session.send_key)
            first, second = (
                outgoing.frame([CALL, number, "blobs.usage", [], 5000, "", ""]) for number in (1, 2)
            )
            assert await send_and_leave(sock, second + first) == b""
        await still_serves(nodes)


async def test_the_frames_of_one_connection_are_worth_nothing_on_another() -> None:
    async with pair() as nodes, asyncio.timeout(20):
        with connect(nodes) as one, connect(nodes) as other:
            session = await _greeted(one)
            await _greeted(other)
            frame = Outgoing(session.send_key).frame([CALL, 1, "blobs.usage", [], 5000, "", ""])
            assert await send_and_leave(other, frame) == b""


async def test_a_hello_too_long_is_refused_without_reading_it() -> None:
    async with pair() as nodes, asyncio.timeout(20):
        with connect(nodes) as sock:
            got = await send_and_leave(sock, MAGIC + b"\xff\xff")
        assert b"invalid" in got
        await still_serves(nodes)


async def test_silent_strangers_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GREETING", 0.1)
    async with pair() as nodes, asyncio.timeout(20):
        with connect(nodes) as sock:
            assert await asyncio.get_running_loop().sock_recv(sock, 1) == b""
        await still_serves(nodes)


async def test_many_silent_strangers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "GREETINGS", 3)
    monkeypatch.setattr(server_module, "GREETING", 1000.0)
    async with pair() as nodes, asyncio.timeout(20):
        strangers = [connect(nodes) for _ in range(6)]
        await eventually(lambda: sum(map(is_closed, strangers)) == 3)
        for sock in strangers:
            sock.close()
        await patiently(lambda: still_serves(nodes))


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False


async def test_an_integer_that_would_be_much_memory_is_not_believed() -> None:
    """A hello whose fields have the wrong types is refused before anything is made of them."""
    async with pair() as nodes, asyncio.timeout(20):
        for hello in ([1, 1, 1, "", "n", "", 2**40, []], [1, 1, 1, "", "n", "", bytes(32), 2**40], [1]):
            body = msgpack.packb(hello)
            with connect(nodes) as sock:
                got = await send_and_leave(sock, MAGIC + len(body).to_bytes(2, "big") + body)
            assert b"greeting cannot be read" in got


async def test_a_broken_peer_is_logged_without_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async with pair() as nodes, asyncio.timeout(20):
        for kind in Kind:
            with connect(nodes) as sock:
                await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), kind)
                await send_and_leave(sock, bytes(100))
        await eventually(lambda: len(caplog.records) >= 2)
    assert {record.message for record in caplog.records} == {"peer_connection_broken"}
    assert all(record.levelno == logging.WARNING for record in caplog.records)


async def test_calls_go_on_while_bodies_stream() -> None:
    async with pair() as nodes, asyncio.timeout(30):
        data = bytes(16 << 20)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(nodes.store(data))
            for _ in range(200):
                tasks.create_task(nodes.blobs.delete(new_blob()))
        assert (await nodes.blobs.usage()).blobs == 4


async def _greeted(sock: socket.socket) -> Session:
    return await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), Kind.CALLS)
