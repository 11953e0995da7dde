"""What the tests of the three uses share: the use as processes, random files, and what an answer says of its source."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from tests.support.cluster import UsedMesh, used_mesh
from tests.support.processes import FAST, Mesh, NodeProcess, until
from tests.support.server_process import NotHere
from tests.support.servers import no_server

SETTINGS = {
    **FAST,
    "DISCLOUD_PERIODS_HEARTBEAT": "0.5",
    "DISCLOUD_PERIODS_SUSPECT": "2",
    "DISCLOUD_PERIODS_DOWN": "5",
    "DISCLOUD_PERIODS_LEASE": "20",
    "DISCLOUD_PERIODS_SWEEP": "2",
    "DISCLOUD_PERIODS_ORPHAN": "30",
    "DISCLOUD_PERIODS_GC": "2",
    "DISCLOUD_PERIODS_REPAIR": "1",
    "DISCLOUD_PERIODS_LEADER": "5",
    "DISCLOUD_LIMITS_GRACE": "3",
    "DISCLOUD_LIMITS_MIN_RATE": "1 MiB",
    "DISCLOUD_CASSANDRA_PATIENCE": "5",
}
"""Slower than within one place: a round trip between regions is 100 ms. All share a small machine with Cassandra, so a call may
take longer than a user would want, and a holder that fell silent is given up sooner."""
REPEATED = 30.0
"""Seconds for which a client repeats what was answered 503: a machine that is busy with other tests may be slow."""
SIZES = (1, 20_000, 1 << 20, (16 << 20) + 7)


@dataclass(frozen=True)
class Got:
    """A read file: its SHA-256, and where the bytes came from and how fresh the answer is, as its headers say."""

    digest: str
    source: str
    consistency: str


@asynccontextmanager
async def running(use: str, folder: Path) -> AsyncIterator[UsedMesh]:
    """The use, ready; where there is no Redis or Cassandra the test is left out, or fails, as servers.py says."""
    try:
        async with used_mesh(use, folder, SETTINGS) as mesh:
            yield mesh
    except NotHere as reason:
        no_server("Redis and Cassandra", str(reason))


async def put(mesh: Mesh, node: NodeProcess, path: str, size: int, query: str = "") -> str:
    """Store ``size`` random bytes through a node, repeated as long as the answer is 503; their SHA-256."""
    data = os.urandom(size)

    async def stored() -> bool:
        async with mesh.session.put(f"{node.url}/v1/files/{path}{query}", data=io.BytesIO(data)) as answer:
            if answer.status not in (200, 201):
                await refuse(answer, f"PUT {path} through {node.name}")
            return True

    await until(stored, REPEATED, f"{path} stored through {node.name}")
    return hashlib.sha256(data).hexdigest()


async def get(mesh: Mesh, node: NodeProcess, path: str) -> Got:
    """Read a file through a node, repeated as long as the answer is 503."""

    async def read() -> Got:
        async with mesh.session.get(f"{node.url}/v1/files/{path}") as answer:
            if answer.status != 200:
                await refuse(answer, f"GET {path} through {node.name}")
            digest = hashlib.sha256(await answer.read()).hexdigest()
            return Got(
                digest, answer.headers["Discloud-Source"], answer.headers.get("Discloud-Consistency", "")
            )

    got = await until(read, REPEATED, f"{path} read through {node.name}")
    assert isinstance(got, Got)
    return got


async def refuse(answer: aiohttp.ClientResponse, what: str) -> None:
    """What asks to be repeated is repeated; anything else ends the test. Raises: AssertionError, pytest.fail."""
    told = f"{what}: {answer.status} {await answer.text()}"
    if answer.status != 503:
        pytest.fail(told)
    raise AssertionError(told)
