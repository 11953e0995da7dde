"""The tables are those that docs/formats/metadata.md tells, and keep no row without its values."""

from __future__ import annotations

import re
from pathlib import Path

from discloud.adapters.sqlite.schema import APPLICATION, SCHEMA_VERSION, connect_writer

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats" / "metadata.md"


def test_the_document_shows_every_table_and_column(tmp_path: Path) -> None:
    connection = connect_writer(tmp_path / "m.db", lambda: "a mesh")
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    stored = {
        table: [(row[2], row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
        for table in tables
    }
    indexes = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index' AND sql > ''")
    ]
    connection.close()
    text = DOCUMENT.read_text("utf-8")
    diagram = text.partition("erDiagram")[2].partition("```")[0]
    drawn = {
        table: re.findall(r"^ {8}(\w+) (\w+)", body, re.MULTILINE)
        for table, body in re.findall(r"^ {4}(\w+) \{\n(.*?)\}", diagram, re.MULTILINE | re.DOTALL)
    }
    assert drawn == stored
    assert all(f"`{index}`" in text for index in indexes)
    assert f"`mesh.schema_version` is {SCHEMA_VERSION}" in text
    assert f"{APPLICATION:#x}" in text
