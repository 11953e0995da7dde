"""Placement: the wish is read strictly, met exactly or refused, and all nodes fill evenly."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.layout import layout_name, parse_layout
from discloud.core.model import EVERYWHERE, GIB, MIB, Layout, Node, NodeId, NodeState, Role, View
from discloud.core.placement import Placement, Wish, make_wish, place
from discloud.errors import (
    BadLayout,
    DiscloudError,
    NodeUnavailable,
    NoSpace,
    NotEnoughNodes,
    UnknownNode,
    UnknownRegion,
)


def node(
    name: str,
    *,
    host: str = "",
    zone: str = "",
    region: str = "",
    state: NodeState = NodeState.ALIVE,
    fill: float = 0.0,
    read_only: bool = False,
) -> Node:
    capacity, used = 100 * GIB, int(fill * 100 * GIB)
    return Node(
        NodeId(f"id-{name}"),
        name,
        Role.ORDINARY,
        "a:1",
        "a:2",
        host or name,
        zone,
        region,
        capacity,
        used,
        free=capacity - used,
        state=state,
        read_only=read_only,
    )


def mesh(count: int) -> View:
    return View(1, tuple(node(f"n{i}") for i in range(1, count + 1)))


def wish(
    view: View,
    *,
    layout: str | None = None,
    copies: str | None = None,
    nodes: str | None = None,
    regions: str | None = None,
    ack: str | None = None,
    bucket_layout: str = "",
    bucket_regions: tuple[str, ...] = (),
    gateway: str = "n1",
) -> Wish:
    return make_wish(
        view,
        NodeId(f"id-{gateway}"),
        layout=layout,
        copies=copies,
        nodes=nodes,
        regions=regions,
        ack=ack,
        bucket_layout=bucket_layout,
        bucket_regions=bucket_regions,
        mesh_layout="mirror:3",
    )


def put(
    view: View, wanted: Wish, *, length: int | None = 1000, gateway: str = "n1", seed: int = 0
) -> Placement:
    return place(wanted, view, NodeId(f"id-{gateway}"), length, Random(seed).randrange)


def names(view: View, ids: Sequence[NodeId]) -> list[str]:
    return [found.name for each in ids if (found := view.find(each))]


def flat(placement: Placement) -> list[NodeId]:
    return [holder for holders in placement.holders for holder in holders]


# ---------------------------------------------------------------- the wish


def test_defaults_go_from_the_bucket_to_the_mesh() -> None:
    view = mesh(3)
    assert wish(view) == Wish(Layout(copies=3), (), (), True, None, regions_default=True)
    assert wish(view, bucket_layout="stripe:2").layout == Layout(2, 0, 1)
    assert wish(view, bucket_layout="stripe:2", copies="1").layout == Layout(copies=1)
    assert wish(view, layout="ec:2+1", bucket_layout="stripe:2").layout == Layout(2, 1, 1)
    assert wish(view, copies="all").layout.copies == EVERYWHERE
    assert not wish(view, copies="3").default


def test_named_nodes_set_the_copies() -> None:
    view = mesh(5)
    assert wish(view, nodes="n2, n4").layout == Layout(copies=2)
    assert wish(view, nodes="n2,self").nodes == ("id-n2", "id-n1")
    assert wish(view, nodes="n2", copies="3").layout == Layout(copies=3)
    assert not wish(view, nodes="n2").default
    assert wish(view, nodes="n2", bucket_layout="mirror:all").layout == Layout(copies=1)


def test_regions_raise_a_default_but_never_an_explicit_number() -> None:
    view = View(1, tuple(node(f"n{i}", region=f"r{i}") for i in range(1, 6)))
    assert wish(view, regions="r1,r2,r3,r4").layout == Layout(copies=4)
    assert wish(view, regions="r1,r2").layout == Layout(copies=3)
    assert wish(view, nodes="n1", regions="r1,r2").layout == Layout(copies=2)
    assert wish(view, bucket_regions=("r1", "r2", "r3", "r4")).layout == Layout(copies=4)
    assert wish(view, copies="1", bucket_regions=("r1", "r2")).regions == ("r1",)
    assert wish(view, regions="r3", bucket_regions=("r1", "r2")).regions == ("r3",)
    assert wish(view, nodes="n1", bucket_regions=("r1", "r2")).regions == ()


TWO_REGIONS = View(1, (node("n1", region="eu"), node("n2", region="eu"), node("n3", region="us")))


@pytest.mark.parametrize(
    "query",
    [
        {"copies": "2", "layout": "mirror:3"},
        {"copies": "2", "layout": "stripe:3"},
        {"copies": "2", "layout": "stripe:3x2"},
        {"copies": "2", "layout": "ec:2+1"},
        {"copies": "0"},
        {"copies": ""},
        {"layout": ""},
        {"layout": "raid5"},
        {"layout": "stripe:5", "nodes": "n1,n2"},
        {"layout": "stripe:2x2", "nodes": "n1,n2,n3"},
        {"layout": "ec:2+1", "nodes": "n1,n2"},
        {"layout": "mirror:1", "nodes": "n1,n2"},
        {"copies": "1", "nodes": "n1,n2"},
        {"nodes": "n1,n1"},
        {"nodes": "n1,self"},
        {"nodes": "n1,"},
        {"nodes": ""},
        {"regions": "eu,eu"},
        {"regions": ""},
        {"copies": "1", "regions": "eu,us"},
        {"copies": "2", "nodes": "n1,n2", "regions": "us"},
        {"layout": "stripe:3x2", "regions": "eu,us", "nodes": "n1,n2"},
        {"layout": "stripe:2", "regions": "us", "nodes": "n1,n2"},
        {"ack": "4"},
        {"ack": "0"},
        {"ack": "x"},
        {"ack": "4", "copies": "all"},
    ],
)
def test_what_contradicts_itself_is_refused(query: dict[str, str]) -> None:
    with pytest.raises(BadLayout) as caught:
        wish(TWO_REGIONS, **query)  # type: ignore[arg-type]
    assert caught.value.hint


def test_the_same_said_twice_is_no_contradiction() -> None:
    assert wish(mesh(3), copies="2", layout="mirror:2").layout == Layout(copies=2)
    assert wish(mesh(3), copies="all", layout="mirror:all").layout.everywhere


def test_the_hint_for_copies_of_a_stripe() -> None:
    with pytest.raises(BadLayout, match="stripe:3x2"):
        wish(mesh(6), copies="2", layout="stripe:3")


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(UnknownNode, match="n1, n2, n3"):
        wish(TWO_REGIONS, nodes="n9")
    with pytest.raises(UnknownRegion, match="eu, us"):
        wish(TWO_REGIONS, regions="mars")
    with pytest.raises(UnknownRegion):
        wish(mesh(3), regions="eu", bucket_regions=("mars",))
    removed = View(1, (node("n1"), node("n2", region="eu", state=NodeState.REMOVED)))
    with pytest.raises(UnknownNode):
        wish(removed, nodes="n2")
    with pytest.raises(UnknownRegion):
        wish(removed, regions="eu")


@pytest.mark.parametrize("state", [NodeState.DOWN, NodeState.LOST, NodeState.DRAINING])
def test_a_named_node_that_takes_nothing(state: NodeState) -> None:
    view = View(1, (node("n1"), node("n2", state=state)))
    with pytest.raises(NodeUnavailable, match=f"n2 is {state}"):
        wish(view, nodes="n1,n2")
    before = wish(mesh(2), nodes="n1,n2")
    with pytest.raises(NodeUnavailable, match=f"n2 is {state}"):
        put(view, before)


def test_a_named_node_whose_disk_is_read_only() -> None:
    with pytest.raises(NodeUnavailable, match="read-only"):
        wish(View(1, (node("n1", read_only=True),)), nodes="self")


# ---------------------------------------------------------------- the placement

STATES = st.sampled_from(NodeState)
FILLS = st.sampled_from([0.0, 0.3, 0.5, 0.89, 0.93, 0.99])
NODES = st.builds(
    node,
    st.just(""),
    host=st.sampled_from(["h1", "h2", "h3", "h4", "h5"]),
    zone=st.sampled_from(["", "a", "b"]),
    region=st.sampled_from(["eu", "us"]),
    state=STATES,
    fill=FILLS,
    read_only=st.booleans(),
)
VIEWS = st.lists(NODES, min_size=1, max_size=12).map(
    lambda nodes: View(
        1, tuple(replace(each, id=NodeId(f"id-n{i}"), name=f"n{i}") for i, each in enumerate(nodes, 1))
    )
)
LIVELY_VIEWS = VIEWS.map(
    lambda view: View(1, tuple(replace(each, state=NodeState.ALIVE, read_only=False) for each in view.nodes))
)
LAYOUTS = st.sampled_from(
    ["mirror:1", "mirror:2", "mirror:3", "mirror:5", "stripe:2", "stripe:4", "stripe:2x2", "stripe:3x2", "ec:2+1", "ec:4+2"]
)  # fmt: skip


def takes(each: Node) -> bool:
    """The oracle's own idea of a node that may get a new blob."""
    return each.state in {NodeState.ALIVE, NodeState.SUSPECT} and not each.read_only


