"""The bridge to the driver: CQL in, rows out, on the event loop; nothing but errors of ``discloud.errors`` leaves.

Owns the driver's cluster object and its threads, the prepared statements and the cap on calls in flight. The driver
finishes calls on a thread of its own; their answers are handed to the loop together, by one wake-up for all that are
there. CQL texts are constants of modules: each is prepared once, on first use. A text that shall set its own timestamp
says ``USING TIMESTAMP ?``. No answer is paged: whoever may read much says LIMIT.
"""

from __future__ import annotations

import asyncio
import re
import struct
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Self

from cassandra import ConsistencyLevel
from cassandra.query import BatchStatement, BatchType

from discloud.adapters.cassandra import driver, schema
from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.failures import Failure, read_failure
from discloud.adapters.cassandra.together import all_of
from discloud.errors import Invalid, OutcomeUnknown, Unavailable

__all__ = ["Applied", "Levels", "Session", "Settings", "Statement"]

Statement = tuple[str, Sequence[object]]
"""A CQL text and the values of its marks."""
_TABLE = re.compile(
    r"\b(FROM|INTO|UPDATE|TRUNCATE(?: TABLE)?|TABLE IF NOT EXISTS)\s+(?!TABLE\b)(\w+)\b(?!\.)"
)
_GRACE = 0.25
"""Seconds by which our own deadline is behind the driver's: it is for a driver that hangs."""
_LEAST = 0.05
"""A repetition that has less time than this is not begun."""
_CELLS = 64
"""Bytes of a statement without its texts and blobs, about."""
_BATCH = 4096
"""Bytes that go into one batch: Cassandra warns of batches beyond 5 KiB and refuses those beyond 50."""


