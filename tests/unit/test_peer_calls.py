"""Many calls over few connections: pipelined, bounded, forgotten when cancelled, failed at once when the connection is lost."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest

from discloud import logs
from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.core.model import BlobId, NodeId, Stored
from discloud.errors import Conflict, Invalid, NoSuchBlob, PeerDown, TooLarge, Unauthenticated, Unavailable
from discloud.peer.blobs import PeerBlobs
from discloud.peer.calls import AnswerLost
from discloud.peer.channel import Channel
from discloud.peer.handshake import ClusterSecret, Identity, Kind, greet
from discloud.peer.links import Links, Target, tune
from discloud.peer.served_calls import AT_ONCE, ServedCalls
from discloud.peer.server import PeerServer
from discloud.peer.wire import CALL, Incoming, Outgoing
from discloud.ports import SMALL, Usage
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
)

QUICK = Pace(0.3, 1e9)


class GatedBlobs(MemoryBlobs):
    """Blobs whose stat waits at a gate, and which count who is inside."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.inside = self.most = self.served = 0

    async def stat(self, blob: BlobId) -> Stored:
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            await self.gate.wait()
            self.served += 1
            return await super().stat(blob)
        finally:
            self.inside -= 1


@pytest.fixture
async def both() -> AsyncIterator[Pair]:
    async with pair() as nodes:
        yield nodes


async def test_a_small_blob_goes_there_and_back(both: Pair) -> None:
    blob, data = new_blob(), noise(4096)
    stored = await both.blobs.put(blob, LABEL, data, digest(data))
    assert stored == await both.local.stat(blob) == await both.blobs.stat(blob)
    assert await both.blobs.fetch(blob) == data
    assert await both.blobs.fetch(blob, 100, 50) == data[100:150]
    await both.blobs.delete(blob)
    with pytest.raises(NoSuchBlob):
        await both.blobs.fetch(blob)


@pytest.mark.parametrize("length", [0, 1, SMALL])
async def test_a_put_of_any_small_size(both: Pair, length: int) -> None:
    blob, data = new_blob(), noise(length)
    await both.blobs.put(blob, LABEL, data, digest(data))
    assert await both.blobs.fetch(blob) == data


async def test_too_large_for_a_call_is_an_error_and_the_connection_goes_on(both: Pair) -> None:
    with pytest.raises(TooLarge):
        await both.blobs.put(new_blob(), LABEL, bytes(SMALL + 1), b"")
    with pytest.raises(TooLarge):  # over the limit of a frame: refused before it is sent
        await both.blobs.put(new_blob(), LABEL, bytes(33 << 20), b"")
    assert (await both.blobs.usage()).blobs == 0


async def test_a_thousand_calls_at_once_share_two_connections() -> None:
    relay = Relay()
    async with pair(relay=relay) as nodes:
        blobs = {new_blob(): noise(200, seed) for seed in range(20)}
        for blob, data in blobs.items():
            await nodes.blobs.put(blob, LABEL, data, digest(data))
        asked = list(blobs) * 50
        found = await asyncio.gather(*map(nodes.blobs.fetch, asked))
        assert found == [blobs[blob] for blob in asked]
        assert relay.connections == 2


async def test_no_more_calls_of_a_connection_run_than_allowed_and_all_are_answered() -> None:
    local = GatedBlobs()
    async with pair(local, connections=1) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        calls = [asyncio.create_task(nodes.blobs.stat(blob)) for _ in range(AT_ONCE * 3)]
        await eventually(lambda: local.inside == AT_ONCE)
        local.gate.set()
        await asyncio.gather(*calls)
        assert local.most == AT_ONCE


async def test_a_cancelled_call_is_forgotten_and_disturbs_no_other() -> None:
    local = GatedBlobs()
    async with pair(local, connections=1) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        waiting = [asyncio.create_task(nodes.blobs.stat(blob)) for _ in range(20)]
        await eventually(lambda: local.inside == 20)
        for task in waiting[::2]:
            task.cancel()
        assert await nodes.blobs.fetch(blob) == b"x"
        local.gate.set()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in results[::2])
        assert all(isinstance(each, Stored) for each in results[1::2])
        await eventually(lambda: local.served == 20)
        assert await nodes.blobs.fetch(blob) == b"x"


