"""The table of a surface: which handler takes which method and path, and what OpenAPI says of it.

A pattern's parts are literal, ``{name}`` (one part) or ``{name*}`` (the rest, slashes included, at least one byte).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiohttp import web

from discloud.api.call import Call
from discloud.api.problem import MethodNotAllowed, NoSuchPath

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A query or header parameter as OpenAPI shows it."""

    name: str
    doc: str
    where: str = "query"
    kind: str = "string"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation. ``open`` routes need no account; ``answers`` are the statuses it documents."""

    method: str
    pattern: str
    handler: Handler
    summary: str
    parameters: tuple[Parameter, ...] = ()
    body: str = ""
    answers: tuple[tuple[int, str], ...] = ((200, "done"),)
    open: bool = False
    tag: str = "files"

    @property
    def query(self) -> frozenset[str]:
        """The names of its query parameters."""
        return frozenset(each.name for each in self.parameters if each.where == "query")


class Router:
    """Finds the route of a request. Built once; look-ups touch only the routes of the same first parts."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._by_pattern: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            parts = tuple(route.pattern.split("/")[1:])
            self._by_pattern.setdefault(parts, {})[route.method] = route

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route and the raw values of its pattern's names. Raises: NoSuchPath, MethodNotAllowed."""
        parts = raw_path.split("/")[1:]
        allowed: list[str] = []
        for pattern, methods in self._by_pattern.items():
            values = _match(pattern, parts)
            if values is None:
                continue
            if method in methods:
                return methods[method], values
            allowed += methods
        if allowed:
            raise MethodNotAllowed(method, raw_path[:200], ", ".join(sorted(set(allowed))))
        raise NoSuchPath(f"nothing is served at {raw_path[:200]}", "the API is described at /docs")


def _match(pattern: tuple[str, ...], parts: list[str]) -> dict[str, str] | None:
    values: dict[str, str] = {}
    for position, expected in enumerate(pattern):
        if expected.endswith("*}"):
            rest = "/".join(parts[position:])
            if not rest:
                return None
            values[expected[1:-2]] = rest
            return values
        if position >= len(parts):
            return None
        if expected.startswith("{"):
            if not parts[position]:
                return None
            values[expected[1:-1]] = parts[position]
        elif parts[position] != expected:
            return None
    return values if len(parts) == len(pattern) else None