class Levels(Enum):
    """How far a quorum reaches: one data centre, or all of them (DESIGN section 5, "Levels")."""

    LOCAL = "local"
    GLOBAL = "global"

    @property
    def quorum(self) -> int:
        """The level of reads and writes."""
        return int(ConsistencyLevel.LOCAL_QUORUM if self is Levels.LOCAL else ConsistencyLevel.QUORUM)

    @property
    def serial(self) -> int:
        """The level of strict reads and of the agreement of lightweight transactions."""
        return int(ConsistencyLevel.LOCAL_SERIAL if self is Levels.LOCAL else ConsistencyLevel.SERIAL)


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a lightweight transaction. ``rows``: where refused, the rows that it met (all columns for IF NOT EXISTS)."""

    applied: bool
    rows: tuple[Any, ...] = ()


class Session:
    """One per process. Open it with ``connect``; a context manager that closes. For use on the loop that connected it."""

    def __init__(self, cluster: Any, session: Any, steering: driver.Steering, settings: Settings) -> None:
        self.patience = settings.patience
        self.levels = Levels.GLOBAL
        self.mesh = ""
        self._keyspace = settings.keyspace
        self._cluster = cluster
        self._driver = session
        self._steering = steering
        self._loop = asyncio.get_running_loop()
        self._prepared: dict[str, Any] = {}
        self._preparing = asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.in_flight)
        self._finished: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, settings: Settings, draw_cluster: Callable[[], str] = schema.draw_id) -> Self:
        """Connect, make or check the keyspace and its tables, learn the levels and the mesh's id.

        ``draw_cluster`` draws the id of a new mesh. Raises: Conflict (another mesh's levels, a newer schema, a data
        centre that is not there), Unavailable.
        """
        cluster, steering = driver.build(settings)
        session = cls(cluster, await asyncio.to_thread(driver.connect, cluster), steering, settings)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(session.close)
            found = await schema.ensure(session, settings, draw_cluster)
            session.levels, session.mesh = Levels(found.levels), found.cluster
            stack.pop_all()
        return session

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # ------------------------------------------------------------ calls

    async def read(self, cql: str, *values: object, strict: bool = False, one: bool = False) -> list[Any]:
        """Rows, at the keyspace's quorum level; ``strict`` = after every transaction begun before (SERIAL), ``one`` = of any replica.

        Raises: Unavailable.
        """
        level = self.levels.serial if strict else ConsistencyLevel.ONE if one else self.levels.quorum
        return await self._repeated(((cql, values),), level) or []

    async def write(self, cql: str, *values: object) -> None:
        """One plain write, durable on a quorum; may be sent twice, so only what may happen twice. Raises: Unavailable."""
        await self._repeated(((cql, values),), self.levels.quorum)

    async def write_all(self, statements: Sequence[Statement]) -> None:
        """Plain writes of whatever partitions, in one call unless that is too large; they may happen one without the other.

        Raises: Unavailable.
        """
        if statements:
            await all_of(
                *(partial(self._repeated, each, self.levels.quorum) for each in _batches(statements))
            )

    async def apply(self, *statements: Statement) -> Applied:
        """One lightweight transaction: a conditional statement, or several of ONE partition that apply or refuse as one.

        Raises: Unavailable (it is definitely not and will never be applied), OutcomeUnknown (it may be, or still become).
        """
        bound = await self._bind(statements, self.levels.quorum)
        bound.serial_consistency_level = self.levels.serial
        try:
            rows = await self._call(bound, self.patience / 2)
        except _Failed as failed:
            raise _outcome(failed.failure) from failed.__cause__
        if rows[0].applied:
            return Applied(applied=True)
        return Applied(applied=False, rows=tuple(rows))

    async def define(self, cql: str, seconds: float = 30.0) -> None:
        """A change of the schema, made by one and the same server each time; ``agree`` waits for the others.

        Its success is checked by reading. Raises: Unavailable.
        """
        hosts = sorted(self._steering.make_query_plan(), key=str)
        start = partial(self._driver.execute_async, self._qualified(cql), timeout=seconds)
        for host in (*hosts, None):
            try:
                await self._send(partial(start, host=host), seconds)
            except _Failed as failed:
                if host is None or failed.failure.sent:
                    raise _unavailable(failed.failure) from failed.__cause__
            else:
                return

    async def agree(self, seconds: float = 10.0) -> None:
        """Wait until all servers have the same schema, and learn what it says of the keyspace. Raises: Unavailable."""
        await self._blocking(
            partial(
                self._cluster.refresh_keyspace_metadata, self._keyspace, max_schema_agreement_wait=seconds
            )
        )

    async def _blocking(self, call: Callable[[], Any]) -> Any:
        try:
            return await asyncio.to_thread(call)
        except Exception as error:
            raise _unavailable(read_failure(error)) from error

    def replication(self, keyspace: str) -> dict[str, int]:
        """Copies by data centre, as the driver knows the keyspace; empty = it has none of that name."""
        known = self._cluster.metadata.keyspaces.get(keyspace)
        factors = getattr(known and known.replication_strategy, "dc_replication_factors", {})
        return {name: int(str(factor)) for name, factor in factors.items()}

    def datacenters(self) -> dict[str, int]:
        """Cassandra's nodes by data centre."""
        counts: dict[str, int] = {}
        for host in self._cluster.metadata.all_hosts():
            counts[host.datacenter] = counts.get(host.datacenter, 0) + 1
        return counts

    def datacenter(self) -> str:
        """The data centre that is asked first."""
        return str(self._steering._child_policy.local_dc)  # noqa: SLF001 - the driver chose it, and tells it nowhere else

    async def close(self) -> None:
        """Let go of the servers; what is under way ends unknown. Goes on to its end when the caller is cancelled."""
        if self._closing is None:
            self._closing = asyncio.create_task(asyncio.to_thread(self._cluster.shutdown))
        await asyncio.shield(self._closing)
        self._deliver()

    # ------------------------------------------------------------ one call

    async def _repeated(self, statements: Sequence[Statement], level: int) -> Any:
        """Of a call that may happen twice the answer, if need be at the second coordinator."""
        end = self._loop.time() + self.patience
        bound = await self._bind(statements, level)
        try:
            return await self._call(bound, self.patience / 2)
        except _Failed as failed:
            left = end - self._loop.time()
            if not failed.failure.repeat or left < _LEAST:
                raise _unavailable(failed.failure) from failed.__cause__
            first = failed.host
        try:
            return await self._call(bound, left, self._other(bound, first))
        except _Failed as failed:
            raise _unavailable(failed.failure) from failed.__cause__

    async def _call(self, bound: Any, seconds: float, host: Any = None) -> Any:
        return await self._send(
            partial(self._driver.execute_async, bound, timeout=seconds, host=host), seconds
        )

    async def _send(self, start: Callable[[], Any], seconds: float) -> Any:
        """The rows of one call. Raises: _Failed."""
        response = None
        answer: asyncio.Future[Any] = self._loop.create_future()
        try:
            async with asyncio.timeout(seconds + _GRACE), self._slots:
                self._need_open()
                response = start()
                response.add_callbacks(self._on_rows, self._on_error, (answer,), None, (answer,), None)
                return await answer
        except Unavailable:
            raise
        except Exception as error:
            host = response and response._current_host  # noqa: SLF001 - coordinator_host is only told by an answer
            failure = read_failure(error) if response or not isinstance(error, TimeoutError) else _BUSY
            if failure.applied and host is not None:
                self._steering.avoid(host)
            raise _Failed(failure, host) from error

    def _other(self, bound: Any, first: Any) -> Any:
        """A coordinator that is not ``first``, None = no other is up."""
        plan = self._steering.make_query_plan(self._keyspace, bound)
        return next((host for host in plan if host != first and host.is_up), None)

    async def _bind(self, statements: Sequence[Statement], level: int) -> Any:
        """What is sent; a text that is new is prepared. Raises: Unavailable, Invalid."""
        prepared = [self._prepared.get(cql) for cql, _ in statements]
        if None in prepared:
            prepared = await self._all_prepared(statements)
        try:
            bound = [each.bind(values) for each, (_, values) in zip(prepared, statements, strict=True)]
        except (TypeError, ValueError, AttributeError, OverflowError, struct.error) as error:
            raise Invalid(f"this cannot be stored: {error}") from error
        if len(bound) == 1:
            bound[0].consistency_level = level
            return bound[0]
        batch = BatchStatement(BatchType.UNLOGGED, consistency_level=level)
        batch.add_all(bound, (None,) * len(bound))
        return batch

    async def _all_prepared(self, statements: Sequence[Statement]) -> list[Any]:
        try:
            async with asyncio.timeout(self.patience):
                return [self._prepared.get(cql) or await self._prepare(cql) for cql, _ in statements]
        except TimeoutError as error:
            raise _unavailable(read_failure(error)) from error

    async def _prepare(self, cql: str) -> Any:
        async with self._preparing:
            if cql not in self._prepared:
                self._need_open()
                prepare = partial(self._driver.prepare, self._qualified(cql))
                try:
                    self._prepared[cql] = await self._blocking(prepare)
                except Unavailable:
                    self._prepared[cql] = await self._blocking(prepare)  # another server is asked
        return self._prepared[cql]

    def _qualified(self, cql: str) -> str:
        """With the keyspace before its table: ``USE`` would bind a statement to the connection that it was prepared on."""
        return _TABLE.sub(rf"\1 {self._keyspace}.\2", cql, count=1)

    def _need_open(self) -> None:
        if self._closing is not None:
            raise Unavailable("the metadata is closed")

    # ------------------------------------------------------------ from the driver's thread to the loop

    def _on_rows(self, rows: Any, answer: asyncio.Future[Any]) -> None:
        self._finished.append((answer, rows, None))
        self._wake()

    def _on_error(self, error: BaseException, answer: asyncio.Future[Any]) -> None:
        self._finished.append((answer, None, error))
        self._wake()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return

    def _deliver(self) -> None:
        """Hand over what is finished. The mark falls first, so whoever appends after this is woken again."""
        self._woken = False
        while self._finished:
            answer, rows, error = self._finished.popleft()
            if answer.done():
                continue
            if error is None:
                answer.set_result(rows)
            else:
                answer.set_exception(error)


def _batches(statements: Sequence[Statement]) -> list[list[Statement]]:
    """The statements in their order, cut so that no batch is too large; what is too large by itself is alone."""
    batches: list[list[Statement]] = [[]]
    size = 0
    for statement in statements:
        length = _CELLS + sum(len(value) for value in statement[1] if isinstance(value, bytes | str))
        if batches[-1] and size + length > _BATCH:
            batches.append([])
            size = 0
        batches[-1].append(statement)
        size += length
    return batches


class _Failed(Exception):
    """A call without an answer, and the coordinator that it was sent to."""

    def __init__(self, failure: Failure, host: Any) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.host = host


_BUSY = Failure("too many calls to Cassandra are under way", applied=False, repeat=False, sent=False)


def _unavailable(failure: Failure) -> Unavailable:
    return Unavailable(failure.detail, "repeat it; if it stays so, look at Cassandra")


def _outcome(failure: Failure) -> Unavailable:
    if not failure.applied:
        return _unavailable(failure)
    return OutcomeUnknown(
        f"{failure.detail}: whether the change applies is not known", "repeat it: that is safe"
    )
