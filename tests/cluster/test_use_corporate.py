"""Corporate file cloud: three roots, any two of them killed, files are still written and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import combinations

import pytest
import pytest_asyncio

from tests.cluster.use import SIZES, get, put, running
from tests.support.cluster import UsedMesh

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UsedMesh]:
    async with running("corporate", tmp_path_factory.mktemp("corporate")) as started:
        yield started


async def test_every_node_is_a_root_and_takes_any_request(mesh: UsedMesh) -> None:
    found = (await mesh.json("GET", mesh.root, "/v1/nodes"))["nodes"]
    assert [node["role"] for node in found] == ["root"] * 3
    for at, size in enumerate(SIZES):
        digest = await put(mesh, mesh.nodes[at % 3], f"files/any/{size}", size)
        for node in mesh.nodes:
            assert (await get(mesh, node, f"files/any/{size}")).digest == digest


@pytest.mark.parametrize("killed", [*combinations(range(3), 2)], ids=str)
async def test_files_are_written_and_read_while_one_root_lives(
    mesh: UsedMesh, killed: tuple[int, int]
) -> None:
    folder = f"files/{killed[0]}{killed[1]}"
    digests = {}
    for at, size in enumerate(SIZES):
        digests[f"{folder}/before-{size}"] = await put(
            mesh, mesh.nodes[at % 3], f"{folder}/before-{size}", size
        )
    (survivor,) = (node for at, node in enumerate(mesh.nodes) if at not in killed)
    for at in killed:
        mesh.nodes[at].kill()
    for path, digest in digests.items():
        assert (await get(mesh, survivor, path)).digest == digest

    for size in SIZES:
        digests[f"{folder}/after-{size}"] = await put(mesh, survivor, f"{folder}/after-{size}", size)
    for path, digest in digests.items():
        assert (await get(mesh, survivor, path)).digest == digest
    listed = await mesh.json("GET", survivor, f"/v1/files/files?prefix={folder.removeprefix('files/')}/")
    assert {f"files/{entry['key']}" for entry in listed["objects"]} == set(digests)

    for at in killed:
        mesh.nodes[at].start()
    await mesh.ready(seconds=60)
    for path, digest in digests.items():
        for node in mesh.nodes:
            assert (await get(mesh, node, path)).digest == digest, f"{path} of {node.name}"
