"""Where a write's blobs go: what the client wishes, and the nodes that meet it (DESIGN section 3).

``make_wish`` reads the wish and refuses what contradicts itself; ``place`` meets it with the nodes that live, or says
what is missing. Invariants: the holders of all fragments and copies of a segment are distinct nodes that take new
blobs; named nodes hold what was wished; only a default is ever reduced, and then a warning says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from discloud.core.layout import fragment_length, layout_name, needed_acks, parse_copies, parse_layout
from discloud.core.model import Layout, Node, NodeId, NodeState, View
from discloud.core.spread import Picker, spread_warnings
from discloud.errors import (
    BadLayout,
    NodeUnavailable,
    NoSpace,
    NotEnoughNodes,
    UnknownNode,
    UnknownRegion,
)

HOMES = 3
"""Recorded (and repaired) copies of ``mirror:all``; the other nodes pull theirs."""
SPARES = 6
"""Substitutes that a placement names beside the holders."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a write asks for.

    ``nodes`` hold the file (mirror) or are the candidates (stripe, ec); ``regions`` get at least one copy each.
    ``default``: the layout is nobody's explicit wish and may be reduced to the living nodes; ``regions_default``: the
    regions are the bucket's, and where they lack nodes the write goes elsewhere with a warning.
    """

    layout: Layout
    nodes: tuple[NodeId, ...]
    regions: tuple[str, ...]
    default: bool
    ack: str | None
    regions_default: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """``holders[f]`` are the nodes of fragment f, under ``layout`` (which may be a reduced default).

    ``spares`` are further nodes, best first; any of them may stand in for any holder that refuses or fails, so there are
    none where the wish names nodes or several regions. ``warnings`` are sentences for the client.
    """

    layout: Layout
    holders: tuple[tuple[NodeId, ...], ...]
    spares: tuple[NodeId, ...] = ()
    warnings: tuple[str, ...] = ()


# ---------------------------------------------------------------- the wish


def make_wish(
    view: View,
    gateway: NodeId,
    *,
    layout: str | None,
    copies: str | None,
    nodes: str | None,
    regions: str | None,
    ack: str | None,
    bucket_layout: str,
    bucket_regions: tuple[str, ...],
    mesh_layout: str,
) -> Wish:
    """The wish in a write's query values (None = not given), completed by the bucket's and the mesh's defaults.

    Raises: BadLayout (malformed, or contradicts itself), UnknownNode, UnknownRegion, NodeUnavailable (a named node is
    down, draining or read-only).
    """
    named = () if nodes is None else _named_nodes(view, gateway, nodes)
    asked = () if regions is None else _named_regions(view, regions)
    explicit = _explicit_layout(layout, copies)
    chosen = explicit or parse_layout(bucket_layout or mesh_layout)
    where = asked or (() if named else tuple(dict.fromkeys(bucket_regions)))
    if explicit is None:
        chosen = _default_layout(chosen, named, where)
    elif not asked and chosen.data == 1 and not chosen.everywhere:
        where = where[: chosen.copies]
    ids = tuple(node.id for node in named)
    wish = Wish(
        chosen, ids, where, explicit is None and _may_shrink(chosen, named), ack, regions_default=not asked
    )
    _check_consistent(wish, named)
    return wish


def _explicit_layout(layout: str | None, copies: str | None) -> Layout | None:
    """The layout that the request itself asks for."""
    if copies is None:
        return None if layout is None else parse_layout(layout)
    mirror = Layout(copies=parse_copies(copies))
    if layout is None or (wanted := parse_layout(layout)) == mirror:
        return mirror
    hint = "give only one of the two"
    if wanted.data > 1 and not wanted.parity:
        hint = f"write layout=stripe:{wanted.data}x{copies} for {copies} copies of each part"
    raise BadLayout(f"copies={copies} and layout={layout} contradict each other", hint)


def _default_layout(default: Layout, named: Sequence[Node], regions: Sequence[str]) -> Layout:
    """The default made to fit what else is wished: as many copies as named nodes, at least one for each region."""
    if default.data > 1:
        return default
    if named:
        return Layout(copies=len(named) + len(set(regions) - {node.region for node in named}))
    return default if default.everywhere else replace(default, copies=max(default.copies, len(regions)))


def _may_shrink(default: Layout, named: Sequence[Node]) -> bool:
    """Named nodes hold the file whatever the default says; of a stripe they are just the candidates."""
    return default.data > 1 or not named


def _named_nodes(view: View, gateway: NodeId, text: str) -> tuple[Node, ...]:
    nodes = tuple(_named_node(view, gateway, name) for name in _names(text, "nodes"))
    if len({node.id for node in nodes}) < len(nodes):
        raise BadLayout(f"nodes={text[:200]} names a node twice", "name each node once; self is this node")
    return nodes


def _named_node(view: View, gateway: NodeId, name: str) -> Node:
    node = view.find(gateway) if name == "self" else view.named(name)
    if node is None or node.state is NodeState.REMOVED:
        known = sorted(each.name for each in view.nodes if each.state is not NodeState.REMOVED)
        raise UnknownNode(f"the mesh has no node {name[:80]!r}", f"it has {_few(known)}")
    if reason := _reason(node):
        raise NodeUnavailable(
            f"the node {node.name} is {reason}", "name another node, or let placement choose"
        )
    return node


def _named_regions(view: View, text: str) -> tuple[str, ...]:
    names = _names(text, "regions")
    known = {node.region for node in view.nodes if node.state is not NodeState.REMOVED and node.region}
    for name in names:
        if name not in known:
            raise UnknownRegion(
                f"the mesh has no node in a region {name[:80]!r}", f"it has {_few(sorted(known))}"
            )
    if len(set(names)) < len(names):
        raise BadLayout(f"regions={text[:200]} names a region twice", "name each region once")
    return names


def _names(text: str, parameter: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise BadLayout(f"{parameter}={text[:200]} holds an empty name", f"write {parameter}=ONE,TWO")
    return names


def _few(names: Sequence[str]) -> str:
    return (", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "none"


def _check_consistent(wish: Wish, named: Sequence[Node]) -> None:
    """Refuse what no mesh could meet. Raises: BadLayout."""
    layout, name = wish.layout, layout_name(wish.layout)
    needed_acks(layout, wish.ack, _homes(wish, named) if layout.everywhere else layout.copies)
    if layout.data > 1:
        _check_striped(wish, named)
    elif not layout.everywhere:
        uncovered = set(wish.regions) - {node.region for node in named}
        if layout.copies < len(named):
            raise BadLayout(
                f"{name} cannot be on {len(named)} named nodes", f"write copies={len(named)} or name fewer"
            )
        if layout.copies < len(named) + len(uncovered):
            raise BadLayout(
                f"{name} is too few copies for the named nodes and regions", "raise copies=, or name fewer"
            )


def _check_striped(wish: Wish, named: Sequence[Node]) -> None:
    layout, name = wish.layout, layout_name(wish.layout)
    needed = layout.fragments * layout.copies
    if named and needed > len(named) and not wish.default:
        raise BadLayout(f"{name} needs {needed} nodes, {len(named)} are named", "name more nodes, or none")
    if wish.regions_default:
        return
    if len(wish.regions) > (layout.copies if layout.copies > 1 else layout.fragments):
        raise BadLayout(f"{name} cannot be in each of {len(wish.regions)} regions", "name fewer regions")
    if named and (missing := set(wish.regions) - {node.region for node in named}):
        raise BadLayout(
            f"no named node is in the region {min(missing)}", "name a node there, or leave nodes= away"
        )


# ---------------------------------------------------------------- the placement


def place(
    wish: Wish,
    view: View,
    gateway: NodeId,
    length: int | None,
    draw: Callable[[int], int],
    full: float = 0.90,
    refuse: float = 0.95,
    *,
    counted: bool = False,
) -> Placement:
    """Holders for a segment of ``length`` bytes (None = not known yet); ``draw(n)`` gives 0..n-1.

    ``counted``: the view's fills are the gateway's own count (core/spread.py).

    Nodes above ``full`` (share of their capacity) get no new blobs unless they are named; none may be filled beyond
    ``refuse`` or beyond what its disk has left. Raises: NotEnoughNodes, NoSpace, NodeUnavailable.
    """
    named = _still_there(wish, view)
    candidates = _candidates(wish, view, named)
    living = [node for node in candidates if not _reason(node)]
    layout, warnings = _reduced(wish, candidates, living)
    blob = None if length is None else fragment_length(layout, length, 0)
    roomy = [n for n in living if _has_room(n, blob, refuse if n.id in wish.nodes else full, refuse)]
    fixed = named if wish.layout.data == 1 else ()
    needed = layout.fragments * layout.copies
    if layout.everywhere:
        needed = max(_least_homes(wish, named), min(len(roomy), _homes(wish, named)))
    if len(living) < needed:
        raise _too_few(_described(wish, layout), needed, candidates, living)
    if len(roomy) < needed or any(node not in roomy for node in fixed):
        raise _too_full(_described(wish, layout), needed, living, roomy)
    _check_regions(wish, layout, candidates, living, roomy)
    picker = Picker(wish.regions, roomy, draw, counted=counted)
    holders = picker.striped(layout) if layout.data > 1 else picker.mirror(fixed, needed, view.find(gateway))
    short = spread_warnings(view, picker.chosen, hosts_only=bool(wish.nodes or wish.regions))
    spares = picker.spares(SPARES) if _may_substitute(wish, fixed) else ()
    return Placement(layout, holders, spares, (*warnings, *picker.warnings, *short))


def takes_blobs(node: Node) -> bool:
    """Whether the node takes new blobs, its room aside."""
    return not _reason(node)


def _may_substitute(wish: Wish, fixed: Sequence[Node]) -> bool:
    """Whether any other node may take any holder's place without breaking the wish."""
    return not fixed and (len(wish.regions) < 2 or wish.regions_default)


