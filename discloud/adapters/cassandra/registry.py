"""``Accounts`` and ``Nodes`` on Cassandra: one row each, changed by lightweight transactions, found by a second table.

A digest or a name in its second table is a pointer that may lag: it counts only if the row that it points to says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import msgpack

from discloud.adapters.cassandra.session import Session
from discloud.adapters.claims import Claim, check_claim
from discloud.core.model import Account, Node, NodeId
from discloud.core.records import from_record, to_record
from discloud.errors import Conflict, NotFound, Unavailable
from discloud.ports import CLAIM

T = TypeVar("T")

_TRIES = 10
"""Compare-and-sets of one row before the call gives up."""

_ACCOUNT = "SELECT digest, body FROM accounts WHERE id = ?"
_ACCOUNT_ID = "SELECT id FROM account_digests WHERE digest = ?"
_ADD = "INSERT INTO accounts (id, digest, body) VALUES (?, ?, ?) IF NOT EXISTS"
_REPLACE = "UPDATE accounts SET digest = ?, body = ? WHERE id = ? IF digest = ? AND body = ?"
_POINT = "INSERT INTO account_digests (digest, id) VALUES (?, ?)"

_NODE = "SELECT nonce, at, body FROM nodes WHERE id = ?"
_NODES = "SELECT body FROM nodes"
_TAKE = "INSERT INTO nodes (id, nonce, at, body) VALUES (?, ?, ?, ?) IF NOT EXISTS"
_RETAKE = "UPDATE nodes SET nonce = ?, at = ?, body = ? WHERE id = ? IF nonce = ? AND at = ?"
_RENEW = "UPDATE nodes SET at = ?, body = ? WHERE id = ? IF nonce = ?"
_RELEASE = "UPDATE nodes SET nonce = '' WHERE id = ? IF nonce = ?"
_NAMED = "SELECT id, at FROM node_names WHERE name = ?"
_NAME = "INSERT INTO node_names (name, id, at) VALUES (?, ?, ?) IF NOT EXISTS"
_RENAME = "UPDATE node_names SET id = ?, at = ? WHERE name = ? IF id = ? AND at = ?"
_UNNAME = "DELETE FROM node_names WHERE name = ? IF id = ?"


class CassandraAccounts:
    """The ``Accounts`` port."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, account: Account) -> None:
        """See ``Accounts.add``: the pointer first, so that an account that is there can be found."""
        body = _pack(account)
        await self._session.write(_POINT, account.digest, account.id)
        met = await self._session.apply((_ADD, (account.id, account.digest, body)))
        for _ in range(_TRIES):
            if met.applied:
                return
            change = (account.digest, body, account.id, met.rows[0].digest, met.rows[0].body)
            met = await self._session.apply((_REPLACE, change))
        raise Unavailable(f"account {account.name} is being changed by others all the time", "repeat it")

    async def by_digest(self, digest: bytes) -> Account:
        """See ``Accounts.by_digest``."""
        pointers = await self._session.read(_ACCOUNT_ID, digest)
        rows = await self._session.read(_ACCOUNT, pointers[0].id) if pointers else []
        if not rows or rows[0].digest != digest:
            raise NotFound("no account has this token")
        return _read(Account, rows[0].body)


@dataclass(frozen=True, slots=True)
class _Name:
    """Whose a name is, since when; ``used``: that node's row says so too."""

    owner: NodeId
    at: float
    used: bool


class CassandraNodes:
    """The ``Nodes`` port. A name is taken before the node's row has it, and is kept for it for ``CLAIM`` seconds."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._owned: dict[NodeId, tuple[str, str]] = {}

    async def register(self, node: Node, nonce: str, now: float) -> None:
        """See ``Nodes.register``."""
        if self._owned.get(node.id) == (node.name, nonce):
            renewal = (now, _pack(node), node.id, nonce)
            if (await self._session.apply((_RENEW, renewal))).applied:
                return
        self._owned.pop(node.id, None)
        for _ in range(_TRIES):
            if await self._take(node, nonce, now):
                self._owned[node.id] = (node.name, nonce)
                return
        raise Unavailable(
            f"the claim of node {node.name} is being changed by others all the time", "repeat it"
        )

    async def release(self, node: NodeId, nonce: str) -> None:
        """See ``Nodes.release``."""
        self._owned.pop(node, None)
        await self._session.apply((_RELEASE, (node, nonce)))

    async def all(self) -> tuple[Node, ...]:
        """See ``Nodes.all``."""
        nodes = [_read(Node, row.body) for row in await self._session.read(_NODES) if row.body is not None]
        return tuple(sorted(nodes, key=lambda node: node.name))

    async def _take(self, node: Node, nonce: str, now: float) -> bool:
        """Take name and id; False = somebody else changed one of them meanwhile. Raises: Conflict, Unavailable."""
        held, name = await self._claim(node.id), await self._name(node.name)
        taken = name is not None and (name.used or name.at > now - CLAIM)
        check_claim(node, nonce, now, held, name.owner if name is not None and taken else None)
        if not await self._take_name(node, name, now) or not await self._take_id(node, nonce, now, held):
            return False
        found = await self._session.read(_NAMED, node.name, strict=True)
        if not found or found[0].id != node.id:
            raise Conflict(
                f"the name {node.name} was taken by another node", "start it again with another --name"
            )
        if held is not None and held.node.name != node.name:
            await self._session.apply((_UNNAME, (held.node.name, node.id)))
        return True

    async def _claim(self, id: NodeId) -> Claim | None:
        rows = await self._session.read(_NODE, id, strict=True)
        return Claim(_read(Node, rows[0].body), rows[0].nonce, rows[0].at) if rows and rows[0].body else None

    async def _name(self, name: str) -> _Name | None:
        rows = await self._session.read(_NAMED, name, strict=True)
        if not rows:
            return None
        owner = NodeId(rows[0].id)
        claim = await self._claim(owner)
        return _Name(owner, rows[0].at, claim is not None and claim.node.name == name)

    async def _take_name(self, node: Node, name: _Name | None, now: float) -> bool:
        if name is None:
            return (await self._session.apply((_NAME, (node.name, node.id, now)))).applied
        if name.owner == node.id and name.used:
            return True
        return (await self._session.apply((_RENAME, (node.id, now, node.name, name.owner, name.at)))).applied

    async def _take_id(self, node: Node, nonce: str, now: float, held: Claim | None) -> bool:
        if held is None:
            return (await self._session.apply((_TAKE, (node.id, nonce, now, _pack(node))))).applied
        change = (nonce, now, _pack(node), node.id, held.nonce, held.at)
        return (await self._session.apply((_RETAKE, change))).applied


def _pack(thing: object) -> bytes:
    return bytes(msgpack.packb(to_record(thing)))


def _read(kind: type[T], body: bytes) -> T:
    return from_record(kind, msgpack.unpackb(body))
