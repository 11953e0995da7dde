"""A root dies at every call to Cassandra that a change makes; what it leaves is brought to an end by the queues."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import pytest

from discloud.adapters.cassandra.intents import FOREVER, Intents, Kind
from discloud.adapters.cassandra.manifests import LONG
from discloud.adapters.cassandra.metadata import CassandraMetadata
from discloud.adapters.cassandra.names import cut
from discloud.adapters.cassandra.objects import Objects
from discloud.adapters.cassandra.session import Applied, Session
from discloud.core.model import Key, State, Version
from discloud.errors import DiscloudError, NoSuchKey, NoSuchVersion, OutcomeUnknown, Unavailable
from tests.contract.metadata_adapters import Clock
from tests.contract.metadata_objects import (
    ANY,
    BUCKET,
    N3,
    delete_of,
    draft,
    everywhere,
    long,
    move_of,
    put_of,
    repair_of,
    update_of,
)
from tests.unit.cassandra_session import opened

_INDEX = "SELECT name FROM names WHERE bucket = ? AND dir = 0x AND shard = 0"
CALLS = 10
"""About as many changing calls as a PUT makes."""


class Mortal:
    """The session of a root that dies at its ``lasts``-th call that changes something; ``sent``: that one still gets through."""

    def __init__(self, session: Session, lasts: int, *, sent: bool) -> None:
        self._session = session
        self._left = lasts
        self._sent = sent
        self.died = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def read(self, text: str, *values: object, **how: bool) -> list[Any]:
        if self.died:
            raise Unavailable("dead")
        return await self._session.read(text, *values, **how)

    async def write(self, text: str, *values: object) -> None:
        await self._call(lambda: self._session.write(text, *values))

    async def write_all(self, statements: Any) -> None:
        await self._call(lambda: self._session.write_all(statements))

    async def apply(self, *statements: Any) -> Applied:
        applied: Applied = await self._call(lambda: self._session.apply(*statements))
        return applied

    async def _call(self, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.died:
            raise Unavailable("dead")
        self._left -= 1
        if self._left > 0:
            return await call()
        self.died = True
        if self._sent:
            await call()
        raise OutcomeUnknown("dead")


@dataclass
class Mesh:
    """A healthy root, and the versions that were drawn so far."""

    session: Session
    clock: Clock
    metadata: CassandraMetadata
    drawn: list[Version]

    def draw(self, version: Version) -> Version:
        self.drawn.append(version)
        return version

    async def put(self, version: Version) -> Version:
        head = (await self.metadata.versions.put(self.draw(version), ANY)).version
        assert head is not None
        return head


Change = Callable[[Mesh, CassandraMetadata, str], Awaitable[object]]


async def first_put(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    return await root.versions.put(mesh.draw(draft(key)), ANY)


async def replacing_put(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    await mesh.put(everywhere(key))
    version = mesh.draw(draft(key))
    return await root.versions.put(version, ANY, (repair_of(version),))


async def long_put(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    await mesh.put(long(key, 70))
    version = mesh.draw(long(key, 140))
    return await root.versions.put(version, ANY)


async def long_relocation(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    head = await mesh.put(long(key, 140))
    return await root.versions.relocate(head, head.blobs()[-1][0], (N3,))


async def draft_and_commit(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    await mesh.put(draft(key))
    version = mesh.draw(everywhere(key))
    await root.versions.begin(version)
    await root.versions.renew(version, version.due + 1000)
    return await root.versions.commit(put_of(version), ANY)


async def draft_and_abort(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    version = mesh.draw(draft(key))
    await root.versions.begin(version)
    return await root.versions.abort(version)


async def delete(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    await mesh.put(everywhere(key))
    return await root.versions.commit(delete_of(key), ANY)


async def update(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    head = await mesh.put(draft(key))
    return await root.versions.commit(update_of(replace(head, content_type="x/y")), ANY)


async def move(mesh: Mesh, root: CassandraMetadata, key: str) -> object:
    await mesh.put(draft(f"{key}-target"))
    head = await mesh.put(everywhere(key))
    return await root.versions.commit(move_of(head, f"{key}-target"), ANY)


@pytest.fixture
async def mesh(keyspace: str) -> AsyncIterator[Mesh]:
    async with opened(keyspace) as session:
        clock = Clock()
        metadata = CassandraMetadata(session, clock, settle=0.0)
        with suppress(DiscloudError):
            await metadata.buckets.create(BUCKET)
        yield Mesh(session, clock, metadata, [])
        await metadata.versions.close()


async def mend(mesh: Mesh) -> None:
    """What the sweeper and gc do, a long time later."""
    queues, versions = mesh.metadata.queues, mesh.metadata.versions
    for _ in range(2):  # what comes to its end only now is tidied away later
        mesh.clock.now += 1e9
        while found := await queues.expired(mesh.clock.now, 100):
            for version in found:
                await versions.abort(version)
        while found := await queues.collectable(mesh.clock.now, 100):
            for version in found:
                await versions.forget(version)


async def left_open(mesh: Mesh) -> set[str]:
    """Versions, heads and directories of which the queues still know something."""
    intents = Intents(mesh.session, mesh.clock)
    kinds = set(Kind) - {Kind.REPAIR}
    return {each.version for kind in kinds async for some in intents.due(kind, FOREVER) for each in some}


async def row_of(mesh: Mesh, version: Version) -> Version | None:
    try:
        return await mesh.metadata.versions.find(version.bucket, version.key, version.id)
    except NoSuchVersion:
        return None


async def head_of(mesh: Mesh, key: str) -> Version | None:
    try:
        return await mesh.metadata.versions.get(BUCKET.id, Key(key))
    except NoSuchKey:
        return None


def as_listed(head: Version | None) -> Version | None:
    """Without a long manifest."""
    return replace(head, segments=()) if head and len(head.segments) > LONG else head


CHANGES = (
    first_put,
    replacing_put,
    long_put,
    long_relocation,
    draft_and_commit,
    draft_and_abort,
    delete,
    update,
    move,
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
async def test_whatever_a_dead_root_left_comes_to_an_end(mesh: Mesh, change: Change) -> None:
    await change(mesh, mesh.metadata, f"{change.__name__}-warm")  # prepares what it says to Cassandra
    keys: list[str] = []
    acknowledged = False
    while not acknowledged:
        acknowledged = True
        for sent in (False, True):
            keys.append(key := f"{change.__name__}-{len(keys)}/a")
            session = Mortal(mesh.session, (len(keys) + 1) // 2, sent=sent)
            root = CassandraMetadata(session, mesh.clock)  # type: ignore[arg-type]
            try:
                await change(mesh, root, key)
            except Unavailable:
                assert session.died
                acknowledged = False
            await root.versions.close()
    assert len(keys) > 2, "some must have died"
    await mend(mesh)
    assert await left_open(mesh) == set()
    page = await mesh.metadata.versions.list_keys(BUCKET.id, change.__name__, "", "", 1000)
    shown = {version.key: version for version in page.versions}
    for key in (*keys, *(f"{key}-target" for key in keys)):
        assert shown.get(Key(key)) == as_listed(await head_of(mesh, key))
    rows = [row for version in mesh.drawn if (row := await row_of(mesh, version)) is not None]
    assert {row.state for row in rows} <= {State.COMMITTED}
    assert {row.id for row in rows} == {head.id for head in shown.values()}
    await check_log(mesh, rows)
    await check_parts(mesh, {row.id for row in rows})
    await check_leavings(mesh, keys, {version.key for version in shown.values()})


async def check_parts(mesh: Mesh, alive: set[str]) -> None:
    """Long manifests of the living only."""
    rows = await mesh.session.read("SELECT DISTINCT version FROM segments")
    drawn = {version.id for version in mesh.drawn}
    assert {str(row.version) for row in rows} & drawn <= alive


async def check_log(mesh: Mesh, rows: list[Version]) -> None:
    """Every node is told of what it shall hold, and last of all of what it shall drop."""
    entries = await mesh.metadata.queues.log(0, 100_000)
    told = {(entry.version, entry.removed) for entry in entries}
    alive = {row.id for row in rows}
    for version in mesh.drawn:
        if version.segments[0].layout.everywhere and version.id in alive:
            assert (version.id, False) in told
        elif (version.id, False) in told:
            assert (version.id, True) in told


async def check_leavings(mesh: Mesh, keys: list[str], shown: set[Key]) -> None:
    """No head is null but where a version was moved away from, and no directory is empty."""
    moved = {key.removesuffix("-target") for key in shown}
    for key in {*keys, *(f"{key}-target" for key in keys)} - shown - moved:
        assert await Objects(mesh.session).head(BUCKET.id, Key(key)) is None
    directories = {cut(key.encode())[0] for key in shown} - {b""}
    own = keys[0].partition("-")[0].encode()
    names = {row.name for row in await mesh.session.read(_INDEX, uuid.UUID(BUCKET.id))}
    assert {name for name in names if name.startswith(own) and name.endswith(b"/")} == directories


async def test_an_acknowledged_change_is_seen_though_its_root_died_right_after(mesh: Mesh) -> None:
    for lasts in range(1, CALLS + 1):
        key, session = f"ack-{lasts}", Mortal(mesh.session, lasts, sent=True)
        root = CassandraMetadata(session, mesh.clock)  # type: ignore[arg-type]
        with suppress(Unavailable):
            head = (await root.versions.put(draft(key), ANY)).version
            page = await mesh.metadata.versions.list_keys(BUCKET.id, key, "", "", 10)
            assert page.versions == (head,)
        await root.versions.close()
