"""The database file: opened by one process, refused when it is not ours, copied while in use."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
from pathlib import Path

import pytest

from discloud.adapters.sqlite import SqliteMetadata
from discloud.core.model import Key, VersionId
from discloud.errors import Conflict, Unavailable
from tests.contract.metadata_objects import ANY, BUCKET, delete_of, draft, move_of


async def test_the_id_of_the_mesh_is_drawn_once(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        drawn = metadata.cluster
    assert str(uuid.UUID(drawn)) == drawn
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        assert metadata.cluster == drawn
    async with await SqliteMetadata.open(tmp_path / "other.db") as metadata:
        assert metadata.cluster != drawn


async def test_a_database_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db"):
        with pytest.raises(Conflict, match="in use"):
            await SqliteMetadata.open(tmp_path / "m.db")
    async with await SqliteMetadata.open(tmp_path / "m.db"):
        pass


async def test_a_newer_schema_is_refused_in_one_line_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    async with await SqliteMetadata.open(path):
        pass
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE mesh SET value = 2 WHERE name = 'schema_version'")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Conflict, match=r"schema 2, this program knows 1.*newer discloud") as caught:
        await SqliteMetadata.open(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


async def test_files_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    text, foreign = tmp_path / "text.db", tmp_path / "foreign.db"
    text.write_bytes(b"no database at all" * 100)
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs(x)")
    connection.close()
    for path in (text, foreign):
        before = path.read_bytes()
        with pytest.raises(Conflict):
            await SqliteMetadata.open(path)
        assert path.read_bytes() == before


async def test_a_missing_folder_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await SqliteMetadata.open(tmp_path / "none" / "m.db")


async def test_a_copy_holds_what_was_acknowledged_and_opens_by_itself(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    copy.write_bytes(b"an older copy")
    (tmp_path / "copy.db.part").write_bytes(b"left by a crash")
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        await metadata.buckets.create(BUCKET)
        heads = [(await metadata.versions.put(draft(f"k{number}"), ANY)).version for number in range(50)]
        await asyncio.gather(
            metadata.backup(copy), *(metadata.versions.put(draft("z"), ANY) for _ in range(20))
        )
        cluster = metadata.cluster
        await metadata.versions.get(BUCKET.id, Key("z"))
    assert not (tmp_path / "copy.db.part").exists()
    async with await SqliteMetadata.open(copy) as metadata:
        assert metadata.cluster == cluster
        page = await metadata.versions.list_keys(BUCKET.id, "k", "", "", 100)
        assert sorted(page.versions, key=lambda head: head.seq) == heads
        await metadata.versions.put(draft("k0"), ANY)


async def test_a_copy_that_fails_leaves_the_older_one(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        with pytest.raises(Unavailable):
            await metadata.backup(tmp_path / "none" / "copy.db")
        copy = tmp_path / "copy.db"
        copy.write_bytes(b"older")
        (tmp_path / "copy.db.part").mkdir()
        with pytest.raises(Unavailable):
            await metadata.backup(copy)
        assert copy.read_bytes() == b"older"
        await metadata.buckets.create(BUCKET)


async def test_nothing_is_left_running_or_open(tmp_path: Path) -> None:
    threads = threading.active_count()
    for _ in range(3):
        async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
            await metadata.buckets.all()
        names = [thread.name for thread in threading.enumerate() if thread.name.startswith("metadata-")]
        assert names == []
    assert threading.active_count() <= threads + 10  # asyncio's own pool
    assert not (tmp_path / "m.db-wal").exists()


async def test_a_listing_of_a_large_bucket_looks_only_at_its_page(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        await metadata.buckets.create(BUCKET)
        await asyncio.gather(
            *(metadata.versions.put(draft(f"{number % 5}/{number}"), ANY) for number in range(2000))
        )
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        for connection in metadata._file.readers:
            connection.set_progress_handler(count, 1)
        page = await metadata.versions.list_keys(BUCKET.id, "", "/", "", 10)
        assert page.prefixes == ("0/", "1/", "2/", "3/", "4/")
        assert 0 < steps < 500
        steps = 0
        page = await metadata.versions.list_keys(BUCKET.id, "1/", "", "1/5", 3)
        assert [version.key for version in page.versions] == ["1/501", "1/506", "1/51"]
        assert 0 < steps < 500


async def test_on_node_walks_large_tables_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("discloud.adapters.sqlite.versions._WINDOW", 7)
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        await metadata.buckets.create(BUCKET)
        begun = [draft(f"d{number}") for number in range(20)]
        heads = [draft(f"h{number}") for number in range(50)]
        await asyncio.gather(*(metadata.versions.begin(version) for version in begun))
        await asyncio.gather(*(metadata.versions.put(version, ANY) for version in heads))
        found: list[VersionId] = []
        async for version in metadata.versions.on_node(draft("x").segments[0].holders[0][0]):
            if version.id == begun[0].id:  # drafts that are committed meanwhile show once, met or not yet met
                await metadata.versions.put(begun[0], ANY)
                await metadata.versions.put(begun[-1], ANY)
            found.append(version.id)
        assert sorted(found) == sorted(version.id for version in begun + heads)


async def test_seq_grows_over_a_deletion_a_restart_and_a_clock_that_went_back(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db", lambda: 2000.0) as metadata:
        await metadata.buckets.create(BUCKET)
        await metadata.versions.put(draft("a"), ANY)
        deleted = (await metadata.versions.commit(delete_of("a"), ANY)).replaced
        assert deleted is not None
    async with await SqliteMetadata.open(tmp_path / "m.db", lambda: 1000.0) as metadata:
        head = (await metadata.versions.put(draft("a"), ANY)).version
        assert head is not None
        assert head.seq > deleted.seq


async def test_nothing_stays_of_a_version_that_was_moved_about_and_forgotten(tmp_path: Path) -> None:
    async with await SqliteMetadata.open(tmp_path / "m.db") as metadata:
        await metadata.buckets.create(BUCKET)
        await metadata.versions.put(draft("a"), ANY)
        for source, target in (("a", "b"), ("b", "c"), ("c", "a"), ("a", "b"), ("b", "a")):
            head = await metadata.versions.get(BUCKET.id, Key(source))
            await metadata.versions.commit(move_of(head, target), ANY)
        rows = metadata._file.writer.execute("SELECT key FROM versions ORDER BY key").fetchall()
        assert rows == [(b"b",), (b"c",)]  # one row a former key, none beside the head itself
        dead = (await metadata.versions.commit(delete_of("a"), ANY)).replaced
        assert dead is not None
        await metadata.versions.forget(dead)
        assert metadata._file.writer.execute("SELECT count(*) FROM versions").fetchone() == (0,)
