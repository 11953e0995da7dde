"""Clients and a nemesis for a mesh of real processes: what they did, when, and what they were told.

Keys come in pairs that renames connect; each pair has a history of its own, to be checked by tests/support/linearizability.
Every write has bytes of its own, made from its number, so that any answer tells which write it shows. Answers labelled as
possibly stale are no part of a history; they must show what was once written there and not refused.
"""

from __future__ import annotations

import asyncio
import io
import json
import math
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
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
LABEL, STALE = "Discloud-Consistency", "stale-possible"
NO_CONNECTION, NO_ANSWER, GAVE_UP = "not connected", "no answer", "gave up"


class Wrong(AssertionError):
    """An answer that no mesh may give."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request to ``node`` and what it was told."""

    kind: str
    node: str
    begin: float
    end: float
    told: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether it was not served although its wish could be met."""
        return self.told.startswith(("5", NO_CONNECTION, NO_ANSWER))

    @property
    def sure(self) -> bool:
        """Whether it was answered by who claims to know: nothing can be without a quorum of the metadata."""
        return not self.failed and self.told not in (f"ok {STALE}", GAVE_UP)


@dataclass
class Pair:
    """Two keys, what was done to them, and what was last seen there (for conditions that may hold)."""

    name: str
    history: list[Done] = field(default_factory=list)
    last: list[int] = field(default_factory=lambda: [0, 0])
    bucket: str = "files"

    def path(self, key: int) -> str:
        return f"{self.folder}/{self.name}/{'ab'[key]}"

    @property
    def folder(self) -> str:
        """Where the bucket is listed."""
        return f"/v1/files/{self.bucket}"


@dataclass
class Storm:
    """All clients together. ``seed`` fixes what is done, not when the processes answer.

    ``hasty``: the share of PUTs whose client leaves early. ``avoided``: nodes that no client asks. ``labelled``: what answers that may be stale showed: the pair, the write and the answer.
    """

    mesh: Mesh
    seed: int
    pairs: list[Pair]
    layouts: Sequence[str] = LAYOUTS
    hasty: float = 0.06
    avoided: set[str] = field(default_factory=set)
    ended: bool = False
    asked: list[Asked] = field(default_factory=list)
    labelled: list[tuple[Pair, int, str]] = field(default_factory=list)
    homes: dict[int, Pair] = field(default_factory=dict)
    sizes: dict[int, int] = field(default_factory=dict)
    tags: dict[str, int] = field(default_factory=dict)
    odd: list[str] = field(default_factory=list)
    refused: dict[int, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    # ------------------------------------------------------------ bytes

    def body(self, number: int) -> bytes:
        return content(self.seed, number, self.sizes[number])

    def new_value(self, chance: random.Random, pair: Pair) -> int:
        number = next(self.numbers)
        self.homes[number] = pair
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

    @asynccontextmanager
    async def load(self, clients: int) -> AsyncIterator[None]:
        """So many clients until the block ends; every request that they began is in the history then."""
        self.ended = False
        async with asyncio.TaskGroup() as all_of_them:
            for number in range(clients):
                all_of_them.create_task(self.client(number, math.inf))
            yield
            self.ended = True

    async def client(self, number: int, end: float) -> None:
        chance = random.Random(f"{self.seed} client {number}")
        while time.monotonic() < end and not self.ended:
            await self.step(chance)

    async def step(self, chance: random.Random) -> None:
        pair, key = chance.choice(self.pairs), chance.randrange(2)
        running = [node for node in self.mesh.nodes if node.running and node.name not in self.avoided]
        node = chance.choice(running or self.mesh.nodes)
        kind = chance.choices(("put", "get", "delete", "rename", "list_pair"), (40, 34, 8, 10, 8))[0]
        await getattr(self, kind)(chance, pair, key, node)

    async def put(self, chance: random.Random, pair: Pair, key: int, node: NodeProcess) -> None:
        value = self.new_value(chance, pair)
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
        query = chance.choice(self.layouts)
        left = chance.random() * 0.05 if chance.random() < self.hasty else PATIENCE
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
        await self.ask(pair, Done("list", 0, 0), node, "GET", f"{pair.folder}?prefix={pair.name}/", PATIENCE)

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
            self.told(done, node, NO_CONNECTION)
            await asyncio.sleep(0.05)
            return
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            self.told(done, node, NO_ANSWER if seconds == PATIENCE else GAVE_UP)
            if done.kind in {"put", "delete", "rename"}:
                pair.history.append(done)
            return
        done = replace(done, end=time.monotonic())
        self.told(
            done, node, what_it_says(status, data, headers), data[:400].decode() if status >= 500 else ""
        )
        settled = self.settle(pair, done, status, data, headers)
        if settled is not None:
            pair.history.append(settled)

    def settle(self, pair: Pair, done: Done, status: int, data: bytes, headers: Any) -> Done | None:
        """The operation with its outcome; None where it certainly did nothing."""
        if headers.get(LABEL) == STALE:
            self.note_labelled(pair, done, status, data, headers)
            return None
        if status < 300:
            return self.succeeded(pair, done, data, headers)
        code = json.loads(data).get("code", "")
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

    def note_labelled(self, pair: Pair, done: Done, status: int, data: bytes, headers: Any) -> None:
        """Keep what an answer shows that may be stale: something, once written there, and never an absence."""
        if status >= 300 or done.kind not in {"get", "list"}:
            raise Wrong(f"{done.note}: {status} {data[:400]!r} is labelled {STALE}")
        if done.kind == "get":
            shown: Values = (self.value_of(data, headers["ETag"], done.note),)
        else:
            shown = self.listed(pair, json.loads(data)["objects"])
        self.labelled += [(pair, value, done.note) for value in shown if value is not None]

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

    def told(self, done: Done, node: NodeProcess, what: str, detail: str = "") -> None:
        self.asked.append(Asked(done.kind, node.name, done.begin, time.monotonic(), what, detail))

    def answers(self, since: float = 0.0) -> dict[str, int]:
        """How often what was answered to requests that began since then."""
        counted = Counter(f"{each.kind}: {each.told}" for each in self.asked if each.begin >= since)
        return dict(sorted(counted.items()))


def what_it_says(status: int, data: bytes, headers: Any) -> str:
    """An answer in a word or two, to be counted."""
    if status < 300:
        return f"ok {STALE}" if headers.get(LABEL) == STALE else "ok"
    return f"{status} {json.loads(data).get('code', '')}"


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
