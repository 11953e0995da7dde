"""Roots that tell each other what they heard agree, whatever was paused, late or put back; 50 nodes see a change within 2 s."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters.memory_blobs import MemoryBlobs
from discloud.adapters.memory_membership import MemoryMembership
from discloud.cluster import Cluster
from discloud.core.liveness import Thresholds
from discloud.core.mesh_time import VALID, ClockVotes
from discloud.core.model import Beat, Node, NodeId, NodeState, Role, View
from discloud.errors import PeerDown, Unavailable
from discloud.peer.gossip import PeerGossip
from discloud.peer.handshake import Identity
from discloud.peer.links import Links
from discloud.peer.server import PeerServer
from discloud.ports import Gossip
from discloud.services.gossip import AGAIN, FANOUT, REGISTERED, GossipReport, GossipRound
from discloud.services.heartbeat import Heartbeat
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from tests.support.peer_loopback import SECRET

NODE = Node(NodeId("n"), "n", Role.ORDINARY, "n:1", "n:2", "h", capacity=100, incarnation=1)
LIMITS = Thresholds()


class Clock:
    """Seconds that only a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def root(clock: Callable[[], float]) -> MemoryMembership:
    return MemoryMembership(clock, LIMITS, wall=clock)


def named(name: str, role: Role = Role.ROOT) -> Node:
    return replace(NODE, id=NodeId(name), name=name, role=role, peer=f"{name}:2")


def state(view: View, node: NodeId = NODE.id) -> NodeState | None:
    found = view.find(node)
    return found.state if found else None


async def talk(one: Gossip, other: Gossip) -> None:
    await one.exchange(await other.exchange(await one.exchange(())))


# ---------------------------------------------------------------- what roots take over


async def test_a_beat_that_is_told_again_is_not_heard_again() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    await one.announce(replace(NODE, beat=1))
    for _ in range(10):
        await talk(one, other)
        clock.now += 1
    assert state(one.view()) is state(other.view()) is NodeState.DOWN


async def test_a_beat_that_is_told_again_is_no_sign_of_steadiness_and_stays_who_heard_it() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    await one.announce(replace(NODE, beat=1))
    for _ in range(5):
        clock.now += 1
        one.view()
        other.view()
    await one.announce(replace(NODE, beat=2))
    for _ in range(5):
        await talk(one, other)
        await talk(other, one)
    assert state(one.view()) is NodeState.SUSPECT
    assert [len(each.tell(here=True)) for each in (one, other)] == [1, 0]


async def test_a_root_believes_how_long_ago_another_one_heard() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    await one.announce(replace(NODE, beat=1))
    for _ in range(4):
        clock.now += 1
        one.view()
        other.view()
    await talk(one, other)
    assert state(other.view()) is NodeState.SUSPECT


async def test_a_goodbye_reaches_the_other_root_and_a_new_start_does_too() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    await one.announce(replace(NODE, beat=7))
    await talk(one, other)
    await one.leave(NODE.id)
    await other.announce(replace(NODE, beat=8))  # it was under way when the node stopped
    await talk(other, one)
    assert state(one.view()) is state(other.view()) is NodeState.DOWN
    await other.announce(replace(NODE, incarnation=2, beat=1))
    await talk(one, other)
    assert state(one.view()) is state(other.view()) is NodeState.ALIVE


async def test_a_root_that_starts_again_knows_all_after_one_exchange() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    for number in range(20):
        await one.announce(replace(NODE, id=NodeId(str(number)), beat=number))
    await talk(other, one)
    assert set(other.view().nodes) == set(one.view().nodes)


async def test_a_folder_that_was_put_back_is_believed_by_all_roots() -> None:
    clock = Clock()
    one, other = root(clock), root(clock)
    await one.announce(replace(NODE, incarnation=9, beat=50))
    await talk(one, other)
    for _ in range(12):
        clock.now += 1
        one.view()
        other.view()
    for beat in range(1, 9):
        await other.announce(replace(NODE, beat=beat))
        await talk(one, other)
        clock.now += 1
    found = one.view().find(NODE.id)
    assert found is not None
    assert (found.incarnation, found.state) == (1, NodeState.ALIVE)


