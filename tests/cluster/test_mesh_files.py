"""Files through a whole mesh of real processes: in through one node, out of every other (``make integration-test``).

``DISCLOUD_TEST_SCALE`` scales the sizes: 1 = 10..600 MB as a person runs it, 0.1 = as CI does.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.cluster_mesh import cluster_mesh
from tests.support.processes import Mesh, NodeProcess, local_mesh, until
from tests.support.servers import fresh_keyspace, redis_server, shared_cassandra

SCALE = float(os.environ.get("DISCLOUD_TEST_SCALE", "0.02"))
SIZES = [int(megabytes * 1_000_000 * SCALE) + extra for extra, megabytes in enumerate(
    (10, 20, 40, 60, 80, 100, 150, 250, 400, 600)
)]  # fmt: skip
STEP = 1 << 20
SixNodes = Callable[[Path], AbstractAsyncContextManager[Mesh]]

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.alone,
    pytest.mark.timeout(3000),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(scope="module", params=["one-root", "cluster"])
def six_nodes(request: pytest.FixtureRequest) -> SixNodes:
    """One root and five ordinary nodes, or three roots with Cassandra and Redis and three ordinary nodes."""
    return one_root if request.param == "one-root" else cluster


def one_root(folder: Path) -> AbstractAsyncContextManager[Mesh]:
    return local_mesh(folder, 6)


@asynccontextmanager
async def cluster(folder: Path) -> AsyncIterator[Mesh]:
    hosts = (await asyncio.to_thread(shared_cassandra)).hosts
    with redis_server() as redis, fresh_keyspace(hosts) as keyspace:
        async with cluster_mesh(folder, hosts, keyspace, redis.url, {}, ordinary=3) as started:
            yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory, six_nodes: SixNodes) -> AsyncIterator[Mesh]:
    async with six_nodes(tmp_path_factory.mktemp("mesh")) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def equal_mesh(tmp_path: Path, six_nodes: SixNodes) -> AsyncIterator[Mesh]:
    """Six nodes of which no gateway remembers what it sent where: files that are gone again count as sent for a while."""
    async with six_nodes(tmp_path) as started:
        yield started


async def test_a_thousand_files_fill_equal_nodes_evenly(equal_mesh: Mesh) -> None:
    mesh, data = equal_mesh, os.urandom(20_000)

    async def write(number: int) -> None:
        path = f"/v1/files/files/even/{number}?copies=1"
        await mesh.json("PUT", mesh.nodes[number % 6], path, data=io.BytesIO(data))

    async def remove(number: int) -> None:
        assert await mesh.status("DELETE", mesh.root, f"/v1/files/files/even/{number}") == 204

    async def counted() -> list[int]:
        nodes = (await mesh.json("GET", mesh.root, "/v1/nodes"))["nodes"]
        return [node["used"] for node in nodes] if sum(node["blobs"] for node in nodes) == 1000 else []

    await by_twelve_clients(write, 1000)
    used = await until(counted, 20, "the fill of all nodes")
    assert max(used) <= 1.1 * min(used), used
    await by_twelve_clients(remove, 1000)
    await until(lambda: no_blobs(mesh), 120, "removal of all blobs")


async def by_twelve_clients(request: Callable[[int], Awaitable[None]], count: int) -> None:
    """Requests 0 to ``count``, each client's one after another."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await request(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(client())


