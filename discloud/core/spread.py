"""The choice of one node after another: apart from those chosen before, and filling all evenly.

Invariant: a choice is among the nodes of the least crowded class: alive before suspect, then by how many blobs the
node's host, zone and region have already, those of the same fragment first. Within the class the emptier of two random
nodes is taken (the power of two choices: Azar, Broder, Karlin, Upfal 1994), which keeps fills even where each
gateway sees them a second late; the emptiest of all would draw every gateway's writes at once. Where the fills are
the gateway's own count, late for nobody, the emptiest of all is taken: a node that was passed over for a moment has
caught up after as many writes as it missed, in place of as many times the mesh's nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from discloud.core.model import Layout, Node, NodeId, NodeState, View

ALIKE = 1e-9
"""Share of the capacity by which fills differ through rounding alone; between such nodes chance decides."""


class Crowd:
    """How many blobs lie on each host, zone and region."""

    def __init__(self) -> None:
        self._hosts: dict[str, int] = {}
        self._zones: dict[tuple[str, str], int] = {}
        self._regions: dict[str, int] = {}

    def add(self, node: Node) -> None:
        """Count one more blob on the node."""
        host, zone, region = self.around(node)
        self._hosts[node.host] = host + 1
        self._zones[node.region, node.zone] = zone + 1
        self._regions[node.region] = region + 1

    def around(self, node: Node) -> tuple[int, int, int]:
        """Blobs on the node's host, in its zone, in its region."""
        region = node.region
        return (
            self._hosts.get(node.host, 0),
            self._zones.get((region, node.zone), 0),
            self._regions.get(region, 0),
        )


class Picker:
    """Takes nodes one by one from ``nodes``, each at most once. ``chosen`` are those taken, in that order.

    ``regions`` are to have a copy each; what cannot be had is told in ``warnings``. ``draw(n)`` gives 0..n-1.
    ``counted``: the fills are what the gateway itself counted, else what the nodes reported.
    """

    def __init__(
        self,
        regions: tuple[str, ...],
        nodes: Sequence[Node],
        draw: Callable[[int], int],
        *,
        counted: bool = False,
    ) -> None:
        self.chosen: list[Node] = []
        self.warnings: list[str] = []
        self._regions = regions
        self._left = list(nodes)
        self._draw = draw
        self._emptiest = _emptiest if counted else _emptier_of_two
        self._everyone = Crowd()

    def mirror(self, named: Sequence[Node], needed: int, here: Node | None) -> tuple[tuple[NodeId, ...]]:
        """Named nodes first, then one in each further region, then where it is least crowded and emptiest.

        With neither, the first is in the region of ``here``, if one there can be had.
        """
        for node in named:
            self._take(node, self._everyone)
        covered = {node.region for node in named}
        for region in [each for each in self._regions if each not in covered][: needed - len(named)]:
            self._pick(self._in_region(region), self._everyone)
        while len(self.chosen) < needed:
            near = [node for node in self._left if here and not self.chosen and node.region == here.region]
            self._pick(near or self._preferred(), self._everyone)
        self._tell_elsewhere(len(named))
        return (tuple(node.id for node in self.chosen),)

    def striped(self, layout: Layout) -> tuple[tuple[NodeId, ...], ...]:
        """Copy by copy, so that the copies of a fragment are apart first; each region gets a whole copy, else a part."""
        siblings = [Crowd() for _ in range(layout.fragments)]
        holders: list[list[NodeId]] = [[] for _ in siblings]
        for copy in range(layout.copies):
            for fragment, crowd in enumerate(siblings):
                turn = copy if layout.copies > 1 else fragment
                regions = self._regions[turn : turn + 1]
                pool = self._in_region(regions[0]) if regions else self._left
                holders[fragment].append(self._pick(pool, crowd).id)
        self._tell_elsewhere(0)
        return tuple(map(tuple, holders))

    def spares(self, count: int) -> tuple[NodeId, ...]:
        """Up to ``count`` further nodes in the order of choice; only of the regions, if there are such."""
        if self._regions:
            self._left = [node for node in self._left if node.region in self._regions]
        return tuple(self._pick(self._left, self._everyone).id for _ in range(min(count, len(self._left))))

    def _in_region(self, region: str) -> list[Node]:
        if found := [node for node in self._left if node.region == region]:
            return found
        told = f"no further node of the region {region} takes new blobs: its copy lies elsewhere"
        if told not in self.warnings:
            self.warnings.append(told)
        return self._left

    def _preferred(self) -> list[Node]:
        return [node for node in self._left if node.region in self._regions] or self._left

    def _tell_elsewhere(self, named: int) -> None:
        """What is beyond one copy for each region stays in those regions while these have nodes; tell where not."""
        outside = [node.name for node in self.chosen[named:] if node.region not in self._regions]
        if self._regions and outside and not self.warnings:
            self.warnings.append(f"the regions have too few nodes: {', '.join(outside)} lie elsewhere")

    def _pick(self, pool: Sequence[Node], siblings: Crowd) -> Node:
        best = _least_crowded(pool, siblings, self._everyone)
        node = best[0] if len(best) == 1 else self._emptiest(best, self._draw)
        self._take(node, siblings)
        return node

    def _take(self, node: Node, siblings: Crowd) -> None:
        self._left.remove(node)
        self.chosen.append(node)
        self._everyone.add(node)
        if siblings is not self._everyone:
            siblings.add(node)