async def test_a_call_ends_at_its_deadline_and_the_answering_node_stops_too() -> None:
    local = GatedBlobs()
    async with pair(local, pace=QUICK) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        with pytest.raises(Unavailable):
            await nodes.blobs.stat(blob)
        await eventually(lambda: local.inside == 0)
        assert await nodes.blobs.fetch(blob) == b"x"


async def test_a_silent_peer_costs_the_deadline_and_may_have_done_it() -> None:
    relay = Relay()
    async with pair(relay=relay, pace=QUICK) as nodes:
        await nodes.blobs.usage()
        relay.open.clear()
        with pytest.raises(AnswerLost):
            await nodes.blobs.usage()
        assert relay.connections == 1
        relay.open.set()


async def test_a_connection_that_fell_silent_is_replaced() -> None:
    """A firewall that forgot the connection: nothing comes, nothing is refused."""
    relay = Relay()
    async with pair(relay=relay, pace=QUICK, connections=1) as nodes:
        await nodes.blobs.usage()
        relay.to_client = lambda _: b""
        with pytest.raises(AnswerLost):
            await nodes.blobs.usage()
        relay.to_client = lambda data: data
        assert (await nodes.blobs.usage()).blobs == 0
        assert relay.connections == 2
        await nodes.blobs.usage()
        assert relay.connections == 2


async def test_a_host_of_several_addresses_is_reached_at_the_one_that_answers(both: Pair) -> None:
    """localhost is ::1 and 127.0.0.1; the server listens on one of them."""
    blobs = PeerBlobs(both.links, f"localhost:{both.server.port}", Pace(5.0, 1e6))
    assert (await blobs.usage()).blobs == 0


async def test_a_lost_connection_fails_its_calls_at_once_and_is_made_again() -> None:
    relay, local = Relay(), GatedBlobs()
    patient = Pace(1000.0, 1e6)  # nothing here ends by its deadline
    async with pair(local, relay=relay, connections=1, pace=patient) as nodes, asyncio.timeout(20):
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        calls = [asyncio.create_task(nodes.blobs.stat(blob)) for _ in range(10)]
        await eventually(lambda: local.inside == 10)
        relay.cut()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, AnswerLost) for each in results)
        local.gate.set()
        assert (await nodes.blobs.stat(blob)).length == 1
        assert relay.connections == 2


async def test_an_unreachable_peer_is_left_alone_for_a_moment_and_then_found_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    now = [0.0]
    links = Links(Identity(SECRET, CALLER), clock=lambda: now[0])
    blobs = PeerBlobs(links, f"127.0.0.1:{port}", Pace(5.0, 1e6))
    with pytest.raises(PeerDown, match="Connection refused"):
        await blobs.usage()
    with pytest.raises(PeerDown, match="a moment ago"):
        await blobs.usage()
    async with pair() as nodes:
        server = PeerServer(
            Identity(SECRET, ANSWERER, "mesh"), nodes.local, nodes.holder_threads, Pace(5.0, 1e6)
        )
        await server.start("127.0.0.1", port)
        now[0] += 1.0
        assert (await blobs.usage()).blobs == 0
        await links.close()
        await server.close()


async def test_errors_of_the_network_are_never_a_definite_answer() -> None:
    """NotFound is definite (ports): a node that cannot be asked must not give it."""
    relay = Relay(to_client=lambda _: None)
    async with pair(relay=relay) as nodes:
        with pytest.raises(Unavailable):
            await nodes.blobs.stat(new_blob())


async def test_a_fault_inside_a_call_is_unavailable_and_the_connection_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class FaultyBlobs(MemoryBlobs):
        async def usage(self) -> Usage:
            raise ZeroDivisionError

    async with pair(FaultyBlobs()) as nodes:
        with pytest.raises(Unavailable, match="failed inside"):
            await nodes.blobs.usage()
        blob = await nodes.store(b"more")
        assert (await nodes.blobs.stat(blob)).length == 4
    assert [record.message for record in caplog.records].count("peer_call_failed") == 1


async def test_request_and_trace_travel_with_the_call() -> None:
    seen: list[tuple[str, str]] = []

    class Watching(MemoryBlobs):
        async def usage(self) -> Usage:
            seen.append((logs.REQUEST.get(), logs.TRACE.get()))
            return await super().usage()

    async def ask(nodes: Pair, request: str) -> None:
        logs.REQUEST.set(request)
        logs.TRACE.set(f"00-{request}")
        await nodes.blobs.usage()

    async with pair(Watching()) as nodes:
        await asyncio.gather(*(asyncio.create_task(ask(nodes, f"r{number}")) for number in range(5)))
        await nodes.blobs.usage()
    assert sorted(seen) == [("", ""), *((f"r{number}", f"00-r{number}") for number in range(5))]


