"""``Buckets``, ``Accounts`` and ``Nodes`` over SQLite: few rows, read by name."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from functools import partial
from typing import Any

from discloud.adapters.claims import Claim, check_claim
from discloud.adapters.sqlite.lanes import Lane
from discloud.adapters.sqlite.rows import StoredRows, WrittenRows, pack, read
from discloud.core.model import Account, Bucket, Node, NodeId
from discloud.errors import BucketExists, BucketNotEmpty, Conflict, NoSuchBucket, NotFound


class SqliteBuckets:
    """The ``Buckets`` port. A removed bucket keeps its number and id, without a name."""

    def __init__(self, writes: Lane[WrittenRows], points: Lane[StoredRows]) -> None:
        self._writes = writes
        self._points = points

    async def create(self, bucket: Bucket) -> None:
        """See ``Buckets.create``."""
        await self._writes.run(partial(_create, bucket=bucket))

    async def get(self, name: str) -> Bucket:
        """See ``Buckets.get``."""
        return await self._points.run(partial(_bucket, name=name))

    async def update(self, bucket: Bucket) -> Bucket:
        """See ``Buckets.update``."""
        return await self._writes.run(partial(_update, bucket=bucket))

    async def remove(self, bucket: Bucket) -> None:
        """See ``Buckets.remove``."""
        await self._writes.run(partial(_remove, bucket=bucket))

    async def all(self) -> tuple[Bucket, ...]:
        """See ``Buckets.all``."""
        query = "SELECT body FROM buckets WHERE name IS NOT NULL ORDER BY name"
        return await self._points.run(
            lambda rows: tuple(read(Bucket, body) for (body,) in rows.connection.execute(query))
        )


def _bucket(rows: StoredRows, name: str) -> Bucket:
    row = rows.connection.execute("SELECT body FROM buckets WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NoSuchBucket(f"there is no bucket {name}")
    bucket: Bucket = read(Bucket, row[0])
    return bucket


def _own_bucket(rows: StoredRows, bucket: Bucket) -> Bucket:
    current = _bucket(rows, bucket.name)
    if current.id != bucket.id:
        raise NoSuchBucket(f"bucket {bucket.name} is another one now")
    return current


def _create(rows: WrittenRows, bucket: Bucket) -> None:
    taken = "SELECT 1 FROM buckets WHERE name = ?1 OR (id = ?2 AND body IS NOT NULL)"
    if rows.connection.execute(taken, (bucket.name, bucket.id)).fetchone():
        raise BucketExists(f"bucket {bucket.name} exists", "choose another name")
    number = rows.number_or_new(bucket.id)
    made = (bucket.name, pack(bucket), number)
    rows.connection.execute("UPDATE buckets SET name = ?, body = ? WHERE number = ?", made)
    rows.forget_bucket(bucket.id)


def _update(rows: WrittenRows, bucket: Bucket) -> Bucket:
    if _own_bucket(rows, bucket).rev != bucket.rev:
        raise Conflict(f"bucket {bucket.name} was changed since it was read", "read it again and repeat")
    updated = replace(bucket, rev=bucket.rev + 1)
    rows.connection.execute("UPDATE buckets SET body = ? WHERE name = ?", (pack(updated), bucket.name))
    return updated


def _remove(rows: WrittenRows, bucket: Bucket) -> None:
    _own_bucket(rows, bucket)
    left = """SELECT 1 FROM heads WHERE bucket = ?1
              UNION ALL SELECT 1 FROM versions WHERE bucket = ?1 AND state = 1 LIMIT 1"""
    if rows.connection.execute(left, (rows.number(bucket.id),)).fetchone():
        raise BucketNotEmpty(f"bucket {bucket.name} is not empty", "remove its objects and uploads first")
    rows.connection.execute("UPDATE buckets SET name = NULL WHERE name = ?", (bucket.name,))
    rows.forget_bucket(bucket.id)


class SqliteAccounts:
    """The ``Accounts`` port."""

    def __init__(self, writes: Lane[WrittenRows], points: Lane[StoredRows]) -> None:
        self._writes = writes
        self._points = points

    async def add(self, account: Account) -> None:
        """See ``Accounts.add``."""

        def operation(rows: WrittenRows) -> None:
            row = (account.id, account.digest, pack(account))
            rows.connection.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?, ?)", row)

        await self._writes.run(operation)

    async def by_digest(self, digest: bytes) -> Account:
        """See ``Accounts.by_digest``."""
        query = "SELECT body FROM accounts WHERE digest = ?"
        row = await self._points.run(lambda rows: _one(rows.connection, query, digest))
        if row is None:
            raise NotFound("no account has this token")
        account: Account = read(Account, row[0])
        return account


class SqliteNodes:
    """The ``Nodes`` port."""

    def __init__(self, writes: Lane[WrittenRows], points: Lane[StoredRows]) -> None:
        self._writes = writes
        self._points = points

    async def register(self, node: Node, nonce: str, now: float) -> None:
        """See ``Nodes.register``."""
        await self._writes.run(partial(_register, node=node, nonce=nonce, now=now))

    async def release(self, node: NodeId, nonce: str) -> None:
        """See ``Nodes.release``."""

        def operation(rows: WrittenRows) -> None:
            rows.connection.execute("UPDATE nodes SET nonce = '' WHERE id = ? AND nonce = ?", (node, nonce))

        await self._writes.run(operation)

    async def all(self) -> tuple[Node, ...]:
        """See ``Nodes.all``."""
        query = "SELECT body FROM nodes ORDER BY name"
        return await self._points.run(
            lambda rows: tuple(read(Node, body) for (body,) in rows.connection.execute(query))
        )


def _register(rows: WrittenRows, node: Node, nonce: str, now: float) -> None:
    row = _one(rows.connection, "SELECT nonce, at, body FROM nodes WHERE id = ?", node.id)
    held = Claim(read(Node, row[2]), row[0], row[1]) if row else None
    namesake = _one(rows.connection, "SELECT id FROM nodes WHERE name = ?", node.name)
    check_claim(node, nonce, now, held, namesake[0] if namesake else None)
    claim = (node.id, node.name, nonce, now, pack(node))
    rows.connection.execute("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?, ?, ?)", claim)


def _one(connection: sqlite3.Connection, query: str, value: str | bytes) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(query, (value,)).fetchone()
    return row
