"""The Metadata of the mesh through its roots, for a node that has none of its own.

Nothing is written by hand for a call: the parts are made from the ports (methods.py), so a new method of a port is here by
itself, repeated when its answer was lost. The exceptions are the table below. A root is asked for everything, so
that what is known here is as strict as what is known there; ``peek`` knows nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self, TypeVar, cast

from discloud.core.model import BucketId, Change, Page
from discloud.errors import TooLarge, Unavailable
from discloud.peer.known_roots import KnownRoots
from discloud.peer.links import Links
from discloud.peer.methods import PORTS, Method, methods_of
from discloud.peer.roots import Roots
from discloud.ports import Accounts, Buckets, Leases, Nodes, Queues, Versions

P = TypeVar("P")

ONCE = frozenset({"buckets.create", "buckets.update", "buckets.remove"})
"""Calls whose repetition would be refused although the first happened: lost = outcome unknown."""
WORK = {"buckets.remove": 15.0}
"""Seconds that a call may take by its nature: a bucket on Cassandra is closed for 10 s before it goes."""
SETTLED = ONCE | {"versions.commit", "versions.put"}
"""Calls of which the caller must know whether they happened."""


class PeerMetadata:
    """Metadata by calls to a root. Closing it leaves the links open: they are the node's."""

    cluster: str
    versions: Versions
    buckets: Buckets
    queues: Queues
    accounts: Accounts
    nodes: Nodes
    leases: Leases

    def __init__(self, roots: Roots, cluster: str) -> None:
        self.cluster = cluster
        self._roots = roots
        self._closed = False
        for part in ("versions", "buckets", "queues", "accounts", "nodes", "leases"):
            setattr(self, part, self._part(PORTS[part], part))

    @classmethod
    async def connect(cls, links: Links, roots: Sequence[str] | KnownRoots, patience: float = 5.0) -> Self:
        """Metadata behind these roots (``host:port``); the first that answers tells the mesh's id.

        ``patience``: seconds that one call may take, trying other roots included. Raises: Unavailable (no root answers: try
        again), Unauthenticated, Conflict, Invalid (a root refuses this node: trying again will not help).
        """
        known = Roots(links, roots, patience)
        return cls(known, (await known.greet()).cluster)

    async def close(self) -> None:
        """As Metadata."""
        self._closed = True

    def _part(self, port: type[P], part: str) -> P:
        """An object that has every call of the port."""
        forwards = {name: self._forward(method) for name, method in methods_of(part).items()}
        if part == "versions":
            lists = {name: self._lists(methods_of(part)[name]) for name in ("list_keys", "list_stale")}
            forwards |= {"peek": _knows_nothing, "expect": _knows_nothing, **lists}
        members = {name: staticmethod(forward) for name, forward in forwards.items()}
        return cast("P", type(f"Peer{port.__name__}", (), members)())

    def _forward(self, method: Method) -> Callable[..., Any]:
        if method.pages:
            return lambda *arguments, **named: self._pages(method, method.bind(*arguments, **named))
        return lambda *arguments, **named: self._call(method, method.bind(*arguments, **named))

    async def _call(self, method: Method, arguments: Sequence[object]) -> Any:
        self._check_open()
        repeat = method.name not in ONCE and not _takes_whatever_is_there(arguments)
        return await self._roots.call(
            method,
            arguments,
            repeat=repeat,
            settle=method.name in SETTLED,
            work=WORK.get(method.name, 0.0),
        )

    def _lists(self, method: Method) -> Callable[..., Awaitable[Page]]:
        """A listing. A page whose versions have so many segments that it cannot cross is cut shorter: it has its own ``after``."""

        async def listed(bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
            while True:
                try:
                    page: Page = await self._call(method, (bucket, prefix, delimiter, after, limit))
                except TooLarge:
                    if limit <= 1:
                        raise
                    limit = max(1, limit // 4)
                else:
                    return page

        return listed

    async def _pages(self, method: Method, arguments: Sequence[object]) -> AsyncIterator[Any]:
        self._check_open()
        async for item in self._roots.pages(method, arguments):
            yield item

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("the metadata of this node is closed", "it is stopping: use another one")


def _knows_nothing(*_: object) -> None:
    """Whether a head is current only a root knows, and one that is told first what is expected is asked twice."""


def _takes_whatever_is_there(arguments: Sequence[object]) -> bool:
    """A change that names no version: sent again it would meet what it made."""
    return any(isinstance(each, Change) and each.version is None for each in arguments)