@given(VIEWS | LIVELY_VIEWS, LAYOUTS, st.integers())
def test_an_explicit_wish_is_met_exactly_or_refused_with_the_numbers(
    view: View, text: str, seed: int
) -> None:
    layout = parse_layout(text)
    needed = layout.fragments * layout.copies
    living = [each for each in view.nodes if takes(each)]
    roomy = [each for each in living if each.fill <= 0.9]
    try:
        placement = put(view, wish(view, layout=text), seed=seed)
    except NotEnoughNodes:
        assert len(living) < needed
        return
    except NoSpace:
        assert len(roomy) < needed <= len(living)
        return
    assert placement.layout == layout
    assert [len(holders) for holders in placement.holders] == [layout.copies] * layout.fragments
    used = [*flat(placement), *placement.spares]
    assert len(set(used)) == len(used), "distinct nodes"
    assert set(used) <= {each.id for each in roomy}
    assert len(placement.spares) == min(6, len(roomy) - needed)


@given(LIVELY_VIEWS, st.integers(1, 5), st.integers())
def test_copies_are_spread_over_hosts_and_no_better_spread_exists(view: View, copies: int, seed: int) -> None:
    roomy = [each for each in view.nodes if each.fill <= 0.9]
    if len(roomy) < copies:
        return
    placement = put(view, wish(view, copies=str(copies)), seed=seed)
    holders = [found for each in flat(placement) if (found := view.find(each))]
    hosts = len({each.host for each in holders})
    assert hosts == min(copies, len({each.host for each in roomy}))
    mesh_hosts = len({each.host for each in view.nodes})
    told = any("host" in warning for warning in placement.warnings)
    assert told is (hosts < copies and mesh_hosts > 1)


