"""Nodes that show each other certificates: the same answers and the same failures, and one clear line where they do not fit."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import KIB, MIB
from discloud.errors import DiscloudError, Invalid, PeerDown, Unauthenticated
from discloud.peer.body import LENGTH, Body
from discloud.peer.channel import Channel
from discloud.peer.handshake import ClusterSecret, Identity
from discloud.peer.links import Links, Target, tune
from discloud.peer.tls_channel import TlsChannel, protected
from discloud.ports import BlobReader
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from discloud.transfer.tls import Certificates
from tests.support.certificates import Unchecked, authority, files, sign
from tests.support.peer_loopback import (
    CALLER,
    DEADLINE,
    LABEL,
    SECRET,
    Pair,
    Relay,
    digest,
    eventually,
    new_blob,
    noise,
    pair,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def signer(folder: Path) -> Path:
    return authority(folder)


@pytest.fixture
def certificates(signer: Path, tmp_path: Path) -> Certificates:
    return Certificates(files(signer, tmp_path / "both"))


async def contents(nodes: Pair, blob: object) -> bytes:
    return await nodes.read(blob, bytearray())  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 16 * KIB + 1, MIB, 8 * MIB + 3, 20 * MIB])
async def test_bodies_of_all_sizes(certificates: Certificates, size: int) -> None:
    data = noise(size)
    async with pair(caller=certificates, answerer=certificates) as nodes:
        blob = await nodes.store(data)
        assert await contents(nodes, blob) == data
        async with nodes.blobs.open(blob) as reader:
            assert reader.source is None  # the kernel must never move what is encrypted
            got = b"".join([piece async for piece in pieces(reader)])
        assert digest(got) == digest(data)


async def pieces(reader: BlobReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(700_001):
        yield piece


async def test_connections_are_kept_and_calls_are_pipelined(certificates: Certificates) -> None:
    async with pair(caller=certificates, answerer=certificates) as nodes:
        for number in range(20):
            blob = await nodes.store(noise(300 * KIB, number))
            assert len(await contents(nodes, blob)) == 300 * KIB
        peer = nodes.links._peers[Target(nodes.address, nodes.blobs._target.node)]
        assert len(peer.streams) == 1
        small = [new_blob() for _ in range(50)]
        async with asyncio.TaskGroup() as tasks:
            for each in small:
                data = noise(70 * KIB, each.segment)
                tasks.create_task(nodes.blobs.put(each, LABEL, data, digest(data)))
        for each in small:
            assert await nodes.blobs.fetch(each) == noise(70 * KIB, each.segment)
        assert len(peer.calls) <= 2


async def test_an_abandoned_blob_leaves_nothing_and_keeps_the_connection(certificates: Certificates) -> None:
    async with pair(caller=certificates, answerer=certificates) as nodes:
        blob = new_blob()
        async with nodes.blobs.create(blob, LABEL) as writer:
            await nodes.write(writer, noise(3 * MIB))
        assert (await nodes.blobs.usage()).blobs == 0
        assert await contents(nodes, await nodes.store(b"next")) == b"next"


async def test_nothing_of_a_body_and_of_the_secret_passes_in_the_clear(certificates: Certificates) -> None:
    seen = bytearray()

    def listen(data: bytes) -> bytes:
        seen.extend(data)
        return data

    words = b"nobody may read this " * 10_000
    async with pair(caller=certificates, answerer=certificates, relay=Relay(listen, listen)) as nodes:
        assert await contents(nodes, await nodes.store(words)) == words
    assert len(seen) > 2 * len(words)
    for hidden in (b"nobody may read", b"discloud", b"blobs.create", b"caller", *SECRET.keys.values()):
        assert hidden not in seen


@given(st.integers(0, 4000), st.integers(1, 255))
@settings(max_examples=25)
def test_a_changed_byte_ends_the_connection_and_is_never_data(
    certificates_of_module: Certificates, at: int, flip: int
) -> None:
    data = noise(200 * KIB)

    async def attempt() -> None:
        relay = Relay()
        both = certificates_of_module
        async with (
            pair(caller=both, answerer=both, relay=relay) as nodes,
            asyncio.timeout(DEADLINE),
        ):
            blob = await nodes.store(data)

            def harm(piece: bytes) -> bytes:
                if len(piece) <= at:
                    return piece
                relay.to_client = lambda data: data
                return piece[:at] + bytes([piece[at] ^ flip]) + piece[at + 1 :]

            def hurt() -> None:
                relay.to_client = harm

            got = bytearray()
            try:
                await nodes.read(blob, got, hurt)
            except PeerDown:
                pass
            else:
                # harmed between the answer and the body's end, or not at all
                assert bytes(got) == data
            assert data.startswith(bytes(got))
            relay.to_client = lambda data: data
            assert await nodes.read(blob, bytearray()) == data

    asyncio.run(attempt())


@pytest.fixture(scope="module")
def certificates_of_module(signer: Path, folder: Path) -> Certificates:
    return Certificates(files(signer, folder / "both"))


# ---- who does not fit


async def refusals(
    caller: Certificates | None, answerer: Certificates | None, caplog: pytest.LogCaptureFixture
) -> tuple[DiscloudError, list[dict[str, str]]]:
    """What greeting fails with, and the lines of both sides, each once however often it is tried."""
    with caplog.at_level(logging.INFO, "discloud"):
        async with pair(caller=caller, answerer=answerer) as nodes, asyncio.timeout(DEADLINE):
            failure: DiscloudError | None = None
            for _ in range(3):
                with pytest.raises(DiscloudError) as found:
                    await nodes.links.greet(Target(nodes.address))
                failure = failure or found.value
            await eventually(
                lambda: {"peer_refused", "peer_unreachable"} <= {each.message for each in caplog.records}
            )
            with pytest.raises(PeerDown):
                await nodes.blobs.usage()
    lines = [dict(record.fields, event=record.message) for record in caplog.records]  # type: ignore[attr-defined]
    assert failure is not None
    assert "PRIVATE" not in caplog.text
    return failure, lines


def told_by(lines: list[dict[str, str]], event: str) -> list[str]:
    return [line["reason"] for line in lines if line["event"] == event]


async def test_a_node_with_tls_refuses_one_without(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    failure, lines = await refusals(None, certificates, caplog)
    assert isinstance(failure, Invalid)
    assert "one of the two nodes speaks TLS and the other does not" in str(failure)
    assert "tls.authority" in failure.hint
    assert told_by(lines, "peer_refused") == [str(failure)]
    assert set(told_by(lines, "peer_unreachable")) == {str(failure)}


async def test_a_node_without_tls_refuses_one_with_it(
    certificates: Certificates, caplog: pytest.LogCaptureFixture
) -> None:
    failure, lines = await refusals(certificates, None, caplog)
    assert isinstance(failure, Invalid)
    assert "one of the two nodes speaks TLS and the other does not" in str(failure)
    assert told_by(lines, "peer_refused") == [str(failure)]
    assert set(told_by(lines, "peer_unreachable")) == {str(failure)}


async def test_a_caller_of_another_authority_is_refused(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = authority(tmp_path, "stranger")
    shown = files(stranger, tmp_path / "strange")
    # it believes the right authority and cannot show a certificate of it
    caller = Unchecked(type(shown)(shown.cert, shown.key, certificates._files.authority))
    failure, lines = await refusals(caller, certificates, caplog)
    assert isinstance(failure, Unauthenticated)
    assert "the other node refuses this node's certificate: unknown ca" in str(failure)
    assert ["the other node's certificate is refused: unable to get local issuer certificate" in line
            for line in told_by(lines, "peer_refused")] == [True]  # fmt: skip


async def test_a_called_node_of_another_authority_is_refused(
    certificates: Certificates, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Certificates(files(authority(tmp_path, "stranger"), tmp_path / "strange"))
    failure, lines = await refusals(certificates, stranger, caplog)
    assert isinstance(failure, Unauthenticated)
    assert "the other node's certificate is refused: self-signed certificate in" in str(failure)
    assert "the other node refuses this node's certificate" in told_by(lines, "peer_refused")[0]


@pytest.mark.parametrize("who", ["caller", "answerer"])
async def test_a_certificate_that_ended_is_refused(
    certificates: Certificates, signer: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, who: str
) -> None:
    ended = Unchecked(files(signer, tmp_path / "ended", days_ago=500))
    both = (ended, certificates) if who == "caller" else (certificates, ended)
    failure, lines = await refusals(both[0], both[1], caplog)
    assert isinstance(failure, Unauthenticated)
    assert "certificate" in str(failure)
    assert "expired" in str(failure)
    assert "expired" in told_by(lines, "peer_refused")[0]


async def test_a_caller_without_a_certificate_is_refused(certificates: Certificates) -> None:
    """Also one that believes the right authority: the greeting is never reached."""
    async with pair(answerer=certificates) as nodes, asyncio.timeout(DEADLINE):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        assert certificates._files.authority
        context.load_verify_locations(certificates._files.authority)
        with socket.create_connection(("127.0.0.1", nodes.server.port)) as sock:
            tune(sock)
            channel = TlsChannel(sock, context, accepting=False)
            await channel.handshake()  # TLS 1.3: the caller learns it with the first answer
            with pytest.raises(Unauthenticated, match="certificate required"):
                await channel.receive(100)


async def test_the_secret_is_still_asked_for(certificates: Certificates) -> None:
    async with pair(caller=certificates, answerer=certificates) as nodes, asyncio.timeout(DEADLINE):
        other = Links(
            Identity(ClusterSecret(b"another secret of 16+ bytes"), CALLER), certificates=certificates
        )
        with pytest.raises(Unauthenticated, match="different cluster secrets"):
            await other.greet(Target(nodes.address))
        await other.close()
        assert (await nodes.blobs.usage()).blobs == 0


async def test_a_stranger_that_says_nothing_costs_a_greeting(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discloud.peer.server.GREETING", 0.05)
    async with pair(caller=certificates, answerer=certificates) as nodes, asyncio.timeout(DEADLINE):
        with socket.create_connection(("127.0.0.1", nodes.server.port)) as silent:
            silent.setblocking(False)
            assert await asyncio.get_running_loop().sock_recv(silent, 10) == b""
        assert (await nodes.blobs.usage()).blobs == 0


# ---- new certificates while bytes move


async def test_a_new_certificate_under_load(
    signer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is open goes on with the old one; the connections made after it show the new one."""
    certificates = Certificates(files(signer, tmp_path / "n"))
    shown: list[str] = []
    handshake = TlsChannel.handshake

    async def noted(self: TlsChannel) -> None:
        await handshake(self)
        found = self._tls.getpeercert() or {}
        shown.append(str(found["serialNumber"]))

    monkeypatch.setattr(TlsChannel, "handshake", noted)
    data = noise(4 * MIB)
    async with pair(caller=certificates, answerer=certificates) as nodes, asyncio.timeout(DEADLINE):
        first = certificates.serial
        blob = await nodes.store(data)
        async with nodes.blobs.open(blob) as reader, nodes.blobs.create(new_blob(), LABEL) as writer:
            got = await reader.read(MIB)
            await nodes.write(writer, data[:MIB])
            assert set(shown) == {first}
            second = sign(signer, tmp_path / "n").serial
            assert await certificates.run_once()
            # both connections are busy: these transfers make new ones
            before = len(shown)
            assert await contents(nodes, await nodes.store(data)) == data
            assert set(shown[before:]) == {second}
            while piece := await reader.read(MIB):
                got += piece
            await nodes.write(writer, data[MIB:])
            assert (await writer.commit(digest(data))).length == len(data)
        assert got == data


