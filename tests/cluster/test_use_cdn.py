"""Content delivery: every region answers from its own disks, also a node that joined later."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.use import SIZES, get, put, running
from tests.support.cluster import Place, UsedMesh
from tests.support.processes import NodeProcess, until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UsedMesh]:
    async with running("cdn", tmp_path_factory.mktemp("cdn")) as started:
        yield started


async def becomes_local(mesh: UsedMesh, node: NodeProcess, digests: dict[str, str]) -> None:
    """Every file is read equal at once, and from the node's own disk as soon as it has pulled it."""

    async def local() -> bool:
        sources = set()
        for path, digest in digests.items():
            got = await get(mesh, node, path)
            assert got.digest == digest, f"{path} of {node.name} is another file"
            sources.add(got.source)
        return sources == {"local"}

    await until(local, 60, f"every file on {node.name}")


async def test_every_region_answers_from_its_own_disks(mesh: UsedMesh) -> None:
    digests = {f"site/{size}": await put(mesh, mesh.root, f"site/{size}", size) for size in SIZES}
    for region in mesh.servers.use.regions:
        nodes = mesh.in_region(region)
        assert len(nodes) == 2
        for node in nodes:
            await becomes_local(mesh, node, digests)

    late = mesh.join(Place("asia-late", "ordinary", "asia"))
    late.start()
    await mesh.ready(late, seconds=60)
    await becomes_local(mesh, late, digests)


async def test_copies_all_of_one_write_is_the_same(mesh: UsedMesh) -> None:
    await mesh.json("PUT", mesh.root, "/v1/buckets/plain", json={"layout": "mirror:2"})
    digest = await put(mesh, mesh.nodes[-1], "plain/everywhere", 300_000, "?copies=all")
    for node in mesh.nodes:
        await becomes_local(mesh, node, {"plain/everywhere": digest})
