"""A cluster of real processes under load loses roots, its Redis and its sense of time, and stays one right store."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.load import CHANGES, CLIENTS, SETTLED, answered, nobody_notices, recovers, storm_of
from tests.faults.storm import Asked
from tests.faults.verdict import judge
from tests.support.cluster_mesh import cluster_mesh
from tests.support.processes import Mesh, NodeProcess, until
from tests.support.redis_server import RedisServer
from tests.support.servers import fresh_keyspace, no_server, redis_server, shared_cassandra

PATIENT = {"DISCLOUD_CASSANDRA_PATIENCE": "5"}
"""The Cassandra of these tests is whole, and serves others too."""
pytestmark = [
    pytest.mark.faults,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory, redis: RedisServer) -> AsyncIterator[Mesh]:
    hosts = (await asyncio.to_thread(shared_cassandra)).hosts
    with fresh_keyspace(hosts) as keyspace:
        folder = tmp_path_factory.mktemp("cluster")
        async with cluster_mesh(folder, hosts, keyspace, redis.url, PATIENT) as started:
            yield started


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def all_run(mesh: Mesh, redis: RedisServer) -> AsyncIterator[None]:
    """Every test begins with Redis and all nodes, also after one that failed."""
    yield
    if not redis.server.running:
        await asyncio.to_thread(redis.start)
    for node in mesh.nodes:
        if not node.running:
            node.start()
    await mesh.ready(seconds=60)


async def test_roots_are_killed_down_to_one(mesh: Mesh) -> None:
    storm, killed = storm_of(mesh, "roots"), (mesh.nodes[0], mesh.nodes[2])
    async with storm.load(CLIENTS):
        await recovers(storm, "three roots")
        for node in killed:
            node.kill()
        await nobody_notices(storm, "one root", settled=SETTLED)
        storm.avoided = {node.name for node in killed}
        for node in killed:
            node.start()
        await mesh.ready()
        storm.avoided = set()
        await recovers(storm, "three roots again")
    await judge(storm, in_one_step=False)


async def test_redis_is_flushed_and_killed(mesh: Mesh, redis: RedisServer) -> None:
    storm = storm_of(mesh, "redis")
    beats = await asyncio.to_thread(redis.command, "DBSIZE")

    async def filled_again() -> bool:
        return await asyncio.to_thread(redis.command, "DBSIZE") == beats

    async with storm.load(CLIENTS):
        await recovers(storm, "with Redis")
        await asyncio.to_thread(redis.flush)
        await nobody_notices(storm, "Redis flushed")
        await until(filled_again)
        await asyncio.to_thread(redis.kill)
        await nobody_notices(storm, "Redis killed")
        await mesh.ready()
        await asyncio.to_thread(redis.start)
        await until(filled_again)
        await recovers(storm, "Redis back")
    await judge(storm, in_one_step=False)


async def test_the_leading_root_is_paused_and_comes_back(mesh: Mesh) -> None:
    storm, chance = storm_of(mesh, "paused"), random.Random(4)
    paused = leader_of(mesh.nodes)
    assert paused is not None
    others = [node for node in mesh.nodes if node is not paused]

    async def led_by_another() -> bool:
        found = (await mesh.json("GET", others[0], "/v1/nodes"))["nodes"]
        states = {each["name"]: each["state"] for each in found}
        return states[paused.name] == "down" and leader_of(others) is not None

    async with storm.load(CLIENTS):
        await recovers(storm, "before the pause")
        storm.avoided = {paused.name}
        paused.kill(signal.SIGSTOP)
        try:
            async with asyncio.TaskGroup() as waiting:
                for pair in storm.pairs:
                    waiting.create_task(storm.put(chance, pair, 0, paused))
                    waiting.create_task(storm.get(chance, pair, 1, paused))
                await nobody_notices(storm, "one root is paused", settled=SETTLED)
                await until(led_by_another)
                paused.kill(signal.SIGCONT)
        finally:
            paused.kill(signal.SIGCONT)
        storm.avoided = set()
        await mesh.ready()
        await recovers(storm, "the root is back")
    await judge(storm, in_one_step=False)


def leader_of(nodes: list[NodeProcess]) -> NodeProcess | None:
    """Who of them took the lead and did not lose it since, by the logs."""
    epochs: dict[int, NodeProcess] = {}
    for node in nodes:
        lines = [json.loads(line) for line in node.log.read_text().splitlines() if '"leads' in line]
        if lines and lines[-1]["event"] == "leads":
            epochs[lines[-1]["epoch"]] = node
    return epochs[max(epochs)] if epochs else None


async def test_clocks_four_seconds_apart_change_nothing(mesh: Mesh) -> None:
    storm = storm_of(mesh, "four")
    try:
        await set_clock(mesh, mesh.nodes[1], 4)
        await set_clock(mesh, mesh.nodes[3], 4)
        async with storm.load(CLIENTS):
            await nobody_notices(storm, "clocks 4 s apart")
        await judge(storm, in_one_step=False)
    finally:
        for node in (mesh.nodes[1], mesh.nodes[3]):
            await set_clock(mesh, node, 0)


async def test_a_clock_that_is_twenty_seconds_off_takes_no_writes(mesh: Mesh) -> None:
    storm, off = storm_of(mesh, "twenty"), (mesh.nodes[2], mesh.nodes[4])
    names = {node.name for node in off}

    def refused(asked: Asked) -> bool:
        return asked.node in names and asked.kind in CHANGES and asked.told == "503 unavailable"

    try:
        for node in off:
            await set_clock(mesh, node, 20)
        await until(lambda: all_refuse(mesh, off), what="the refusal of writes")
        async with storm.load(CLIENTS):
            asked = await answered(storm, time.monotonic(), 10, refused)
            asked = await answered(storm, asked[0].begin, 150)
        print(f"\nclocks 20 s apart: {storm.answers()}")
        elsewhere = [each for each in storm.asked if each.failed and each.node not in names]
        assert not elsewhere, elsewhere
        there = [each for each in asked if each.node in names]
        assert all("the clock of" in each.detail for each in there if refused(each))
        assert not [each for each in there if each.kind in CHANGES and each.told == "ok"]
        assert [each for each in there if each.told == "ok"], "reads go on"
        await judge(storm, in_one_step=False)
    finally:
        for node in off:
            await set_clock(mesh, node, 0)


async def all_refuse(mesh: Mesh, nodes: tuple[NodeProcess, ...]) -> bool:
    """Whether those nodes know that their clocks are off; each has said so in one line."""
    for node in nodes:
        if await mesh.status("DELETE", node, "/v1/files/files/nothing") != 503:
            return False
        assert node.log.read_text().count("clock_is_off") == 1, node.log
    return True


async def set_clock(mesh: Mesh, node: NodeProcess, ahead: int) -> None:
    """Start the node again, with a clock that is so many seconds ahead of ours."""
    node.environ.update(clock(ahead) if ahead else dict.fromkeys(clock(1), ""))
    await asyncio.to_thread(node.kill, signal.SIGTERM)
    node.start()
    await mesh.ready(seconds=60)


def clock(ahead: int) -> dict[str, Any]:
    """What lets a program believe that it is later; its clocks that only grow stay as they are."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        no_server("faketime", "apt-get install faketime")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"+{ahead}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