async def test_what_waited_in_the_sockets_of_a_paused_root_brings_nobody_back() -> None:
    clock = Clock()
    paused, other = root(clock), root(clock)
    await paused.announce(replace(NODE, beat=1))
    await talk(paused, other)
    stale = other.tell()
    for beat in range(2, 30):
        clock.now += 1
        await other.announce(replace(NODE, beat=beat))
    for _ in range(30):
        clock.now += 1
        other.view()
    assert state(other.view()) is NodeState.DOWN
    await paused.exchange(tuple(replace(beat, node=replace(beat.node, beat=2)) for beat in stale))
    await paused.announce(replace(NODE, beat=3))
    await talk(paused, other)
    assert state(other.view()) is NodeState.DOWN
    clock.now += 0.5
    await talk(other, paused)
    assert state(paused.view()) is NodeState.DOWN
    assert state(other.view()) is NodeState.DOWN


@given(
    st.lists(
        st.tuples(
            st.sampled_from("ab"),
            st.integers(1, 2),
            st.integers(1, 4),
            st.booleans(),
            st.floats(0, 2.5),
        ),
        max_size=12,
    ),
    st.randoms(use_true_random=False),
)
async def test_roots_that_told_each_other_everything_agree(
    told: list[tuple[str, int, int, bool, float]], rng: random.Random
) -> None:
    """Whatever the order of telling, the beat with the highest (incarnation, goodbye, beat) wins."""
    beats = [
        Beat(replace(NODE, id=NodeId(name), incarnation=start, beat=beat), age, left)
        for name, start, beat, left, age in told
    ]
    clock = Clock()
    roots = [root(clock) for _ in range(3)]
    for beat in beats:
        roots[rng.randrange(3)].take([beat])
    pairs = list(itertools.permutations(roots, 2))
    rng.shuffle(pairs)
    for one, other in pairs * 2:
        await talk(one, other)
    for name in "ab":
        expected = max(
            ((each.node.incarnation, each.left, each.node.beat) for each in beats if each.node.id == name),
            default=None,
        )
        for each in roots:
            known = next((beat for beat in each.tell() if beat.node.id == name), None)
            found = (known.node.incarnation, known.left, known.node.beat) if known else None
            assert found == expected


# ---------------------------------------------------------------- whose clock is right


def test_one_wrong_clock_of_three_is_outvoted() -> None:
    wrong, right = ClockVotes(), ClockVotes()
    for source in "ab":
        wrong.note(source, -20.0, 0.0)
    right.note("a", 20.0, 0.0)
    right.note("b", 0.1, 0.0)
    assert (wrong.offset(1.0), right.offset(1.0)) == (-20.0, 0.1)


def test_without_a_majority_a_root_believes_itself() -> None:
    votes = ClockVotes()
    assert votes.offset(0.0) == 0.0
    votes.note("redis", 20.0, 0.0)
    assert votes.offset(1.0) == 0.0
    votes.note("a", 21.0, 0.0)
    votes.note("b", -0.2, 0.0)
    assert votes.offset(1.0) == 0.0


def test_who_was_not_heard_of_lately_has_no_say() -> None:
    votes = ClockVotes()
    votes.note("a", 8.0, 0.0)
    votes.note("b", 9.0, 5.0)
    assert votes.offset(VALID - 0.1) == 8.0
    assert votes.offset(VALID) == 0.0


# ---------------------------------------------------------------- rounds


