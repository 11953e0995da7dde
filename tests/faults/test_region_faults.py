"""A region is cut off under load: it serves what it can and says so, the others go on, and the cut heals by itself."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.cluster.use import running
from tests.faults.load import CLIENTS, answered, recovers, storm_of
from tests.faults.storm import STALE
from tests.faults.verdict import every_copy_is_there, judge

pytestmark = [pytest.mark.faults, pytest.mark.alone, pytest.mark.timeout(300)]


async def test_a_region_is_cut_off(tmp_path: Path) -> None:
    async with running("user-data", tmp_path) as mesh:
        mesh.session._retry_connection = False
        storm = storm_of(mesh, "cut", "users")
        storm.layouts = ("",)
        away = {node.name for node in mesh.in_region("us")}
        async with storm.load(CLIENTS):
            await recovers(storm, "two regions")
            mesh.servers.border.cut("us")
            cut = time.monotonic()
            await recovers(storm, "eu goes on", lambda asked: asked.node not in away)
            await answered(storm, cut, 10, lambda asked: asked.node in away and asked.told == f"ok {STALE}")
            asked = await answered(storm, cut, 10, lambda asked: asked.node in away and asked.failed)
            print(f"\nus is cut off: {storm.answers(cut)}")
            sure = [each for each in asked if each.node in away and each.sure]
            assert not sure, "served as if there were a quorum"
            mesh.servers.border.heal()
            await mesh.ready()
            await recovers(storm, "healed")
        await judge(storm, in_one_step=False)
        await every_copy_is_there(storm)
