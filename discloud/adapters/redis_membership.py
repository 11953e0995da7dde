"""Membership of a root that meets the other roots at a Redis: hints about who lives, never the truth.

Each root keeps one key with a TTL: the beats that it heard itself, under a MAC (beats_value.py), and its id in a set by
which the others find the key. Both names carry the mesh's id, so that several meshes share a Redis. Once a period
``run_once`` writes and reads; ``announce`` never waits for it. A Redis that is gone, slow, full, flushed, read-only or full
of other people's keys is noticed by nobody: what can be read is read, the rest waits for the next period.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from discloud import logs, metrics
from discloud.adapters.beats_value import LIMIT, Told, open_beats, seal_beats
from discloud.adapters.memory_membership import MemoryMembership
from discloud.core.liveness import Thresholds
from discloud.core.mesh_time import ClockVotes
from discloud.core.model import Beat, NodeId
from discloud.errors import Invalid

TTL = 5.0
"""Seconds for which Redis keeps what a root wrote."""
ROOTS = 64
"""Other roots that are read in a run, drawn by Redis where there are more."""
PATIENCE = 0.5
"""Seconds that a run may take."""
_LONGEST_ID = 64
_NO_REDIS = (RedisError, OSError, TimeoutError, ValueError)  # ValueError: what answers is no Redis


@dataclass(frozen=True, slots=True)
class RedisReport:
    """Whether Redis answered, whether it took what was written, and how many other roots it told of."""

    answered: bool
    written: bool = False
    roots: int = 0


class RedisMembership(MemoryMembership):
    """A root's membership, its own node being ``me``, in the mesh of the id ``mesh``. Closed by whoever made it.

    ``keys`` are 32 bytes each, derived from the cluster's secret: the first one seals, each of them is believed. ``patience``:
    seconds that a run may take. Raises: Invalid (the URL cannot be read).
    """

    def __init__(
        self,
        url: str,
        mesh: str,
        me: NodeId,
        keys: Sequence[bytes],
        clock: Callable[[], float] = time.monotonic,
        thresholds: Thresholds | None = None,
        wall: Callable[[], float] = time.time,
        votes: ClockVotes | None = None,
        patience: float = PATIENCE,
    ) -> None:
        super().__init__(clock, thresholds, wall, votes)
        self._redis: Any = _client(url)
        self._mesh = mesh
        self._me = me
        self._keys = tuple(keys)
        self._patience = patience
        self._index = f"discloud:{mesh}:roots"
        self._gone: set[bytes] = set()
        self._trouble = ""
        self._refused: dict[bytes, str] = {}

    async def run_once(self) -> RedisReport:
        """Write what this root heard, read what the others did. Trouble is logged when it begins and when it ends."""
        try:
            async with asyncio.timeout(self._patience):
                trouble, members = await self._write()
                values = await self._read(members)
        except _NO_REDIS as error:
            await self._disconnect()
            silent = f"it did not answer within {self._patience:g} s"
            self._note(silent if isinstance(error, TimeoutError) else str(error))
            return RedisReport(answered=False)
        self._note(trouble)
        return RedisReport(answered=True, written=not trouble, roots=self._believe(values))

    async def close(self) -> None:
        """End the connection with Redis."""
        await self._disconnect()

    async def _write(self) -> tuple[str, list[bytes]]:
        """Write this root's key and name. Gives why Redis did not take it ("" = it did), and the other roots' ids."""
        me, milliseconds = self._me.encode(), int(TTL * 1000)
        value = seal_beats(Told(self._mesh, self._me, TTL, self.tell(here=True)), self._keys[0])
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.set(self._key(me), value, px=milliseconds)
        pipeline.sadd(self._index, me)
        pipeline.pexpire(self._index, milliseconds)
        pipeline.srem(self._index, "", *self._gone)
        pipeline.srandmember(self._index, ROOTS)
        pipeline.time()
        sent = self._wall()
        written, added, _, _, members, seconds = await pipeline.execute(raise_on_error=False)
        if isinstance(seconds, tuple):
            told = seconds[0] + seconds[1] / 1e6
            self._votes.note("redis", told - (sent + self._wall()) / 2, self._clock())
        if isinstance(members, Exception):
            if "WRONGTYPE" in str(members):
                await self._redis.delete(self._index)  # somebody else's; the next run puts ours there
            members = []
        failed = next((each for each in (written, added) if isinstance(each, Exception)), "")
        return str(failed), [each for each in members if each != me and len(each) <= _LONGEST_ID]

    async def _read(self, members: Sequence[bytes]) -> dict[bytes, tuple[bytes, float]]:
        """The other roots' values, and for how many seconds more Redis would keep each. What is gone is forgotten in the next run."""
        self._gone = set()
        if not members:
            return {}
        pipeline = self._redis.pipeline(transaction=False)
        for member in members:
            pipeline.getrange(self._key(member), 0, LIMIT)
            pipeline.pttl(self._key(member))
        answers = await pipeline.execute(raise_on_error=False)
        values = {}
        for member, value, left in zip(members, answers[::2], answers[1::2], strict=True):
            if value == b"":
                self._gone.add(member)
            elif isinstance(left, int):
                values[member] = (value if isinstance(value, bytes) else b"", left / 1000)
        return values

    def _believe(self, values: dict[bytes, tuple[bytes, float]]) -> int:
        """Take over what is of this mesh; how many roots that were. The rest is counted, and logged when it is new."""
        refused, believed = {}, 0
        for member, (value, left) in values.items():
            try:
                self.take(self._open(member, value, left))
                believed += 1
            except ValueError as error:
                metrics.IGNORED_BEATS.add(1)
                refused[member] = str(error)
        for member in refused.keys() - self._refused.keys():
            name = self._key(member).decode(errors="replace")
            logs.warn("redis_value_ignored", key=name, reason=refused[member])
        self._refused = refused
        return believed

    def _open(self, member: bytes, value: bytes, left: float) -> tuple[Beat, ...]:
        """The beats of a value with their ages now. Raises: ValueError: it is not what that root wrote, or it never ends."""
        told = open_beats(value, self._keys)
        if (told.mesh, told.root.encode()) != (self._mesh, member):
            raise ValueError("it belongs to another key")
        if not 0 <= left <= told.ttl:
            raise ValueError("somebody took its end away")
        return told.aged(told.ttl - left)

    def _key(self, root: bytes) -> bytes:
        return f"discloud:{self._mesh}:root:".encode() + root

    def _note(self, trouble: str) -> None:
        """Log the change, not every period of it."""
        if trouble and not self._trouble:
            logs.warn("redis_in_trouble", reason=trouble, detail="this root goes on without it")
        elif self._trouble and not trouble:
            logs.info("redis_works_again")
        self._trouble = trouble

    async def _disconnect(self) -> None:
        """Close the connection, whatever state it is in: an answer that comes late must not be read as another one's."""
        try:
            async with asyncio.timeout(self._patience):
                await self._redis.connection_pool.disconnect()
        except _NO_REDIS:
            pass


def _client(url: str) -> Redis:
    """A client that connects when it is first used, to one connection at a time, and repeats nothing.

    It keeps no time: its own limit is an ``asyncio.wait_for``, which in Python 3.11 loses a cancellation that comes in the moment
    of the answer (bpo-37658), and the run would never end. Whoever calls it limits the whole.
    """
    try:
        return Redis.from_url(
            url, socket_timeout=None, socket_connect_timeout=None, retry=Retry(NoBackoff(), 0), protocol=2
        )
    except ValueError as error:
        # Not the URL itself: it holds the password.
        raise Invalid("redis.url cannot be read", "write redis://[USER:PASSWORD@]HOST:6379/0") from error