# ---- the channel itself


async def test_what_arrived_with_a_record_is_found_without_a_socket_event(
    certificates: Certificates,
) -> None:
    """Many messages may come in one piece: none of them waits for the next byte on the socket."""
    near, far = socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    with near, far:
        one, other = await asyncio.gather(
            protected(near, certificates, accepting=False), protected(far, certificates, accepting=True)
        )
        assert one.source(10) is None
        assert other.pending() is None
        await one.send(b"abc")
        await one.send(b"defgh" * 10_000)
        assert other.pending() == b"a"
        assert other.pending() == b"a"
        buffer = bytearray(3)
        other.fill(buffer, 5.0)
        assert bytes(buffer) == b"abc"
        got = b""
        while len(got) < 50_000:
            got += await other.receive(7_001)
        assert got == b"defgh" * 10_000
        with pytest.raises(BlockingIOError):
            other.take_into(memoryview(bytearray(10)))
        one.close()
        assert other.pending() == b""
        assert await other.receive(10) == b""


async def test_the_end_of_a_body_may_have_come_with_its_last_bytes(certificates: Certificates) -> None:
    """The worker gives its turn away after 8 MiB: what TLS holds by then never wakes the selector."""
    near, far = socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    data = noise(8 * MIB)
    blobs, pool = MemoryBlobs(), Threads("holder", 1)
    with near, far:
        one, other = await asyncio.gather(
            protected(near, certificates, accepting=False), protected(far, certificates, accepting=True)
        )
        async with blobs.create(new_blob(), LABEL) as writer, asyncio.timeout(DEADLINE):
            body = Body(other, writer, Pace(DEADLINE, 1e6), "the test")
            _, found = await asyncio.gather(
                one.send(LENGTH.pack(len(data)) + data + LENGTH.pack(0)), body.receive(pool)
            )
        assert found == digest(data)
    pool.close()


