"""Which versions may have a blob on a node: ``blobs_by_node``.

Invariant: never too few. A hint is written before a holder is recorded and removed after the version's row is; the truth is the
version's row.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from discloud.adapters.cassandra.session import Session, Statement
from discloud.adapters.cassandra.together import together
from discloud.core.model import BucketId, Key, NodeId, Version, VersionId

SHARDS = 32
"""Partitions of one node: ten million blobs make partitions of about 30 MB."""
_PAGE = 1000
"""Rows read at once of one partition."""
_NIL = uuid.UUID(int=0)

_ADD = "INSERT INTO blobs_by_node (node, shard, version, bucket, key) VALUES (?, ?, ?, ?, ?)"
_REMOVE = "DELETE FROM blobs_by_node WHERE node = ? AND shard = ? AND version = ?"
_OF = f"""SELECT version, bucket, key FROM blobs_by_node WHERE node = ? AND shard = ? AND version > ?
    LIMIT {_PAGE}"""  # noqa: S608 - a number of ours

Hint = tuple[BucketId, Key, VersionId]
"""A version that a node may hold, under a key that it had."""


class Hints:
    """The hints of one keyspace."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def add(self, version: Version, nodes: Iterable[NodeId] | None = None) -> None:
        """Hint at ``version`` for ``nodes``, or else for all of its holders. Raises: Unavailable."""
        await self._session.write_all(hints_at(version, holders_of(version) if nodes is None else nodes))

    async def remove(self, version: Version) -> None:
        """The version's row is gone. Raises: Unavailable."""
        id, shard = uuid.UUID(version.id), _shard(version.id)
        await self._session.write_all(
            [(_REMOVE, (uuid.UUID(node), shard, id)) for node in holders_of(version)]
        )

    async def of(self, node: NodeId) -> AsyncIterator[Sequence[Hint]]:
        """What the node may hold, some at a time, each version once. Raises: Unavailable."""
        positions = dict.fromkeys(range(SHARDS), _NIL)
        while positions:

            async def page(shard: int, at: dict[int, uuid.UUID] = positions) -> list[Any]:
                return await self._session.read(_OF, uuid.UUID(node), shard, at[shard])

            pages = dict(zip(positions, await together(page, positions), strict=True))
            for rows in pages.values():
                yield [
                    (BucketId(str(r.bucket)), Key(r.key.decode()), VersionId(str(r.version))) for r in rows
                ]
            positions = {shard: rows[-1].version for shard, rows in pages.items() if len(rows) == _PAGE}


def hints_at(version: Version, nodes: Iterable[NodeId]) -> list[Statement]:
    """What ``add`` writes."""
    id, bucket, key = uuid.UUID(version.id), uuid.UUID(version.bucket), version.key.encode()
    shard = _shard(version.id)
    return [(_ADD, (uuid.UUID(node), shard, id, bucket, key)) for node in nodes]


def _shard(version: VersionId) -> int:
    return zlib.crc32(version.encode()) % SHARDS


def holders_of(version: Version) -> Iterable[NodeId]:
    """Every node that the version names, once."""
    return dict.fromkeys(node for _, holders in version.blobs() for node in holders)
