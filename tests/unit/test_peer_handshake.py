"""The greeting: both sides prove the secret, agree on a version, and refuse with the same words."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.model import NodeId
from discloud.errors import Conflict, DiscloudError, Invalid, PeerDown, Unauthenticated
from discloud.peer.channel import Channel
from discloud.peer.handshake import ANYBODY, MAGIC, ClusterSecret, Identity, Kind, Session, greet, welcome
from discloud.peer.wire import Incoming, Outgoing

OLD, NEW = b"o" * 32, b"n" * 32
A, B = NodeId("a"), NodeId("b")


def identity(
    node: NodeId, *keys: bytes, cluster: str = "mesh", versions: tuple[int, int] = (1, 1)
) -> Identity:
    return Identity(ClusterSecret(*(keys or (NEW,))), node, cluster, versions)


@asynccontextmanager
async def sockets() -> AsyncIterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        other.setblocking(False)
        yield one, other


async def meet(
    caller: Identity, called: Identity, to: NodeId = ANYBODY, kind: Kind = Kind.CALLS
) -> tuple[Session | DiscloudError, Session | DiscloudError]:
    async with sockets() as (one, other), asyncio.timeout(10):
        results = await asyncio.gather(
            greet(Channel(one), caller, kind, to),
            _closing(welcome(Channel(other), called), other),
            return_exceptions=True,
        )
    for result in results:
        assert isinstance(result, Session | DiscloudError), result
    return results  # type: ignore[return-value]


async def _closing(answer: object, sock: socket.socket) -> Session:
    try:
        return await answer  # type: ignore[no-any-return, misc]
    except DiscloudError:
        sock.close()
        raise


async def test_both_sides_know_each_other_and_share_keys() -> None:
    one, other = await meet(identity(A), identity(B), B, Kind.STREAM)
    assert isinstance(one, Session)
    assert isinstance(other, Session)
    assert (one.node, other.node, one.cluster, one.kind, other.kind) == (
        B,
        A,
        "mesh",
        Kind.STREAM,
        Kind.STREAM,
    )
    assert Incoming(other.receive_key).feed(Outgoing(one.send_key).frame(["there"])) == [["there"]]
    assert Incoming(one.receive_key).feed(Outgoing(other.send_key).frame(["back"])) == [["back"]]
    assert one.send_key != one.receive_key


async def test_every_connection_has_keys_of_its_own() -> None:
    first, _ = await meet(identity(A), identity(B))
    second, _ = await meet(identity(A), identity(B))
    assert isinstance(first, Session)
    assert isinstance(second, Session)
    assert len({first.send_key, first.receive_key, second.send_key, second.receive_key}) == 4


async def test_the_mesh_is_learnt_by_whoever_does_not_know_it() -> None:
    caller, called = identity(A, cluster=""), identity(B, cluster="mesh")
    await meet(caller, called)
    assert caller.cluster == "mesh"
    late = identity(B, cluster="")
    await meet(caller, late)
    assert late.cluster == "mesh"


@pytest.mark.parametrize(
    ("caller", "called", "kind", "words"),
    [
        (identity(A, NEW), identity(B, OLD), Unauthenticated, "different cluster secrets"),
        (identity(A), identity(B, cluster="other"), Conflict, "different meshes"),
        (identity(A, versions=(1, 1)), identity(B, versions=(2, 3)), Invalid, "protocol versions 1..1"),
        (identity(A, versions=(4, 5)), identity(B, versions=(2, 3)), Invalid, "protocol versions 4..5"),
    ],
)
async def test_a_refusal_has_the_same_words_on_both_sides(
    caller: Identity, called: Identity, kind: type[DiscloudError], words: str
) -> None:
    one, other = await meet(caller, called)
    assert isinstance(one, kind)
    assert isinstance(other, kind)
    assert str(one) == str(other)
    assert words in str(one)
    assert "secret" not in str(one) or (NEW.decode() not in str(one) and OLD.decode() not in str(one))


async def test_neighbouring_versions_take_the_newest_that_both_speak() -> None:
    one, other = await meet(identity(A, versions=(1, 2)), identity(B, versions=(2, 3)))
    assert isinstance(one, Session)
    assert isinstance(other, Session)
    assert one.version == other.version == 2


async def test_another_node_at_the_address_is_refused() -> None:
    one, other = await meet(identity(A), identity(B), NodeId("c"))
    assert isinstance(one, Conflict)
    assert isinstance(other, Conflict)
    assert "node c was called and node b is there" in str(one)


@pytest.mark.parametrize(
    ("caller", "called"), [((OLD,), (OLD, NEW)), ((OLD, NEW), (NEW, OLD)), ((NEW, OLD), (OLD,))]
)
async def test_a_secret_can_be_rotated(caller: tuple[bytes, ...], called: tuple[bytes, ...]) -> None:
    one, other = await meet(identity(A, *caller), identity(B, *called))
    assert isinstance(one, Session)
    assert isinstance(other, Session)


async def test_a_recorded_greeting_cannot_be_played_again() -> None:
    recorded = bytearray()
    async with sockets() as (one, middle), sockets() as (ahead, other), asyncio.timeout(10):
        loop = asyncio.get_running_loop()

        async def tap() -> None:
            while data := await loop.sock_recv(middle, 4096):
                recorded.extend(data)
                await loop.sock_sendall(ahead, data)

        async def back() -> None:
            while data := await loop.sock_recv(ahead, 4096):
                await loop.sock_sendall(middle, data)

        tasks = [asyncio.create_task(tap()), asyncio.create_task(back())]
        await asyncio.gather(
            greet(Channel(one), identity(A), Kind.CALLS), welcome(Channel(other), identity(B))
        )
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    async with sockets() as (one, other), asyncio.timeout(10):
        await asyncio.get_running_loop().sock_sendall(one, bytes(recorded))
        with pytest.raises(Unauthenticated):
            await welcome(Channel(other), identity(B))


async def test_an_impostor_without_the_secret_is_not_believed() -> None:
    """It may copy all that it sees, the key's id too."""
    async with sockets() as (one, other), asyncio.timeout(10):

        async def pretend() -> None:
            loop = asyncio.get_running_loop()
            head = await loop.sock_recv(other, 10)
            hello = msgpack.unpackb(await loop.sock_recv(other, int.from_bytes(head[8:], "big")))
            inner = msgpack.packb([1, "mesh", "b", bytes(32), hello[7][0]])
            body = msgpack.packb([1, inner, bytes(32)])
            await loop.sock_sendall(other, MAGIC + len(body).to_bytes(2, "big") + body)

        me = identity(A, cluster="")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pretend())
            with pytest.raises(Unauthenticated):
                await greet(Channel(one), me, Kind.CALLS)
        assert not me.cluster  # nothing is learnt from it


