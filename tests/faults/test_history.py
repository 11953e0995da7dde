"""A mesh under clients and a nemesis behaves like one sequential store, loses nothing and leaves nothing behind.

``STORM_SEED`` and ``STORM_SECONDS`` make it another or a longer one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from discloud.core.model import State
from tests.faults.storm import Nemesis, Pair, Storm
from tests.faults.verdict import judge
from tests.support.processes import Mesh, NodeProcess, local_mesh, until

SEED = int(os.environ.get("STORM_SEED", "1"))
SECONDS = float(os.environ.get("STORM_SECONDS", "5"))
CLIENTS = 6
SETTINGS = {"DISCLOUD_LIMITS_GRACE": "2", "DISCLOUD_DISK_PACK_SIZE": "4 MiB"}
pytestmark = [pytest.mark.faults, pytest.mark.timeout(240 + SECONDS)]


async def test_a_storm_of_clients_and_faults_is_linearizable_and_leaves_nothing(tmp_path: Path) -> None:
    async with local_mesh(tmp_path, 4, SETTINGS) as mesh:
        # aiohttp repeats a PUT or DELETE whose connection was lost: what happened then would be told of the second only.
        mesh.session._retry_connection = False
        storm = Storm(mesh, SEED, [Pair(f"p{number}") for number in range(6)])
        nemesis = Nemesis(mesh, SEED)
        end = time.monotonic() + SECONDS
        async with asyncio.TaskGroup() as all_of_them:
            for number in range(CLIENTS):
                all_of_them.create_task(storm.client(number, end))
            all_of_them.create_task(nemesis.run(end))
        await mesh.ready()
        print(storm.answers(), nemesis.deeds, sep="\n")
        await judge(storm)
        await delete_everything(storm)


async def delete_everything(storm: Storm) -> None:
    """Sweep and gc take every blob: of what was deleted, replaced, refused and given up."""
    mesh = storm.mesh
    for each in (await mesh.json("GET", mesh.root, "/v1/files/files"))["objects"]:
        assert await mesh.status("DELETE", mesh.root, f"/v1/files/files/{each['key']}") == 204
    await end_waiting(mesh.root)
    await mesh.ready()

    async def nothing_left() -> bool:
        assert await blobs_of(mesh) == {node.name: 0 for node in mesh.nodes}, await blobs_of(mesh)
        temporary = [path for node in mesh.nodes for path in (node.data / "blobs/temp").iterdir()]
        assert not temporary, temporary
        return True

    await until(nothing_left, 90, "the removal of every blob")


async def end_waiting(root: NodeProcess) -> None:
    """Make all that is dead due: gc left versions whose holders were away for minutes, which nobody waits for here."""
    await asyncio.to_thread(root.kill, signal.SIGTERM)
    with closing(sqlite3.connect(root.data / "metadata.db")) as database, database:
        dead = (State.REPLACED, State.DELETED, State.ABORTED)
        database.execute("UPDATE versions SET due = 0 WHERE state IN (?, ?, ?)", dead)
    root.start()


async def blobs_of(mesh: Mesh) -> dict[str, int]:
    found = await mesh.json("GET", mesh.root, "/v1/nodes")
    return {node["name"]: node["blobs"] for node in found["nodes"]}
