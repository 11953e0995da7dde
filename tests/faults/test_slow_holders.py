"""Holders that stop answering in the middle: dropped from a write, passed over in a read, counted (``limits.min_rate``)."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.processes import Mesh, NodeProcess, local_mesh

MIB = 1 << 20
pytestmark = [pytest.mark.faults, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    settings = {"DISCLOUD_LIMITS_GRACE": "1.5", "DISCLOUD_LIMITS_MIN_RATE": "10 MiB"}
    async with local_mesh(tmp_path_factory.mktemp("slow"), 3, settings) as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def patient_mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """A transfer may rest for longer than any of these tests takes; the view calls a silent node down after two seconds."""
    settings = {"DISCLOUD_LIMITS_GRACE": "600"}
    async with local_mesh(tmp_path_factory.mktemp("patient"), 3, settings) as started:
        yield started


async def slow_holders(mesh: Mesh, node: NodeProcess, transfer: str) -> float:
    text = (await mesh.get(node, "/metrics")).decode()
    found = re.search(rf'discloud_slow_holders_total{{transfer="{transfer}"}} (\d+)', text)
    return float(found[1]) if found else 0.0


async def put_past_a_stopped_holder(mesh: Mesh, name: str) -> None:
    """A file of three copies, one of whose holders is stopped in the middle; it comes out of every node afterwards."""
    gateway, holder = mesh.nodes[0], mesh.nodes[2]
    data = os.urandom(48 * MIB)

    async def body() -> AsyncIterator[bytes]:
        for start in range(0, len(data), MIB):
            if start == 8 * MIB:
                holder.kill(signal.SIGSTOP)
            yield data[start : start + MIB]

    try:
        url = f"{gateway.url}/v1/files/files/{name}?copies=3"
        headers = {"Content-Length": str(len(data))}
        async with asyncio.timeout(60), mesh.session.put(url, data=body(), headers=headers) as answer:
            assert answer.status == 201, await answer.text()
    finally:
        holder.kill(signal.SIGCONT)
    await mesh.ready()
    for node in mesh.nodes:
        assert await mesh.get(node, f"/v1/files/files/{name}") == data


async def test_a_write_drops_a_holder_that_stands_still(mesh: Mesh) -> None:
    await put_past_a_stopped_holder(mesh, "slow-write")
    assert await slow_holders(mesh, mesh.root, "write") >= 1


async def test_a_write_drops_a_holder_that_the_view_calls_down(patient_mesh: Mesh) -> None:
    await put_past_a_stopped_holder(patient_mesh, "silent-write")


async def get_past_a_stopped_holder(mesh: Mesh, name: str) -> None:
    """A file whose first holder is stopped in the middle of a read that another node answers."""
    gateway = mesh.nodes[0]
    data = os.urandom(48 * MIB)
    path = f"/v1/files/files/{name}"
    await mesh.json("PUT", gateway, f"{path}?nodes=node2,node3&copies=2", data=io.BytesIO(data))
    digest, stopped = hashlib.sha256(), None
    try:
        async with asyncio.timeout(60), mesh.session.get(gateway.url + path) as answer:
            async for chunk in answer.content.iter_chunked(MIB):
                digest.update(chunk)
                if stopped is None:
                    stopped = mesh.source_of(answer)
                    stopped.kill(signal.SIGSTOP)
        assert digest.digest() == hashlib.sha256(data).digest()
    finally:
        if stopped is not None:
            stopped.kill(signal.SIGCONT)
    await mesh.ready()


async def test_a_read_goes_on_with_another_holder(mesh: Mesh) -> None:
    await get_past_a_stopped_holder(mesh, "slow-read")
    assert await slow_holders(mesh, mesh.root, "read") >= 1


async def test_a_read_leaves_a_holder_that_the_view_calls_down(patient_mesh: Mesh) -> None:
    await get_past_a_stopped_holder(patient_mesh, "silent-read")
