"""``discloud migrate`` refuses wrong addresses, a root that runs and a mesh that is not there, each in one line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.moved import write_mark
from discloud.adapters.sqlite.portable import SqlitePortable
from discloud.cli.migrate import place
from tests.contract.metadata_adapters import Clock
from tests.support.command_line import CommandLine, refused
from tests.support.lived import Past

TO = "cassandra://127.0.0.1:1/discloud"


@pytest.mark.parametrize(
    "address",
    ["postgres://x", "cassandra://", "cassandra:///keyspace", "metadata.db", "cassandra://me:secret@h/k"],
)
def test_an_address_that_is_none(discloud: CommandLine, address: str) -> None:
    refused(discloud.run("migrate", "--to", address), "sqlite:FILE", 'see "discloud migrate --help"', code=2)


def test_a_keyspace_that_is_none(discloud: CommandLine) -> None:
    refused(discloud.run("migrate", "--to", "cassandra://h/Key-Space"), "not the name of a keyspace", code=2)
    refused(discloud.run("migrate", "--to", "cassandra://h:99999/k"), "not host:port", code=2)


def test_a_file_to_a_file(discloud: CommandLine) -> None:
    refused(discloud.run("migrate", "--to", "sqlite:here.db"), "both sides are SQLite", code=2)


def test_no_mesh_is_here(discloud: CommandLine, tmp_path: Path) -> None:
    refused(discloud.run("migrate", "--to", TO, "--data", tmp_path), "there is no database", "--data DIR")


def test_a_root_that_runs(discloud: CommandLine, tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        metadata = runner.run(SqliteMetadata.open(tmp_path / "metadata.db"))
        refused(discloud.run("migrate", "--to", TO, "--data", tmp_path), "in use", "stop that node first")
        runner.run(metadata.close())


def test_a_mesh_that_moved_already(discloud: CommandLine, tmp_path: Path) -> None:
    asyncio.run(_lived(tmp_path / "metadata.db"))
    write_mark(tmp_path / "metadata.db", "mesh", "cassandra://elsewhere/discloud", 1.0)
    refused(
        discloud.run("migrate", "--to", TO, "--data", tmp_path), "moved to cassandra://elsewhere/discloud"
    )


def test_a_dry_run_counts_and_touches_nothing(discloud: CommandLine, tmp_path: Path) -> None:
    counts = asyncio.run(_lived(tmp_path / "metadata.db"))
    before = (tmp_path / "metadata.db").read_bytes()
    shown = discloud.run("migrate", "--dry-run", "--to", TO, "--data", tmp_path)
    assert shown.exit_code == 0, shown.stderr
    assert [line.split(maxsplit=1) for line in shown.stdout.splitlines()] == [
        [str(count), kind] for kind, count in counts.items()
    ]
    assert f"heads: {counts['heads']}" in shown.stderr.splitlines()
    told = discloud.run("migrate", "--dry-run", "--json", "--to", TO, "--data", tmp_path)
    assert json.loads(told.stdout) == {"from": f"sqlite:{tmp_path / 'metadata.db'}", "rows": counts}
    assert not told.stderr
    assert (tmp_path / "metadata.db").read_bytes() == before


def test_cassandra_that_does_not_answer(discloud: CommandLine, tmp_path: Path) -> None:
    asyncio.run(_lived(tmp_path / "metadata.db"))
    refused(discloud.run("migrate", "-q", "--to", TO, "--data", tmp_path), "no Cassandra node answers")
    assert not (tmp_path / "migrated.json").exists()


def test_how_the_root_is_started_afterwards(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISCLOUD_CASSANDRA_PASSWORD", "hidden")
    there = place("cassandra://h1,h2:9043/mine", str(tmp_path), None, "--to")
    assert str(there) == "cassandra://h1:9042,h2:9043/mine"
    assert there.start == (
        f"DISCLOUD_CASSANDRA_KEYSPACE=mine discloud node --role=root --data {tmp_path} --cassandra h1:9042,h2:9043"
    )
    assert there.config.cassandra.password == "hidden"
    back = place(f"sqlite:{tmp_path}/metadata.db", None, None, "--to")
    assert back.start == f"discloud node --role=root --data {tmp_path}"
    assert str(place(None, str(tmp_path), None, "--from")) == f"sqlite:{tmp_path}/metadata.db"


async def _lived(path: Path) -> dict[str, int]:
    """A database with a past; how many rows of each kind it has."""
    from discloud.adapters.portable import COPIED

    clock = Clock()
    async with await SqliteMetadata.open(path, clock) as metadata:
        await Past(metadata, clock, 1).live(60)
    source = await SqlitePortable.source(path, TO)
    counts = {str(kind): await source.count(kind) for kind in COPIED}
    await source.close()
    return counts
