"""The bridge to the driver, and how the mesh's keyspace comes to be, on a real cluster."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from discloud.adapters.cassandra.session import Levels, Session, Settings
from discloud.errors import Conflict, Invalid, OutcomeUnknown, Unavailable
from tests.support.cassandra_tables import NAMES
from tests.support.processes import free_port
from tests.support.servers import SharedCassandra, fresh_keyspace

SET = "INSERT INTO schema_version (name, value) VALUES (?, ?)"
GET = "SELECT name, value FROM schema_version WHERE name = ?"
LWT = "UPDATE schema_version SET value = ? WHERE name = ? IF value = ?"


@pytest.fixture(scope="module")
def settings(cassandra_cluster: SharedCassandra) -> Iterator[Settings]:
    with fresh_keyspace(cassandra_cluster.hosts) as keyspace:
        yield Settings(cassandra_cluster.hosts, keyspace, patience=20.0)


@pytest.fixture
async def session(settings: Settings) -> AsyncIterator[Session]:
    async with await Session.connect(settings) as session:
        yield session


@asynccontextmanager
async def said(session: Session, name: str, value: str) -> AsyncIterator[None]:
    """The mesh's row ``name`` says something else for a while."""
    before = (await session.read(GET, name))[0].value
    await session.write(SET, name, value)
    yield
    await session.write(SET, name, before)


# ---------------------------------------------------------------- the keyspace


async def test_roots_that_start_at_once_make_one_mesh(cassandra_cluster: SharedCassandra) -> None:
    with fresh_keyspace(cassandra_cluster.hosts) as keyspace:
        wish = Settings(cassandra_cluster.hosts, keyspace, patience=20.0)
        sessions = await asyncio.gather(*(Session.connect(wish) for _ in range(3)))
        assert len({session.mesh for session in sessions}) == 1
        assert {session.levels for session in sessions} == {Levels.LOCAL}
        assert sessions[0].replication(keyspace) == {"datacenter1": 3}
        for session in sessions:
            await session.close()


async def test_a_later_start_finds_what_the_first_one_drew(settings: Settings) -> None:
    meshes = set()
    for _ in range(2):
        async with await Session.connect(settings) as session:
            meshes.add(session.mesh)
    assert len(meshes) == 1


async def test_a_read_of_any_table_asks_another_replica_soon(session: Session, settings: Settings) -> None:
    """By Cassandra's own rule it may wait for half of the read's timeout, if the replica asked first has just died."""
    rows = await session.read(
        f"SELECT table_name, speculative_retry FROM system_schema.tables WHERE keyspace_name = '{settings.keyspace}'"
    )
    told = {row.table_name: row.speculative_retry for row in rows if row.table_name != "schema_version"}
    assert set(told) == set(NAMES)
    assert set(told.values()) == {"MIN(99p,100ms)"}


@pytest.mark.parametrize(("name", "value"), [("version", "2"), ("levels", "global")])
async def test_a_keyspace_of_a_newer_schema_or_of_other_levels_is_refused(
    session: Session, settings: Settings, name: str, value: str
) -> None:
    async with said(session, name, value):
        with pytest.raises(Conflict, match=settings.keyspace):
            await Session.connect(settings)


async def test_a_replication_that_cannot_be_met_is_refused(settings: Settings) -> None:
    for wish in ("datacenter1:9", "nowhere:1"):
        with pytest.raises(Conflict, match=wish):
            await Session.connect(replace(settings, keyspace="never_made", replication=wish))


async def test_where_nobody_answers_it_says_so() -> None:
    port = free_port()
    with pytest.raises(Unavailable, match="no Cassandra node answers"):
        await Session.connect(Settings((f"127.0.0.1:{port}",)))


# ---------------------------------------------------------------- calls


async def test_what_was_written_is_read_at_every_level(session: Session) -> None:
    await session.write_all([(SET, ("one", "1")), (SET, ("two", "2"))])
    for how in ({}, {"strict": True}):
        (row,) = await session.read(GET, "one", **how)
        assert (row.name, row.value) == ("one", "1")
    assert await session.read(GET, "absent", one=True) == []


async def test_many_writes_are_cut_into_what_cassandra_takes(session: Session) -> None:
    """It refuses a batch of more than 50 KiB, as the hints of a long key at many holders would be."""
    lengths = [2000] * 50 + [6000] + [0] * 2000
    await session.write_all([(SET, (f"{number}", "x" * length)) for number, length in enumerate(lengths)])
    for number in (0, 49, 50, 2050):
        (row,) = await session.read(GET, f"{number}")
        assert len(row.value) == lengths[number]


