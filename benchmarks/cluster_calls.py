"""The Cassandra adapter by itself: which calls an operation makes and how many follow one another; rates; CPU.

A *wait* is a call to Cassandra that begins only when another one has ended. Everything is measured beside the bare driver
that sends the same statements in the same process; CPU is that of all threads of the process, the driver's included.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

from cassandra.concurrent import execute_concurrent, execute_concurrent_with_args
from cassandra.query import BatchStatement, BatchType

from benchmarks.sqlite_metadata import ANY, BUCKET, draft, random_key
from discloud.adapters.cassandra import CassandraMetadata, Settings, driver
from discloud.adapters.cassandra.session import Applied, Levels, Session, Statement
from discloud.adapters.cassandra.versions import CassandraVersions
from discloud.core.model import Change, ChangeKind, Key, Version

T = TypeVar("T")
CALLERS = 32
READS, WRITES, PAGES = 4000, 600, 60
LISTED = 1000
_TABLE = re.compile(r"(?:FROM|INTO|UPDATE)\s+(\w+)")
_HEAD = (
    "SELECT version, state, seq, rev, body, formers FROM {}.objects WHERE bucket = ? AND key = ? AND version = "
    "00000000-0000-0000-0000-000000000000"
)
_BIRTH = "INSERT INTO {}.objects (state, seq, rev, body, bucket, key, version) VALUES (?, ?, ?, ?, ?, ?, ?) IF NOT EXISTS"


# ------------------------------------------------------------ which calls an operation makes


@dataclass(slots=True)
class Call:
    """One call to Cassandra: what it was, and when."""

    what: str
    began: float
    ended: float = 0.0


class Recorder(Session):
    """A session that writes down every call."""

    def __init__(self, cluster: Any, session: Any, steering: Any, settings: Settings) -> None:
        super().__init__(cluster, session, steering, settings)
        self.made: list[Call] = []

    async def read(self, cql: str, *values: object, strict: bool = False, one: bool = False) -> list[Any]:
        what = f"{'SERIAL ' if strict else ''}read {_table(cql)}"
        return await self._noted(what, super().read(cql, *values, strict=strict, one=one))

    async def write(self, cql: str, *values: object) -> None:
        await self._noted(f"write {_table(cql)}", super().write(cql, *values))

    async def write_all(self, statements: Sequence[Statement]) -> None:
        tables = "+".join(sorted({_table(cql) for cql, _ in statements}))
        await self._noted(f"write {tables}", super().write_all(statements))

    async def apply(self, *statements: Statement) -> Applied:
        return await self._noted("LWT", super().apply(*statements))

    async def _noted(self, what: str, work: Awaitable[T]) -> T:
        call = Call(what, time.perf_counter())
        self.made.append(call)
        try:
            return await work
        finally:
            call.ended = time.perf_counter()


def _table(cql: str) -> str:
    found = _TABLE.search(cql)
    assert found, cql
    return found[1]


def waves(made: Iterable[Call]) -> list[list[str]]:
    """The calls by how many others each had to wait for."""
    depths: list[tuple[Call, int]] = []
    for call in sorted(made, key=lambda call: call.began):
        depth = max((depth + 1 for other, depth in depths if other.ended <= call.began), default=0)
        depths.append((call, depth))
    by_depth: defaultdict[int, list[str]] = defaultdict(list)
    for call, depth in depths:
        by_depth[depth].append(call.what)
    return [by_depth[depth] for depth in sorted(by_depth)]


def _told(names: Iterable[str]) -> str:
    counts = Counter(names)
    return " + ".join(f"{count}x {name}" if count > 1 else name for name, count in counts.items())


class Steps:
    """Prints the table of what operations cost, one operation after another."""

    def __init__(self, recorder: Recorder, metadata: CassandraMetadata) -> None:
        self._recorder = recorder
        self._metadata = metadata

    async def show(self, name: str, work: Awaitable[T]) -> T:
        """One operation: calls before its answer, by waits, and after it."""
        self._recorder.made.clear()
        result = await work
        answered = time.perf_counter()
        await self._metadata.versions.close()  # comes back when what follows the answer is done
        made = self._recorder.made
        before = [call for call in made if call.ended and call.ended <= answered]
        after = _told(call.what for call in made if call not in before)
        found = waves(before)
        transactions = sum(call.what == "LWT" for call in before)
        steps = ", then ".join(map(_told, found)) or "none"
        print(f"| {name} | {transactions} | {len(found)} | {steps} | {after} |")
        return result


def put(version: Version) -> Change:
    return Change(ChangeKind.PUT, BUCKET.id, version.key, version)


async def seen(versions: CassandraVersions, version: Version) -> None:
    """What is looked up before a small PUT, to its end."""
    versions.expect(BUCKET.id, version.key)
    await versions.close()


async def round_trips(one: CassandraMetadata, recorder: Recorder, other: CassandraMetadata) -> None:
    """The table of DESIGN section 5, measured. ``other`` is another root on the same keyspace."""
    print("\n| operation | LWT | waits | calls before the answer | after it |\n|---|---|---|---|---|")
    versions, steps = one.versions, Steps(recorder, one)
    for number in range(20):  # the minute's queues and the directory are known then, as in a root that runs
        await versions.put(draft(f"a/warm{number}"), ANY)
        begun = draft(f"a/warm-large{number}")
        await versions.begin(begun)
        await versions.commit(put(begun), ANY)
    await versions.close()

    await other.versions.put(draft("a/foreign"), ANY)
    for key, name in (
        ("a/small", "new key"),
        ("a/small", "replacing"),
        ("a/foreign", "replacing another root's"),
    ):
        small = draft(key)
        await steps.show(f"small PUT, {name}: while its blobs are written", seen(versions, small))
        await steps.show(f"small PUT, {name}: after that", versions.put(small, ANY))
    for name in ("new key", "replacing"):
        large = draft("a/large")
        await steps.show(f"large PUT, {name}: while bytes flow", versions.begin(large))
        await steps.show(f"large PUT, {name}: after the last byte", versions.commit(put(large), ANY))
    await other.versions.put(draft("a/large"), ANY)
    large = draft("a/large")
    await versions.begin(large)
    await versions.close()
    await steps.show(
        "large PUT, replacing another root's: after the last byte", versions.commit(put(large), ANY)
    )

    head = await steps.show("GET by name", versions.get(BUCKET.id, Key("a/large")))
    by_id = partial(versions.get, BUCKET.id, head.key, head.id)
    await steps.show("GET by version, the first", by_id())
    await steps.show("GET by version, again within 5 s", by_id())
    await steps.show("list 1,000 of one folder", versions.list_keys(BUCKET.id, "many/", "/", "", LISTED))
    changed = replace(head, metadata=(("a", "b"),))
    update = Change(ChangeKind.UPDATE, BUCKET.id, head.key, changed)
    head = (await steps.show("change of metadata", versions.commit(update, ANY))).version or head
    move = Change(ChangeKind.MOVE, BUCKET.id, head.key, head, target=Key("a/renamed"))
    await steps.show("rename", versions.commit(move, ANY))
    known = Change(ChangeKind.DELETE, BUCKET.id, Key("a/small"))
    await steps.show("DELETE of what this root wrote or read", versions.commit(known, ANY))
    await other.versions.put(draft("a/foreign2"), ANY)
    foreign = Change(ChangeKind.DELETE, BUCKET.id, Key("a/foreign2"))
    await steps.show("DELETE of another root's", versions.commit(foreign, ANY))


# ------------------------------------------------------------ rates and CPU


@dataclass(frozen=True, slots=True)
class Taken:
    """Operations a second, microseconds of CPU each, milliseconds of the median and of the 99th of 100 (0: not taken)."""

    rate: float
    cpu: float
    p50: float = 0.0
    p99: float = 0.0


class Timed:
    """Makes operations from so many callers."""

    def __init__(self, metadata: CassandraMetadata) -> None:
        self._metadata = metadata

    async def run(
        self, count: int, call: Callable[[int], Awaitable[object]], callers: int = CALLERS
    ) -> Taken:
        """What follows the answers is waited for: it costs CPU too."""
        numbers, waited = iter(range(count)), list[float]()

        async def caller() -> None:
            for number in numbers:
                began = time.perf_counter()
                await call(number)
                waited.append(time.perf_counter() - began)

        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        await self._metadata.versions.close()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        waited.sort()
        return Taken(
            count / seconds, cpu / count * 1e6, waited[count // 2] * 1e3, waited[count * 99 // 100] * 1e3
        )


class BareDriver:
    """The same statements by the driver alone, its callbacks on its own thread, nothing of ours between."""

    def __init__(self, settings: Settings) -> None:
        self._cluster, _ = driver.build(settings)
        self._session = driver.connect(self._cluster)
        self._head = self._prepare(_HEAD.format(settings.keyspace))
        self._birth = self._prepare(_BIRTH.format(settings.keyspace))

    def _prepare(self, cql: str) -> Any:
        statement = self._session.prepare(cql)
        statement.consistency_level = Levels.LOCAL.quorum
        statement.serial_consistency_level = Levels.LOCAL.serial
        return statement

    def reads(self, count: int, keys: Sequence[str]) -> Taken:
        bucket = UUID(BUCKET.id)
        values = [(bucket, keys[number % len(keys)].encode()) for number in range(count)]
        return self._timed(count, lambda: execute_concurrent_with_args(
            self._session, self._head, values, concurrency=CALLERS))  # fmt: skip

    def transactions(self, count: int) -> Taken:
        """A head and a version that must not exist, as one."""
        batches = [(self._pair(f"bare/{uuid4().hex}"), None) for _ in range(count)]
        return self._timed(count, lambda: self._all(batches))

    def _pair(self, key: str) -> BatchStatement:
        batch = BatchStatement(BatchType.UNLOGGED, consistency_level=Levels.LOCAL.quorum,
                               serial_consistency_level=Levels.LOCAL.serial)  # fmt: skip
        for version in (UUID(int=0), uuid4()):
            batch.add(self._birth, (2, 1, 0, b"x" * 400, UUID(BUCKET.id), key.encode(), version))
        return batch

    def _all(self, batches: Sequence[Any]) -> None:
        execute_concurrent(self._session, batches, concurrency=CALLERS)

    def _timed(self, count: int, work: Callable[[], object]) -> Taken:
        began, cpu = time.perf_counter(), time.process_time()
        work()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        return Taken(count / seconds, cpu / count * 1e6)

    def close(self) -> None:
        self._cluster.shutdown()


async def rates(metadata: CassandraMetadata, bare: BareDriver, rounds: int) -> None:
    """Interleaved rounds; a table of medians."""
    versions, timed = metadata.versions, Timed(metadata)
    keys = [f"many/{number:06}" for number in range(LISTED)]
    heads = [await versions.get(BUCKET.id, Key(key)) for key in keys[:100]]

    async def get(number: int) -> object:
        return await versions.get(BUCKET.id, Key(keys[number % LISTED]))

    async def by_version(number: int) -> object:
        head = heads[number % len(heads)]
        return await versions.get(BUCKET.id, head.key, head.id)

    async def written(version: Version) -> object:
        versions.expect(BUCKET.id, version.key)
        return await versions.put(version, ANY)

    async def small(_: int) -> object:
        return await written(draft(f"rates/{random_key(uuid4().int)}"))

    async def again(number: int) -> object:
        return await written(draft(f"again/{number % WRITES}"))

    async def large(_: int) -> object:
        version = draft(f"large/{random_key(uuid4().int)}")
        await versions.begin(version)
        return await versions.commit(put(version), ANY)

    async def page(_: int) -> object:
        found = await versions.list_keys(BUCKET.id, "many/", "/", "", LISTED)
        assert len(found.versions) == LISTED
        return found

    cases: list[tuple[str, Callable[[], Awaitable[Taken]]]] = [
        ("bare driver: read of a head", lambda: asyncio.to_thread(bare.reads, READS, keys)),
        ("GET by name", lambda: timed.run(READS, get)),
        ("GET by name, one caller", lambda: timed.run(READS // 10, get, 1)),
        ("GET by version, known", lambda: timed.run(READS, by_version)),
        ("bare driver: LWT of two rows", lambda: asyncio.to_thread(bare.transactions, WRITES)),
        ("small PUT, new keys", lambda: timed.run(WRITES, small)),
        ("small PUT, new keys, one caller", lambda: timed.run(WRITES // 10, small, 1)),
        ("small PUT, replacing", lambda: timed.run(WRITES, again)),
        ("large PUT: begin + commit", lambda: timed.run(WRITES, large)),
        ("list 1,000", lambda: timed.run(PAGES, page, 4)),
    ]
    taken: defaultdict[str, list[Taken]] = defaultdict(list)
    for number in range(-1, rounds):
        shift = number % len(cases)
        for name, run in [*cases[shift:], *cases[:shift]]:
            result = await run()
            if number >= 0:  # the first round warms up Cassandra's compiler
                taken[name].append(result)
    print(
        f"\n| metadata alone, {CALLERS} callers (list: 4) | a second | CPU us each | p50 ms | p99 ms |\n|---|---|---|---|---|"
    )
    for name, _ in cases:
        middle = [statistics.median(getattr(each, part) for each in taken[name]) for part in Taken.__slots__]
        waits = f"{middle[2]:.1f} | {middle[3]:.1f}" if middle[2] else "- | -"
        print(f"| {name} | {middle[0]:,.0f} | {middle[1]:,.0f} | {waits} |", flush=True)


async def calls(hosts: tuple[str, ...], keyspace: str, rounds: int) -> None:
    """All of it in a new keyspace."""
    # Patience: a busy machine must not make a benchmark fail.
    settings = Settings(hosts, keyspace, replication="1", patience=10)
    recorder = await Recorder.connect(settings)
    async with CassandraMetadata(recorder) as one, await CassandraMetadata.open(settings) as other:
        await one.buckets.create(BUCKET)
        for number in range(0, LISTED, 100):
            await asyncio.gather(*(other.versions.put(draft(f"many/{each:06}"), ANY)
                                   for each in range(number, number + 100)))  # fmt: skip
        await round_trips(one, recorder, other)
        bare = await asyncio.to_thread(BareDriver, settings)
        try:
            await rates(other, bare, rounds)
        finally:
            await asyncio.to_thread(bare.close)