async def test_a_sender_that_rests_in_the_middle_of_a_record(certificates: Certificates) -> None:
    """What has come of a record is not in the socket any more: fewer bytes than the body lacks must wake the reader."""
    data = noise(256 * KIB)
    blobs, pool = MemoryBlobs(), Threads("holder", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    for each in (near, far):
        tune(each)
    with near, far:
        one, other = await asyncio.gather(
            protected(near, certificates, accepting=False), protected(far, certificates, accepting=True)
        )
        assert isinstance(one, TlsChannel)
        async with blobs.create(new_blob(), LABEL) as writer, asyncio.timeout(DEADLINE):
            body = Body(other, writer, Pace(DEADLINE, 1e6), "the test")
            received = asyncio.create_task(body.receive(pool))
            sealed = one.seal(LENGTH.pack(len(data)) + data)
            await Channel(near).send(sealed[:-50])
            await eventually(lambda: body._wake > 1 and body.length > len(data) - 20 * KIB)
            await Channel(near).send(sealed[-50:])
            await eventually(lambda: body.length == len(data))
            await one.send(LENGTH.pack(0))
            assert await received == digest(data)
    pool.close()


class Listener(asyncio.Protocol):
    """Takes what comes."""

    def __init__(self) -> None:
        self.got = b""

    def data_received(self, data: bytes) -> None:
        self.got += data


async def test_what_came_with_the_greeting_is_the_protocol_s(certificates: Certificates) -> None:
    near, far = socket.socketpair()
    for each in (near, far):
        each.setblocking(False)
    with near, far:
        one, other = await asyncio.gather(
            protected(near, certificates, accepting=False), protected(far, certificates, accepting=True)
        )
        await one.send(b"greeting, call")
        assert await other.receive(8) == b"greeting"
        listener = await other.attach(Listener)
        await eventually(lambda: listener.got == b", call")
        await one.send(b" again")
        await eventually(lambda: listener.got == b", call again")


async def test_in_the_clear_nothing_is_between_the_bytes_and_the_socket() -> None:
    near, far = socket.socketpair()
    with near, far:
        assert type(await protected(near, None, accepting=False)) is Channel
        source = Channel(near).source(7)
        assert source is not None
        assert source.fd == near.fileno()
