"""Leases kept by Cassandra: one owner, a growing epoch, and an end that is never early."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from discloud.adapters.cassandra.leases import CassandraLeases
from discloud.adapters.cassandra.session import Applied, Session
from discloud.core.model import NodeId
from tests.unit.cassandra_session import opened

A, B = NodeId("a"), NodeId("b")


@pytest.fixture
async def session(keyspace: str) -> AsyncIterator[Session]:
    async with opened(keyspace) as session:
        yield session


@pytest.fixture
def name() -> str:
    return str(uuid.uuid4())


async def test_of_many_one_leads(session: Session, name: str) -> None:
    roots = [CassandraLeases(session) for _ in range(10)]
    epochs = await asyncio.gather(
        *(root.hold(name, NodeId(str(number)), 30) for number, root in enumerate(roots))
    )
    assert len([epoch for epoch in epochs if epoch is not None]) <= 1
    held = [await root.hold(name, NodeId(str(number)), 30) for number, root in enumerate(roots)]
    assert held.count(1) == 1
    assert held.count(None) == 9


class Watched:
    """A session that remembers for how many seconds an owner was written."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.seconds: list[int] = []

    async def read(self, text: str, *values: object, **how: bool) -> list[Any]:
        return await self.session.read(text, *values, **how)

    async def apply(self, *statements: Any) -> Applied:
        self.seconds += [values[0] for text, values in statements if "USING TTL" in text]
        return await self.session.apply(*statements)


async def test_a_lease_never_ends_early_and_the_epoch_outlives_it(session: Session, name: str) -> None:
    watched = Watched(session)
    leases = CassandraLeases(watched)  # type: ignore[arg-type]
    assert await leases.hold(name, A, 0.5) == 1
    assert await leases.hold(name, A, 1.0) == 1
    assert watched.seconds == [2, 2], "the first second of a TTL may be a short one"
    async with asyncio.timeout(20):
        while (epoch := await leases.hold(name, B, 1.0)) is None:
            await asyncio.sleep(0.02)
    assert epoch == 2


async def test_a_renewal_prolongs(session: Session, name: str) -> None:
    leases = CassandraLeases(session)
    assert await leases.hold(name, A, 1) == 1
    assert await leases.hold(name, A, 600) == 1
    rows = await session.read("SELECT TTL(owner) AS left FROM leases WHERE name = ?", name)
    assert rows[0].left > 500


async def test_who_lost_the_lease_cannot_renew_it(session: Session, name: str) -> None:
    leases = CassandraLeases(session)
    assert await leases.hold(name, A, 600) == 1
    await leases.release(name, A)
    assert await leases.hold(name, B, 600) == 2
    assert await leases.hold(name, A, 600) is None
    await leases.release(name, A)
    assert await leases.hold(name, B, 600) == 2, "only its owner gives a lease up"
