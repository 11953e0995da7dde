"""The mesh's keyspace: its tables, its version, and the two things that are chosen once (levels, the mesh's id).

Several roots may start at the same time: the table ``schema_version`` is made with an id of its own, so that all make the
same one; then one of them leads by a lightweight transaction and makes the rest, the others wait for its version row.
All of this is agreed upon at the global levels, whatever the mesh uses later.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from discloud import logs
from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.queue_tables import QUEUE_TABLES
from discloud.errors import Conflict, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from discloud.adapters.cassandra.session import Session

VERSION = 1
"""The newest schema that this program knows; the keyspace's may be lower, then it is brought here."""
_PATIENCE = 60
"""Seconds in which the root that leads makes the tables; then another one tries."""
_SETTLE = 30.0
"""Seconds in which all servers know of a change of the schema."""
_POLL = 0.1
_LONGEST_POLL = 2.0
"""Seconds between two looks: many roots that ask often would keep the one that works from its turn."""
_ME = str(uuid.uuid4())
"""This process, as the one that makes the tables: also when it connects anew in the middle of it."""

_OWN_TABLE = (
    """CREATE TABLE IF NOT EXISTS schema_version (name text PRIMARY KEY, value text) WITH id = {id}"""
)

TABLES: tuple[str, ...] = (
    # One partition per object; objects.py says what is in its rows. Always read by full key; written by lightweight
    # transactions only, but for a draft's birth USING TIMESTAMP 1. formers: keys that the version was moved away from.
    """CREATE TABLE IF NOT EXISTS objects (
        bucket uuid, key blob, version uuid, state tinyint, seq bigint, rev int, body blob, formers frozen<set<blob>>,
        PRIMARY KEY ((bucket, key), version)) WITH compaction = {'class': 'LeveledCompactionStrategy'}""",
    # The manifests of more than 64 segments, cut into parts that never change (manifests.py); the version's row names them.
    """CREATE TABLE IF NOT EXISTS segments (
        version uuid, part blob, body blob, PRIMARY KEY ((version), part))
        WITH compaction = {'class': 'LeveledCompactionStrategy'}""",
    # The directory index: `name` of `dir` (which ends in "/", "" = the top). A name that ends in "/" is a directory: an empty
    # body, maybe_empty = look into it before showing it. Written USING TIMESTAMP from the head's seq and rev, a directory's
    # from the writer's clock. What was removed
    # is kept a day only, since a page reads over it; a replica that was away for longer needs a repair before it returns.
    """CREATE TABLE IF NOT EXISTS names (
        bucket uuid, dir blob, shard smallint, name blob, body blob, maybe_empty boolean,
        PRIMARY KEY ((bucket, dir, shard), name))
        WITH gc_grace_seconds = 86400 AND compaction = {'class': 'LeveledCompactionStrategy'}""",
    *QUEUE_TABLES,
)
"""Every table of version 1. A later version appends a tuple of its changes and says how to come there."""
_SOON = "speculative_retry = 'MIN(99p,100ms)'"
"""When a read asks a replica more. By Cassandra's own rule a table that is seldom read waits for half of the read's timeout, which is
longer than a call may take here; so reads failed from the death of a replica until Cassandra had found it down."""

_SET = "INSERT INTO schema_version (name, value) VALUES (?, ?) IF NOT EXISTS"
_LEAD = "INSERT INTO schema_version (name, value) VALUES (?, ?) IF NOT EXISTS USING TTL ?"
_GET = "SELECT value FROM schema_version WHERE name = ?"


@dataclass(frozen=True, slots=True)
class Mesh:
    """What was chosen once for the keyspace: ``levels`` is ``local`` or ``global``, ``cluster`` the mesh's id."""

    levels: str
    cluster: str


def draw_id() -> str:
    """A fresh id of a mesh."""
    return str(uuid.uuid4())


async def ensure(session: Session, settings: Settings, draw_cluster: Callable[[], str]) -> Mesh:
    """Make what is missing of the keyspace and tell what it is. Raises: Conflict, Unavailable.

    A server that has not heard of the keyspace yet refuses: that passes, so it is tried again for a while.
    """
    end = time.monotonic() + _SETTLE
    while True:
        try:
            return await _ensure(session, settings, draw_cluster)
        except Unavailable:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(_POLL)


