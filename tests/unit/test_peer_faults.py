"""A bad network: connections are cut at random while many work; what was acknowledged is there, the rest failed clearly."""

import asyncio
import random
from contextlib import suppress

import pytest

from discloud.core.model import BlobId
from discloud.errors import NoSuchBlob, Unavailable
from discloud.peer.handshake import Identity
from discloud.peer.links import GREETINGS, Links, Target
from tests.support.peer_loopback import (
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


class Chaos:
    """Cuts a connection at about every ``every``-th piece, if it is on."""

    def __init__(self, seed: int, every: int) -> None:
        self._random = random.Random(seed)
        self._every = every
        self.on = True

    def __call__(self, data: bytes) -> bytes | None:
        return None if self.on and self._random.randrange(self._every) == 0 else data


@pytest.mark.parametrize("seed", range(4))
async def test_what_was_acknowledged_is_there_and_nothing_else_ever_comes_back(seed: int) -> None:
    chaos = Chaos(seed, 40)
    relay = Relay(to_server=chaos, to_client=chaos)
    kept: dict[BlobId, bytes] = {}
    failed: dict[BlobId, bytes] = {}

    async def work(nodes: Pair, number: int) -> None:
        data = noise(random.Random(number).choice([0, 10, 5000, 300_000, 2_000_000]), number)
        blob = new_blob()
        try:
            if len(data) <= 300_000 and number % 2:
                await nodes.blobs.put(blob, LABEL, data, digest(data))
            else:
                await nodes.store(data, blob)
            kept[blob] = data
            assert await nodes.read(blob, bytearray()) == data
        except Unavailable:
            failed.setdefault(blob, data)

    async with pair(relay=relay) as nodes, asyncio.timeout(60):
        for start in range(0, 160, 16):
            await asyncio.gather(*(work(nodes, number) for number in range(start, start + 16)))
        chaos.on = False
        assert kept
        assert failed
        for blob, data in kept.items():
            assert await patiently(lambda blob=blob: nodes.read(blob, bytearray())) == data  # type: ignore[misc]
        for blob, data in failed.items():
            if blob not in kept:  # it may have happened, whole, or not at all
                with suppress(NoSuchBlob):
                    assert await nodes.read(blob, bytearray()) == data
        assert (await nodes.local.usage()).reserved == 0


async def test_cancelling_anywhere_leaves_nothing_behind() -> None:
    async with pair() as nodes, asyncio.timeout(60):
        data = noise(3_000_000)
        known = await nodes.store(data)
        before = (await nodes.blobs.usage()).blobs
        for step in range(0, 60, 3):
            tasks = [
                asyncio.create_task(nodes.store(data)),
                asyncio.create_task(nodes.read(known, bytearray())),
                asyncio.create_task(nodes.blobs.fetch(known, 0, 1000)),
            ]
            for _ in range(step):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert await nodes.read(known, bytearray()) == data
        usage = await nodes.local.usage()
        while usage.reserved:
            await asyncio.sleep(0.005)
            usage = await nodes.local.usage()
        assert usage.blobs >= before


async def test_a_peer_is_greeted_by_so_many_at_once_and_the_others_wait_for_their_turn() -> None:
    """A hundred handshakes at once would all be late; here nobody answers them."""
    accepted = 0

    async def greets_nobody(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        while await reader.read(4096):
            pass
        writer.close()

    async def transfer() -> None:
        async with links.exchange(target, "blobs.fetch", [], 60.0):
            raise AssertionError("nobody answers")

    links = Links(Identity(SECRET, CALLER))
    async with await asyncio.start_server(greets_nobody, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = Target(f"127.0.0.1:{port}")
        transfers = [asyncio.create_task(transfer()) for _ in range(2 * GREETINGS)]
        await eventually(lambda: accepted >= GREETINGS)
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        await eventually(lambda: accepted > GREETINGS)
        assert accepted == GREETINGS + 1
        writer.close()
        for each in transfers[:GREETINGS]:
            each.cancel()
        await eventually(lambda: accepted == 2 * GREETINGS + 1)
        for each in transfers:
            each.cancel()
        await asyncio.gather(*transfers, return_exceptions=True)
        await links.close()
