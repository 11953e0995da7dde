"""Metadata move from a file to a keyspace and back: all of it, from any cut on, and never into the wrong place."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from discloud.adapters import migration
from discloud.adapters.cassandra import portable, schema
from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.migration_note import refuse_unfinished
from discloud.adapters.cassandra.portable import CassandraPortable
from discloud.adapters.cassandra.session import Session
from discloud.adapters.migration import Migrated, migrate
from discloud.adapters.portable import Target
from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.portable import SqlitePortable
from discloud.core.model import Role
from discloud.errors import Conflict, NotFound
from discloud.ports import CLAIM
from tests.contract.metadata_adapters import CLUSTER, Clock
from tests.contract.metadata_objects import ANY, BUCKET, N3, delete_of, draft, node
from tests.support import servers
from tests.support.command_line import CommandLine
from tests.support.cut_short import Cut, CutShort
from tests.support.lived import Past, numbers_of, refuses_the_removed_bucket

FILE, KEYSPACE = "sqlite:file", "cassandra://cluster/keyspace"
LATER = 2 * CLAIM
"""Seconds after which a root that died is forgotten."""


def silent(what: str, count: int) -> None:
    pass


@pytest.fixture
def settings(fresh_keyspace: str, cassandra_cluster: servers.SharedCassandra) -> Settings:
    return Settings(cassandra_cluster.hosts, fresh_keyspace, patience=15.0)


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PAGE", 40)


async def lived(path: Path, clock: Clock, steps: int, cluster: str = CLUSTER) -> Past:
    """A database with a past, closed."""
    async with await SqliteMetadata.open(path, clock, lambda: cluster) as metadata:
        past = Past(metadata, clock, 1)
        await past.live(steps)
        return past


async def out(
    path: Path, settings: Settings, clock: Clock, *, cut: int | None = None, restart: bool = False
) -> Migrated:
    """From a file to the keyspace; ``cut`` = after so many pages."""
    source = await SqlitePortable.source(path, KEYSPACE)
    try:
        target: Target = await CassandraPortable.target(settings, source.cluster, clock)
        if cut is not None:
            target = CutShort(target, cut)
        try:
            return await migrate(source, target, (FILE, KEYSPACE), clock, silent, restart=restart)
        finally:
            await target.close()
    finally:
        await source.close()


async def back(settings: Settings, path: Path, clock: Clock) -> Migrated:
    """From the keyspace to a file."""
    source = await CassandraPortable.source(settings, FILE, clock)
    try:
        target = await SqlitePortable.target(path, source.cluster)
        try:
            return await migrate(source, target, (KEYSPACE, FILE), clock, silent, restart=False)
        finally:
            await target.close()
    finally:
        await source.close()


async def usable(settings: Settings) -> None:
    """What every root asks first."""
    async with await Session.connect(settings) as session:
        await refuse_unfinished(session)


async def test_there_and_back_and_life_goes_on_in_both(tmp_path: Path, settings: Settings) -> None:
    clock = Clock()
    async with await SqliteMetadata.open(tmp_path / "a.db", clock, lambda: CLUSTER) as metadata:
        past = Past(metadata, clock, 1)
        await past.live(300)
        await metadata.versions.put(draft("vacated"), ANY)
        vacated = (await metadata.versions.commit(delete_of("vacated"), ANY)).replaced
        assert vacated is not None
        before, counts = await past.shown(metadata), await numbers_of(metadata)
    result = await out(tmp_path / "a.db", settings, clock)
    assert all(kind.rows for kind in result.kinds), "the past lacks a kind"
    await usable(settings)

    clock.now += LATER
    async with await CassandraMetadata.open(settings, clock) as metadata:
        assert await past.shown(metadata) == before
        assert await refuses_the_removed_bucket(metadata)
        moments = await numbers_of(metadata)
        assert counts[-1] < moments[0]
        past.metadata = metadata
        await past.go_on(60)
        clock.now -= 5000  # a clock that went back must not take a seq back
        again = (await metadata.versions.put(draft("vacated"), ANY)).version
        assert again is not None
        assert again.seq > vacated.seq
        clock.now += 5000
        after = await past.shown(metadata)
        assert (await numbers_of(metadata))[: len(moments)] == moments

    clock.now += LATER
    await back(settings, tmp_path / "b.db", clock)
    with pytest.raises(Conflict, match=f"moved to {FILE}: this keyspace is stale"):
        await usable(settings)
    async with await SqliteMetadata.open(tmp_path / "b.db", clock) as metadata:
        shown = await past.shown(metadata)
        # what was half done was done to its end before it was moved, and may be logged twice
        log, logged = shown.pop("log"), after.pop("log")
        assert log[: len(logged)] == logged
        assert {(each.version, each.removed) for each in log} == {
            (each.version, each.removed) for each in logged
        }
        assert shown == after
        assert (await numbers_of(metadata))[: len(moments)] == moments
        past.metadata = metadata
        await past.go_on(60)
    with pytest.raises(Conflict, match="may have been used since"):
        await out(tmp_path / "b.db", settings, clock)


async def test_a_cut_run_goes_on_and_no_root_starts_before_its_end(
    tmp_path: Path, settings: Settings
) -> None:
    clock = Clock()
    past = await lived(tmp_path / "a.db", clock, 150)
    other = await lived(tmp_path / "other.db", Clock(), 5, "another mesh")
    assert other.made
    for cut in (1, 3, 2, 2):
        with pytest.raises(Cut):
            await out(tmp_path / "a.db", settings, clock, cut=cut)
        with pytest.raises(Conflict, match=f"the migration from {FILE} into this keyspace is not finished"):
            await usable(settings)
        with pytest.raises(Conflict, match="is not finished"):
            await CassandraPortable.source(settings, "sqlite:elsewhere", clock)
        with pytest.raises(Conflict, match="the source is mesh another mesh"):
            await out(tmp_path / "other.db", settings, clock, restart=True)
    async with await SqliteMetadata.open(tmp_path / "a.db", clock) as metadata:  # its root runs once more
        past.metadata = metadata
        await past.go_on(20)
        before = await past.shown(metadata)
    result = await out(tmp_path / "a.db", settings, clock, restart=True)
    assert not result.resumed
    clock.now += LATER
    async with await CassandraMetadata.open(settings, clock) as metadata:
        assert await past.shown(metadata) == before


async def test_a_keyspace_in_use_is_neither_target_nor_source(tmp_path: Path, settings: Settings) -> None:
    clock = Clock()
    await lived(tmp_path / "a.db", clock, 5)
    with pytest.raises(NotFound, match="no mesh in the keyspace"):
        await CassandraPortable.source(settings, FILE, clock)
    root = replace(node(N3, "three"), role=Role.ROOT)
    async with await CassandraMetadata.open(settings, clock, lambda: CLUSTER) as metadata:
        for restart in (False, True):
            await metadata.nodes.register(root, "nonce", clock.now)
            with pytest.raises(Conflict, match="no migration wrote"):
                await out(tmp_path / "a.db", settings, clock, restart=restart)
        with pytest.raises(Conflict, match="root three is running"):
            await CassandraPortable.source(settings, FILE, clock)
        clock.now += LATER
        await metadata.leases.hold("leader", N3, 60.0)
        with pytest.raises(Conflict, match="root three is running"):
            await CassandraPortable.source(settings, FILE, clock)
        await metadata.leases.release("leader", N3)
        await (await CassandraPortable.source(settings, FILE, clock)).close()
        assert [each.name for each in await metadata.nodes.all()] == ["three"]


async def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(tmp_path: Path, settings: Settings) -> None:
    clock = Clock()
    async with await SqliteMetadata.open(tmp_path / "metadata.db", clock) as metadata:
        await metadata.buckets.create(BUCKET)
        for page in range(4):
            await asyncio.gather(
                *(metadata.versions.put(draft(f"dir{page}/{each}"), ANY) for each in range(500))
            )
    to = f"cassandra://{','.join(settings.hosts)}/{settings.keyspace}"
    words = ("migrate", "--data", str(tmp_path), "--to", to)
    command = CommandLine(tmp_path, {})
    process = command.start(*words, stdin=subprocess.DEVNULL)
    assert process.stderr is not None
    said = await asyncio.to_thread(process.stderr.readline)
    assert said == b"buckets: 1\n"
    process.send_signal(signal.SIGINT)
    _, rest = await asyncio.to_thread(process.communicate, None, 60)
    assert process.returncode == 130
    assert b"the same command goes on from there" in rest
    assert b"Traceback" not in rest
    again = command.start(*words, "--json", stdin=subprocess.DEVNULL)
    told, errors = await asyncio.to_thread(again.communicate, None, 110)
    assert again.returncode == 0, errors
    result = json.loads(told)
    assert result["verified"]["heads"]["rows"] == result["verified"]["listed names"]["rows"] == 2000
    assert 0 < result["resumed"] < 2000
    assert (tmp_path / "migrated.json").exists()


def test_every_table_is_looked_at_and_emptied() -> None:
    made = {table.split("EXISTS ")[1].split()[0] for table in schema.TABLES}
    assert set(portable.TABLES) == made
