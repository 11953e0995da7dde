"""Clients and a nemesis for a mesh of real processes: what they did, when, and what they were told.

Keys come in pairs that renames connect; each pair has a history of its own, to be checked by tests/support/linearizability.
Every write has bytes of its own, made from its number, so that any answer tells which write it shows.
"""

from __future__ import annotations

import asyncio
import io
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import Any

import aiohttp
from blake3 import blake3

from tests.support.linearizability import Done, Values
from tests.support.processes import Mesh, NodeProcess

KIB, MIB = 1 << 10, 1 << 20
LAYOUTS = ("", "copies=1", "copies=2", "copies=3", "layout=stripe:3", "layout=stripe:2x2", "copies=all")
REFUSED = frozenset(
    {
        "unavailable",
        "peer-down",
        "too-slow",
        "aborted",
        "conflict",
        "not-enough-nodes",
        "no-space",
        "node-unavailable",
    }
)
"""Errors that say: it did not happen and never will."""
PATIENCE = 20.0
"""Seconds that a client waits for an answer."""


class Wrong(AssertionError):
    """An answer that no mesh may give."""


@dataclass
class Pair:
    """Two keys, what was done to them, and what was last seen there (for conditions that may hold)."""

    name: str
    history: list[Done] = field(default_factory=list)
    last: list[int] = field(default_factory=lambda: [0, 0])

    def path(self, key: int) -> str:
        return f"/v1/files/files/{self.name}/{'ab'[key]}"