async def test_a_transaction_applies_or_tells_what_it_met(session: Session) -> None:
    await session.apply(("INSERT INTO schema_version (name, value) VALUES (?, ?) IF NOT EXISTS", ("x", "1")))
    assert (await session.apply((LWT, ("2", "x", "1")))).applied
    refused = await session.apply((LWT, ("3", "x", "1")))
    assert not refused.applied
    assert [row.value for row in refused.rows] == ["2"]


async def test_no_error_of_the_driver_leaves(session: Session) -> None:
    for call in (
        session.read("SELECT nothing FROM nowhere"),
        session.write("not even CQL"),
        session.apply(("UPDATE nowhere SET a = 1 WHERE b = 2 IF a = 0", ())),
        session.define("CREATE nothing"),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert not isinstance(caught.value, OutcomeUnknown)
    with pytest.raises(Invalid):
        await session.write(SET, 1, 2)


async def test_a_cancelled_call_harms_nobody(session: Session) -> None:
    calls = [asyncio.create_task(session.read(GET, "version")) for _ in range(20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 10


async def test_calls_beyond_the_cap_wait(settings: Settings) -> None:
    async with await Session.connect(replace(settings, in_flight=3)) as session:
        driver = Counted(session._driver)
        session._driver = driver
        await asyncio.gather(*(session.read(GET, "version") for _ in range(30)))
        assert driver.most == 3


async def test_one_wake_up_delivers_many_answers(session: Session) -> None:
    await session.read(GET, "version")  # prepared by now
    loop = session._loop
    session._loop = counting = Wakes(loop)  # type: ignore[assignment]
    session._driver = Finished()
    answers = await asyncio.gather(*(session.read(GET, "version") for _ in range(50)))
    assert len(answers) == 50
    assert counting.wakes < 5


async def test_a_driver_that_hangs_is_given_up(settings: Settings) -> None:
    async with await Session.connect(settings) as session:
        await session.read(GET, "version")  # prepared by now
        await session.apply((LWT, ("x", "y", "z")))
        session.patience = 0.2
        session._driver, real = Hanging(), session._driver
        begun = time.monotonic()
        with pytest.raises(Unavailable) as read:
            await session.read(GET, "version")
        with pytest.raises(OutcomeUnknown):
            await session.apply((LWT, ("x", "y", "z")))
        assert not isinstance(read.value, OutcomeUnknown)
        assert time.monotonic() - begun < 10  # and not for ever
        session._driver = real


async def test_after_the_close_nothing_is_known(settings: Settings) -> None:
    session = await Session.connect(settings)
    await session.close()
    await session.close()
    with pytest.raises(Unavailable, match="closed"):
        await session.read(GET, "version")


async def test_the_driver_does_not_write_to_stderr(
    session: Session, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("cassandra.cluster").error("a line of the driver")
    assert capfd.readouterr().err == ""
    assert session.mesh


# ---------------------------------------------------------------- stand-ins for the driver


class Counted:
    """A driver that counts the calls under way."""

    def __init__(self, real: Any) -> None:
        self.real = real
        self.now = self.most = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def execute_async(self, *args: Any, **how: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        future = self.real.execute_async(*args, **how)
        future.add_callbacks(self._end, self._end)
        return future

    def _end(self, _: Any) -> None:
        self.now -= 1


class Answer:
    """A call that is answered at once, or never."""

    _current_host = None

    def __init__(self, *, never: bool) -> None:
        self.never = never

    def add_callbacks(
        self, good: Callable[..., None], bad: object, values: tuple[Any, ...], *_: object
    ) -> None:
        if not self.never:
            good([], *values)


class Hanging:
    """A driver that never calls back."""

    def prepare(self, *_: object, **__: object) -> None:
        raise AssertionError("everything is prepared")

    def execute_async(self, *_: object, **__: object) -> Answer:
        return Answer(never=True)


class Finished(Hanging):
    """A driver that answers in the same moment."""

    def execute_async(self, *_: object, **__: object) -> Answer:
        return Answer(never=False)


class Wakes:
    """A loop that counts how often it is woken."""

    def __init__(self, real: asyncio.AbstractEventLoop) -> None:
        self.real = real
        self.wakes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def call_soon_threadsafe(self, *args: Any) -> object:
        self.wakes += 1
        return self.real.call_soon_threadsafe(*args)
