"""Roots at a real Redis that stops, hangs, is full, flushed, read-only, closed to them or used by others: nobody notices."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgpack
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from discloud import metrics
from discloud.adapters.beats_value import LIMIT, Told, open_beats, seal_beats
from discloud.adapters.redis_membership import RedisMembership, RedisReport
from discloud.core.mesh_time import ClockVotes
from discloud.core.model import Beat, Node, NodeId, Role
from discloud.errors import Invalid
from tests.support.redis_server import RedisServer
from tests.support.servers import redis_server

KEY, OLD_KEY = b"k" * 32, b"o" * 32
NODE = Node(NodeId("n"), "n", Role.ORDINARY, "n:1", "n:2", "h", capacity=100, incarnation=1)
HIDDEN = "the-password"


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with redis_server() as server:
        yield server


class Roots:
    """Two roots of one mesh at a Redis. Each hears one node of its own."""

    def __init__(self, url: str) -> None:
        self.url, self.mesh = url, str(uuid.uuid4())
        self.votes = ClockVotes()
        self.made: list[RedisMembership] = []
        self.a, self.b = self.make("a"), self.make("b")
        self.beat = 0

    def make(self, name: str, *keys: bytes, mesh: str = "") -> RedisMembership:
        made = RedisMembership(
            self.url, mesh or self.mesh, NodeId(name), keys or (KEY,), votes=self.votes, patience=0.3
        )
        self.made.append(made)
        return made

    async def go_on(self) -> tuple[RedisReport, RedisReport]:
        """A period: every node beats, both roots write and read; then each has heard of both nodes if Redis let them."""
        self.beat += 1
        for root, name in ((self.a, "na"), (self.b, "nb")):
            await root.announce(replace(NODE, id=NodeId(name), name=name, beat=self.beat))
        return await self.a.run_once(), await self.b.run_once()

    async def meet(self) -> None:
        """Fail unless each comes to hear the other's latest beat.

        A run takes too long now and then on a busy machine, and right after a stall a beat may seem older than the one before.
        """
        end = time.monotonic() + 20
        while True:
            await self.go_on()
            await self.a.run_once()
            heard = [{(node.id, node.beat) for node in root.view().nodes} for root in (self.a, self.b)]
            if heard == [{("na", self.beat), ("nb", self.beat)}] * 2:
                return
            assert time.monotonic() < end, f"beat {self.beat}: {heard}"


@asynccontextmanager
async def two_roots(url: str) -> AsyncIterator[Roots]:
    roots = Roots(url)
    try:
        yield roots
    finally:
        for each in roots.made:
            await each.close()


async def test_roots_see_each_others_nodes_and_redis_time(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        await roots.meet()
        roots.votes.note("another root", 0.0, time.monotonic())
        assert abs(roots.votes.offset(time.monotonic())) < 5


async def test_meshes_share_a_redis(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        await roots.meet()
        stranger = roots.make("a", mesh="another mesh")
        await stranger.announce(NODE)
        assert (await stranger.run_once()).roots == 0
        await roots.meet()


async def test_keys_end_with_their_root_and_a_goodbye_travels(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        await roots.meet()
        await roots.a.leave(NodeId("na"))
        await roots.a.run_once()
        await roots.b.run_once()
        assert {node.id: node.state.value for node in roots.b.view().nodes} == {"na": "down", "nb": "alive"}
        key = f"discloud:{roots.mesh}:root:a"
        assert 0 < int(redis.command("PTTL", key)[1:]) <= 5000
        assert redis.command("DEL", key) == b":1\r\n"  # what its end does
        await roots.b.run_once()
        await roots.b.run_once()
        assert redis.command("SMEMBERS", f"discloud:{roots.mesh}:roots") == b"*1\r\n$1\r\nb\r\n"


def kill(redis: RedisServer) -> None:
    redis.kill()


def pause(redis: RedisServer) -> None:
    redis.pause()


def fill(redis: RedisServer) -> None:
    redis.command("CONFIG", "SET", "maxmemory", "1")


def demote(redis: RedisServer) -> None:
    redis.command("REPLICAOF", "127.0.0.1", "1")


HARM: dict[str, tuple[Callable[[RedisServer], object], Callable[[RedisServer], object]]] = {
    "killed": (kill, lambda redis: redis.start()),
    "paused": (pause, lambda redis: redis.resume()),
    "full": (fill, lambda redis: redis.command("CONFIG", "SET", "maxmemory", "0")),
    "read-only": (demote, lambda redis: redis.command("REPLICAOF", "NO", "ONE")),
}


@pytest.mark.parametrize("harm", HARM)
async def test_a_redis_that_fails_is_gone_on_without_and_used_again(
    redis: RedisServer, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "discloud")
    do, undo = HARM[harm]
    async with two_roots(redis.url) as roots:
        await roots.meet()
        await asyncio.to_thread(do, redis)
        for _ in range(3):
            assert not any(report.written for report in await roots.go_on())
        for root, name in ((roots.a, "na"), (roots.b, "nb")):
            mine = root.view().find(NodeId(name))
            assert mine is not None
            assert mine.beat == roots.beat, "announce never waits for Redis"
        assert sum(record.message == "redis_in_trouble" for record in caplog.records) == 2
        await asyncio.to_thread(undo, redis)
        await roots.meet()
        assert sum(record.message == "redis_works_again" for record in caplog.records) == 2


async def test_a_flushed_redis_is_filled_again(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        await roots.meet()
        redis.flush()
        await roots.meet()


async def test_a_redis_full_of_other_peoples_keys(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        await roots.meet()
        redis.command("EVAL", "for i = 1, 200000 do redis.call('SET', 'other:' .. i, i) end", "0")
        await roots.meet()


async def test_a_wrong_password_is_told_without_it(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis.command("ACL", "SETUSER", "default", "resetpass", ">another")
    url = redis.url.replace("://", f"://:{HIDDEN}@")
    async with two_roots(url) as roots:
        assert await roots.go_on() == (RedisReport(answered=False),) * 2
        assert (await roots.a.announce(NODE)).find(NODE.id) == NODE
    assert "redis_in_trouble" in caplog.text
    assert HIDDEN not in caplog.text + str([getattr(record, "fields", "") for record in caplog.records])


async def test_a_run_ends_when_it_is_cancelled_at_any_moment(redis: RedisServer) -> None:
    """Also in the one in which an answer comes: what goes on then is a service that keeps its node from ending."""

    async def on_and_on(root: RedisMembership) -> None:
        while True:
            await root.run_once()

    async with two_roots(redis.url) as roots:
        for moment in range(600):
            running = asyncio.create_task(on_and_on(roots.a))
            for _ in range(moment % 40):
                await asyncio.sleep(0)
            running.cancel()
            _, on = await asyncio.wait({running}, timeout=10)
            assert not on, moment
            assert running.cancelled(), running.exception()


async def test_what_is_no_redis_at_all() -> None:
    answered = asyncio.Event()

    def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\xfe")
        answered.set()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, two_roots(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0") as roots:
        assert await roots.go_on() == (RedisReport(answered=False),) * 2
        assert answered.is_set()


@pytest.mark.parametrize("url", [f"http://x:{HIDDEN}@y", f"redis://:{HIDDEN}@host:port/0", HIDDEN])
def test_a_url_that_cannot_be_read_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(Invalid, match="redis://") as caught:
        RedisMembership(url, "mesh", NodeId("a"), [KEY])
    assert HIDDEN not in str(caught.value)


# ---------------------------------------------------------------- what others put under our names


def value(mesh: str, root: str, key: bytes = KEY, beat: int = 10**6) -> bytes:
    beats = (Beat(replace(NODE, id=NodeId("forged"), beat=beat), 0.0),)
    return seal_beats(Told(mesh, NodeId(root), 5.0, beats), key)


async def put(redis: RedisServer, key: str, data: bytes, *more: bytes) -> None:
    reader, writer = await asyncio.open_connection(redis.host, redis.port)
    words = [b"SET", key.encode(), data, *more]
    writer.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
    assert await reader.readline() == b"+OK\r\n"
    writer.close()


FOREIGN: dict[str, Callable[[str], bytes]] = {
    "text": lambda mesh: b"hello",
    "another mesh's": lambda mesh: value("another", "c"),
    "another root's": lambda mesh: value(mesh, "a"),
    "another secret's": lambda mesh: value(mesh, "c", b"x" * 32),
    "flipped": lambda mesh: value(mesh, "c")[:-1] + b"\x01",
    "cut": lambda mesh: value(mesh, "c")[:-9],
    "too long": lambda mesh: b"\x01" + bytes(LIMIT + 5),
    "not a list": lambda mesh: sealed(msgpack.packb({"a": 1})),
    "not msgpack": lambda mesh: sealed(b"\xc1\xc1"),
}


def sealed(body: bytes) -> bytes:
    return b"\x01" + blake3(body, key=KEY).digest() + body


@pytest.mark.parametrize("kind", FOREIGN)
async def test_foreign_values_are_ignored_counted_and_told_once(
    redis: RedisServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with two_roots(redis.url) as roots:
        await put(redis, f"discloud:{roots.mesh}:root:c", FOREIGN[kind](roots.mesh), b"PX", b"4000")
        redis.command("SADD", f"discloud:{roots.mesh}:roots", "c")
        before = metrics.IGNORED_BEATS.values[()]
        await roots.meet()
        assert metrics.IGNORED_BEATS.values[()] > before
        assert sum(record.message == "redis_value_ignored" for record in caplog.records) == 2


async def test_a_value_that_would_never_end_is_ignored(redis: RedisServer) -> None:
    """Somebody who copies an old value cannot keep a dead node alive with it."""
    async with two_roots(redis.url) as roots:
        await put(redis, f"discloud:{roots.mesh}:root:c", value(roots.mesh, "c"))
        redis.command("SADD", f"discloud:{roots.mesh}:roots", "c")
        await roots.meet()


async def test_names_of_other_types_are_taken_back(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        redis.command("LPUSH", f"discloud:{roots.mesh}:root:a", "junk")
        redis.command("SET", f"discloud:{roots.mesh}:roots", "junk")
        await roots.meet()
        redis.command("LPUSH", f"discloud:{roots.mesh}:root:" + "x" * 100, "junk")
        redis.command("SADD", f"discloud:{roots.mesh}:roots", "", "x" * 100, "nobody", *map(str, range(30)))
        await roots.meet()


async def test_a_secret_is_changed_without_a_stop(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        old, both, new = (
            roots.make(name, *keys)
            for name, keys in (("old", (OLD_KEY,)), ("both", (OLD_KEY, KEY)), ("new", (KEY, OLD_KEY)))
        )
        for each in (old, both, new):
            await each.run_once()
        assert [(await each.run_once()).roots for each in (old, both, new)] == [1, 2, 2]


async def test_an_age_counts_from_when_it_was_written(redis: RedisServer) -> None:
    async with two_roots(redis.url) as roots:
        beats = (Beat(NODE, 1.0),)
        data = seal_beats(Told(roots.mesh, NodeId("c"), 5.0, beats), KEY)
        await put(redis, f"discloud:{roots.mesh}:root:c", data, b"PX", b"2000")
        redis.command("SADD", f"discloud:{roots.mesh}:roots", "c")
        assert (await roots.a.run_once()).roots == 1
        assert 4.0 <= roots.a.tell()[0].age < 5.0


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_refused_with_value_error(body: bytes, under_mac: bool) -> None:
    with pytest.raises(ValueError):
        open_beats(sealed(body) if under_mac else body, [KEY])


def test_a_value_comes_back_as_it_was_told() -> None:
    told = Told("mesh", NodeId("a"), 5.0, (Beat(NODE, 1.5, left=True, time=7.0),))
    assert open_beats(seal_beats(told, KEY), [OLD_KEY, KEY]) == told
    assert told.aged(2.0)[0].age == 3.5