@given(VIEWS, LAYOUTS, st.integers())
def test_the_default_is_reduced_to_the_living_and_says_so(view: View, text: str, seed: int) -> None:
    wanted = parse_layout(text)
    living = [each for each in view.nodes if takes(each)]
    try:
        placement = put(view, wish(view, bucket_layout=text), seed=seed)
    except NotEnoughNodes:
        assert not living
        return
    except NoSpace:
        assert len([each for each in living if each.fill <= 0.9]) < wanted.fragments * wanted.copies
        return
    got = placement.layout
    reduced = len(living) < wanted.fragments * wanted.copies
    assert (got != wanted) is reduced
    assert any("instead of the default" in warning for warning in placement.warnings) is reduced
    losses, kept = (each.parity + each.copies - 1 for each in (wanted, got))
    assert kept == min(losses, len(living) - 1) or got.data > 1, "what can be lost is kept first"
    assert kept == losses or got.data == 1
    assert got.fragments * got.copies <= len(living)


@pytest.mark.parametrize(
    ("default", "alive", "got"),
    [("mirror:3", 2, "mirror:2"), ("stripe:5", 3, "stripe:3"), ("stripe:5", 1, "mirror:1"), ("stripe:3x2", 5, "stripe:2x2"),
     ("stripe:3x2", 3, "mirror:2"), ("stripe:3x2", 1, "mirror:1"), ("ec:4+2", 5, "ec:3+2"), ("ec:4+2", 4, "ec:2+2"),
     ("ec:4+2", 3, "mirror:3"), ("ec:4+2", 2, "mirror:2"), ("mirror:3", 3, "mirror:3")],
)  # fmt: skip
def test_reduced_defaults(default: str, alive: int, got: str) -> None:
    view = mesh(alive)
    assert layout_name(put(view, wish(view, bucket_layout=default)).layout) == got