def _least_crowded(nodes: Sequence[Node], siblings: Crowd, everyone: Crowd) -> Sequence[Node]:
    """Those of the nodes (there is at least one) in the best class; ``siblings`` are the other copies of the same fragment."""
    if len(nodes) == 1:
        return nodes
    classes = [_class(node, siblings, everyone) for node in nodes]
    least = min(classes)
    return [node for node, each in zip(nodes, classes, strict=True) if each == least]


def _emptier_of_two(nodes: Sequence[Node], draw: Callable[[int], int]) -> Node:
    first, second = draw(len(nodes)), draw(len(nodes) - 1)
    one, other = nodes[first], nodes[second + (second >= first)]
    return one if one.fill <= other.fill else other


def _emptiest(nodes: Sequence[Node], draw: Callable[[int], int]) -> Node:
    fills = [node.fill for node in nodes]
    least = min(fills) + ALIKE
    best = [node for node, fill in zip(nodes, fills, strict=True) if fill <= least]
    return best[draw(len(best))]


def _class(node: Node, siblings: Crowd, everyone: Crowd) -> tuple[int, ...]:
    host, zone, region = siblings.around(node)
    if siblings is everyone:
        return node.state is NodeState.SUSPECT, host, zone, region
    any_host, any_zone, any_region = everyone.around(node)
    return node.state is NodeState.SUSPECT, host, any_host, zone, any_zone, region, any_region


def spread_warnings(view: View, holders: Sequence[Node], *, hosts_only: bool) -> tuple[str, ...]:
    """What is short about the spread of a segment's blobs; ``hosts_only`` where the rest was the client's wish.

    Sharing a host is told wherever the mesh has several hosts; sharing a zone or a region only where the mesh has one
    that is not used, so a mesh without such names is not nagged.
    """
    mesh = [node for node in view.nodes if node.state is not NodeState.REMOVED]
    found = []
    used, known = len({node.host for node in holders}), len({node.host for node in mesh})
    if used < len(holders) and known > 1:
        found.append(_short(len(holders), used, "host"))
    if not hosts_only:
        found += _unused("zone", len(holders), _zones(holders), _zones(mesh))
        found += _unused("region", len(holders), _regions(holders), _regions(mesh))
    return tuple(found)


def _zones(nodes: Iterable[Node]) -> int:
    return len({(node.region, node.zone) for node in nodes})


def _regions(nodes: Iterable[Node]) -> int:
    return len({node.region for node in nodes})


def _unused(level: str, blobs: int, used: int, known: int) -> list[str]:
    return [_short(blobs, used, level)] if used < min(blobs, known) else []


def _short(blobs: int, used: int, level: str) -> str:
    return f"the spread is short: {blobs} blobs lie on {used} {level}{'s' if used > 1 else ''}"