async def test_a_slow_reader_does_not_fill_the_answering_nodes_memory() -> None:
    """A caller that never reads: the server takes no more calls than its window once its answers are not read."""
    served = [0]

    class Counting(MemoryBlobs):
        async def fetch(self, *arguments: object, **named: object) -> bytes:
            served[0] += 1
            return await super().fetch(*arguments, **named)  # type: ignore[arg-type]

    async with pair(Counting()) as nodes:
        blob, data = new_blob(), noise(SMALL)
        await nodes.blobs.put(blob, LABEL, data, digest(data))
        with socket.create_connection(("127.0.0.1", nodes.server.port)) as sock:
            tune(sock)
            session = await greet(Channel(sock), Identity(SECRET, CALLER, "mesh"), Kind.CALLS)
            outgoing = Outgoing(session.send_key)
            record = [[blob.version, blob.segment, blob.fragment]]
            loop = asyncio.get_running_loop()
            for number in range(300):
                frame = outgoing.frame([CALL, number, "blobs.fetch", record, 30_000, "", ""])
                await loop.sock_sendall(sock, frame)
            assert await nodes.blobs.fetch(blob) == data  # others are served meanwhile
            await eventually(lambda: any(not each.is_reading() for each in _served(nodes)))
            assert served[0] <= 2 * AT_ONCE
            assert max(each.get_write_buffer_size() for each in _served(nodes)) < 2 * SMALL
            incoming, answers = Incoming(session.receive_key), 0
            while answers < 300:
                answers += len(incoming.feed(await loop.sock_recv(sock, 1 << 20)))
        assert served[0] >= 300


