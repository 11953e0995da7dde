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
from functools import partial
from pathlib import Path

import pytest

from discloud.core.model import State
from tests.faults.storm import Nemesis, Pair, Storm
from tests.support.linearizability import Done, Undecided, Values, explain, with_twins
from tests.support.processes import Mesh, NodeProcess, local_mesh, until

SEED = int(os.environ.get("STORM_SEED", "1"))
SECONDS = float(os.environ.get("STORM_SECONDS", "5"))
STEPS = int(os.environ.get("STORM_STEPS", "20000"))
"""Steps of the search for an order of one pair's history; longer storms want more."""
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
        print(storm.answers, nemesis.deeds, sep="\n")
        assert not storm.odd, storm.odd
        await read_everything_everywhere(storm)
        for pair in storm.pairs:
            check(pair)
        await delete_everything(storm)


async def read_everything_everywhere(storm: Storm) -> None:
    """Every node lists the same, and serves what it lists: acknowledged, whole, also what has one copy only."""
    for pair in storm.pairs:
        seen = {
            await until(partial(shown_by, storm, pair, node), 30, f"{pair.name} at {node.name}")
            for node in storm.mesh.nodes
        }
        assert len(seen) == 1, f"{pair.name}: nodes show different things: {seen}"


async def shown_by(storm: Storm, pair: Pair, node: NodeProcess) -> Values:
    """What one node lists, after all of it was read there; both are part of the history."""
    begin = time.monotonic()
    found = await storm.mesh.json("GET", node, f"/v1/files/files?prefix={pair.name}/")
    state = storm.listed(pair, found["objects"])
    pair.history.append(
        Done("list", 0, begin, time.monotonic(), "ok", seen=state, note=f"final list of {node.name}")
    )
    for key, value in enumerate(state):
        if value is not None:
            assert await storm.mesh.get(node, pair.path(key)) == storm.body(value)
    return state


def check(pair: Pair) -> None:
    """Fail with what comes around the point where no further operation fits."""
    try:
        order = explain(pair.history, (None, None), STEPS)
    except Undecided as error:
        # Too many unknown outcomes to search: says nothing for or against the mesh, so it is told, not failed.
        print(f"{pair.name} undecided: {error}")
        return
    if order is None:
        return
    began = min(done.begin for done in pair.history)
    left = sorted(set(with_twins(pair.history)) - set(order), key=lambda done: done.end)
    shown = [*order[-12:], *left[:12]]
    lines = [
        f"{'done' if done in order else 'left'} {done.begin - began:8.3f} {done.end - began:8.3f} "
        f"{done.outcome:8} {done.value} match={done.match} none={done.none_match} {done.seen} {done.note}"
        for done in shown
    ]
    pytest.fail(
        f"{pair.name}: {len(order)} of {len(pair.history)} in order, then nothing fits:\n" + "\n".join(lines)
    )


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
