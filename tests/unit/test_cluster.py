"""Gateways that share one stale view fill equal nodes evenly, and unequal ones towards even."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import REMEMBERED, Cluster
from discloud.core.model import Node, NodeId, View
from discloud.core.placement import make_wish, place
from tests.support.grid import grid_node

SIZE = 20_000
NODES = 6


def clusters(view: View) -> list[Cluster]:
    found = []
    for node in view.nodes:
        cluster = Cluster(node, "mesh", MemoryBlobs(), lambda other: MemoryBlobs())
        cluster.update(view)
        found.append(cluster)
    return found


def write(cluster: Cluster, used: dict[NodeId, int], rng: random.Random) -> None:
    wish = make_wish(
        cluster.view,
        cluster.me,
        layout=None,
        nodes=None,
        regions=None,
        ack=None,
        copies="1",
        bucket_layout="",
        bucket_regions=(),
        mesh_layout="mirror:1",
    )
    placement = place(wish, cluster.planned(), cluster.me, SIZE, rng.randrange)
    target = placement.holders[0][0]
    cluster.promise(target, SIZE)
    used[target] += SIZE


def shown(nodes: tuple[Node, ...], used: dict[NodeId, int], epoch: int) -> View:
    return View(epoch, tuple(replace(node, used=used[node.id]) for node in nodes))


@pytest.mark.parametrize("writes_in_a_beat", [20, 60, 200, 600])
def test_a_thousand_writes_through_six_gateways_are_even(writes_in_a_beat: int) -> None:
    for seed in range(5):
        rng = random.Random(seed)
        nodes = tuple(replace(grid_node(number), capacity=1 << 38, free=1 << 38) for number in range(NODES))
        used = {node.id: 0 for node in nodes}
        view = shown(nodes, used, 0)
        gateways = clusters(view)
        late = view
        for number in range(1000):
            if number % writes_in_a_beat == 0:
                for gateway in gateways:
                    gateway.update(late)
                late = shown(nodes, used, number)
            write(gateways[rng.randrange(NODES)], used, rng)
        assert max(used.values()) <= 1.1 * min(used.values()), (seed, used)


def test_a_much_emptier_node_gets_more() -> None:
    rng = random.Random(1)
    nodes = tuple(
        replace(grid_node(number), capacity=100_000_000, free=100_000_000) for number in range(NODES)
    )
    used = {node.id: 30_000_000 for node in nodes} | {nodes[0].id: 0}
    gateway = clusters(shown(nodes, used, 0))[1]
    for _ in range(300):
        write(gateway, used, rng)
    assert used[nodes[0].id] > 80 * SIZE


def test_what_was_sent_long_ago_does_not_count() -> None:
    nodes = tuple(grid_node(number) for number in range(NODES))
    view = View(1, nodes)
    gateway = clusters(view)[0]
    gateway.promise(nodes[0].id, 1 << 20)
    assert gateway.planned().nodes[0].reserved == 1 << 20
    for _ in range(REMEMBERED + 1):
        gateway.update(view)
    assert gateway.planned().nodes[0].reserved == 0


def test_a_node_that_joins_is_not_sent_everything_until_it_has_as_much() -> None:
    nodes = tuple(grid_node(number) for number in range(NODES + 1))
    gateway = clusters(View(1, nodes[:NODES]))[0]
    gateway.promise(nodes[1].id, 1 << 20)
    gateway.update(View(2, nodes))
    assert {node.reserved for node in gateway.planned().nodes} == {0}