def _still_there(wish: Wish, view: View) -> tuple[Node, ...]:
    """The named nodes as they are now."""
    found = []
    for each in wish.nodes:
        node = view.find(each)
        if node is None or _reason(node):
            name, reason = (node.name, _reason(node)) if node else (each, "gone")
            raise NodeUnavailable(
                f"the node {name} is {reason}", "name another node, or let placement choose"
            )
        found.append(node)
    return tuple(found)


def _candidates(wish: Wish, view: View, named: Sequence[Node]) -> Sequence[Node]:
    """All nodes; of a stripe the named ones and those of the wished regions."""
    nodes = [node for node in view.nodes if node.state is not NodeState.REMOVED]
    if wish.layout.data == 1:
        return nodes
    nodes = list(named) or nodes
    within = [node for node in nodes if node.region in wish.regions]
    enough = sum(not _reason(node) for node in within) >= wish.layout.fragments * wish.layout.copies
    return within if wish.regions and (enough or not wish.regions_default) else nodes


def _reason(node: Node) -> str:
    """Why the node takes no new blobs, "" if it does. A suspect one does: its silence may be the network's."""
    if node.state not in (NodeState.ALIVE, NodeState.SUSPECT):
        return node.state.value
    return "read-only" if node.read_only else ""


def _has_room(node: Node, blob: int | None, limit: float, refuse: float) -> bool:
    if node.fill > limit:
        return False
    if blob is None:
        return node.free > 0
    return blob <= node.free and node.used + node.reserved + blob <= node.capacity * refuse


