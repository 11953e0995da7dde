"""A keyspace that tests of one process use one after another: making its tables takes seconds, emptying them does not."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from discloud.adapters.cassandra.schema import TABLES
from discloud.adapters.cassandra.session import Session, Settings
from tests.support.servers import fresh_keyspace, shared_cassandra

NAMES = tuple(table.split()[5] for table in TABLES)


_made = ExitStack()
_settings: list[Settings] = []


async def keyspace_session(cluster: str, *, keep: bool = False) -> Session:
    """A session with the keyspace of this process, of the mesh ``cluster``, with nothing in it; with ``keep`` as it is."""
    if not _settings:
        _settings.append(await asyncio.to_thread(_make))
    session = await Session.connect(_settings[0], lambda: cluster)
    if not keep:
        await empty(session)
    return session


def drop_keyspace() -> None:
    """Drop the keyspace of this process, if it has one."""
    _settings.clear()
    _made.close()


def _make() -> Settings:
    hosts = shared_cassandra().hosts
    return Settings(hosts, _made.enter_context(fresh_keyspace(hosts)), patience=20.0)


async def empty(session: Session) -> None:
    """Empty every table but the mesh's own row; ``names`` also where nothing is seen in it.

    Its tombstones have the times of the test before, whose clock may have been ahead: they would hide new entries.
    """
    rows = await asyncio.gather(*(session.read(f"SELECT * FROM {name} LIMIT 1") for name in NAMES))
    filled = [name for name, found in zip(NAMES, rows, strict=True) if found or name == "names"]
    await asyncio.gather(*(session.define(f"TRUNCATE {name}") for name in filled))
