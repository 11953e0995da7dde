"""Gateways that share one stale view fill equal nodes evenly, and unequal ones towards even."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.cluster import AVOIDED, REMEMBERED, Cluster
from discloud.core.model import Node, NodeId, NodeState, View
from discloud.core.placement import Placement, make_wish, place
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
    target = chosen(cluster, rng).holders[0][0]
    used[target] += SIZE


def chosen(cluster: Cluster, rng: random.Random) -> Placement:
    """Where the gateway puts one more file, with what it promises to its holder."""
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
    placement = place(wish, cluster.planned(), cluster.me, SIZE, rng.randrange, counted=cluster.counted)
    cluster.promise(placement.holders[0][0], SIZE)
    return placement


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


@dataclass(frozen=True)
class Spell:
    """Beats for which ``node`` is suspect to everybody, or unreachable for one gateway."""

    node: int
    began: float
    ended: float
    gateway: int | None = None

    def lasts(self, node: int, now: float) -> bool:
        return self.node == node and self.began <= now < self.ended


class Mesh:
    """Six gateways that write as fast as twelve clients make them. One unit of time is a beat.

    Each gateway hears of the view at moments of its own, up to two beats late; writes take up to half a beat.
    """

    def __init__(self, seed: int, spells: list[Spell]) -> None:
        self.rng = random.Random(seed)
        self.nodes = tuple(
            replace(grid_node(number), capacity=1 << 38, free=1 << 38) for number in range(NODES)
        )
        self.used = {node.id: 0 for node in self.nodes}
        self.gateways = clusters(shown(self.nodes, self.used, 0))
        self.spells = spells

    def fill(self, files: int) -> dict[NodeId, int]:
        """What the nodes hold in the end."""
        due = [(self.rng.random(), number, True) for number in range(NODES)]
        due += [(self.rng.random() / 10, number, False) for number in range(12)]
        heapq.heapify(due)
        while files:
            now, number, hears = heapq.heappop(due)
            if hears:
                self.gateways[number].update(self.view(now - 2 * self.rng.random()))
                heapq.heappush(due, (now + 1, number, True))
            else:
                files -= 1
                self.write(files % NODES, now)
                heapq.heappush(due, (now + self.rng.random() / 2, number, False))
        return self.used

    def view(self, now: float) -> View:
        suspect = {each.node for each in self.spells if each.gateway is None and each.lasts(each.node, now)}
        states = [NodeState.SUSPECT if n in suspect else NodeState.ALIVE for n in range(NODES)]
        nodes = zip(self.nodes, states, strict=True)
        return shown(tuple(replace(node, state=state) for node, state in nodes), self.used, 1)

    def write(self, gateway: int, now: float) -> None:
        """As a write does it: a holder that is not reached is missed, and a substitute is promised the file."""
        cluster = self.gateways[gateway]
        placement = chosen(cluster, self.rng)
        first = placement.holders[0][0]
        for candidate in (first, *placement.spares):
            if candidate != first:
                cluster.promise(candidate, SIZE)
            number = next(n for n, node in enumerate(self.nodes) if node.id == candidate)
            if any(each.gateway == gateway and each.lasts(number, now) for each in self.spells):
                cluster.missed(candidate, SIZE)
                continue
            self.used[candidate] += SIZE
            return
        raise AssertionError("nobody took the file")


def suspicions(rng: random.Random) -> list[Spell]:
    """A machine so busy that beats come late: most nodes are suspect for a while, one root never is."""
    return [Spell(node, began := 6 + 8 * rng.random(), began + 4 * rng.random()) for node in range(1, NODES)]


def lost_connections(rng: random.Random) -> list[Spell]:
    """Holders that some gateway does not reach for a moment."""
    return [
        Spell(
            rng.randrange(NODES), began := 12 * rng.random(), began + 2 * rng.random(), rng.randrange(NODES)
        )
        for _ in range(30)
    ]


@pytest.mark.parametrize("spells", [suspicions, lost_connections])
def test_who_was_passed_over_catches_up(spells: Callable[[random.Random], list[Spell]]) -> None:
    for seed in range(20):
        used = Mesh(seed, spells(random.Random(seed))).fill(1000)
        assert max(used.values()) <= 1.1 * min(used.values()), (seed, used)


def test_who_took_nothing_does_not_draw_every_write() -> None:
    nodes = tuple(grid_node(number) for number in range(NODES))
    gateway = clusters(View(1, nodes))[0]
    rng = random.Random(1)
    for _ in range(60):
        gateway.promise(chosen(gateway, rng).holders[0][0], 0)
    gateway.missed(nodes[3].id, 10 * SIZE)
    assert nodes[3].id not in {chosen(gateway, rng).holders[0][0] for _ in range(60)}
    for _ in range(AVOIDED):
        gateway.update(View(2, nodes))
    assert [chosen(gateway, rng).holders[0][0] for _ in range(10)] == [nodes[3].id] * 10


def test_a_node_that_was_down_is_owed_nothing() -> None:
    nodes = tuple(grid_node(number) for number in range(NODES))
    gateway = clusters(View(1, nodes))[0]
    away = (*nodes[:-1], replace(nodes[-1], state=NodeState.DOWN))
    gateway.update(View(2, away))
    rng = random.Random(1)
    for _ in range(600):
        chosen(gateway, rng)
    gateway.update(View(3, nodes))
    got = [chosen(gateway, rng).holders[0][0] for _ in range(60)]
    assert got.count(nodes[-1].id) == 10


def test_what_is_down_does_not_make_fills_uneven() -> None:
    nodes = tuple(replace(grid_node(number), capacity=1 << 38) for number in range(NODES))
    gateway = clusters(View(1, nodes))[0]
    gateway.update(View(2, (*nodes[:-1], replace(nodes[-1], used=1 << 37, state=NodeState.DOWN))))
    assert gateway.counted


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