def _reduced(
    wish: Wish, candidates: Sequence[Node], living: Sequence[Node]
) -> tuple[Layout, tuple[str, ...]]:
    """The wished layout, or the default as far as the living nodes carry it, which is worth a warning."""
    layout, count = wish.layout, len(living)
    if not wish.default or layout.everywhere or count >= layout.fragments * layout.copies:
        return layout, ()
    if not count:
        raise _too_few(layout_name(layout), layout.fragments * layout.copies, candidates, living)
    smaller = _shrunk(layout, count)
    try:
        needed_acks(smaller, wish.ack, smaller.copies)
    except BadLayout as error:
        needed = int(wish.ack or 0) * (1 if layout.parity else layout.fragments)
        raise _too_few(f"ack={wish.ack}", needed, candidates, living) from error
    nodes = f"{count} node{' is' if count == 1 else 's are'} alive"
    return smaller, (
        f"only {nodes}: stored as {layout_name(smaller)} instead of the default {layout_name(layout)}",
    )


def _shrunk(layout: Layout, nodes: int) -> Layout:
    """The layout on so many nodes: what it can lose is kept as long as possible, the width is given up first."""
    if layout.parity:
        data = nodes - layout.parity
        return replace(layout, data=data) if data > 1 else Layout(copies=min(nodes, layout.parity + 1))
    if layout.copies > nodes:
        return Layout(copies=nodes)
    return replace(layout, data=nodes // layout.copies)


def _homes(wish: Wish, named: Sequence[Node]) -> int:
    """Copies of ``mirror:all`` that are recorded where there are nodes enough."""
    return max(HOMES, len(named) + len(set(wish.regions) - {node.region for node in named}))


def _least_homes(wish: Wish, named: Sequence[Node]) -> int:
    """Copies of ``mirror:all`` without which the wish is not met."""
    return max(1, len(named), int(wish.ack) if wish.ack and wish.ack != "all" else 0)


def _check_regions(
    wish: Wish, layout: Layout, candidates: Sequence[Node], living: Sequence[Node], roomy: Sequence[Node]
) -> None:
    """Refuse where a region that the client named cannot have its copy; the bucket's regions are told by a warning."""
    needed = layout.fragments if layout.copies > 1 and layout.data > 1 else 1
    for region in () if wish.regions_default else wish.regions:
        what = f"{layout_name(layout)} in the region {region}"
        there = [node for node in living if node.region == region]
        if len(there) < needed:
            raise _too_few(what, needed, [node for node in candidates if node.region == region], there)
        if len(have := [node for node in there if node in roomy]) < needed:
            raise _too_full(what, needed, there, have)


def _described(wish: Wish, layout: Layout) -> str:
    """The layout, and what narrows the choice of its nodes."""
    within = layout.data > 1 and wish.regions and not wish.regions_default
    return layout_name(layout) + (f" within {', '.join(wish.regions)}" if within else "")


def _too_few(what: str, needed: int, candidates: Iterable[Node], living: Sequence[Node]) -> NotEnoughNodes:
    absent = [f"{node.name} is {reason}" for node in candidates if (reason := _reason(node))]
    count = f"{len(living)} {'is' if len(living) == 1 else 'are'} alive"
    return NotEnoughNodes(
        f"{what} needs {needed} node{'s' * (needed > 1)}, {count}",
        f"start or add nodes, or wish for less{': ' + _few(absent) if absent else ''}",
    )


def _too_full(what: str, needed: int, living: Iterable[Node], roomy: Sequence[Node]) -> NoSpace:
    full = [f"{node.name} is {node.fill:.0%} full" for node in living if node not in roomy]
    return NoSpace(
        f"{what} needs {needed} node{'s' * (needed > 1)} with room, {len(roomy)} of those it may use have it",
        f"free space or add nodes: {_few(full)}",
    )