def test_a_reduced_default_does_not_break_the_ack() -> None:
    view = View(1, (*mesh(2).nodes, node("n3", state=NodeState.DOWN)))
    assert put(view, wish(view, ack="2")).layout.copies == 2
    with pytest.raises(NotEnoughNodes, match=r"ack=3 needs 3 nodes, 2 are alive.*n3 is down"):
        put(view, wish(view, ack="3", bucket_layout="mirror:5"))


def test_the_messages_count() -> None:
    view = View(1, (*mesh(3).nodes, node("n4", state=NodeState.DOWN), node("n5", state=NodeState.DRAINING)))
    with pytest.raises(
        NotEnoughNodes, match=r"stripe:5 needs 5 nodes, 3 are alive.*n4 is down, n5 is draining"
    ):
        put(view, wish(view, layout="stripe:5"))
    full = View(1, (*mesh(2).nodes, node("n3", fill=0.93)))
    with pytest.raises(NoSpace, match=r"mirror:3 needs 3 nodes with room, 2 .* n3 is 93% full"):
        put(full, wish(full, copies="3"))


def test_named_nodes_hold_the_file_and_the_rest_is_placed() -> None:
    view = mesh(6)
    seen = Counter[str]()
    for seed in range(200):
        first, *rest = names(view, put(view, wish(view, nodes="self", copies="2"), seed=seed).holders[0])
        assert first == "n1"
        assert len(rest) == 1
        seen[rest[0]] += 1
    assert set(seen) == {"n2", "n3", "n4", "n5", "n6"}
    assert names(view, put(view, wish(view, nodes="n4,n2")).holders[0]) == ["n4", "n2"]


def test_spares_never_break_the_wish() -> None:
    view = mesh(6)
    assert not put(view, wish(view, nodes="n4")).spares
    assert not put(view, wish(view, nodes="n4", copies="3")).spares
    assert len(put(view, wish(view, copies="3")).spares) == 3
    striped = put(view, wish(view, layout="stripe:2", nodes="n2,n3,n4"))
    assert sorted(names(view, [*flat(striped), *striped.spares])) == ["n2", "n3", "n4"]
    assert not put(TWO_REGIONS, wish(TWO_REGIONS, copies="2", regions="eu,us")).spares
    assert set(put(TWO_REGIONS, wish(TWO_REGIONS, copies="1", regions="eu")).spares) <= {"id-n1", "id-n2"}


def test_of_a_stripe_the_named_nodes_are_the_candidates() -> None:
    view = mesh(6)
    for text in ("stripe:3", "ec:2+1"):
        placement = put(view, wish(view, layout=text, nodes="n2,n3,n5,n6"))
        assert set(names(view, flat(placement))) <= {"n2", "n3", "n5", "n6"}
    exact = put(view, wish(view, layout="stripe:2", nodes="n2,n3"))
    assert set(names(view, flat(exact))) == {"n2", "n3"}
    by_default = wish(view, bucket_layout="stripe:2", nodes="n2,n3,n5")
    assert put(view, by_default).layout == Layout(2, 0, 1)
    reduced = put(view, wish(view, bucket_layout="stripe:3x2", nodes="n2,n3,n5"))
    assert reduced.layout == Layout(copies=2)
    assert set(names(view, flat(reduced))) < {"n2", "n3", "n5"}


REGIONS = View(
    1,
    tuple(
        node(f"n{number}", region=region)
        for number, region in enumerate(["eu", "eu", "eu", "us", "us", "ap", "ap", "sa"], 1)
    ),
)


def regions_of(placement: Placement) -> list[str]:
    return [found.region for each in flat(placement) if (found := REGIONS.find(each))]


@given(st.sets(st.sampled_from(["eu", "us", "ap", "sa"]), min_size=1), st.integers(0, 4), st.integers())
def test_each_named_region_has_a_copy(wanted: set[str], more: int, seed: int) -> None:
    copies = len(wanted) + more
    placement = put(REGIONS, wish(REGIONS, copies=str(copies), regions=",".join(sorted(wanted))), seed=seed)
    assert set(regions_of(placement)) >= wanted
    available = sum(each.region in wanted for each in REGIONS.nodes)
    assert sum(region in wanted for region in regions_of(placement)) == min(copies, available)
    assert bool(placement.warnings) is (copies > available)


