"""User data of an application: written in eu, local in eu, proxied and equal in us; copies lie where the bucket says."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.cluster.use import SIZES, get, put, running
from tests.support.cluster import UsedMesh
from tests.support.processes import until

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.timeout(400),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[UsedMesh]:
    async with running("user-data", tmp_path_factory.mktemp("user-data")) as started:
        yield started


async def regions_of(mesh: UsedMesh, path: str) -> list[str]:
    """The regions of a file's copies."""
    found = await mesh.json("GET", mesh.root, f"/v1/map/{path}")
    copies = {
        copy["name"]
        for segment in found["segments"]
        for fragment in segment["fragments"]
        for copy in fragment["copies"]
    }
    return sorted(region for region in ("eu", "us") for node in mesh.in_region(region) if node.name in copies)


@pytest.mark.parametrize("size", SIZES)
async def test_written_in_eu_local_in_eu_proxied_and_equal_in_us(mesh: UsedMesh, size: int) -> None:
    path = f"users-eu/{size}"
    digest = await put(mesh, mesh.root, path, size)
    assert await regions_of(mesh, path) == ["eu", "eu"]
    for node in mesh.in_region("eu"):
        got = await get(mesh, node, path)
        assert (got.digest, got.source) == (digest, "local")
    for node in mesh.in_region("us"):
        got = await get(mesh, node, path)
        assert got.digest == digest
        assert got.source.startswith("peer eu-")


@pytest.mark.parametrize("size", SIZES)
async def test_a_copy_stays_and_one_goes_elsewhere(mesh: UsedMesh, size: int) -> None:
    for region in ("eu", "us"):
        path = f"users/{region}/{size}"
        digest = await put(mesh, mesh.in_region(region)[1], path, size)
        assert await regions_of(mesh, path) == ["eu", "us"]
        for node in mesh.nodes:
            got = await get(mesh, node, path)
            assert got.digest == digest
            assert got.source in ("local", *(f"peer {each.name}" for each in mesh.nodes))


async def test_a_region_that_is_cut_off_serves_what_it_can_and_heals_by_itself(mesh: UsedMesh) -> None:
    digest = await put(mesh, mesh.root, "users/before", 200_000)
    (eu, _), (us, _) = mesh.in_region("eu"), mesh.in_region("us")
    await get(mesh, us, "users/before")
    refused: list[str] = []
    mesh.servers.border.cut("us")
    try:

        async def is_refused() -> bool:
            path = f"/v1/files/users/refused-{len(refused)}"
            async with mesh.session.put(us.url + path, data=b"x") as answer:
                assert answer.status == 503, await answer.text()
                if (await answer.json())["code"] != "outcome-unknown":
                    refused.append(path)
            return bool(refused)

        async def is_labelled() -> bool:
            got = await get(mesh, us, "users/before")
            assert got.digest == digest
            return got.consistency == "stale-possible"

        await put(mesh, eu, "users/meanwhile", 200_000)
        await until(is_refused, 20, "a refusal on the side without a quorum")
        await until(is_labelled, 20, "a labelled read on the side without a quorum")
    finally:
        mesh.servers.border.heal()

    async def is_whole() -> bool:
        written = await put(mesh, us, "users/after", 200_000)
        return all([(await get(mesh, node, "users/after")).digest == written for node in mesh.nodes])

    await mesh.ready(seconds=60)
    await until(is_whole, 60, "one mesh again")
    for path in refused:
        assert await mesh.status("GET", mesh.root, path) == 404