class Wire:
    """Roots by their addresses; an address that ``cut`` has does not answer."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.roots: dict[str, tuple[NodeId, MemoryMembership, float]] = {}
        self.cut: set[str] = set()
        self.asked: list[str] = []

    def connect(self, address: str) -> Line:
        return Line(self, address)


class Line:
    """Another root through the wire."""

    def __init__(self, wire: Wire, address: str) -> None:
        self.wire, self.address = wire, address

    async def who(self) -> NodeId:
        self.wire.asked.append(self.address)
        if self.address in self.wire.cut or self.address not in self.wire.roots:
            raise PeerDown(f"{self.address} is not there")
        return self.wire.roots[self.address][0]

    async def exchange(self, beats: Sequence[Beat]) -> tuple[Beat, ...]:
        _, membership, ahead = self.wire.roots[self.address]
        return tuple(
            replace(beat, time=self.wire.clock() + ahead) for beat in await membership.exchange(beats)
        )


class RootNode:
    """A root with everything that makes it one."""

    def __init__(
        self, wire: Wire, clock: Clock, name: str, roots: Sequence[str] = (), ahead: float = 0.0
    ) -> None:
        self.node = named(name)
        self.votes = ClockVotes()
        self.registered: tuple[Node, ...] = ()
        self.membership = MemoryMembership(clock, LIMITS, lambda: clock() + ahead, self.votes)
        self.cluster = Cluster(self.node, "mesh", MemoryBlobs(), lambda _: MemoryBlobs())
        self.heartbeat = Heartbeat(self.cluster, self.membership, self.describe, lambda: clock() + ahead)
        self.round = GossipRound(
            self.cluster, self.membership, wire.connect, roots, self.look_up, self.votes,
            clock, lambda: clock() + ahead, random.Random(name).randrange,
        )  # fmt: skip
        wire.roots[self.node.peer] = (self.node.id, self.membership, ahead)

    async def describe(self) -> Node:
        return self.node

    async def look_up(self) -> tuple[Node, ...]:
        if not self.registered:
            raise Unavailable("nobody can say")
        return self.registered


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def wire(clock: Clock) -> Wire:
    return Wire(clock)


async def test_roots_find_each_other_by_configured_addresses(wire: Wire, clock: Clock) -> None:
    every = ["a:2", "b:2", "c:2"]
    a, b, c = (RootNode(wire, clock, name, every) for name in "abc")
    for each in (a, b, c):
        await each.heartbeat.run_once()
    assert await a.round.run_once() == GossipReport(asked=2, answered=2)
    await c.round.run_once()
    assert {node.name for node in b.membership.view().nodes} == {"a", "b", "c"}
    assert "a:2" not in wire.asked[:2], "a root does not call itself"


async def test_a_root_is_found_through_the_view_and_through_the_registered_nodes(
    wire: Wire, clock: Clock
) -> None:
    a, b, c = RootNode(wire, clock, "a", ["b:2"]), RootNode(wire, clock, "b"), RootNode(wire, clock, "c")
    c.registered = (a.node, c.node, named("x", Role.ORDINARY))
    for each in (a, b, c):
        await each.heartbeat.run_once()
    await c.round.run_once()  # looks the registered nodes up
    assert await c.round.run_once() == GossipReport(asked=1, answered=1)
    assert await a.round.run_once() == GossipReport(asked=1, answered=1)
    await b.heartbeat.run_once()
    assert await b.round.run_once() == GossipReport(asked=2, answered=2), "told by a, of whom it was not told"
    c.registered = ()
    clock.now += REGISTERED
    assert (await c.round.run_once()).answered >= 1, "what was found stays where nobody can say"


async def test_one_root_behind_two_addresses_is_asked_once_and_has_one_vote(wire: Wire, clock: Clock) -> None:
    a, b = RootNode(wire, clock, "a", ["alias:2", "b:2", "myself:2"]), RootNode(wire, clock, "b", ahead=3.0)
    wire.roots["alias:2"] = wire.roots["b:2"]
    wire.roots["myself:2"] = wire.roots["a:2"]
    await b.heartbeat.run_once()
    assert await a.round.run_once() == GossipReport(asked=1, answered=1)
    a.votes.note("redis", 2.0, clock())
    assert a.votes.offset(clock()) == 2.0


async def test_a_silent_root_is_asked_again_after_a_while_only(wire: Wire, clock: Clock) -> None:
    a, b = RootNode(wire, clock, "a", ["b:2"]), RootNode(wire, clock, "b")
    await b.heartbeat.run_once()
    wire.cut.add("b:2")
    assert await a.round.run_once() == GossipReport(asked=0, answered=0)
    wire.cut.clear()
    clock.now += AGAIN - 0.1
    assert await a.round.run_once() == GossipReport(asked=0, answered=0)
    clock.now += 0.1
    assert await a.round.run_once() == GossipReport(asked=1, answered=1)


async def test_many_roots_are_told_in_turns(wire: Wire, clock: Clock) -> None:
    names = [f"r{number}" for number in range(30)]
    roots = [RootNode(wire, clock, name, [f"{each}:2" for each in names]) for name in names]
    for each in roots:
        await each.heartbeat.run_once()
    assert (await roots[0].round.run_once()).asked == FANOUT
    for _ in range(2):
        for each in roots:
            await each.round.run_once()
    assert {len(each.membership.view().nodes) for each in roots} == {30}


async def test_a_root_whose_clock_is_wrong_learns_it_from_the_others(wire: Wire, clock: Clock) -> None:
    every = ["a:2", "b:2", "c:2"]
    roots = [RootNode(wire, clock, name, every, ahead) for name, ahead in (("a", 20.1), ("b", 0), ("c", 0))]
    for each in roots:
        await each.heartbeat.run_once()
    for each in roots:
        await each.round.run_once()
        await each.heartbeat.run_once()
    assert [each.cluster.clock_is_off for each in roots] == [True, False, False]
    assert roots[0].cluster.clock_offset == pytest.approx(-20.1)
    assert roots[0].cluster.view.time == pytest.approx(clock.now)


async def test_over_a_real_socket() -> None:
    """Also who is found there, and what is said where no root is."""
    there = MemoryMembership()
    await there.announce(NODE)
    threads = Threads("holder", 1)
    servers = [
        PeerServer(Identity(SECRET, NodeId(name), "mesh"), MemoryBlobs(), threads, Pace(10.0, 1e6), gossip=part)
        for name, part in (("root", there), ("ordinary", None))
    ]  # fmt: skip
    links = Links(Identity(SECRET, NodeId("me")))
    try:
        for server in servers:
            await server.start("127.0.0.1", 0)
        one, two = (PeerGossip(links, f"127.0.0.1:{server.port}", 10.0) for server in servers)
        assert (await one.who(), await two.who()) == ("root", "ordinary")
        told = await one.exchange([Beat(named("me"), 1.5)])
        assert told[0].node == NODE
        assert {beat.node.name for beat in there.tell()} == {"n", "me"}
        with pytest.raises(Unavailable, match="ask a root"):
            await two.exchange(())
    finally:
        await links.close()
        for server in servers:
            await server.close()
        threads.close()
    with pytest.raises(PeerDown):
        await PeerGossip(Links(Identity(SECRET, NodeId("me"))), "127.0.0.1:1", 1.0).who()


# ---------------------------------------------------------------- a mesh of fifty


class Simulation:
    """50 ordinary nodes and 3 roots that run their real services by a clock of their own, each out of step with the others."""

    def __init__(self, seed: int) -> None:
        self.clock, self.rng = Clock(), random.Random(seed)
        self.wire = Wire(self.clock)
        every = ["a:2", "b:2", "c:2"]
        self.roots = [RootNode(self.wire, self.clock, name, every) for name in "abc"]
        self.due: list[tuple[float, int, str, Callable[[], object], float]] = []
        self.dead: set[str] = set()
        self.clusters: dict[str, Cluster] = {}
        self.count = itertools.count()
        for each in self.roots:
            self.add(each.node.name, each.heartbeat.run_once, 1.0)
            self.add(each.node.name, each.round.run_once, 0.5)
            self.clusters[each.node.name] = each.cluster
        for number in range(50):
            self.join(f"n{number}", self.roots[number % 3])

    def join(self, name: str, at: RootNode) -> None:
        node = named(name, Role.ORDINARY)
        cluster = Cluster(node, "mesh", MemoryBlobs(), lambda _: MemoryBlobs())

        async def describe() -> Node:
            return node

        heartbeat = Heartbeat(cluster, at.membership, describe, self.clock)
        self.clusters[name] = cluster
        self.add(name, heartbeat.run_once, 1.0)

    def add(self, name: str, run: Callable[[], object], period: float) -> None:
        first = self.clock.now + period * self.rng.random()
        heapq.heappush(self.due, (first, next(self.count), name, run, period))

    async def until(self, holds: Callable[[View], bool], within: float) -> float:
        """Seconds until the view of every living node is so."""
        began = self.clock.now
        while not all(holds(each.view) for name, each in self.clusters.items() if name not in self.dead):
            assert self.clock.now - began <= within
            await self.step()
        return self.clock.now - began

    async def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.now < end:
            await self.step()

    async def step(self) -> None:
        at, _, name, run, period = heapq.heappop(self.due)
        self.clock.now = at
        if name not in self.dead:
            await run()  # type: ignore[misc]
            again = at + period * (0.9 + 0.2 * self.rng.random())  # as services/loop.py does
            heapq.heappush(self.due, (again, next(self.count), name, run, period))


@pytest.mark.parametrize("seed", range(5))
async def test_fifty_nodes_see_a_change_within_two_seconds(seed: int) -> None:
    mesh = Simulation(seed)
    await mesh.until(lambda view: len(view.nodes) == 53, 3.0)
    await mesh.run(5)

    mesh.dead.add("n7")
    await mesh.roots[7 % 3].membership.leave(NodeId("n7"))
    await mesh.until(lambda view: state(view, NodeId("n7")) is NodeState.DOWN, 2.0)

    mesh.join("late", mesh.roots[1])
    await mesh.run(1.0)  # until it has said so
    await mesh.until(lambda view: state(view, NodeId("late")) is NodeState.ALIVE, 2.0)

    mesh.dead.add("n8")
    await mesh.until(lambda view: state(view, NodeId("n8")) is NodeState.SUSPECT, LIMITS.suspect + 2.0)
    for cluster in mesh.clusters.values():
        others = {node.state for node in cluster.view.nodes if node.name not in ("n7", "n8")}
        assert others == {NodeState.ALIVE}
