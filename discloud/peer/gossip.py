"""Another root as ``Gossip``: what this root tells it and is told, over connections that only this uses."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from discloud.core.model import Beat, NodeId
from discloud.errors import PeerDown
from discloud.peer.links import Links, Target
from discloud.peer.methods import methods_of

_EXCHANGE = methods_of("gossip")["exchange"]


class PeerGossip:
    """The root at ``address`` (``host:port``). ``patience``: seconds that it has for an answer."""

    def __init__(self, links: Links, address: str, patience: float) -> None:
        self._links = links
        self._target = Target(address)
        self._patience = patience

    async def who(self) -> NodeId:
        """The node that is found there. Raises: PeerDown; a refusal as it is (Links.greet)."""
        try:
            async with asyncio.timeout(self._patience):
                return (await self._links.greet(self._target)).node
        except TimeoutError as error:
            raise PeerDown(f"{self._target} did not greet within {self._patience:g} s") from error

    async def exchange(self, beats: Sequence[Beat]) -> tuple[Beat, ...]:
        """As Gossip. Raises: Unavailable."""
        packed = _EXCHANGE.pack(tuple(beats))
        answer = await self._links.call(self._target, _EXCHANGE.name, packed, self._patience)
        told: tuple[Beat, ...] = _EXCHANGE.unpack_result(answer)
        return told