async def _ensure(session: Session, settings: Settings, draw_cluster: Callable[[], str]) -> Mesh:
    if not await _is_made(session, settings):
        await _make(session, settings)
    if (found := await _version(session)) > VERSION:
        raise Conflict(
            f"keyspace {settings.keyspace} has schema {found}, this program knows {VERSION}",
            "use a newer discloud",
        )
    levels = await _once(session, "levels", _levels(session, settings))
    _check(session, settings, levels)
    return Mesh(levels, await _once(session, "cluster", draw_cluster()))


async def _is_made(session: Session, settings: Settings) -> bool:
    """Whether everything is there, so that nothing of the schema need be touched. False also where that is not known."""
    if not session.replication(settings.keyspace):
        return False
    try:
        return await _version(session) >= VERSION
    except Unavailable:
        return False


# ---------------------------------------------------------------- the keyspace


async def _make(session: Session, settings: Settings) -> None:
    if not session.replication(settings.keyspace):
        await session.define(_keyspace(session, settings))
        await session.agree()
    own = uuid.uuid5(uuid.NAMESPACE_URL, f"discloud:{settings.keyspace}:schema_version")
    await session.define(_OWN_TABLE.format(id=own))
    await session.agree()
    if await _version(session) < VERSION:
        await _create(session)


def _keyspace(session: Session, settings: Settings) -> str:
    factors = ", ".join(f"'{name}': {copies}" for name, copies in _copies(session, settings).items())
    return (
        f"CREATE KEYSPACE IF NOT EXISTS {settings.keyspace} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', {factors}}}"
    )


def _copies(session: Session, settings: Settings) -> dict[str, int]:
    """Copies by data centre as wished; a bare number is reduced to the nodes that there are, names are not."""
    there = session.datacenters()
    if settings.replication.isdigit():
        near, wanted = session.datacenter(), int(settings.replication)
        copies = min(wanted, there.get(near, wanted))
        if copies < wanted:
            logs.warn("metadata_copies_reduced", wanted=wanted, copies=copies, datacenter=near)
        return {near: copies}
    wish = {
        name: int(copies) for name, copies in (each.split(":") for each in settings.replication.split(","))
    }
    for name, copies in wish.items():
        if there.get(name, 0) < copies:
            raise Conflict(
                f"replication {name}:{copies} cannot be met: Cassandra's data centre {name} has {there.get(name, 0)} nodes",
                f"there are {', '.join(f'{each}:{count}' for each, count in sorted(there.items()))}",
            )
    return wish


def _levels(session: Session, settings: Settings) -> str:
    return "global" if len(session.replication(settings.keyspace)) > 1 else "local"


def _check(session: Session, settings: Settings, kept: str) -> None:
    copies = session.replication(settings.keyspace)
    if kept != _levels(session, settings):
        raise Conflict(
            f"keyspace {settings.keyspace} was made with {kept} levels and is now replicated over {', '.join(sorted(copies))}",
            "stop every root and set the row 'levels' of schema_version to the other word",
        )
    if kept == "local" and session.datacenter() not in copies:
        raise Conflict(
            f"keyspace {settings.keyspace} lives in {', '.join(copies)}, this node asks {session.datacenter()}",
            "name contact points there, or its --cassandra datacenter",
        )


# ---------------------------------------------------------------- rows of schema_version


async def _create(session: Session) -> None:
    """Bring the tables here, or wait until another root has; a root that dies in between is succeeded."""
    end = time.monotonic() + 2 * _PATIENCE
    pause = _POLL
    while await _version(session) < VERSION:
        if await _leads(session):
            for table in TABLES:
                await session.define(f"{table} {'AND' if ' WITH ' in table else 'WITH'} {_SOON}")
            await session.agree()
            await _once(session, "version", str(VERSION))
        elif time.monotonic() > end:
            raise Unavailable("another root does not come to an end with the tables", "look at its log")
        else:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)


async def _leads(session: Session) -> bool:
    """Whether this process makes the tables. A claim whose outcome is unknown is settled by what stands there now."""
    with suppress(OutcomeUnknown):
        if (await session.apply((_LEAD, ("leader", _ME, _PATIENCE)))).applied:
            return True
    return await _value(session, "leader") == _ME


async def _version(session: Session) -> int:
    return int(await _value(session, "version") or 0)


async def _value(session: Session, name: str) -> str | None:
    rows = await session.read(_GET, name, strict=True)
    return str(rows[0].value) if rows else None


async def _once(session: Session, name: str, value: str) -> str:
    """The value that was given first."""
    kept = await _value(session, name)
    while kept is None:
        with suppress(OutcomeUnknown):
            met = await session.apply((_SET, (name, value)))
            return value if met.applied else str(met.rows[0].value)
        kept = await _value(session, name)
    return kept