@dataclass
class Storm:
    """All clients together. ``seed`` fixes what is done, not when the processes answer."""

    mesh: Mesh
    seed: int
    pairs: list[Pair]
    sizes: dict[int, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    answers: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    # ------------------------------------------------------------ bytes

    def body(self, number: int) -> bytes:
        return content(self.seed, number, self.sizes[number])

    def new_value(self, chance: random.Random) -> int:
        number = next(self.numbers)
        size = chance.choices(
            (
                0,
                chance.randrange(1, 8 * KIB),
                chance.randrange(1, 128 * KIB),
                chance.randrange(128 * KIB, MIB),
                3 * MIB,
            ),
            (1, 40, 20, 15, 15),
        )[0]
        # An empty body would have the same ETag as any other.
        self.sizes[number] = size or 17
        self.tags[blake3(self.body(number)).hexdigest()] = number
        return number

    def value_of(self, data: bytes, etag: str, what: str) -> int:
        """The write whose bytes these are: exactly one, and the one that the ETag names."""
        number = self.tags.get(blake3(data).hexdigest())
        if number is None:
            raise Wrong(f"{what}: {len(data)} bytes that nobody wrote")
        if number in self.refused:
            raise Wrong(f"{what}: a write that was refused, {self.refused[number]}")
        if etag.strip('"') != blake3(data).hexdigest():
            raise Wrong(f"{what}: bytes of another version than the ETag {etag}")
        return number

    # ------------------------------------------------------------ clients

    async def client(self, number: int, end: float) -> None:
        chance = random.Random(f"{self.seed} client {number}")
        while time.monotonic() < end:
            await self.step(chance)

    async def step(self, chance: random.Random) -> None:
        pair, key = chance.choice(self.pairs), chance.randrange(2)
        running = [node for node in self.mesh.nodes if node.running]
        node = chance.choice(running or self.mesh.nodes)
        kind = chance.choices(("put", "get", "delete", "rename", "list_pair"), (40, 34, 8, 10, 8))[0]
        await getattr(self, kind)(chance, pair, key, node)

    async def put(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        value = self.new_value(chance)
        data = self.body(value)
        done = Done("put", key, 0, value=value)
        headers = {}
        condition = chance.random()
        if condition < 0.15:
            headers["If-None-Match"] = "*"
            done = replace(done, none_match=True)
        elif condition < 0.35 and pair.last[key]:
            done = replace(done, match=pair.last[key])
            headers["If-Match"] = f'"{blake3(self.body(pair.last[key])).hexdigest()}"'
        body: Any = io.BytesIO(data)
        if chance.random() < 0.25:
            body = chunked(data)
        query = chance.choice(LAYOUTS)
        left = chance.random() * 0.05 if chance.random() < 0.06 else PATIENCE
        await self.ask(pair, done, node, "PUT", f"{pair.path(key)}?{query}", left, data=body, headers=headers)

    async def get(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        await self.ask(pair, Done("get", key, 0), node, "GET", pair.path(key), PATIENCE)

    async def delete(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        await self.ask(pair, Done("delete", key, 0), node, "DELETE", pair.path(key), PATIENCE)

    async def rename(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        done = Done("rename", key, 0, target=1 - key)
        body = {"key": f"{pair.name}/{'ab'[1 - key]}"}
        await self.ask(pair, done, node, "PATCH", pair.path(key), PATIENCE, json=body)

    async def list_pair(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        await self.ask(
            pair, Done("list", 0, 0), node, "GET", f"/v1/files/files?prefix={pair.name}/", PATIENCE
        )

    async def ask(
        self, pair: Pair, done: Done, node: NodeProcess, method: str, path: str, seconds: float, **more: Any
    ) -> None:
        """One request; what became of it goes into the history, a definite refusal does not."""
        begin = time.monotonic()
        done = replace(done, begin=begin, note=f"{method} {path} at {node.name}")
        try:
            async with (
                asyncio.timeout(seconds),
                self.mesh.session.request(method, node.url + path, **more) as answer,
            ):
                data = await answer.read()
                status, headers = answer.status, answer.headers
        except aiohttp.ClientConnectorError:
            self.told(method, "not connected")
            await asyncio.sleep(0.05)
            return
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            self.told(method, "no answer")
            if done.kind in {"put", "delete", "rename"}:
                pair.history.append(done)
            return
        settled = self.settle(pair, replace(done, end=time.monotonic()), status, data, headers)
        if settled is not None:
            pair.history.append(settled)

    def settle(self, pair: Pair, done: Done, status: int, data: bytes, headers: Any) -> Done | None:
        """The operation with its outcome; None where it certainly did nothing."""
        if status < 300:
            self.told(done.kind, "ok")
            return self.succeeded(pair, done, data, headers)
        code = json.loads(data).get("code", "")
        self.told(done.kind, f"{status} {code}")
        if status == 412:
            return replace(done, outcome="unmet")
        if status == 404 and code == "no-such-key" and done.kind == "rename":
            return replace(done, end=float("inf"))  # the object may be gone again from its new key
        if status == 404 and code == "no-such-key":
            return replace(done, outcome="ok" if done.kind == "get" else "absent")
        if code == "outcome-unknown":
            return replace(done, end=float("inf"))
        if status not in (409, 503, 507) or code not in REFUSED:
            self.odd.append(f"{done.note}: {status} {data[:400]!r}")
            return replace(done, end=float("inf")) if done.kind not in {"get", "list"} else None
        if done.kind == "put" and done.value:
            self.refused[done.value] = f"{done.note}: {status} {data[:400]!r}"
        return None

    def succeeded(self, pair: Pair, done: Done, data: bytes, headers: Any) -> Done:
        if done.kind == "get":
            value = self.value_of(data, headers["ETag"], done.note)
            pair.last[done.key] = value
            return replace(done, outcome="ok", value=value)
        if done.kind == "list":
            return replace(done, outcome="ok", seen=self.listed(pair, json.loads(data)["objects"]))
        if done.kind == "rename":
            # The answer shows what lies at the new key by then, which need not be what was moved there.
            return replace(done, outcome="ok")
        if done.kind == "put":
            pair.last[done.key] = done.value or 0
        return replace(done, outcome="ok")

    def listed(self, pair: Pair, objects: list[dict[str, Any]]) -> Values:
        tags = {each["key"]: each["etag"] for each in objects}
        keys = [f"{pair.name}/{letter}" for letter in "ab"]
        return tuple(self.tags[tags[key]] if key in tags else None for key in keys)

    def told(self, kind: str, what: str) -> None:
        self.answers[f"{kind}: {what}"] = self.answers.get(f"{kind}: {what}", 0) + 1


@lru_cache(64)
def content(seed: int, number: int, size: int) -> bytes:
    """The bytes of a write."""
    return blake3(f"{seed} {number}".encode()).digest(size)


async def chunked(data: bytes) -> AsyncIterator[bytes]:
    """A body of a length that is not told."""
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


@dataclass
class Nemesis:
    """Kills, pauses and restarts nodes, the root among them; at most two are out of order at once."""

    mesh: Mesh
    seed: int
    root: bool = True
    deeds: list[str] = field(default_factory=list)

    async def run(self, end: float) -> None:
        async with asyncio.TaskGroup() as both:
            both.create_task(self.plague(0, end))
            both.create_task(self.plague(1, end))

    async def plague(self, number: int, end: float) -> None:
        chance = random.Random(f"{self.seed} nemesis {number}")
        victims = self.mesh.nodes[number::2]
        while time.monotonic() < end:
            await asyncio.sleep(chance.uniform(0.3, 2.5))
            victim = chance.choice(victims)
            if victim is self.mesh.root and not self.root:
                continue
            await self.strike(chance, victim)

    async def strike(self, chance: random.Random, victim: NodeProcess) -> None:
        seconds = chance.uniform(0.5, 3.0)
        deed = chance.choice(("kill", "pause", "stop"))
        self.deeds.append(f"{time.monotonic():.2f} {deed} {victim.name} {seconds:.1f} s")
        if deed == "pause":
            victim.kill(signal.SIGSTOP)
            try:
                await asyncio.sleep(seconds)
            finally:
                with suppress(ProcessLookupError):
                    victim.kill(signal.SIGCONT)
            return
        await asyncio.to_thread(victim.kill, signal.SIGKILL if deed == "kill" else signal.SIGTERM)
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.start()
