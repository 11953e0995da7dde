"""Files through a mesh of real processes with TLS on every port, also while a holder dies and certificates change."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.certificates import sign
from tests.support.processes import HOST, Mesh, NodeProcess, local_mesh, until

MIB = 1 << 20
SIZES = [1, 4096, MIB + 1, 9 * MIB + 7, 64 * MIB]
LAYOUTS = ["copies=3", "layout=stripe:2"]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with local_mesh(tmp_path_factory.mktemp("mesh"), 3, tls=True) as started:
        yield started


async def put(mesh: Mesh, node: NodeProcess, name: str, data: bytes, query: str) -> None:
    answer = await mesh.json("PUT", node, f"/v1/files/files/{name}?{query}", data=io.BytesIO(data))
    assert answer["size"] == len(data)


async def digest_of(mesh: Mesh, node: NodeProcess, name: str) -> str:
    return hashlib.sha256(await mesh.get(node, f"/v1/files/files/{name}")).hexdigest()


def serial_of(port: int, signer: Path) -> str:
    """What a node shows to somebody who connects now."""
    pem = ssl.get_server_certificate((HOST, port), ca_certs=str(signer / "ca.pem"))
    return hashlib.sha256(pem.encode()).hexdigest()


@pytest.mark.parametrize("query", LAYOUTS)
async def test_in_through_one_node_and_out_of_all(mesh: Mesh, query: str) -> None:
    for number, size in enumerate(SIZES):
        data = os.urandom(size)
        await put(mesh, mesh.nodes[number % 3], "file", data, query)
        for node in mesh.nodes:
            assert await digest_of(mesh, node, "file") == hashlib.sha256(data).hexdigest()


async def test_no_api_answers_in_the_clear(mesh: Mesh) -> None:
    for node in mesh.nodes:
        reader, writer = await asyncio.open_connection(HOST, node.port)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with suppress(ConnectionResetError):
            assert await reader.read(1000) == b""
        writer.transport.abort()


async def test_new_certificates_under_load(mesh: Mesh) -> None:
    assert mesh.signer is not None
    signer = mesh.signer
    data = os.urandom(3 * MIB)
    expected = hashlib.sha256(data).hexdigest()
    before = {node.name: await asyncio.to_thread(serial_of, node.port, signer) for node in mesh.nodes}
    done = asyncio.Event()

    async def load(number: int) -> int:
        count = 0
        while not done.is_set():
            name, node = f"load{number}", mesh.nodes[(number + count) % 3]
            await put(mesh, node, name, data, LAYOUTS[count % 2])
            assert await digest_of(mesh, mesh.nodes[count % 3], name) == expected
            count += 1
        return count

    async def all_new() -> bool:
        now = {node.name: await asyncio.to_thread(serial_of, node.port, signer) for node in mesh.nodes}
        return all(now[name] != before[name] for name in now)

    async with asyncio.TaskGroup() as tasks:
        loads = [tasks.create_task(load(number)) for number in range(2)]
        for node in mesh.nodes:
            sign(signer, mesh.folder / f"{node.name}.tls", node.name)
        try:
            await until(all_new, 40, "the new certificates")
        finally:
            done.set()
    assert all(task.result() > 0 for task in loads)


async def test_a_holder_is_killed_while_files_are_read_and_written(mesh: Mesh) -> None:
    """Reads go on with the other copies; the node that comes back is trusted again with the certificate that it has."""
    data = os.urandom(64 * MIB)
    await put(mesh, mesh.root, "kept", data, "copies=3")
    victim, expected = mesh.nodes[2], hashlib.sha256(data).hexdigest()
    async with asyncio.TaskGroup() as tasks:
        reads = [tasks.create_task(digest_of(mesh, mesh.nodes[number % 2], "kept")) for number in range(4)]
        victim.kill()
    assert {task.result() for task in reads} == {expected}
    await put(mesh, mesh.nodes[1], "without", data[:MIB], "copies=2")
    assert await digest_of(mesh, mesh.root, "without") == hashlib.sha256(data[:MIB]).hexdigest()
    victim.start()
    await mesh.ready()
    assert await digest_of(mesh, victim, "kept") == expected
    for node in mesh.nodes:
        text = node.log.read_text()
        assert "PRIVATE" not in text
        assert mesh.token not in text
        assert (mesh.folder / "secret").read_text() not in text
