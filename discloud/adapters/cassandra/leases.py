"""``Leases`` on Cassandra: the owner's cell ends by its TTL, on Cassandra's clock; the epoch stays.

Invariant: an owner is written only together with the next epoch, conditional on the epoch under which there was none.
"""

from __future__ import annotations

import math

from discloud.adapters.cassandra.session import Session
from discloud.core.model import NodeId

_ROW = "SELECT owner, epoch FROM leases WHERE name = ?"
_RENEW = "UPDATE leases USING TTL ? SET owner = ? WHERE name = ? IF owner = ?"
_TAKE = "UPDATE leases USING TTL ? SET owner = ? WHERE name = ?"
_COUNT = "UPDATE leases SET epoch = ? WHERE name = ? IF epoch = ?"
_RELEASE = "UPDATE leases SET owner = null WHERE name = ? IF owner = ?"


class CassandraLeases:
    """The ``Leases`` port."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def hold(self, name: str, owner: NodeId, seconds: float) -> int | None:
        """See ``Leases.hold``. A TTL counts in whole seconds and may end within the last one, so it is longer than asked for."""
        ttl = math.ceil(seconds) + 1
        rows = await self._session.read(_ROW, name, strict=True)
        held: str | None = rows[0].owner if rows else None
        epoch: int | None = rows[0].epoch if rows else None
        if held == owner:
            renewal = (_RENEW, (ttl, owner, name, owner))
            return epoch if (await self._session.apply(renewal)).applied else None
        if held is not None:
            return None
        later = (epoch or 0) + 1
        taken = await self._session.apply((_TAKE, (ttl, owner, name)), (_COUNT, (later, name, epoch)))
        return later if taken.applied else None

    async def release(self, name: str, owner: NodeId) -> None:
        """See ``Leases.release``."""
        await self._session.apply((_RELEASE, (name, owner)))