@given(st.sampled_from(["n1", "n4", "n8"]), st.integers(1, 3), st.integers())
def test_without_a_wish_the_first_copy_stays_near_and_the_others_go_far(
    gateway: str, copies: int, seed: int
) -> None:
    placement = put(REGIONS, wish(REGIONS, copies=str(copies), gateway=gateway), gateway=gateway, seed=seed)
    here = REGIONS.find(NodeId(f"id-{gateway}"))
    assert here
    assert regions_of(placement)[0] == here.region
    assert len(set(regions_of(placement))) == copies


def test_a_stripe_in_regions() -> None:
    for seed in range(20):
        both = put(REGIONS, wish(REGIONS, layout="stripe:2x2", regions="eu,us"), seed=seed)
        for fragment in both.holders:
            assert [found.region for each in fragment if (found := REGIONS.find(each))] == ["eu", "us"]
        parts = put(REGIONS, wish(REGIONS, layout="ec:3+1", regions="us,ap"), seed=seed)
        assert set(regions_of(parts)) == {"us", "ap"}
        three = put(REGIONS, wish(REGIONS, layout="ec:2+1", regions="eu,us"), seed=seed)
        assert set(regions_of(three)) == {"eu", "us"}
        assert both.warnings == parts.warnings == three.warnings == ()
    with pytest.raises(NotEnoughNodes, match="stripe:3x2 within eu, us needs 6 nodes, 5 are alive"):
        put(REGIONS, wish(REGIONS, layout="stripe:3x2", regions="eu,us"))


def dead(view: View, region: str) -> View:
    return View(1, tuple(replace(n, state=NodeState.DOWN) if n.region == region else n for n in view.nodes))


def test_a_dead_region_stops_a_wish_but_not_the_buckets_default() -> None:
    view = dead(REGIONS, "us")
    with pytest.raises(NotEnoughNodes, match="in the region us needs 1 node, 0 are alive"):
        put(view, wish(view, regions="eu,us"))
    placement = put(view, wish(view, bucket_regions=("eu", "us")))
    assert len(flat(placement)) == 3
    assert any("region us" in warning for warning in placement.warnings)
    everything = dead(dead(REGIONS, "us"), "ap")
    for query in ({"layout": "stripe:3"}, {"bucket_layout": "stripe:3"}):
        striped = put(everything, wish(everything, bucket_regions=("us", "ap"), **query))
        assert striped.layout == Layout(3, 0, 1)
        assert any("elsewhere" in warning for warning in striped.warnings)
    nowhere = wish(view, bucket_regions=("mars",))
    assert any("mars" in warning for warning in put(view, nowhere).warnings)


def test_a_full_region_is_about_space() -> None:
    view = View(1, (node("n1", region="eu"), node("n2", region="us", fill=0.92), node("n3", region="eu")))
    with pytest.raises(NoSpace, match=r"in the region us.*n2 is 92% full"):
        put(view, wish(view, copies="2", regions="eu,us"))


@given(LIVELY_VIEWS, st.integers())
def test_everywhere_has_up_to_three_homes(view: View, seed: int) -> None:
    roomy = [each for each in view.nodes if each.fill <= 0.9]
    if not roomy:
        with pytest.raises(NoSpace):
            put(view, wish(view, copies="all"), seed=seed)
        return
    placement = put(view, wish(view, copies="all"), seed=seed)
    assert placement.layout.everywhere
    assert len(placement.holders) == 1
    assert len(set(placement.holders[0])) == min(3, len(roomy))


def test_everywhere_with_names_and_acks() -> None:
    view = mesh(5)
    homes = put(view, wish(view, copies="all", nodes="n5,n4,n3,n2")).holders[0]
    assert names(view, homes) == ["n5", "n4", "n3", "n2"]
    assert len(put(mesh(1), wish(mesh(1), copies="all")).holders[0]) == 1
    small = mesh(2)
    assert len(put(small, wish(small, copies="all", ack="2")).holders[0]) == 2
    with pytest.raises(NotEnoughNodes, match="needs 3 nodes, 2 are alive"):
        put(small, wish(small, copies="all", ack="3"))


