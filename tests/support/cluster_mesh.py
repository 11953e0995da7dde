"""A mesh as a cluster for tests: three roots and some ordinary nodes over a Cassandra and a Redis that are given."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from tests.support.processes import HOST, Mesh

SETTINGS = {
    "DISCLOUD_PERIODS_HEARTBEAT": "0.4",
    "DISCLOUD_PERIODS_SUSPECT": "2",
    "DISCLOUD_PERIODS_DOWN": "5",
    "DISCLOUD_PERIODS_LEASE": "10",
    "DISCLOUD_PERIODS_LEADER": "3",
    "DISCLOUD_PERIODS_ORPHAN": "20",  # longer than a PUT waits for its transaction
    "DISCLOUD_LIMITS_GRACE": "2",
    "DISCLOUD_PERIODS_GC_DELAY": "6",  # longer than a call whose answer was lost is repeated at other roots
}
"""Slower than FAST: Cassandra takes its share of the processors, and who is slow is not dead."""
ROOTS = 3


@asynccontextmanager
async def cluster_mesh(
    folder: Path,
    hosts: Sequence[str],
    keyspace: str,
    redis: str,
    settings: Mapping[str, str],
    ordinary: int = 2,
) -> AsyncIterator[Mesh]:
    """root1..3 and plain1.. (``ordinary`` of them), ready, with bucket ``files``; all are killed at the end.

    plain1 reaches Cassandra itself, the other ordinary nodes ask a root.
    """
    token = secrets.token_urlsafe(24)
    (folder / "token").write_text(token)
    (folder / "secret").write_text(secrets.token_urlsafe(32))
    metadata = {"DISCLOUD_CASSANDRA_HOSTS": ",".join(hosts), "DISCLOUD_CASSANDRA_KEYSPACE": keyspace}
    async with aiohttp.ClientSession(  # noqa: TID251 - the tests are a client
        headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=600)
    ) as session:
        # aiohttp repeats a PUT or DELETE whose connection was lost: what happened then would be told of the second only.
        session._retry_connection = False
        mesh = Mesh(folder, [], session, token, {**SETTINGS, **settings})
        try:
            for number in range(1, ROOTS + 1):
                mesh.add(f"root{number}", "root", DISCLOUD_REDIS_URL=redis, **metadata).start()
            roots = ",".join(f"{HOST}:{node.port + 2}" for node in mesh.nodes)
            for number in range(1, ordinary + 1):
                node = mesh.add(f"plain{number}", **(metadata if number == 1 else {}))
                node.environ["DISCLOUD_ROOTS"] = roots
                node.start()
            await mesh.ready(seconds=90)
            await mesh.json("PUT", mesh.root, "/v1/buckets/files", json={})
            yield mesh
        finally:
            for node in mesh.nodes:
                if node.running:
                    node.kill()