def make_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Random files of all sizes, with their SHA-256."""
    files = {}
    for size in SIZES:
        path = folder / f"{size}.bin"
        if not path.exists():
            with path.open("wb") as out:
                for start in range(0, size, STEP):
                    out.write(os.urandom(min(STEP, size - start)))
        files[path.name] = (path, digest_of(path))
    return files


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def put(mesh: Mesh, node: NodeProcess, name: str, path: Path, query: str) -> None:
    with path.open("rb") as file:
        answer = await mesh.json("PUT", node, f"/v1/files/files/{name}?{query}", data=file)
    assert answer["size"] == path.stat().st_size


async def sha256_of(mesh: Mesh, node: NodeProcess, name: str) -> str:
    digest = hashlib.sha256()
    async with mesh.session.get(f"{node.url}/v1/files/files/{name}") as answer:
        assert answer.status == 200, await answer.text()
        async for chunk in answer.content.iter_chunked(STEP):
            digest.update(chunk)
    return digest.hexdigest()


async def check_equal_parts(mesh: Mesh, name: str, parts: int) -> None:
    found = await mesh.json("GET", mesh.root, f"/v1/map/files/{name}")
    fragments = [fragment for segment in found["segments"] for fragment in segment["fragments"]]
    assert len(fragments) == parts
    lengths = [fragment["length"] for fragment in fragments]
    assert max(lengths) - min(lengths) <= 8, lengths
    nodes = [copy["node"] for fragment in fragments for copy in fragment["copies"]]
    assert len(set(nodes)) == parts, "two parts on one node"


@pytest.mark.parametrize(
    "query", ["copies=1", "copies=3", "copies=all", "layout=stripe:5", "layout=stripe:6"]
)
async def test_files_come_out_of_every_node_equal(
    mesh: Mesh, tmp_path_factory: pytest.TempPathFactory, query: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "files"
    folder.mkdir(exist_ok=True)
    files = make_files(folder)
    for position, (name, (path, _)) in enumerate(files.items()):
        await put(mesh, mesh.nodes[position % 6], name, path, query)
    for node in mesh.nodes:
        for name, (_, digest) in files.items():
            assert await sha256_of(mesh, node, name) == digest, f"{name} from {node.name}"
    if query.startswith("layout=stripe:"):
        for name in files:
            await check_equal_parts(mesh, name, int(query.rpartition(":")[2]))
    if query == "copies=3":
        await check_survives_a_kill(mesh, files)
    for name in files:
        assert await mesh.status("DELETE", mesh.root, f"/v1/files/files/{name}") == 204
    await until(lambda: no_blobs(mesh), 120, "removal of all blobs")


async def check_survives_a_kill(mesh: Mesh, files: dict[str, tuple[Path, str]]) -> None:
    """SIGKILL of one holder: every copies=3 file still comes out of every living node."""
    victim = mesh.nodes[-1]
    victim.kill()
    for node in mesh.nodes[:-1]:
        for name, (_, digest) in files.items():
            assert await sha256_of(mesh, node, name) == digest, f"{name} from {node.name} after a kill"
    victim.start()
    await mesh.ready()


async def no_blobs(mesh: Mesh) -> bool:
    """Nothing is left of removed files: gc has been everywhere."""
    found = await mesh.json("GET", mesh.root, "/v1/nodes")
    return all(node["blobs"] == 0 for node in found["nodes"])


async def test_copies_on_this_node_and_one_elsewhere(mesh: Mesh) -> None:
    asked = mesh.nodes[2]
    await mesh.json("PUT", asked, "/v1/files/files/self?nodes=self&copies=2", data=b"x" * 3000)
    found = await mesh.json("GET", asked, "/v1/map/files/self")
    names = [copy["name"] for copy in found["segments"][0]["fragments"][0]["copies"]]
    assert len(names) == 2
    assert asked.name in names
    await mesh.status("DELETE", asked, "/v1/files/files/self")


async def test_a_joining_node_gets_blobs_of_the_next_writes(mesh: Mesh) -> None:
    newcomer = mesh.add("node7")
    stop = asyncio.Event()
    written: list[str] = []

    async def uploads() -> None:
        number = 0
        while not stop.is_set():
            name = f"join/{number}"
            await mesh.json(
                "PUT", mesh.nodes[number % 6], f"/v1/files/files/{name}?copies=1", data=os.urandom(200_000)
            )
            written.append(name)
            number += 1

    task = asyncio.create_task(uploads())
    try:
        newcomer.start()
        await mesh.ready()

        async def has_blobs() -> bool:
            found = await mesh.json("GET", mesh.root, "/v1/nodes")
            return any(node["name"] == "node7" and node["blobs"] > 0 for node in found["nodes"])

        await until(has_blobs, 60, "blobs on the node that joined")
    finally:
        stop.set()
        await task
    for name in written:
        await mesh.status("DELETE", mesh.root, f"/v1/files/files/{name}")