def test_limits_of_space() -> None:
    at = View(
        1, (node("n1", fill=0.90), node("n2", fill=0.901), node("n3", fill=0.94), node("n4", fill=0.96))
    )
    assert flat(put(at, wish(at, copies="1"))) == ["id-n1"]
    with pytest.raises(NoSpace):
        put(at, wish(at, copies="2"))
    assert flat(put(at, wish(at, nodes="n3"))) == ["id-n3"], "a named node is used up to the last"
    for query, length in (({"nodes": "n4"}, 1), ({"nodes": "n3"}, 2 * GIB), ({"copies": "1"}, 6 * GIB)):
        with pytest.raises(NoSpace):
            put(at, wish(at, **query), length=length)  # type: ignore[arg-type]
    striped = wish(mesh(3), layout="stripe:3")
    assert len(put(mesh(3), striped, length=3 * 95 * GIB).holders) == 3, "a fragment is a third"
    with pytest.raises(NoSpace):
        put(mesh(3), striped, length=3 * 96 * GIB)


def test_a_disk_filled_by_others_gets_nothing() -> None:
    view = View(1, (replace(node("n1"), free=MIB), node("n2", fill=0.5)))
    assert all(
        flat(put(view, wish(view, copies="1"), length=MIB + 1, seed=seed)) == ["id-n2"] for seed in range(20)
    )
    none = View(1, (replace(node("n1"), free=0), node("n2", fill=0.5)))
    assert all(
        flat(put(none, wish(none, copies="1"), length=None, seed=seed)) == ["id-n2"] for seed in range(20)
    )


def test_what_is_reserved_is_taken() -> None:
    view = View(1, (replace(node("n1"), reserved=60 * GIB), node("n2", fill=0.5)))
    assert all(flat(put(view, wish(view, copies="1"), seed=seed)) == ["id-n2"] for seed in range(20))
    assert flat(put(view, wish(view, nodes="n1"), length=35 * GIB)) == ["id-n1"]
    with pytest.raises(NoSpace):
        put(view, wish(view, nodes="n1"), length=36 * GIB)


def test_hosts_then_zones_then_regions() -> None:
    nodes = [
        node(f"{region}{zone}{i}", zone=zone, region=region)
        for region in ("eu", "us")
        for zone in "abc"
        for i in "12"
    ]
    view = View(1, tuple(nodes))
    for seed in range(30):
        placement = put(view, wish(view, copies="4", gateway="eua1"), gateway="eua1", seed=seed)
        holders = [found for each in flat(placement) if (found := view.find(each))]
        assert len({(each.region, each.zone) for each in holders}) == 4
        assert Counter(each.region for each in holders) == {"eu": 2, "us": 2}
        assert placement.warnings == ()


def test_suspect_nodes_are_taken_last() -> None:
    view = View(1, (node("n1", state=NodeState.SUSPECT), node("n2", fill=0.8), node("n3", fill=0.8)))
    assert all("id-n1" not in flat(put(view, wish(view, copies="2"), seed=seed)) for seed in range(20))
    assert "id-n1" in flat(put(view, wish(view, copies="3")))
    assert all("id-n1" not in flat(put(view, wish(view, layout="stripe:2"), seed=seed)) for seed in range(20))


def test_a_mesh_on_one_machine_is_not_nagged_and_unused_zones_are_told() -> None:
    laptop = View(1, tuple(node(f"n{i}", host="laptop") for i in range(3)))
    assert put(laptop, wish(laptop)).warnings == ()
    zones = View(1, (node("n1", zone="a"), node("n2", zone="a"), node("n3", zone="b", state=NodeState.DOWN)))
    assert put(zones, wish(zones, copies="2")).warnings == ("the spread is short: 2 blobs lie on 1 zone",)
    hosts = View(1, (node("n1", host="h1"), node("n2", host="h1"), node("n3", host="h2")))
    assert put(hosts, wish(hosts)).warnings == ("the spread is short: 3 blobs lie on 2 hosts",)


def test_the_copies_of_a_part_are_apart_before_the_parts_are() -> None:
    view = View(1, tuple(node(f"n{i}", host=f"h{i % 2}") for i in range(4)))
    for seed in range(50):
        for fragment in put(view, wish(view, layout="stripe:2x2"), seed=seed).holders:
            assert len({found.host for each in fragment if (found := view.find(each))}) == 2


