"""The tree in docs/architecture.md is the package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
OWN_PAGE = {"cli", "disk", "sqlite", "cassandra"}
"""Packages whose modules are named on pages of their own."""


def drawn() -> set[str]:
    """Module and package names in the drawing, but for the comments behind two spaces."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text.partition("```\ndiscloud/\n")[2].partition("```")[0]
    names: set[str] = set()
    for line in tree.splitlines():
        before = re.split(r"\S\s{2,}", line.strip() + "  ")[0]
        cut = line.strip()[: len(before) + 1]
        names |= {name.rstrip("/") for name in cut.split()}
    return names


def test_the_tree_is_the_package() -> None:
    package = ROOT / "discloud"
    folders = {path.parent.name for path in package.rglob("*.py")} - {"discloud"}
    modules = {path.stem for path in package.rglob("*.py") if path.parent.name not in OWN_PAGE}
    expected = (folders | modules) - {"__init__"}
    assert not expected - drawn(), "missing in docs/architecture.md"
    assert not drawn() - expected, "named there, but gone"
