"""Real processes are killed, folders are mixed up, bytes rot: nothing acknowledged is lost, nothing refused is seen."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.support.processes import HOST, Mesh, NodeProcess, local_mesh, until

MIB = 1 << 20
pytestmark = [pytest.mark.faults, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with local_mesh(tmp_path_factory.mktemp("faults"), 4) as started:
        yield started


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def all_alive(mesh: Mesh) -> AsyncIterator[None]:
    """Every test begins and ends with all nodes of the mesh."""
    yield
    for node in mesh.nodes:
        if not node.running:
            node.start()
    await mesh.ready()


async def put(mesh: Mesh, node: NodeProcess, key: str, data: bytes, query: str = "") -> None:
    await mesh.json("PUT", node, f"/v1/files/files/{key}?{query}", data=io.BytesIO(data))


async def blobs_of(mesh: Mesh) -> dict[str, int]:
    found = await mesh.json("GET", mesh.root, "/v1/nodes")
    return {node["name"]: node["blobs"] for node in found["nodes"]}


async def holders_of(mesh: Mesh, key: str) -> list[dict[str, str]]:
    found = await mesh.json("GET", mesh.root, f"/v1/map/files/{key}")
    return [copy for segment in found["segments"] for part in segment["fragments"] for copy in part["copies"]]


class SlowPut:
    """An upload that has sent half of its body and waits."""

    def __init__(self, mesh: Mesh, node: NodeProcess, key: str, size: int, query: str) -> None:
        self.mesh, self.node, self.key, self.size, self.query = mesh, node, key, size, query
        self.go_on = asyncio.Event()
        self.half_sent = asyncio.Event()
        self.data = os.urandom(size)

    async def body(self) -> AsyncIterator[bytes]:
        half = self.size // 2
        for start in range(0, half, MIB):
            yield self.data[start : min(start + MIB, half)]
        self.half_sent.set()
        await self.go_on.wait()
        for start in range(half, self.size, MIB):
            yield self.data[start : start + MIB]

    async def run(self) -> int:
        url = f"{self.node.url}/v1/files/files/{self.key}?{self.query}"
        headers = {"Content-Length": str(self.size)}
        async with self.mesh.session.put(url, data=self.body(), headers=headers) as answer:
            await answer.read()
            return answer.status


async def test_a_holder_killed_during_a_put(mesh: Mesh) -> None:
    holder = mesh.nodes[3]
    upload = SlowPut(mesh, mesh.nodes[1], "killed-holder", 24 * MIB, "nodes=node2,node3,node4&copies=3")
    task = asyncio.create_task(upload.run())
    await upload.half_sent.wait()
    holder.kill()
    upload.go_on.set()
    assert await task == 201, "two of three copies are the ack of copies=3"
    for node in mesh.nodes[:3]:
        assert await mesh.get(node, "/v1/files/files/killed-holder") == upload.data
    holder.start()
    await mesh.ready()

    async def whole_again() -> bool:
        copies = await holders_of(mesh, "killed-holder")
        return len(copies) == 3 and all(copy["state"] == "present" for copy in copies)

    await until(whole_again, 60, "three copies again")


async def test_a_stripe_with_a_dead_holder_is_refused_whole(mesh: Mesh) -> None:
    upload = SlowPut(mesh, mesh.nodes[1], "half-stripe", 24 * MIB, "layout=stripe:4")
    task = asyncio.create_task(upload.run())
    await upload.half_sent.wait()
    mesh.nodes[3].kill()
    upload.go_on.set()
    assert await task == 503
    assert await mesh.status("GET", mesh.root, "/v1/files/files/half-stripe") == 404


async def test_a_holder_killed_during_a_get(mesh: Mesh) -> None:
    data = os.urandom(64 * MIB)
    await put(mesh, mesh.nodes[0], "cut-get", data, "nodes=node3,node4&copies=2")
    digest, killed = hashlib.sha256(), False
    async with mesh.session.get(f"{mesh.nodes[1].url}/v1/files/files/cut-get") as answer:
        async for chunk in answer.content.iter_chunked(MIB):
            digest.update(chunk)
            if not killed:
                killed = True
                mesh.source_of(answer).kill()
    assert digest.digest() == hashlib.sha256(data).digest()


async def test_a_gateway_killed_during_a_put_leaves_no_trace(mesh: Mesh) -> None:
    holders = [mesh.nodes[0], mesh.nodes[2]]

    def files() -> set[str]:
        """Names of the holders' large blobs, finished or not: each begins with its version's id."""
        return {path.name for node in holders for path in node.data.rglob("*-*-*-*-*.*.*") if path.is_file()}

    before = files()
    upload = SlowPut(mesh, mesh.nodes[1], "killed-gateway", 24 * MIB, "nodes=node1,node3&copies=2")
    task = asyncio.create_task(upload.run())
    await upload.half_sent.wait()

    async def arriving() -> set[str]:
        return files() - before

    begun = await until(arriving, 30, "the bytes at a holder")
    (version,) = {name.partition(".")[0] for name in begun}
    mesh.nodes[1].kill()
    upload.go_on.set()
    with pytest.raises(aiohttp.ClientError):
        await task
    assert await mesh.status("GET", mesh.root, "/v1/files/files/killed-gateway") == 404

    async def no_trace() -> bool:
        return not any(name.startswith(version) for name in files())

    await until(no_trace, 60, "removal of what the dead gateway left")


async def test_small_blobs_of_a_killed_gateway_are_swept(mesh: Mesh) -> None:
    """kill -9 under a storm of small writes: what was acknowledged is there, what was not leaves no blob."""
    acknowledged: list[int] = []

    async def write(number: int) -> None:
        try:
            await put(mesh, mesh.nodes[1], f"storm/{number}", b"%d" % number * 100, "copies=2")
            acknowledged.append(number)
        except (aiohttp.ClientError, AssertionError):
            return

    tasks = [asyncio.create_task(write(number)) for number in range(400)]
    await until(lambda: asyncio.sleep(0, len(acknowledged) > 30), 30, "some acknowledged writes")
    mesh.nodes[1].kill()
    await asyncio.gather(*tasks)
    mesh.nodes[1].start()
    await mesh.ready()
    for number in acknowledged:
        assert await mesh.get(mesh.nodes[2], f"/v1/files/files/storm/{number}") == b"%d" % number * 100
    listing = await mesh.json("GET", mesh.root, "/v1/files/files?prefix=storm/")
    for each in listing["objects"]:
        assert await mesh.status("DELETE", mesh.root, f"/v1/files/files/{each['key']}") == 204

    async def nothing_left() -> bool:
        others = await mesh.json("GET", mesh.root, "/v1/files/files")
        expected = 0
        for each in others["objects"]:
            expected += len(
                [copy for copy in await holders_of(mesh, each["key"]) if copy["state"] == "present"]
            )
        return sum((await blobs_of(mesh)).values()) <= expected

    await until(nothing_left, 60, "removal of every blob of the storm")


async def test_the_root_killed_and_back(mesh: Mesh) -> None:
    await put(mesh, mesh.nodes[1], "before", b"x" * 1000, "nodes=node2,node3&copies=2")
    mesh.root.kill()
    async with mesh.session.get(mesh.nodes[1].url + "/v1/files/files/before") as answer:
        assert (answer.status, await answer.read()) == (200, b"x" * 1000), (
            "what this gateway wrote it remembers"
        )
        assert answer.headers["Discloud-Consistency"] == "stale-possible"
    status = await mesh.status("GET", mesh.nodes[2], "/v1/files/files/never-seen-there")
    assert status == 503, "unknown is not absent"
    assert await mesh.status("PUT", mesh.nodes[1], "/v1/files/files/while-down", data=b"x") == 503
    assert await mesh.status("GET", mesh.nodes[1], "/livez") == 200
    mesh.root.start()
    await mesh.ready()
    assert await mesh.get(mesh.nodes[1], "/v1/files/files/before") == b"x" * 1000
    await put(mesh, mesh.nodes[2], "after", b"y")


async def test_a_flipped_byte_is_never_served_and_is_mended(mesh: Mesh) -> None:
    data = os.urandom(8 * MIB)
    await put(mesh, mesh.nodes[0], "rot", data, "nodes=node3,node4&copies=2")
    victim = mesh.nodes[2]
    large = [path for path in victim.data.rglob("*") if path.is_file() and path.stat().st_size > 8 * MIB]
    flipped = 0
    for path in large:
        content = path.read_bytes()
        if (at := content.find(data[5 * MIB : 5 * MIB + 64])) >= 0:
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([content[at] ^ 1]))
            flipped += 1
    assert flipped == 1, large
    for node in mesh.nodes:
        assert await mesh.get(node, "/v1/files/files/rot") == data

    async def mended() -> bool:
        assert await mesh.get(victim, "/v1/files/files/rot") == data
        copies = await holders_of(mesh, "rot")
        async with mesh.session.get(f"{victim.url}/v1/files/files/rot") as answer:
            await answer.read()
            local = answer.headers["Discloud-Source"] == "local"
        return local and len(copies) == 2 and all(copy["state"] == "present" for copy in copies)

    await until(mended, 60, "the spoilt copy copied again")


def refused(node: NodeProcess, seconds: float = 20) -> str:
    """Start a node that must end by itself with one clear line; gives what it said."""
    if node.log.exists():
        node.log.write_bytes(b"")
    node.start()
    assert node.process is not None
    assert node.process.wait(seconds) == 1, node.log.read_text()
    node.process = None
    said = node.log.read_text()
    assert "Traceback" not in said, said
    errors = [line for line in said.splitlines() if line.startswith("discloud: error:")]
    assert len(errors) == 1, said
    return errors[0]


@pytest.fixture
def stray(mesh: Mesh) -> NodeProcess:
    """One more node that will not be let in."""
    node = mesh.add("stray")
    mesh.nodes.remove(node)
    return node


async def test_a_wrong_secret_is_refused_and_the_right_one_then_lets_in(
    mesh: Mesh, stray: NodeProcess, tmp_path: Path
) -> None:
    wrong = tmp_path / "secret"
    wrong.write_text("a secret of some other mesh, long enough")
    right = stray.environ["DISCLOUD_SECRET_FILE"]
    stray.environ["DISCLOUD_SECRET_FILE"] = str(wrong)
    assert "secret" in await asyncio.to_thread(refused, stray)
    stray.environ["DISCLOUD_SECRET_FILE"] = right
    stray.start()

    async def let_in() -> bool:
        return await mesh.status("GET", stray, "/readyz") == 200

    await until(let_in, 20, "the node that was refused before")
    stray.kill(signal.SIGTERM)


async def test_a_second_root_is_refused(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    stray.role = "root"
    assert "two roots need Cassandra" in await asyncio.to_thread(refused, stray)


async def test_a_folder_of_another_mesh_is_refused(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    stray.data.mkdir()
    identity = (mesh.nodes[1].data / "identity.json").read_text()
    cluster = identity.partition('"cluster": "')[2][:36]
    (stray.data / "identity.json").write_text(
        identity.replace(cluster, "99999999-9999-4999-8999-999999999999")
    )
    assert "mesh" in await asyncio.to_thread(refused, stray)


async def test_a_cloned_folder_is_refused_while_the_original_lives(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    stray.data.mkdir()
    shutil.copy(mesh.nodes[1].data / "identity.json", stray.data)
    stray.name = mesh.nodes[1].name
    assert "running in another process" in await asyncio.to_thread(refused, stray, 40)
    await mesh.ready()


async def test_an_empty_folder_of_a_known_name_is_refused(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    stray.name = "node2"
    assert "node2" in await asyncio.to_thread(refused, stray)


async def test_one_folder_for_two_processes_is_refused(mesh: Mesh, stray: NodeProcess) -> None:
    stray.data = mesh.nodes[1].data
    stray.environ["DISCLOUD_LOG_LEVEL"] = "error"
    log = mesh.folder / "stray-twice.log"
    original = NodeProcess.log
    try:
        NodeProcess.log = property(lambda self: log)  # type: ignore[assignment, method-assign]
        assert "in use" in await asyncio.to_thread(refused, stray)
    finally:
        NodeProcess.log = original  # type: ignore[method-assign]


async def test_a_taken_port_is_refused_before_anything_is_written(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    with socket.create_server((HOST, stray.port)):
        assert "--port" in await asyncio.to_thread(refused, stray)
    assert not stray.data.exists()


async def test_a_root_without_its_database_is_refused(mesh: Mesh, stray: NodeProcess) -> None:
    shutil.rmtree(stray.data, ignore_errors=True)
    stray.data.mkdir()
    shutil.copy(mesh.root.data / "identity.json", stray.data)
    stray.role = "root"
    stray.environ.pop("DISCLOUD_ROOTS")
    assert "metadata.db" in await asyncio.to_thread(refused, stray)


async def test_a_paused_holder_is_passed_over(mesh: Mesh) -> None:
    data = os.urandom(300_000)
    await put(mesh, mesh.nodes[0], "paused", data, "nodes=node3,node4&copies=2")
    mesh.nodes[3].kill(signal.SIGSTOP)
    try:

        async def still_read() -> bool:
            async with asyncio.timeout(20):
                return await mesh.get(mesh.nodes[1], "/v1/files/files/paused") == data

        assert await still_read()
    finally:
        mesh.nodes[3].kill(signal.SIGCONT)


async def test_a_stopped_folder_with_another_address_has_the_same_files(mesh: Mesh) -> None:
    data = os.urandom(2 * MIB)
    await put(mesh, mesh.nodes[0], "moved-node", data, "nodes=node4&copies=1")
    node = mesh.nodes[3]
    node.kill(signal.SIGTERM)
    moved = mesh.add("node4")
    mesh.nodes.remove(moved)
    node.port = moved.port
    node.start()
    await mesh.ready()
    for each in mesh.nodes:
        assert await mesh.get(each, "/v1/files/files/moved-node") == data


async def test_the_role_goes_to_another_folder_with_the_database(mesh: Mesh) -> None:
    data = os.urandom(500_000)
    await put(mesh, mesh.nodes[0], "role", data, "nodes=node1,node2&copies=2")
    for node in mesh.nodes:
        node.kill(signal.SIGTERM)
    old, new = mesh.nodes[0], mesh.nodes[1]
    for path in old.data.glob("metadata.db*"):
        shutil.move(path, new.data / path.name)
    old.role, new.role = "ordinary", "root"
    for node in mesh.nodes:
        node.environ["DISCLOUD_ROOTS"] = f"{HOST}:{new.port + 2}"
    new.environ.pop("DISCLOUD_ROOTS")
    mesh.nodes[0], mesh.nodes[1] = new, old
    for node in mesh.nodes:
        node.start()
    await mesh.ready()
    for node in mesh.nodes:
        assert await mesh.get(node, "/v1/files/files/role") == data