def test_the_parts_of_a_stripe_are_on_different_hosts() -> None:
    view = View(1, tuple(node(f"n{i}", host=f"h{i % 3}") for i in range(6)))
    for seed in range(50):
        placement = put(view, wish(view, layout="stripe:3"), seed=seed)
        assert {found.host for each in flat(placement) if (found := view.find(each))} == {"h0", "h1", "h2"}


# ---------------------------------------------------------------- many files


def write(view: View, placement: Placement, size: int) -> View:
    """The view after the holders took their blobs."""
    share = size // placement.layout.data
    taken = set(flat(placement))
    return View(
        view.epoch + 1,
        tuple(
            replace(n, used=n.used + share, free=n.free - share) if n.id in taken else n for n in view.nodes
        ),
    )


@pytest.mark.parametrize("text", ["mirror:1", "mirror:2", "mirror:3", "stripe:3", "ec:3+1"])
@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_files_fill_six_nodes_evenly(text: str, seed: int) -> None:
    random = Random(seed)
    view = mesh(6)
    wanted = wish(view, layout=text)
    for number in range(1000):
        size = random.randrange(1, 40) * MIB
        placement = place(wanted, view, NodeId(f"id-n{number % 6 + 1}"), size, random.randrange)
        view = write(view, placement, size)
    used = [each.used for each in view.nodes]
    assert max(used) - min(used) <= 0.1 * min(used)


def test_a_view_that_is_a_hundred_writes_old_still_fills_evenly() -> None:
    random = Random(1)
    seen = view = mesh(6)
    wanted = wish(view, copies="2")
    for number in range(3000):
        if number % 100 == 0:
            seen = view
        view = write(view, place(wanted, seen, NodeId("id-n1"), MIB, random.randrange), MIB)
    used = [each.used for each in view.nodes]
    assert max(used) - min(used) <= 0.1 * min(used)


def test_a_node_that_joins_attracts_the_new_blobs() -> None:
    random = Random(1)
    view = View(1, (*(node(f"n{i}", fill=0.5) for i in range(1, 6)), node("new")))
    wanted = wish(view, copies="1")
    taken = Counter(flat(place(wanted, view, NodeId("id-n1"), MIB, random.randrange))[0] for _ in range(600))
    others = [taken[each.id] for each in view.nodes if each.name != "new"]
    assert taken[NodeId("id-new")] > 1.5 * max(others)
    assert min(others) > 0, "and is not run over"


@given(VIEWS, st.integers(), st.sampled_from([None, 0, 1, 3 * MIB, 50 * GIB]), LAYOUTS | st.none(), st.data())
def test_whatever_is_asked_ends_in_a_placement_or_a_told_refusal(
    view: View, seed: int, length: int | None, text: str | None, data: st.DataObject
) -> None:
    some = st.none() | st.lists(st.sampled_from([each.name for each in view.nodes]), min_size=1, unique=True)
    chosen = data.draw(some)
    regions = data.draw(st.none() | st.sampled_from(["eu", "us", "eu,us"]))
    default = data.draw(st.sampled_from([(), ("eu",), ("us", "eu")]))
    try:
        wanted = wish(
            view,
            layout=text,
            nodes=",".join(chosen) if chosen else None,
            regions=regions,
            bucket_regions=default,
            ack=data.draw(st.sampled_from([None, "1", "2", "all"])),
        )
        placement = put(view, wanted, length=length, seed=seed)
    except DiscloudError:
        return
    used = [*flat(placement), *placement.spares]
    assert len(set(used)) == len(used)
    assert len(placement.holders) == placement.layout.fragments
    if wanted.layout.data == 1:
        assert set(flat(placement)) >= set(wanted.nodes)
    elif wanted.nodes:
        assert set(used) <= set(wanted.nodes)
    if not wanted.regions_default:
        assert {found.region for each in flat(placement) if (found := view.find(each))} >= set(wanted.regions)


def test_a_region_too_small_for_a_whole_copy() -> None:
    view = View(1, tuple(node(f"n{i}", region="eu" if i < 5 else "us") for i in range(7)))
    with pytest.raises(NotEnoughNodes, match="in the region us needs 3 nodes, 2 are alive"):
        put(view, wish(view, layout="stripe:3x2", regions="eu,us"))
