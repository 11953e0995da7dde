"""A mesh of real nodes whose metadata moves from SQLite to Cassandra and back: every file is there, through every node."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import servers
from tests.support.processes import Mesh, NodeProcess, local_mesh, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

FILES = {
    "one": (b"1", ""),
    "dir/small": (os.urandom(5_000), "?copies=3"),
    "dir/sub/large": (os.urandom(900_000), "?layout=stripe:2"),
    "dir/everywhere": (os.urandom(200_000), "?layout=mirror:all"),
    "é/ü": (os.urandom(70_000), "?copies=2"),
}


async def migrate(mesh: Mesh, *words: str) -> subprocess.CompletedProcess[str]:
    """The command, as a person runs it beside the root."""
    return await asyncio.to_thread(
        subprocess.run, [sys.executable, "-m", "discloud.cli.main", "migrate", "--json", *words],
        env={**os.environ, **mesh.settings}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


async def moved(mesh: Mesh, *words: str) -> dict[str, int]:
    """How many rows of each kind are the same on both sides."""
    result = await migrate(mesh, *words)
    assert result.returncode == 0, result.stderr
    verified = json.loads(result.stdout)["verified"]
    return {kind: each["rows"] for kind, each in verified.items()}


async def put(mesh: Mesh, node: NodeProcess, key: str, data: bytes, query: str = "") -> None:
    await mesh.json("PUT", node, f"/v1/files/files/{key}{query}", data=data)


async def holds(mesh: Mesh, files: dict[str, bytes]) -> None:
    """Every node lists exactly these files and gives their bytes."""
    for node in mesh.nodes:
        listed = await mesh.json("GET", node, "/v1/files/files")
        assert sorted(each["key"] for each in listed["objects"]) == sorted(files)
        for key, data in files.items():
            assert await mesh.get(node, f"/v1/files/files/{key}") == data
        assert await mesh.status("GET", node, "/v1/files/files/removed") == 404


async def comes_to_every_disk(mesh: Mesh, key: str) -> None:
    """A ``mirror:all`` file is pulled by the nodes that it was not given to."""
    for node in mesh.nodes:

        async def is_here(node: NodeProcess = node) -> bool:
            async with mesh.session.get(f"{node.url}/v1/files/files/{key}") as answer:
                await answer.read()
                return answer.headers.get("Discloud-Source") == "local"

        await until(is_here, 40, f"{key} on the disk of {node.name}")


async def refused_to_start(root: NodeProcess) -> str:
    """The log of a root that does not start."""
    root.start()
    assert root.process is not None
    code = await asyncio.to_thread(root.process.wait, 60)
    root.process = None
    assert code == 1
    return root.log.read_text()


async def test_from_sqlite_to_cassandra_and_back(
    tmp_path: Path, cassandra_cluster: servers.SharedCassandra, fresh_keyspace: str
) -> None:
    hosts = ",".join(cassandra_cluster.hosts)
    address = f"cassandra://{hosts}/{fresh_keyspace}"
    async with local_mesh(tmp_path, 4, {"DISCLOUD_CASSANDRA_PATIENCE": "10"}) as mesh:
        root, files = mesh.root, {key: data for key, (data, _) in FILES.items()}
        for number, (key, (data, query)) in enumerate(FILES.items()):
            await put(mesh, mesh.nodes[number % 4], key, data, query)
        await put(mesh, root, "removed", b"x")
        await mesh.json("PATCH", root, "/v1/files/files/one", json={"key": "renamed"})
        files["renamed"] = files.pop("one")
        assert await mesh.status("DELETE", root, "/v1/files/files/removed") < 300
        await comes_to_every_disk(mesh, "dir/everywhere")
        await holds(mesh, files)

        running = await migrate(mesh, "--data", str(root.data), "--to", address)
        assert running.returncode == 1
        assert "in use by another process" in running.stderr
        root.kill(15)
        rows = await moved(mesh, "--data", str(root.data), "--to", address)
        assert rows["heads"] == rows["listed names"] == len(files)
        assert f"moved to {address}" in await refused_to_start(root)

        root.environ |= {"DISCLOUD_CASSANDRA_HOSTS": hosts, "DISCLOUD_CASSANDRA_KEYSPACE": fresh_keyspace}
        root.start()
        await mesh.ready()
        await holds(mesh, files)
        files["in cassandra"] = os.urandom(100_000)
        await put(mesh, mesh.nodes[1], "in cassandra", files["in cassandra"], "?layout=mirror:all")
        await comes_to_every_disk(mesh, "in cassandra")
        assert await mesh.status("DELETE", mesh.nodes[2], "/v1/files/files/dir/small") < 300
        del files["dir/small"]
        await holds(mesh, files)

        root.kill(15)
        database = root.data / "metadata.db"
        database.rename(tmp_path / "old.db")
        rows = await moved(mesh, "--from", address, "--to", f"sqlite:{database}")
        assert rows["heads"] == rows["listed names"] == len(files)
        assert "this keyspace is stale" in await refused_to_start(root)

        del root.environ["DISCLOUD_CASSANDRA_HOSTS"]
        root.start()
        await mesh.ready()
        await holds(mesh, files)
        files["back"] = os.urandom(100_000)
        await put(mesh, mesh.nodes[3], "back", files["back"], "?layout=mirror:all")
        await comes_to_every_disk(mesh, "back")
        await holds(mesh, files)
