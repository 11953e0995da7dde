"""Metadata move from one file to another: all of it, from any cut on, verified, and never into the wrong place."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discloud.adapters import migration
from discloud.adapters.migration import Migrated, migrate, survey, verify
from discloud.adapters.portable import COPIED, Kind, Listed, Note, Progress, Row, Stretch
from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.moved import MARK, refuse_moved, write_mark
from discloud.adapters.sqlite.portable import UNFINISHED, SqlitePortable
from discloud.adapters.tally import Suspects, Tally, hash_of
from discloud.core.model import Key, Version
from discloud.errors import Conflict, Corrupt, NotFound, Unavailable
from discloud.ports import LogEntry
from tests.contract.metadata_adapters import CLUSTER, Clock
from tests.contract.metadata_objects import ANY, BUCKET, delete_of, draft, everywhere, put_of
from tests.support.cut_short import Cut, CutShort
from tests.support.lived import ACCOUNTS, Past, numbers_of, refuses_the_removed_bucket

NAMES = ("sqlite:source", "sqlite:target")
NOW = 1_800_000_000.0


def silent(what: str, count: int) -> None:
    pass


async def lived(path: Path, seed: int = 1, steps: int = 300) -> tuple[Past, dict[str, Any]]:
    """A database with a past, closed, and what it shows."""
    clock = Clock()
    async with await SqliteMetadata.open(path, clock, lambda: CLUSTER) as metadata:
        past = Past(metadata, clock, seed)
        await past.live(steps)
        return past, await past.shown(metadata)


async def moved(
    source: Path, target: Path, *, restart: bool = False, told: migration.Told = silent
) -> Migrated:
    """One migration between two files."""
    here = await SqlitePortable.source(source, NAMES[1])
    try:
        there = await SqlitePortable.target(target, here.cluster)
        try:
            return await migrate(here, there, NAMES, lambda: NOW, told, restart=restart)
        finally:
            await there.close()
    finally:
        await here.close()


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "PAGE", 7)


@pytest.mark.parametrize("seed", range(3))
async def test_everything_is_there_afterwards(tmp_path: Path, seed: int) -> None:
    past, before = await lived(tmp_path / "a.db", seed)
    assert before["repairs"]
    assert before["expired"]
    assert before["collectable"]
    result = await moved(tmp_path / "a.db", tmp_path / "b.db")
    assert {kind.kind for kind in result.kinds} == set(Kind) - {Kind.VACANT}
    assert all(kind.rows for kind in result.kinds), "the past lacks a kind"
    async with await SqliteMetadata.open(tmp_path / "b.db") as metadata:
        assert await past.shown(metadata) == before
        assert await refuses_the_removed_bucket(metadata)
    assert [each.name for each in tmp_path.glob(f"*{UNFINISHED}*")] == []


async def test_life_goes_on_where_it_was(tmp_path: Path) -> None:
    clock = Clock()
    async with await SqliteMetadata.open(tmp_path / "a.db", clock, lambda: CLUSTER) as metadata:
        await metadata.buckets.create(BUCKET)
        open_draft = draft("draft")
        await metadata.versions.begin(open_draft)
        await metadata.versions.put(draft("gone"), ANY)
        clock.now += 1000
        await metadata.versions.commit(delete_of("gone"), ANY)
        dead = (await metadata.queues.collectable(clock.now + 10_000, 10))[0]
    clock.now -= 5000  # a clock that went back must not take a seq back
    await moved(tmp_path / "a.db", tmp_path / "b.db")
    async with await SqliteMetadata.open(tmp_path / "b.db", clock) as metadata:
        again = (await metadata.versions.put(draft("gone"), ANY)).version
        assert again is not None
        assert again.seq > dead.seq
        committed = (await metadata.versions.commit(put_of(open_draft), ANY)).version
        assert committed is not None
        assert (await metadata.versions.get(BUCKET.id, Key("draft"))).id == open_draft.id
        await metadata.versions.forget(dead)
        await metadata.nodes.all()


async def test_the_source_is_not_changed(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    before = (tmp_path / "a.db").read_bytes()
    await moved(tmp_path / "a.db", tmp_path / "b.db")
    assert (tmp_path / "a.db").read_bytes() == before


# ---------------------------------------------------------------- the log


async def test_no_cursor_of_a_node_is_beyond_the_moved_log(tmp_path: Path) -> None:
    """Counts become moments before the migration; moments stay what they are."""
    past, _ = await lived(tmp_path / "a.db")
    async with await SqliteMetadata.open(tmp_path / "a.db") as metadata:
        counts = await numbers_of(metadata)
    assert counts == list(range(1, len(counts) + 1))
    await moved(tmp_path / "a.db", tmp_path / "b.db")
    async with await SqliteMetadata.open(tmp_path / "b.db", past.clock) as metadata:
        moments = await numbers_of(metadata)
        assert len(moments) == len(counts)
        assert counts[-1] < moments[0]
        assert moments[-1] < NOW * 1_000_000
        await metadata.versions.put(everywhere("later"), ANY)
        assert (await numbers_of(metadata))[: len(moments)] == moments
        moments = await numbers_of(metadata)
    await moved(tmp_path / "b.db", tmp_path / "c.db")
    async with await SqliteMetadata.open(tmp_path / "c.db") as metadata:
        assert await numbers_of(metadata) == moments


# ---------------------------------------------------------------- cuts


async def cut_run(folder: Path, writes: int, *, late: bool) -> bool:
    """A run that is cut after that many writes; False = it came to its end."""
    here = await SqlitePortable.source(folder / "a.db", NAMES[1])
    there = await SqlitePortable.target(folder / "b.db", here.cluster)
    try:
        await migrate(here, CutShort(there, writes, late=late), NAMES, lambda: NOW, silent, restart=False)
    except Cut:
        return True
    finally:
        await there.close()
        await here.close()
    return False


@pytest.mark.parametrize("late", [False, True])
async def test_a_cut_run_goes_on_from_every_page(tmp_path: Path, late: bool) -> None:
    past, before = await lived(tmp_path / "a.db", steps=120)
    cuts = 0
    while await cut_run(tmp_path, 1, late=late):  # every run gets a page further, with luck two
        cuts += 1
        assert not (tmp_path / "b.db").exists()
        assert cuts < 200
    assert cuts > 10
    async with await SqliteMetadata.open(tmp_path / "b.db") as metadata:
        assert await past.shown(metadata) == before


async def test_a_run_that_is_cut_copies_nothing_twice(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    assert await cut_run(tmp_path, 20, late=False)
    result = await moved(tmp_path / "a.db", tmp_path / "b.db")
    assert 0 < result.resumed <= 20 * 7


async def test_restart_forgets_what_a_cut_run_left(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    assert await cut_run(tmp_path, 20, late=False)
    async with await SqliteMetadata.open(tmp_path / "a.db") as metadata:  # the root ran once more
        head = (await metadata.versions.list_keys(BUCKET.id, "", "", "", 1)).versions[0]
        await metadata.versions.commit(delete_of(head.key), ANY)
    with pytest.raises(Corrupt, match="--restart"):
        await moved(tmp_path / "a.db", tmp_path / "b.db")
    assert not (tmp_path / MARK).exists()
    result = await moved(tmp_path / "a.db", tmp_path / "b.db", restart=True)
    assert not result.resumed


async def test_a_cut_at_the_very_end_is_mended_by_repeating(tmp_path: Path) -> None:
    """The source is left, the target not yet finished: no root starts from either, and the same command goes on."""
    past, before = await lived(tmp_path / "a.db", steps=50)
    here = await SqlitePortable.source(tmp_path / "a.db", NAMES[1])
    await here.leave(NAMES[1], NOW)
    await here.close()
    with pytest.raises(Conflict, match="moved to sqlite:target"):
        refuse_moved(tmp_path / "a.db")
    with pytest.raises(Conflict, match="moved to sqlite:target"):
        await SqlitePortable.source(tmp_path / "a.db", "cassandra://elsewhere")
    await moved(tmp_path / "a.db", tmp_path / "b.db")
    async with await SqliteMetadata.open(tmp_path / "b.db") as metadata:
        assert await past.shown(metadata) == before


# ---------------------------------------------------------------- verification

FLIPS = {
    "a head's body": "UPDATE heads SET body = (SELECT body FROM heads ORDER BY number DESC LIMIT 1) WHERE number = 1",
    "a head less": "DELETE FROM heads WHERE number = 2",
    "a dead row's key": "UPDATE versions SET key = x'78' WHERE number = (SELECT max(number) FROM versions)",
    "a draft less": "DELETE FROM versions WHERE number = (SELECT max(number) FROM versions WHERE state = 1)",
    "where a name moved": "UPDATE versions SET body = x'78' WHERE number = (SELECT max(number) FROM versions WHERE state = 7)",
    "the order of the log": """UPDATE all_log SET version = 'x' WHERE number = (SELECT max(number) FROM all_log)""",
    "a log entry twice": "INSERT INTO all_log SELECT number + 1, bucket, key, version, removed FROM all_log ORDER BY number DESC LIMIT 1",
    "a repair less": "DELETE FROM repairs WHERE blob = (SELECT min(blob) FROM repairs)",
    "a nonce": "UPDATE nodes SET nonce = 'x'",
    "an account": "DELETE FROM accounts WHERE id = 'id1'",
    "a bucket": "UPDATE buckets SET name = 'renamed', body = (SELECT body FROM buckets WHERE name = 'other') WHERE name = 'empty'",
    "a bucket removed": "UPDATE buckets SET name = NULL WHERE name = 'empty'",
}


@pytest.mark.parametrize("flip", FLIPS)
async def test_a_row_that_differs_is_found(tmp_path: Path, flip: str) -> None:
    await lived(tmp_path / "a.db")
    await moved(tmp_path / "a.db", tmp_path / "b.db")
    with sqlite3.connect(tmp_path / "b.db") as connection:
        assert connection.execute(FLIPS[flip]).rowcount > 0
    connection.close()
    (tmp_path / MARK).unlink()
    here = await SqlitePortable.source(tmp_path / "a.db", "")
    there = await SqlitePortable.source(tmp_path / "b.db", "")
    try:
        with pytest.raises(Corrupt, match=r"the copy is not the same: .*different: \S+"):
            await verify(here, there, silent)
    finally:
        await here.close()
        await there.close()


class OneFlipped(CutShort):
    """A target that loses a bit of one row while it takes it in."""

    async def write(self, kind: Kind, rows: Sequence[Row], note: Note) -> None:
        if rows and isinstance(rows[0], Version) and kind is Kind.HEADS:
            rows = [replace(rows[0], size=rows[0].size ^ 1), *rows[1:]]
        await super().write(kind, rows, note)


async def test_nothing_is_switched_when_the_copy_is_wrong(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    here = await SqlitePortable.source(tmp_path / "a.db", NAMES[1])
    there = await SqlitePortable.target(tmp_path / "b.db", here.cluster)
    with pytest.raises(Corrupt, match=r"heads in the source.*version"):
        await migrate(here, OneFlipped(there, 1000), NAMES, lambda: NOW, silent, restart=False)
    await here.close()
    await there.close()
    assert not (tmp_path / "b.db").exists()
    assert not (tmp_path / MARK).exists()
    refuse_moved(tmp_path / "a.db")


ROWS = st.lists(
    st.builds(
        lambda key, version, seq: Listed(BUCKET.id, Key(key), version, seq, 0, ""),
        st.sampled_from("abc"),
        st.sampled_from("xyz"),
        st.integers(0, 2),
    ),
    max_size=8,
)


@settings(max_examples=300)
@given(ROWS, ROWS)
def test_tallies_agree_exactly_on_the_same_rows(mine: list[Row], theirs: list[Row]) -> None:
    one, two, suspects = Tally(), Tally(), Suspects(range(1024))
    for tally, rows, side in ((one, mine, 0), (two, theirs, 1)):
        for row in rows:
            tally.add(row)
            suspects.add(row, side)
    same = sorted(map(repr, mine)) == sorted(map(repr, theirs))
    assert (one.digest == two.digest) == same
    assert (not one.differing(two)) == same
    assert (not suspects.names(3)) == same


def test_the_log_s_order_counts_and_its_numbers_do_not() -> None:
    first = LogEntry(1, BUCKET.id, Key("a"), draft("a").id, removed=False)
    second = replace(first, number=2, removed=True)
    tallies = [Tally(), Tally(), Tally()]
    for tally, entries in zip(tallies, [(first, second), (second, first), (replace(first, number=90), replace(second, number=91))], strict=True):  # fmt: skip
        for entry in entries:
            tally.add(entry)
    assert tallies[0].digest != tallies[1].digest
    assert tallies[0].digest == tallies[2].digest
    assert hash_of(first, 0) != hash_of(first, 1)


# ---------------------------------------------------------------- wrong sides


async def test_a_root_that_runs_is_refused(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "a.db"):
        with pytest.raises(Conflict, match="in use"):
            await SqlitePortable.source(tmp_path / "a.db", "")


async def test_no_root_starts_while_rows_move(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db", steps=5)
    here = await SqlitePortable.source(tmp_path / "a.db", "")
    with pytest.raises(Conflict, match="in use"):
        await SqliteMetadata.open(tmp_path / "a.db")
    await here.close()


async def test_a_missing_source_is_not_made(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for name in ("none.db", "empty.db"):
        with pytest.raises(NotFound, match="there is no database"):
            await SqlitePortable.source(tmp_path / name, "")
    assert [each.name for each in tmp_path.iterdir()] == ["empty.db"]
    assert (tmp_path / "empty.db").stat().st_size == 0


async def test_a_target_that_is_there_is_refused(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db", steps=5)
    (tmp_path / "b.db").write_text("something")
    with pytest.raises(Conflict, match="is there already"):
        await moved(tmp_path / "a.db", tmp_path / "b.db")
    assert (tmp_path / "b.db").read_text() == "something"


async def test_rows_of_another_mesh_are_refused(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db", steps=5)
    async with await SqliteMetadata.open(tmp_path / f"b.db{UNFINISHED}", draw_cluster=lambda: "another"):
        pass
    for restart in (False, True):
        with pytest.raises(Conflict, match="holds mesh another"):
            await moved(tmp_path / "a.db", tmp_path / "b.db", restart=restart)


async def test_rows_that_no_migration_wrote_are_refused(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db", steps=5)
    async with await SqliteMetadata.open(
        tmp_path / f"b.db{UNFINISHED}", draw_cluster=lambda: CLUSTER
    ) as there:
        await there.accounts.add(ACCOUNTS[0])
    for restart in (False, True):
        with pytest.raises(Conflict, match="no migration wrote"):
            await moved(tmp_path / "a.db", tmp_path / "b.db", restart=restart)


@pytest.mark.parametrize("progress", [Progress.FINISHED, Progress.LEFT])
async def test_a_target_in_use_is_refused_also_for_a_restart(tmp_path: Path, progress: Progress) -> None:
    await lived(tmp_path / "a.db", steps=5)
    there = await SqlitePortable.target(tmp_path / "b.db", CLUSTER)
    await there.write(Kind.BUCKETS, (), Note(progress, NAMES[0], NOW))
    await there.close()
    for restart in (False, True):
        with pytest.raises(Conflict, match="may have been used since"):
            await moved(tmp_path / "a.db", tmp_path / "b.db", restart=restart)


async def test_an_unfinished_migration_of_another_source_is_not_mixed_in(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db", steps=5)
    there = await SqlitePortable.target(tmp_path / "b.db", CLUSTER)
    await there.write(Kind.BUCKETS, (), Note(Progress.UNDER_WAY, "sqlite:another", NOW))
    await there.close()
    with pytest.raises(Conflict, match="unfinished migration from sqlite:another"):
        await moved(tmp_path / "a.db", tmp_path / "b.db")


# ---------------------------------------------------------------- the mark


async def test_the_mark_refuses_the_stale_file_only_and_goes_when_rows_come_back(tmp_path: Path) -> None:
    past, before = await lived(tmp_path / "metadata.db", steps=60)
    folder = tmp_path / "elsewhere"
    await moved(tmp_path / "metadata.db", folder / "metadata.db")
    with pytest.raises(Conflict, match=r"moved to sqlite:target: metadata\.db is stale"):
        refuse_moved(tmp_path / "metadata.db")
    refuse_moved(tmp_path / "other.db")
    refuse_moved(folder / "metadata.db")
    (tmp_path / "metadata.db").rename(tmp_path / "old.db")
    await moved(folder / "metadata.db", tmp_path / "metadata.db")
    refuse_moved(tmp_path / "metadata.db")
    async with await SqliteMetadata.open(tmp_path / "metadata.db") as metadata:
        assert await past.shown(metadata) == before


def test_the_mark_says_how_to_start(tmp_path: Path) -> None:
    for keyspace, says in (("discloud", "--cassandra h1,h2;"), ("mine", "DISCLOUD_CASSANDRA_KEYSPACE=mine;")):
        write_mark(tmp_path / "m.db", CLUSTER, f"cassandra://h1,h2/{keyspace}", NOW)
        with pytest.raises(Conflict, match="discloud migrate --from") as caught:
            refuse_moved(tmp_path / "m.db")
        assert says in str(caught.value)


def test_an_unreadable_mark_is_no_missing_mark(tmp_path: Path) -> None:
    (tmp_path / MARK).write_text("{")
    with pytest.raises(Unavailable, match="repair or remove it"):
        refuse_moved(tmp_path / "m.db")


# ---------------------------------------------------------------- before and during


async def test_a_survey_counts_and_writes_nothing(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    here = await SqlitePortable.source(tmp_path / "a.db", "")
    told: list[tuple[str, int]] = []
    found = await survey(here, lambda what, count: told.append((what, count)))
    assert found == {kind: await here.count(kind) for kind in COPIED}
    assert set(told) >= {(kind, found[kind]) for kind in COPIED}
    await here.close()
    assert not (tmp_path / "b.db").exists()


async def test_what_is_told_ends_with_every_row(tmp_path: Path) -> None:
    await lived(tmp_path / "a.db")
    told: dict[str, int] = {}
    result = await moved(tmp_path / "a.db", tmp_path / "b.db", told=told.__setitem__)
    for kind in result.kinds:
        assert told[f"verify {kind.kind}"] == kind.rows
        assert kind.kind is Kind.LISTED or told[kind.kind] == kind.rows


async def test_a_stretch_may_end_with_the_last_row(tmp_path: Path) -> None:
    """A full last page is followed by an empty one."""
    await lived(tmp_path / "a.db", steps=5)
    here = await SqlitePortable.source(tmp_path / "a.db", "")
    count = await here.count(Kind.ACCOUNTS)
    stretch = await here.read(Kind.ACCOUNTS, "", count)
    assert stretch.after is not None
    assert await here.read(Kind.ACCOUNTS, stretch.after, count) == Stretch([], None)
    await here.close()
