"""Reading: the steps of any span are its bytes, and holders are tried from the nearest to the last hope."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.layout import pieces
from discloud.core.model import (
    BucketId,
    Key,
    Layout,
    Node,
    NodeId,
    NodeState,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
    View,
)
from discloud.core.ranges import Span
from discloud.core.read_plan import Step, nearest, plan_read

SEGMENTS = st.lists(
    st.tuples(
        st.builds(Layout, data=st.integers(1, 4), copies=st.just(1), unit=st.integers(1, 5)),
        st.binary(max_size=40),
    ),
    max_size=5,
)


def version(parts: list[tuple[Layout, bytes]]) -> Version:
    segments = tuple(Segment(SegmentId(i), len(body), layout, ()) for i, (layout, body) in enumerate(parts))
    size = sum(len(body) for _, body in parts)
    return Version(BucketId("b"), Key("k"), VersionId("v"), State.COMMITTED, size, segments)


def fragment(layout: Layout, body: bytes, number: int) -> bytes:
    """A fragment's bytes, put together from the pieces of the whole segment."""
    taken, position = b"", 0
    for piece in pieces(layout, len(body), 0, len(body)):
        if piece.fragment == number:
            assert piece.offset == len(taken)
            taken += body[position : position + piece.length]
        position += piece.length
    return taken


@given(SEGMENTS, st.integers(0, 220), st.integers(0, 220))
def test_the_steps_of_a_span_are_its_bytes(
    parts: list[tuple[Layout, bytes]], start: int, length: int
) -> None:
    steps = list(plan_read(version(parts), Span(start, length)))
    read = b"".join(
        fragment(*parts[step.segment.id], step.fragment)[step.offset : step.offset + step.length]
        for step in steps
    )
    assert read == b"".join(body for _, body in parts)[start : start + length]
    assert all(step.length > 0 for step in steps)


def test_a_plain_object_is_one_step() -> None:
    plain = version([(Layout(), b"x" * 100)])
    assert list(plan_read(plain, Span(10, 20))) == [Step(plain.segments[0], 0, 10, 20)]


def node(
    name: str, host: str = "h", zone: str = "z", region: str = "r", state: NodeState = NodeState.ALIVE
) -> Node:
    return Node(NodeId(name), name, Role.ORDINARY, "a:1", "a:2", host, zone, region, state=state)


ME = node("me")
NEAR_TO_FAR = [
    ME,
    node("host"),
    node("zone", "other"),
    node("region", "other", "other"),
    node("far", "h", "z", "other"),
    node("suspect", state=NodeState.SUSPECT),
    node("suspect-far", "other", "z", "other", state=NodeState.SUSPECT),
    node("down", state=NodeState.DOWN),
    node("lost", state=NodeState.LOST),
]
VIEW = View(1, tuple(NEAR_TO_FAR))


def order(
    ids: list[NodeId], view: View = VIEW, rtt: dict[NodeId, float] | None = None, seed: int = 0
) -> list[NodeId]:
    draw: Callable[[int], int] = Random(seed).randrange
    return list(nearest(ids, view, ME.id, rtt or {}, draw))


@given(
    st.sets(st.sampled_from([node.id for node in NEAR_TO_FAR])),
    st.randoms(use_true_random=False),
    st.integers(),
)
def test_from_near_to_far(some: set[NodeId], shuffle: Random, seed: int) -> None:
    wanted = [node.id for node in NEAR_TO_FAR if node.id in some]
    mixed = sorted(some)
    shuffle.shuffle(mixed)
    assert order(mixed, seed=seed) == wanted


def test_unknown_nodes_are_kept_as_the_last_hope() -> None:
    assert order([NodeId("?"), NodeId("down")]) == ["down", "?"]
    assert order([NodeId("?")]) == ["?"]
    assert sorted(order([NodeId("far"), NodeId("host")], View(1, ()))) == ["far", "host"]


def test_here_goes_first_even_where_the_view_doubts_us() -> None:
    doubted = View(
        1, tuple(replace(node, state=NodeState.SUSPECT) if node is ME else node for node in VIEW.nodes)
    )
    assert order([NodeId("host"), ME.id], doubted)[0] == ME.id


def test_draining_nodes_are_read_like_any() -> None:
    view = View(1, (ME, node("a", state=NodeState.DRAINING), node("b", "other")))
    assert order([NodeId("b"), NodeId("a")], view) == ["a", "b"]


def test_by_round_trip_within_a_class_and_shuffled_when_about_equal() -> None:
    view = View(1, (ME, *(node(name, "other") for name in "abc")))
    ids = [NodeId(name) for name in "abc"]
    rtt = {NodeId("a"): 0.050, NodeId("b"): 0.001, NodeId("c"): 0.010}
    assert all(order(ids, view, rtt, seed) == ["b", "c", "a"] for seed in range(20))
    equal = dict.fromkeys(ids, 0.0002) | {NodeId("a"): 0.0004}
    firsts = [order(ids, view, equal, seed)[0] for seed in range(300)]
    assert all(60 < firsts.count(each) < 140 for each in ids)


@pytest.mark.parametrize("rtt", [0.0, -1.0, 1e9])
def test_any_measurement_is_borne(rtt: float) -> None:
    assert len(order([NodeId("far"), NodeId("host")], rtt={NodeId("far"): rtt})) == 2


def test_who_let_us_down_just_now_is_asked_after_those_who_did_not() -> None:
    view = View(1, (ME, node("near"), node("far", "other", "z", "other"), node("down", state=NodeState.DOWN)))
    ids = [NodeId("near"), NodeId("far"), NodeId("down")]
    assert list(nearest(ids, view, ME.id, {}, Random(0).randrange, {NodeId("near"), NodeId("down")})) == [
        "far",
        "near",
        "down",
    ]
