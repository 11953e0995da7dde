"""Buckets, accounts and nodes of a keyspace as portable rows, and whether a root lives there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.claims import Claim
from discloud.adapters.portable import GivenBucket, Stretch
from discloud.core.model import Account, Bucket, BucketId, Node, Role
from discloud.core.records import from_record, to_record
from discloud.errors import Conflict, Corrupt
from discloud.ports import CLAIM

T = TypeVar("T")

_BUCKETS = "SELECT id, gone, body FROM buckets"
_NAMES = "SELECT id FROM bucket_names"
_ACCOUNTS = "SELECT id, body FROM accounts"
_NODES = "SELECT id, nonce, at, body FROM nodes"
_FIRST = " LIMIT ?"
_ON = " WHERE token(id) > token(?) LIMIT ?"
_OWNERS = "SELECT name, owner FROM leases"
_BUCKET = "INSERT INTO buckets (id, rev, body) VALUES (?, ?, ?) USING TIMESTAMP 1"
_GONE = "INSERT INTO buckets (id, rev, gone, body) VALUES (?, 0, true, ?) USING TIMESTAMP 1"
_NAME = "INSERT INTO bucket_names (name, id) VALUES (?, ?) USING TIMESTAMP 1"
_ACCOUNT = "INSERT INTO accounts (id, digest, body) VALUES (?, ?, ?) USING TIMESTAMP 1"
_DIGEST = "INSERT INTO account_digests (digest, id) VALUES (?, ?) USING TIMESTAMP 1"
_NODE = "INSERT INTO nodes (id, nonce, at, body) VALUES (?, ?, ?, ?) USING TIMESTAMP 1"
_NODE_NAME = "INSERT INTO node_names (name, id, at) VALUES (?, ?, ?) USING TIMESTAMP 1"


class PortableRegistry:
    """Over one session. ``clock`` gives epoch seconds."""

    def __init__(self, session: Session, clock: Callable[[], float]) -> None:
        self._session = session
        self._clock = clock

    async def refuse_living_root(self) -> None:
        """Raises: Conflict (a root holds a lease, or claimed its node just now), Unavailable."""
        leads = [row.owner for row in await self._session.read(_OWNERS) if row.owner]
        claims = [_claim(row) for row in await self._session.read(_NODES) if row.body is not None]
        lately = self._clock() - CLAIM
        living = {
            claim.node.id
            for claim in claims
            if claim.node.role is Role.ROOT and claim.nonce and claim.at > lately
        }
        names = [claim.node.name for claim in claims if claim.node.id in living or claim.node.id in leads]
        if leads or living:
            raise Conflict(
                f"root {', '.join(names or leads)} is running",
                "stop every root first; one that was killed is forgotten within half a minute",
            )

    # ------------------------------------------------------------ reading

    async def read_buckets(self, after: str, limit: int) -> Stretch:
        """BUCKETS. One whose removal was begun is not removed. Raises: Corrupt, Unavailable."""
        named = {row.id for row in await self._session.read(_NAMES)}
        rows = await self._page(_BUCKETS, after, limit)
        return _stretch([_given(row, named) for row in rows], rows, limit)

    async def live_buckets(self) -> list[BucketId]:
        """The ids of buckets that have objects, in an order that stays. Raises: Unavailable."""
        return sorted(BucketId(row.id) for row in await self._session.read(_BUCKETS) if not row.gone)

    async def read_accounts(self, after: str, limit: int) -> Stretch:
        """ACCOUNTS. Raises: Corrupt, Unavailable."""
        rows = await self._page(_ACCOUNTS, after, limit)
        return _stretch([_read(Account, row.body) for row in rows], rows, limit)

    async def read_nodes(self, after: str, limit: int) -> Stretch:
        """NODES. Raises: Corrupt, Unavailable."""
        rows = await self._page(_NODES, after, limit)
        return _stretch([_claim(row) for row in rows if row.body is not None], rows, limit)

    async def _page(self, query: str, after: str, limit: int) -> list[Any]:
        if not after:
            return await self._session.read(query + _FIRST, limit)
        return await self._session.read(query + _ON, after, limit)

    # ------------------------------------------------------------ writing

    async def write_bucket(self, given: GivenBucket) -> None:
        """A bucket, then its name; of a removed one only that its id was given. Raises: Unavailable."""
        bucket = given.bucket
        if bucket is None:
            await self._session.write(_GONE, given.id, _pack(Bucket(given.id, "", 0.0)))
        else:
            await self._write(
                (_BUCKET, (bucket.id, bucket.rev, _pack(bucket))), (_NAME, (bucket.name, bucket.id))
            )

    async def write_account(self, account: Account) -> None:
        """An account, and how it is found. Raises: Unavailable."""
        row = (account.id, account.digest, _pack(account))
        await self._write((_DIGEST, (account.digest, account.id)), (_ACCOUNT, row))

    async def write_node(self, claim: Claim) -> None:
        """A node with its claim, and its name. Raises: Unavailable."""
        node = claim.node
        row = (node.id, claim.nonce, claim.at, _pack(node))
        await self._write((_NODE_NAME, (node.name, node.id, claim.at)), (_NODE, row))

    async def _write(self, *statements: Statement) -> None:
        for cql, values in statements:
            await self._session.write(cql, *values)


def _stretch(portable: list[Any], rows: list[Any], limit: int) -> Stretch:
    return Stretch(portable, rows[-1].id if len(rows) >= limit else None)


def _given(row: Any, named: set[str]) -> GivenBucket:
    lives = not row.gone and row.id in named
    return GivenBucket(BucketId(row.id), _read(Bucket, row.body) if lives else None)


def _claim(row: Any) -> Claim:
    return Claim(_read(Node, row.body), row.nonce, row.at)


def _pack(thing: object) -> bytes:
    return bytes(msgpack.packb(to_record(thing)))


def _read(kind: type[T], body: bytes) -> T:
    try:
        return from_record(kind, msgpack.unpackb(body))
    except (ValueError, TypeError) as error:
        raise Corrupt(f"a row of {kind.__name__} cannot be read: {error}") from error