async def test_more_calls_than_may_run_stay_with_their_sender() -> None:
    class Stuck(MemoryBlobs):
        inside = 0
        gate = asyncio.Event()

        async def put(self, *arguments: object, **named: object) -> Stored:
            Stuck.inside += 1
            await self.gate.wait()
            return await super().put(*arguments, **named)  # type: ignore[arg-type]

    async with pair(Stuck(), connections=1) as nodes:
        data = noise(SMALL // 4)
        hash = digest(data)
        calls = [
            asyncio.create_task(nodes.blobs.put(new_blob(), LABEL, data, hash)) for _ in range(AT_ONCE * 4)
        ]
        await eventually(lambda: Stuck.inside == AT_ONCE)
        await eventually(lambda: not any(each.is_reading() for each in _served(nodes)))
        waiting = sum(len(each._waiting) for each in _connections(nodes))
        assert waiting < 5  # what came with the last piece that was read
        Stuck.gate.set()
        await asyncio.gather(*calls)


def _connections(nodes: Pair) -> list[ServedCalls]:
    return [each for each in nodes.server._serving if isinstance(each, ServedCalls)]


def _served(nodes: Pair) -> list[asyncio.Transport]:
    return [each._transport for each in _connections(nodes) if each._transport]


async def test_a_slow_server_does_not_fill_the_callers_memory() -> None:
    relay = Relay()
    async with pair(relay=relay, connections=1) as nodes:
        await nodes.blobs.usage()
        relay.open.clear()
        data = noise(SMALL)
        written: list[int] = []

        async def put() -> None:
            await nodes.blobs.put(new_blob(), LABEL, data, digest(data))

        calls = [asyncio.create_task(put()) for _ in range(64)]
        for _ in range(50):
            await asyncio.sleep(0)
            written.append(_buffered(nodes.links))
        relay.open.set()
        while not all(call.done() for call in calls):
            await asyncio.sleep(0)
            written.append(_buffered(nodes.links))
        await asyncio.gather(*calls)
        assert SMALL // 2 < max(written) < 2 * SMALL  # one frame more than the high-water mark


def _buffered(links: Links) -> int:
    transports = (each._transport for peer in links._peers.values() for each in peer.calls)
    return sum(transport.get_write_buffer_size() for transport in transports if transport)


async def test_unknown_calls_and_parts_are_told_apart(both: Pair) -> None:
    target = Target(both.address)
    with pytest.raises(Invalid, match="no call"):
        await both.links.call(target, "blobs.explode", [], 5.0)
    with pytest.raises(Unavailable, match="does not answer"):
        await both.links.call(target, "versions.get", ["b", "k"], 5.0)
    with pytest.raises(Invalid, match="kind of connection"):
        await both.links.call(target, "blobs.walk", [], 5.0)


async def test_refusals_are_peer_down_to_callers_and_clear_to_whoever_joins(
    both: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = Links(Identity(ClusterSecret(b"y" * 32), CALLER))
    now = [0.0]
    lost = Links(Identity(SECRET, CALLER, "another mesh"), clock=lambda: now[0])
    with caplog.at_level(logging.WARNING, "discloud"):
        with pytest.raises(PeerDown, match="different cluster secrets"):
            await PeerBlobs(stranger, both.address, Pace(5.0, 1e6)).usage()
        for _ in range(3):
            now[0] += 60.0
            with pytest.raises(Conflict, match="different meshes"):
                await lost.greet(Target(both.address))
        with pytest.raises(Unauthenticated):
            await stranger.greet(Target(both.address))
    events = [record.message for record in caplog.records]
    assert events.count("peer_refused") == 2  # once for each reason, by the node that refuses
    assert events.count("peer_unreachable") == 2  # and by the ones that were refused
    await stranger.close()
    await lost.close()


async def test_another_node_at_a_known_address_gets_no_call(both: Pair) -> None:
    wrong = PeerBlobs(both.links, both.address, Pace(5.0, 1e6), NodeId("somebody else"))
    with pytest.raises(PeerDown, match="somebody else was called"):
        await wrong.put(new_blob(), LABEL, b"x", digest(b"x"))
    assert (await both.blobs.usage()).blobs == 0


async def test_closed_links_refuse_and_their_calls_fail() -> None:
    local = GatedBlobs()
    async with pair(local) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        call = asyncio.create_task(nodes.blobs.stat(blob))
        await eventually(lambda: local.inside == 1)
        await nodes.links.close()
        with pytest.raises(PeerDown):
            await call
        with pytest.raises(Unavailable):
            await nodes.blobs.stat(blob)
        local.gate.set()


async def test_a_closing_server_answers_what_runs_and_refuses_the_rest() -> None:
    local = GatedBlobs()
    async with pair(local) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        call = asyncio.create_task(nodes.blobs.stat(blob))
        await eventually(lambda: local.inside == 1)
        closing = asyncio.create_task(nodes.server.close(grace=1000.0))
        await asyncio.sleep(0)
        local.gate.set()
        assert (await call).length == 1
        async with asyncio.timeout(20):  # idle connections do not wait for the grace
            await closing
        with pytest.raises(Unavailable):
            await nodes.blobs.usage()


async def test_a_closing_server_cuts_what_does_not_end_within_its_grace() -> None:
    local = GatedBlobs()
    async with pair(local) as nodes:
        blob = new_blob()
        await nodes.blobs.put(blob, LABEL, b"x", digest(b"x"))
        call = asyncio.create_task(nodes.blobs.stat(blob))
        await eventually(lambda: local.inside == 1)
        await nodes.server.close(grace=0.05)
        with pytest.raises(AnswerLost):
            await call
        assert local.inside == 0
        await eventually(
            lambda: not any(each.usable for peer in nodes.links._peers.values() for each in peer.calls)
        )


async def test_a_server_may_be_closed_at_once_and_again(both: Pair) -> None:
    server = PeerServer(Identity(SECRET, ANSWERER, "mesh"), both.local, both.holder_threads, QUICK)
    await server.close()
    await server.start("127.0.0.1", 0)
    port = server.port
    async with asyncio.timeout(20):
        await server.close(grace=1000.0)
        await server.close(grace=1000.0)
    again = PeerServer(Identity(SECRET, ANSWERER, "mesh"), both.local, both.holder_threads, QUICK)
    await again.start("127.0.0.1", port)
    await again.close()


async def test_a_taken_port_is_one_clear_error(both: Pair) -> None:
    second = PeerServer(Identity(SECRET, ANSWERER, "mesh"), both.local, both.holder_threads, QUICK)
    with pytest.raises(Conflict, match="--port"):
        await second.start("127.0.0.1", both.server.port)
