"""The shape of the source: small modules and functions, the field's words, a docstring on everything, imports one way."""

from __future__ import annotations

import ast
import configparser
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "discloud").rglob("*.py"))
FORBIDDEN = frozenset(
    ["utils", "util", "helpers", "helper", "common", "manager", "managers", "base", "impl", "misc", "shared"]
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def functions(path: Path) -> Iterator[Function]:
    return (
        each for each in ast.walk(parsed(path)) if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def length(function: Function) -> int:
    """Lines of the body without the docstring: prose is not what makes a function long."""
    body = function.body[1:] if ast.get_docstring(function) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def told(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=told)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("path", SOURCES, ids=told)
def test_functions_are_short(path: Path) -> None:
    assert [f"{each.name}: {length(each)}" for each in functions(path) if length(each) > 60] == []


def test_most_functions_are_very_short() -> None:
    assert median(length(each) for path in SOURCES for each in functions(path)) < 10


@pytest.mark.parametrize("path", SOURCES, ids=told)
def test_modules_are_named_by_what_they_own(path: Path) -> None:
    assert not FORBIDDEN & set(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=told)
def test_everything_public_is_told(path: Path) -> None:
    tree = parsed(path)
    silent = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    silent += [each.name for each in _public(tree.body) if not ast.get_docstring(each)]
    assert silent == []


def _public(body: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for each in body:
        if isinstance(
            each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        ) and not each.name.startswith("_"):
            if not any(isinstance(mark, ast.Name) and mark.id == "overload" for mark in each.decorator_list):
                yield each
            if isinstance(each, ast.ClassDef):
                yield from _public(each.body)


@pytest.mark.parametrize("path", SOURCES, ids=told)
def test_nothing_is_swallowed_or_left_open(path: Path) -> None:
    bare = [
        each.lineno
        for each in ast.walk(parsed(path))
        if isinstance(each, ast.ExceptHandler) and not each.type
    ]
    stubs = [
        each.lineno
        for each in ast.walk(parsed(path))
        if isinstance(each, ast.Raise) and "NotImplemented" in ast.unparse(each)
    ]
    assert bare + stubs == []


def layers() -> list[frozenset[str]]:
    """The layers of setup.cfg, the highest first."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["importlinter:contract:layers"]["layers"].strip().splitlines()
    return [frozenset(each.strip() for each in line.split("|")) for line in lines]


def test_every_module_lies_in_a_layer() -> None:
    placed = frozenset().union(*layers())
    homeless = []
    for path in SOURCES:
        parts = path.relative_to(ROOT).with_suffix("").parts
        if ".".join(parts[:2]) not in placed and parts != ("discloud", "__init__"):
            homeless.append(told(path))
    assert homeless == []


def test_the_layers_are_those_of_the_design() -> None:
    order = [
        "discloud.cli", "discloud.node", "discloud.config", "discloud.api", "discloud.gateway", "discloud.cluster",
        "discloud.ports", "discloud.core", "discloud.errors",
    ]  # fmt: skip
    at = {name: level for level, names in enumerate(layers()) for name in names}
    assert all(at[above] < at[below] for above, below in pairwise(order))
