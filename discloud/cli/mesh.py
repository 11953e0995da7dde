"""``discloud nodes`` and ``discloud status``: the mesh as the answering node sees it."""

from __future__ import annotations

from typing import Any

import click

from discloud.cli.batch import run
from discloud.cli.client import Client
from discloud.cli.options import as_json, on_mesh
from discloud.cli.output import emit, gauge, human, paint, table
from discloud.cli.profile import Profile

_COLOURS = {"alive": "green", "suspect": "yellow", "draining": "yellow", "down": "red", "lost": "red"}


@click.command(short_help="Show the nodes and how full they are.")
@as_json
@on_mesh
def nodes(profile: Profile, as_json: bool) -> None:
    """Show every node: role, address, place, state, blobs, and how full it is.

    \b
    Examples:
      discloud nodes
      discloud nodes --json
    """
    found = sorted(run(_get(profile, "/v1/nodes", "list of nodes"))["nodes"], key=_by_name)
    if as_json:
        for node in found:
            emit(node)
        return
    head = ("NAME", "ROLE", "ADDRESS", "PLACE", "STATE", "BLOBS", "USED", "CAPACITY", "FILL")
    table([head, *map(_row, found)], right=frozenset({5, 6, 7}))


def _by_name(node: dict[str, Any]) -> tuple[int, str]:
    """node9 before node10."""
    return len(node["name"]), node["name"]


def _row(node: dict[str, Any]) -> tuple[str, ...]:
    return (
        node["name"],
        node["role"],
        node["api"],
        "/".join(part for part in (node.get("region"), node.get("zone")) if part) or "-",
        _state(node["state"]),
        str(node["blobs"]),
        human(node["used"]),
        human(node["capacity"]),
        gauge(node["fill"]),
    )


def _state(state: str) -> str:
    return paint(state, _COLOURS.get(state, "red"))


@click.command(short_help="Show the state of the mesh.")
@as_json
@on_mesh
def status(profile: Profile, as_json: bool) -> None:
    """Show the mesh in a few lines: nodes by state, space, default layout and version.

    \b
    Examples:
      discloud status
      discloud status --url http://127.0.0.1:7080 --json
    """
    mesh = run(_get(profile, "/v1/cluster", "status of the mesh"))
    if as_json:
        emit(mesh)
        return
    states = [f"{count} {_state(state)}" for state, count in mesh["nodes"].items() if count]
    used, capacity = mesh["used"], mesh["capacity"]
    fill = f"  {human(used)} of {human(capacity)}"
    table(
        [
            ("mesh", mesh["mesh"]),
            ("nodes", ", ".join(states) or "none"),
            ("space", gauge(used / capacity if capacity else 0.0) + fill),
            ("default layout", mesh["default_layout"]),
            ("version", mesh["version"]),
        ]
    )


async def _get(profile: Profile, path: str, what: str) -> dict[str, Any]:
    async with Client(profile) as client:
        return await client.call("GET", path, what)