async def test_a_reflected_greeting_proves_nothing() -> None:
    """A stranger that sends everything back as it came knows no secret."""
    async with sockets() as (one, mirror), asyncio.timeout(10):
        loop = asyncio.get_running_loop()

        async def reflect() -> None:
            while data := await loop.sock_recv(mirror, 4096):
                await loop.sock_sendall(mirror, data)

        task = asyncio.create_task(reflect())
        with pytest.raises(Invalid):
            await greet(Channel(one), identity(A), Kind.CALLS)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@given(st.binary(max_size=400), st.booleans())
def test_garbage_is_refused_with_an_error_of_ours(data: bytes, magic: bool) -> None:
    async def attempt() -> None:
        async with sockets() as (one, other), asyncio.timeout(10):
            one.sendall(MAGIC + len(data).to_bytes(2, "big") + data if magic else data)
            one.shutdown(socket.SHUT_WR)
            with pytest.raises((Invalid, PeerDown, Unauthenticated)):
                await welcome(Channel(other), identity(B))

    asyncio.run(attempt())


async def test_an_http_server_is_told_from_a_peer_port() -> None:
    async with sockets() as (one, other), asyncio.timeout(10):
        other.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
        with pytest.raises(Invalid, match="not the peer port"):
            await greet(Channel(one), identity(A), Kind.CALLS)


@pytest.mark.parametrize("text", ["", "short", "long enough, 16 b\nshort"])
def test_a_short_secret_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="16 bytes"):
        ClusterSecret.parse(text)


def test_a_secret_file_has_a_key_in_each_line() -> None:
    assert list(ClusterSecret.parse(f"{NEW.decode()}\n\n {OLD.decode()}\n").keys.values()) == [NEW, OLD]
