"""Real processes: a holder that is stopped costs a read a moment, and without a root a node serves what it saw, and says so."""

from __future__ import annotations

import io
import os
import re
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.processes import Mesh, NodeProcess, local_mesh, until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]
COPIES = "nodes=node2,node3"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    silent = {"SUSPECT": "60", "DOWN": "120", "LOST": "300"}  # the view tells nothing
    settings = {f"DISCLOUD_PERIODS_{name}": seconds for name, seconds in silent.items()}
    async with local_mesh(tmp_path_factory.mktemp("degraded"), 3, settings) as started:
        yield started


async def put(mesh: Mesh, key: str, data: bytes) -> None:
    async with mesh.session.put(
        f"{mesh.nodes[1].url}/v1/files/files/{key}?{COPIES}", data=io.BytesIO(data)
    ) as answer:
        assert answer.status == 201, await answer.text()


async def hedges_won(mesh: Mesh, node: NodeProcess) -> float:
    text = (await mesh.get(node, "/metrics")).decode()
    found = re.search(r'discloud_read_hedges_total{outcome="won"} (\d+)', text)
    return float(found[1]) if found else 0.0


async def peer_timeouts(mesh: Mesh, node: NodeProcess) -> str:
    """How often a holder's answer was waited for to the end."""
    text = (await mesh.get(node, "/metrics")).decode()
    return "\n".join(
        re.findall(r'discloud_peer_calls_total{method="blobs.fetch",outcome="peer-down"} .*', text)
    )


async def test_a_stopped_holder_costs_a_moment(mesh: Mesh) -> None:
    gateway = mesh.nodes[0]
    data = {f"k{number}": os.urandom(4096) for number in range(20)} | {"large": os.urandom(3 << 20)}
    for key, body in data.items():
        await put(mesh, key, body)
    for _ in range(3):
        for key, body in data.items():
            assert await mesh.get(gateway, f"/v1/files/files/{key}") == body
    async with mesh.session.get(f"{gateway.url}/v1/files/files/k0") as answer:
        await answer.read()
        stopped = mesh.source_of(answer)  # it need not ask both: one may have been slower
    before = await peer_timeouts(mesh, gateway)
    stopped.kill(signal.SIGSTOP)
    try:

        async def hedged() -> bool:
            for key, body in data.items():
                assert await mesh.get(gateway, f"/v1/files/files/{key}") == body
            return await hedges_won(mesh, gateway) > 0

        await until(hedged)
        assert await peer_timeouts(mesh, gateway) == before, "nobody waited for it until the deadline"
    finally:
        stopped.kill(signal.SIGCONT)


async def test_without_a_root_reads_go_on_and_say_so(mesh: Mesh) -> None:
    root, writer, reader = mesh.nodes
    await put(mesh, "seen", b"seen")
    await put(mesh, "unseen", b"unseen")
    assert await mesh.get(reader, "/v1/files/files/seen") == b"seen"
    root.kill()
    for node, key in ((reader, "seen"), (writer, "seen"), (writer, "unseen")):
        for _ in range(3):
            async with mesh.session.get(f"{node.url}/v1/files/files/{key}") as answer:
                assert (answer.status, answer.headers["Discloud-Consistency"]) == (200, "stale-possible")
                assert await answer.read() == key.encode()
    for method, path in (("GET", "unseen"), ("GET", "nothing"), ("PUT", "new"), ("DELETE", "seen")):
        async with mesh.session.request(method, f"{reader.url}/v1/files/files/{path}") as answer:
            assert answer.status == 503, (method, path)
    root.start()

    async def strong() -> bool:
        async with mesh.session.get(f"{reader.url}/v1/files/files/seen") as answer:
            return answer.headers.get("Discloud-Consistency") == "strong"

    await until(strong)
    assert await mesh.get(reader, "/v1/files/files/unseen") == b"unseen"
    for key in ("nothing", "new"):
        async with mesh.session.get(f"{reader.url}/v1/files/files/{key}") as answer:
            assert answer.status == 404
