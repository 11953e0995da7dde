"""Three regions: the first copy stays near, the others go far, reads take the nearest, and a region that is cut off goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from discloud.core.model import Key, NodeState
from tests.api.test_degraded import FILE, LABEL, STALE, STRONG, Mesh, degradable
from tests.support.grid import TOKEN, Grid, Keeping, grid
from tests.support.quorum import Quorum

REGIONS = ("eu", "eu", "us", "us", "ap", "ap")
IN = {f"node{number + 1}": region for number, region in enumerate(REGIONS)}


def regions_of(placement: Sequence[Sequence[str]]) -> list[str]:
    """Where the copies of the only fragment lie, in their order."""
    assert len(placement) == 1
    return [IN[name] for name in placement[0]]


async def source(mesh: Grid, key: str, node: int) -> str:
    """``local``, or the region that the bytes came from."""
    async with mesh.session.get(f"{mesh.nodes[node].url}{FILE}{key}") as answer:
        assert answer.status == 200
        await answer.read()
        told = answer.headers["Discloud-Source"]
    return told if told == "local" else IN[told.removeprefix("peer ")]


@pytest.mark.parametrize("gateway", range(6))
async def test_the_first_copy_stays_and_the_others_go_to_each_other_region(
    kept: Keeping, gateway: int
) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        for number in range(10):
            where = regions_of((await mesh.put(f"k{number}", b"x", node=gateway))["placement"])
            assert where[0] == REGIONS[gateway]
            assert set(where) == {"eu", "us", "ap"}
        two = regions_of((await mesh.put("two", b"x", "copies=2", node=gateway))["placement"])
        assert two[0] == REGIONS[gateway]
        assert two[1] != REGIONS[gateway]


async def test_wished_regions_get_a_copy_each_and_no_other_does(kept: Keeping) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        for number in range(10):
            answer = await mesh.put(f"k{number}", b"x", "regions=eu,us&copies=2", node=4)
            assert sorted(regions_of(answer["placement"])) == ["eu", "us"]
            answer = await mesh.put(f"three{number}", b"x", "regions=eu,us&copies=3", node=4)
            assert set(regions_of(answer["placement"])) == {"eu", "us"}


@pytest.mark.parametrize("size", [1000, 3 << 20])
async def test_a_read_takes_the_nearest(kept: Keeping, size: int) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        await mesh.put("a", b"x" * size, "nodes=node1,node3,node5")
        assert [await source(mesh, "a", node) for node in range(6)] == [
            "local", "eu", "local", "us", "local", "ap",
        ]  # fmt: skip


@pytest.mark.parametrize("size", [1000, 3 << 20])
async def test_among_far_regions_the_quickest_is_asked(kept: Keeping, size: int) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        await mesh.put("a", b"x" * size, "nodes=node3,node5")
        gateway, reader = mesh.nodes[0].cluster, mesh.nodes[0].surface.reader
        now = reader._hedges.clock()
        for near, far in ((2, 4), (4, 2)):
            for _ in range(20):
                gateway.rtt.answered(mesh.nodes[near].node.id, 0.03, now)
                gateway.rtt.answered(mesh.nodes[far].node.id, 0.3, now)
            assert gateway.rtt.seconds[mesh.nodes[far].node.id] > 0.2
            assert await source(mesh, "a", 0) == REGIONS[near]
            gateway.rtt.seconds.clear()


async def test_every_answer_of_another_node_is_measured(kept: Keeping) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        await mesh.put("small", b"x", "nodes=node3")
        await mesh.put("large", b"x" * (3 << 20), "nodes=node5")
        await mesh.put("here", b"x", "nodes=node1")
        for key in ("small", "large", "here"):
            await mesh.get(key, Range="bytes=0-")
        assert set(mesh.nodes[0].cluster.rtt.seconds) == {mesh.nodes[number].node.id for number in (2, 4)}


async def test_written_in_one_region_read_in_another(kept: Keeping) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        data = bytes(range(256)) * 5000
        await mesh.put("a", data, "regions=eu&copies=2", node=0)
        for node in range(6):
            assert await mesh.get("a", node=node) == data
            assert await mesh.get("a", "", node, Range="bytes=1000-2000") == data[1000:2001]


async def put_everywhere(mesh: Grid) -> None:
    """Object ``a``, pulled by every node."""
    await mesh.put("a", b"everywhere", "copies=all")
    holders = [each for each in mesh.nodes if each.blobs._held]
    assert len(holders) == 3
    for each in mesh.nodes:  # what the service ``pull`` does
        for blob, held in holders[0].blobs._held.items():
            each.blobs._held.setdefault(blob, held)


async def test_a_root_alone_reads_its_copy_without_asking_anybody() -> None:
    async with grid(6, REGIONS) as mesh:
        await put_everywhere(mesh)
        for number, each in enumerate(mesh.nodes):
            await mesh.get("a", node=number)
            admin = await each.surface.accounts.of_token(TOKEN.encode())
            assert each.surface.reader.quick(admin, "files", Key("a"))


async def test_with_a_copy_everywhere_every_node_reads_its_own(kept: Keeping) -> None:
    async with grid(6, REGIONS, kept=kept) as mesh:
        await put_everywhere(mesh)
        for short in (True, False):
            for each in mesh.nodes:
                more = {} if short else {"X-Odd": "1"}
                async with mesh.session.get(f"{each.url}{FILE}a", headers=more) as answer:
                    assert await answer.read() == b"everywhere"
                    assert answer.headers["Discloud-Source"] == "local"


def cut_off(mesh: Mesh, region: str, state: Quorum) -> None:
    """The region reaches nobody else and no quorum; nobody reaches it. The view has yet to learn it."""
    inside = [number for number, name in enumerate(REGIONS) if name == region]
    for number, node in enumerate(mesh.grid.nodes):
        node.reach.down = number not in inside
    mesh.set(state, *inside)


def held(mesh: Mesh) -> list[Any]:
    return [sorted(map(str, node.blobs._held)) for node in mesh.grid.nodes]


@pytest.mark.parametrize("state", [Quorum.LOST, Quorum.GONE])
@pytest.mark.parametrize("known_down", [False, True])
async def test_a_region_that_is_cut_off_serves_what_it_can(state: Quorum, known_down: bool) -> None:
    async with degradable(6, regions=REGIONS) as mesh:
        await mesh.grid.put("both", b"near and far", "regions=eu,us&copies=2")
        await mesh.grid.put("large", b"x" * (3 << 20), "regions=eu,us&copies=2")
        await mesh.grid.put("far", b"far", "regions=eu&copies=2")
        for node in (2, 3):
            for key in ("both", "large", "far"):
                await mesh.grid.get(key, node=node)
        before = held(mesh)
        if known_down:
            for number in (0, 1, 4, 5):
                mesh.grid.set_state(number, NodeState.DOWN)
        cut_off(mesh, "us", state)
        for node in (2, 3):
            for key, length in (("both", 12), ("large", 3 << 20)):
                status, headers, body = await mesh.ask(FILE + key, node)
                assert (status, headers[LABEL], len(body)) == (200, STALE, length)
            assert await mesh.grid.problem("GET", FILE + "far", node) == (503, "unavailable")
            assert await mesh.grid.problem("PUT", FILE + "new", node, data=b"x") == (503, "unavailable")
            assert await mesh.grid.problem("DELETE", FILE + "both", node) == (503, "unavailable")
        assert not await mesh.grid.metadata.queues.repairs(float("inf"), 10)
        for number, each in enumerate(mesh.grid.nodes):
            if known_down:
                mesh.grid.set_state(number, NodeState.ALIVE)
            each.reach.down = False
        mesh.set(Quorum.THERE)
        for node in range(6):
            for key in ("both", "far"):
                assert await mesh.grid.get(key, node=node)
            assert await mesh.grid.problem("GET", FILE + "new", node) == (404, "no-such-key")
        assert all(set(old) <= set(new) for old, new in zip(before, held(mesh), strict=True)), (
            "nothing was deleted"
        )


async def test_the_majority_side_goes_on() -> None:
    async with degradable(6, regions=REGIONS) as mesh:
        await mesh.grid.put("both", b"near and far", "regions=eu,us&copies=2")
        for number in (2, 3):
            mesh.grid.nodes[number].reach.down = True
        for node in (0, 1, 4, 5):
            status, headers, body = await mesh.ask(FILE + "both", node)
            assert (status, headers[LABEL], body) == (200, STRONG, b"near and far")
        await mesh.grid.put("new", b"new", "regions=eu,ap&copies=2", node=4)
        assert await mesh.grid.get("new", node=1) == b"new"
