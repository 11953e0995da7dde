"""A cluster under load loses one of three Cassandra nodes, then two: it goes on, says what it is not sure of, deletes nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from tests.faults.load import (
    CHANGES,
    CLIENTS,
    SETTLED,
    answered,
    few_notice,
    nobody_notices,
    recovers,
    storm_of,
)
from tests.faults.storm import Asked
from tests.faults.verdict import every_copy_is_there, judge
from tests.support.cassandra_server import PrivateCassandra
from tests.support.cluster_mesh import cluster_mesh
from tests.support.processes import Mesh
from tests.support.servers import private_cassandra, redis_server

USUAL = {"DISCLOUD_CASSANDRA_PATIENCE": "1.8"}
"""What users have: how soon a request is refused is part of the test."""
pytestmark = [
    pytest.mark.faults,
    pytest.mark.alone,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module")
def cassandra() -> Iterator[PrivateCassandra]:
    with private_cassandra() as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory, cassandra: PrivateCassandra) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("cluster")
    with redis_server() as redis:
        async with cluster_mesh(folder, cassandra.hosts, "faults", redis.url, USUAL) as started:
            yield started


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def all_run(cassandra: PrivateCassandra) -> AsyncIterator[None]:
    """Every test begins with all nodes of Cassandra, also after one that failed."""
    yield
    for node in cassandra.nodes:
        if not node.running:
            await asyncio.to_thread(node.start)
    await asyncio.to_thread(cassandra.wait_settled)


async def test_one_cassandra_node_is_killed(mesh: Mesh, cassandra: PrivateCassandra) -> None:
    storm, node = storm_of(mesh, "one"), cassandra.nodes[0]
    async with storm.load(CLIENTS):
        await recovers(storm, "three Cassandra nodes")
        await asyncio.to_thread(node.kill)
        since = time.monotonic() + SETTLED
        await asyncio.to_thread(cassandra.wait_settled)
        await few_notice(storm, "two Cassandra nodes that do not know it", since)
        await nobody_notices(storm, "two Cassandra nodes")
        await asyncio.to_thread(node.start)
        await asyncio.to_thread(cassandra.wait_settled)
        await recovers(storm, "three Cassandra nodes again")
    await judge(storm, in_one_step=False)


async def test_cassandras_majority_is_killed(mesh: Mesh, cassandra: PrivateCassandra) -> None:
    storm, killed = storm_of(mesh, "two"), cassandra.nodes[1:]

    def refused(asked: Asked) -> bool:
        return asked.kind in CHANGES and asked.told.startswith("503")

    def served(asked: Asked) -> bool:
        return asked.kind not in CHANGES and not asked.failed

    async with storm.load(CLIENTS):
        await recovers(storm, "three Cassandra nodes")
        for node in killed:
            await asyncio.to_thread(node.kill)
        lost = time.monotonic()
        await answered(storm, lost + SETTLED, 30, served)
        asked = await answered(storm, lost + SETTLED, 30, refused)
        print(f"\nwithout a majority: {storm.answers(lost)}")
        assert not [each for each in asked if each.sure], "served as if there were a quorum"
        took = sorted(each.end - each.begin for each in asked if refused(each))
        print(
            f"writes were refused within {took[len(took) // 2]:.2f} s (half of them), {took[-1]:.2f} s (all)"
        )
        assert took[-1] < 2.5, "a write without a quorum is refused within two seconds"
        for node in killed:
            node.start(wait=False)
        for node in killed:
            await asyncio.to_thread(node.wait_ready)
        await asyncio.to_thread(cassandra.wait_settled)
        await mesh.ready()
        await recovers(storm, "three Cassandra nodes again")
    await judge(storm, in_one_step=False)
    await every_copy_is_there(storm)
