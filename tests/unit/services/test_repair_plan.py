"""The plan of a repair, against what must hold of any plan."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from discloud.core.model import GIB, Layout, Node, NodeId, NodeState, Role, Segment, SegmentId, View
from discloud.services.repair_plan import Copy, choose_substitute, new_holders, plan_repair

A, B, C, D = (NodeId(name) for name in "abcd")
P, N, U, G = Copy.PRESENT, Copy.ABSENT, Copy.UNKNOWN, Copy.GONE


def test_a_named_node_that_serves_is_adopted() -> None:
    plan = plan_repair((A, B), (C,), {A: P, B: P, C: N}, 3, everywhere=False)
    assert (plan.sources, plan.refill, plan.adopt, plan.extra, plan.waits) == ((A, B), (), (C,), 0, False)


def test_a_named_node_that_is_down_is_waited_for() -> None:
    plan = plan_repair((A, B), (C,), {A: P, B: P, C: U}, 3, everywhere=False)
    assert (plan.adopt, plan.extra, plan.waits) == ((), 0, True)


def test_a_named_node_that_is_gone_is_replaced() -> None:
    plan = plan_repair((A, B), (C,), {A: P, B: P, C: G}, 3, everywhere=False)
    assert (plan.adopt, plan.extra, plan.waits) == ((), 1, False)


def test_a_recorded_holder_that_lost_its_blob_gets_it_again() -> None:
    plan = plan_repair((A, B, C), (B,), {A: P, B: N, C: P}, 3, everywhere=False)
    assert (plan.refill, plan.adopt, plan.extra) == ((B,), (), 0)


def test_without_names_a_holder_that_is_down_is_waited_for() -> None:
    plan = plan_repair((A, B), (), {A: P, B: U}, 2, everywhere=False)
    assert (plan.extra, plan.waits) == (0, True)


def test_enough_copies_are_not_added_to_unless_the_version_is_everywhere() -> None:
    found = {A: P, B: P, C: P, D: N}
    assert plan_repair((A, B, C), (D,), found, 3, everywhere=False).adopt == ()
    plan = plan_repair((A, B, C), (D,), found, 3, everywhere=True)
    assert (plan.refill, plan.adopt) == ((D,), ())


nodes = st.lists(st.sampled_from([NodeId(name) for name in "abcdefgh"]), unique=True)


@given(recorded=nodes, named=nodes, wanted=st.integers(1, 5), everywhere=st.booleans(), data=st.data())
def test_any_plan_reaches_the_wanted_copies_and_not_more(
    recorded: list[NodeId], named: list[NodeId], wanted: int, everywhere: bool, data: st.DataObject
) -> None:
    found = {
        node: data.draw(st.sampled_from(Copy), label=node) for node in dict.fromkeys([*recorded, *named])
    }
    plan = plan_repair(tuple(recorded), tuple(named), found, wanted, everywhere=everywhere)
    kept = [node for node in recorded if found[node] in {P, N, U}]
    waited = [node for node in named if node not in recorded and found[node] is U]
    assert plan.extra >= 0
    assert set(plan.adopt).isdisjoint(recorded)
    assert all(found[node] in {P, N} for node in plan.adopt)
    assert all(found[node] is N for node in plan.refill)
    assert all(found[node] is P for node in plan.sources)
    total = len(kept) + len(plan.adopt) + plan.extra
    assert total <= max(wanted, len(kept))
    assert total + len(waited) >= wanted
    assert plan.waits or total >= wanted
    after = new_holders(tuple(recorded), found, plan.adopt, wanted)
    assert set(after) >= {*kept, *plan.adopt}
    assert len(set(after)) == len(after)
    left = set(recorded) - set(after)
    assert all(found[node] is G for node in left)
    assert not left or len(kept) + len(plan.adopt) >= wanted


def node(name: str, **more: object) -> Node:
    made = Node(NodeId(name), name, Role.ORDINARY, "", "", f"host-{name}", capacity=GIB)
    return replace(made, **more)  # type: ignore[arg-type]


def segment(*holders: tuple[NodeId, ...]) -> Segment:
    return Segment(SegmentId(1), 100, Layout(data=len(holders)), holders)


def choose(nodes: list[Node], where: Segment, *kept: NodeId, length: int = 100) -> NodeId | None:
    return choose_substitute(where, kept, length, View(1, tuple(nodes)), lambda below: below - 1, 0.9)


def test_no_node_holds_two_fragments_of_a_segment() -> None:
    nodes = [node(name) for name in "abc"]
    assert choose(nodes, segment((A,), (B,)), A) == C
    assert choose(nodes[:2], segment((A,), (B,)), A) is None


def test_only_nodes_that_live_have_room_and_may_be_written_are_chosen() -> None:
    states = [each for each in NodeState if each is not NodeState.ALIVE]
    bad = [node(f"x{number}", state=state) for number, state in enumerate(states)]
    bad += [node("y", read_only=True), node("z", used=GIB)]
    assert choose([node("a"), *bad], segment((A,)), A) is None
    assert choose([node("a"), *bad, node("c")], segment((A,)), A) == C


def test_another_host_comes_before_another_zone_before_more_room() -> None:
    near = node("a", host="h", zone="z")
    same_host = node("b", host="h", zone="z2")
    same_zone = node("c", zone="z", used=GIB // 2)
    assert choose([near, same_host, same_zone], segment((A,)), A) == C
    assert choose([near, same_zone, node("d", zone="z3", used=GIB // 2)], segment((A,)), A) == D


def test_of_two_equal_nodes_the_emptier_one_is_taken() -> None:
    draws = iter([0, 1])
    nodes = (node("a"), node("b", used=500), node("c", used=100))
    assert choose_substitute(segment((A,)), (A,), 1, View(1, nodes), lambda _: next(draws), 0.9) == C
