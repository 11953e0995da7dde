"""What fails below the writer is undone and told as it is: unknown is never absent."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest

from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.metadata import open_file
from discloud.adapters.sqlite.recent import RecentHeads
from discloud.adapters.sqlite.rows import WrittenRows
from discloud.core.model import BucketId, Key, State
from discloud.errors import (
    Corrupt,
    DiscloudError,
    Invalid,
    NoSuchKey,
    OutcomeUnknown,
    PreconditionFailed,
    Unavailable,
)
from tests.contract.metadata_objects import ABSENT, ANY, BUCKET, delete_of, draft, put_of


class FailingConnection:
    """A connection of which the statements that begin with one of ``failing`` fail."""

    def __init__(self, inner: sqlite3.Connection) -> None:
        self.inner = inner
        self.failing: tuple[str, ...] = ()
        self.reason = "SQLITE_IOERR_WRITE"

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement.startswith(self.failing):
            error = sqlite3.OperationalError("it failed")
            error.sqlite_errorname = self.reason
            raise error
        return self.inner.execute(statement, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Disk:
    """An opened database and the connections below it."""

    def __init__(self, path: Path) -> None:
        file = open_file(path, str)
        self.writer = FailingConnection(file.writer)
        self.readers = [FailingConnection(reader) for reader in file.readers]
        changed = file._replace(
            writer=cast("sqlite3.Connection", self.writer),
            readers=tuple(cast("sqlite3.Connection", reader) for reader in self.readers),
        )
        self.metadata = SqliteMetadata(changed, time.time, RecentHeads(100))


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    opened = Disk(tmp_path / "m.db")
    async with opened.metadata as metadata:
        await metadata.buckets.create(BUCKET)
        await metadata.versions.put(draft("a"), ANY)
        yield opened


async def outcomes(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("BEGIN", "SQLITE_IOERR_READ"),
        ("INSERT INTO heads", "SQLITE_IOERR_WRITE"),
        ("INSERT INTO heads", "SQLITE_FULL"),
        ("COMMIT", "SQLITE_FULL"),
    ],
)
async def test_a_write_that_fails_is_unavailable_and_undone(disk: Disk, statement: str, reason: str) -> None:
    before = disk.metadata.versions.peek(BUCKET.id, Key("a"))
    disk.writer.failing, disk.writer.reason = (statement,), reason
    for call in (disk.metadata.versions.put(draft("b"), ANY), disk.metadata.versions.put(draft("a"), ANY)):
        with pytest.raises(Unavailable) as caught:
            await call
        assert not isinstance(caught.value, OutcomeUnknown)
    disk.writer.failing = ()
    assert await disk.metadata.versions.get(BUCKET.id, Key("a")) == before
    with pytest.raises(NoSuchKey):
        await disk.metadata.versions.get(BUCKET.id, Key("b"))
    await disk.metadata.versions.put(draft("b"), ANY)


async def test_a_commit_that_fails_is_an_unknown_outcome(disk: Disk) -> None:
    before = disk.metadata.versions.peek(BUCKET.id, Key("a"))
    disk.writer.failing = ("COMMIT",)
    version = draft("a")
    for error in await outcomes(*(disk.metadata.versions.put(each, ANY) for each in (version, draft("b")))):
        assert isinstance(error, OutcomeUnknown)
    assert disk.metadata.versions.peek(BUCKET.id, Key("a")) is None
    assert await disk.metadata.versions.get(BUCKET.id, Key("a")) == before
    disk.writer.failing = ()
    again = await disk.metadata.versions.put(version, ANY)
    assert await disk.metadata.versions.get(BUCKET.id, Key("a")) == again.version


async def test_an_undo_that_fails_is_made_up_for(disk: Disk) -> None:
    disk.writer.failing = ("COMMIT", "ROLLBACK")
    with pytest.raises(OutcomeUnknown):
        await disk.metadata.versions.put(draft("b"), ANY)
    with pytest.raises(Unavailable):
        await disk.metadata.versions.put(draft("b"), ANY)
    disk.writer.failing = ()
    with pytest.raises(NoSuchKey):
        await disk.metadata.versions.get(BUCKET.id, Key("b"))
    assert (await disk.metadata.versions.put(draft("b"), ABSENT)).version is not None


@pytest.mark.parametrize("failing", ["BEGIN", "SELECT"])
async def test_a_read_that_fails_is_unavailable_never_absent(disk: Disk, failing: str) -> None:
    version = draft("b")
    for reader in disk.readers:
        reader.failing = (failing,)
    for call in (
        disk.metadata.versions.get(BUCKET.id, Key("b")),
        disk.metadata.versions.find(BUCKET.id, Key("b"), version.id),
        disk.metadata.versions.get(BUCKET.id, Key("b"), version.id),
        disk.metadata.versions.list_keys(BUCKET.id, "", "", "", 10),
        disk.metadata.buckets.get("none"),
        disk.metadata.accounts.by_digest(b""),
        disk.metadata.queues.expired(0, 1),
    ):
        with pytest.raises(Unavailable):
            await call


async def test_a_full_disk_is_unavailable_and_what_was_there_stays(disk: Disk) -> None:
    before = disk.metadata.versions.peek(BUCKET.id, Key("a"))
    (pages,) = disk.writer.inner.execute("PRAGMA page_count").fetchone()
    disk.writer.inner.execute(f"PRAGMA max_page_count = {pages}")
    big = draft("b", metadata=(("k", "v" * 100_000),))
    with pytest.raises(Unavailable, match=r"SQLITE_FULL.*free some space"):
        await disk.metadata.versions.put(big, ANY)
    assert await disk.metadata.versions.get(BUCKET.id, Key("a")) == before
    await disk.metadata.versions.commit(delete_of("a"), ANY)
    disk.writer.inner.execute(f"PRAGMA max_page_count = {pages * 100}")
    assert (await disk.metadata.versions.put(big, ABSENT)).version is not None


async def test_a_bad_operation_does_not_take_the_others_with_it(disk: Disk) -> None:
    lane = disk.metadata.versions._writes

    def broken(rows: WrittenRows) -> None:
        rows.write_row(draft("half"))
        raise KeyError("a bug")

    def late(rows: WrittenRows) -> None:
        rows.write_row(draft("half"))
        raise PreconditionFailed("too late")

    good, first, second, fine = draft("b"), draft("c"), draft("d"), draft("e")
    found = await outcomes(
        disk.metadata.versions.put(good, ANY),
        lane.run(broken),
        disk.metadata.versions.put(first, ABSENT),
        lane.run(late),
        disk.metadata.versions.put(second, ABSENT),
        disk.metadata.versions.begin(fine),
    )
    assert [isinstance(each, Unavailable) for each in found] == [False, True, False, True, False, False]
    for version in (good, first, second):
        row = await disk.metadata.versions.find(BUCKET.id, version.key, version.id)
        assert row.state is State.COMMITTED
    page = await disk.metadata.versions.list_keys(BUCKET.id, "", "", "", 10)
    assert [version.key for version in page.versions] == ["a", "b", "c", "d"]
    assert [version.id for version in await disk.metadata.queues.expired(2e9, 10)] == [fine.id]


async def test_what_no_record_carries_is_invalid(disk: Disk) -> None:
    bad, good = draft("b", metadata=(("k", "\ud800"),)), draft("c")
    refused, stored = await outcomes(
        disk.metadata.versions.put(bad, ANY), disk.metadata.versions.put(good, ANY)
    )
    assert isinstance(refused, Invalid)
    assert not isinstance(stored, DiscloudError)


async def test_nothing_of_a_transaction_that_was_undone_is_remembered(disk: Disk) -> None:
    """Neither a bucket's number, nor whether it exists, nor the floor of seq."""
    lost = draft("x")
    stranger = type(lost)(BucketId("stranger"), *[getattr(lost, name) for name in lost.__slots__[1:]])
    disk.writer.failing = ("COMMIT",)
    await outcomes(
        disk.metadata.versions.abort(stranger),
        disk.metadata.versions.commit(delete_of("a"), ANY),
        disk.metadata.buckets.remove(BUCKET),
    )
    disk.writer.failing = ()
    assert await disk.metadata.versions.abort(stranger)
    assert (
        await disk.metadata.versions.find(stranger.bucket, stranger.key, stranger.id)
    ).state is State.ABORTED
    begun = draft("b")
    await disk.metadata.versions.begin(begun)
    committed = await disk.metadata.versions.commit(put_of(begun), ANY)
    assert committed.version is not None
    assert (await disk.metadata.versions.get(BUCKET.id, Key("a"))).state is State.COMMITTED


async def test_a_row_that_cannot_be_read_is_corrupt_and_the_others_go_on(disk: Disk) -> None:
    await disk.metadata.versions.put(draft("b"), ANY)
    disk.writer.inner.execute("UPDATE heads SET body = x'c1' WHERE key = ?", (b"b",))
    await disk.metadata.close()
    (path,) = [Path(disk.metadata._file.path)]
    async with await SqliteMetadata.open(path) as metadata:
        with pytest.raises(Corrupt):
            await metadata.versions.get(BUCKET.id, Key("b"))
        with pytest.raises(Corrupt):
            await metadata.versions.put(draft("b"), ANY)
        assert (await metadata.versions.get(BUCKET.id, Key("a"))).key == "a"
