"""The page of metrics is what the code declares, and what it declares is used."""

from __future__ import annotations

import re
from pathlib import Path

from discloud import metrics

ROOT = Path(__file__).parents[2]


def test_the_page_is_generated() -> None:
    page = (ROOT / "docs" / "operations" / "metrics.md").read_text()
    assert page == metrics.render_reference(), (
        "write metrics.render_reference() to docs/operations/metrics.md"
    )


def test_every_metric_is_counted_somewhere() -> None:
    source = "".join(
        path.read_text() for path in (ROOT / "discloud").rglob("*.py") if path.name != "metrics.py"
    )
    declared = re.findall(
        r"^([A-Z_]+) = (?:Counter|Gauge)\(", (ROOT / "discloud" / "metrics.py").read_text(), re.M
    )
    assert len(declared) == len(metrics.ALL)
    assert not [name for name in declared if f"metrics.{name}" not in source]
