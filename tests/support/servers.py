"""Real Redis and Cassandra for tests.

A server is an address in the environment, else a container where a Docker engine answers, else a local process. Where none can
be had the test is skipped with the reason, or fails with ``DISCLOUD_REQUIRE_SERVERS=1``. Plain functions; the fixtures of the
same names in tests/conftest.py only call them.

    shared_redis().url                          one for this process; others may have keys in it: never flush it
    with redis_server() as redis: ...           one of the test's own: url host port pause() resume() kill() start() flush()
    shared_cassandra().hosts                    ("127.0.0.1:24042", ...) 3 nodes for all test processes of this machine
    with fresh_keyspace(hosts) as keyspace: ... a name nobody has; dropped at the end; the test makes it
    with private_cassandra(3) as cassandra: ... hosts, nodes[i].pause() resume() kill() start(), wait_settled(): about 10 s
    with regional_cassandra(stands, border) as cassandra: ...   one whose data centres a border parts

The data centre is ``datacenter1``, behind a border the region. All calls block: from a running event loop use ``asyncio.to_thread`` where other
tasks must go on. Outside of pytest catch NoServer. ``make servers`` keeps the shared cluster while you work. On a busy
machine a private cluster takes a minute: give such tests ``@pytest.mark.timeout(300)``.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NoReturn, TypeVar
from uuid import uuid4

import pytest
from _pytest.outcomes import Skipped

from tests.support.cassandra_server import PrivateCassandra, cassandra_server, driver_session
from tests.support.keeper import shared_hosts
from tests.support.redis_server import RedisServer
from tests.support.redis_server import redis_server as redis
from tests.support.region_proxy import Border
from tests.support.regional_cassandra import Stand
from tests.support.regional_cassandra import regional_cassandra as regional
from tests.support.server_process import NotHere

T = TypeVar("T")
REDIS, CASSANDRA, REQUIRE = "DISCLOUD_TEST_REDIS", "DISCLOUD_TEST_CASSANDRA", "DISCLOUD_REQUIRE_SERVERS"
MISSING = "no server:"
"""How the reason begins for which a test that needs one is skipped."""


class NoServer(Skipped):
    """No way to a server is open here; the message says what was tried."""


@dataclass(frozen=True)
class SharedRedis:
    """A Redis that others use too."""

    url: str


@dataclass(frozen=True)
class SharedCassandra:
    """A cluster that others use too: nothing breaks it."""

    hosts: tuple[str, ...]


def shared_redis() -> SharedRedis:
    """The Redis of this process, or the one of the environment."""
    if given := os.environ.get(REDIS):
        return SharedRedis(given)
    return _redis_until_exit()


@cache
def _redis_until_exit() -> SharedRedis:
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    return SharedRedis(until_exit.enter_context(redis_server()).url)


@contextmanager
def redis_server() -> Iterator[RedisServer]:
    """A Redis of one's own."""
    with _of_own("Redis", redis) as server:
        yield server


def shared_cassandra() -> SharedCassandra:
    """Three nodes that all test processes use, or those of the environment."""
    if given := os.environ.get(CASSANDRA):
        return SharedCassandra(tuple(each if ":" in each else f"{each}:9042" for each in given.split(",")))
    return _shared_cassandra()


@cache
def _shared_cassandra() -> SharedCassandra:
    try:
        return SharedCassandra(shared_hosts())
    except NotHere as reason:
        no_server("Cassandra", str(reason))


@contextmanager
def private_cassandra(nodes: int = 3) -> Iterator[PrivateCassandra]:
    """A cluster that the test may break."""
    with _of_own("Cassandra", lambda: cassandra_server(nodes)) as server:
        yield server


@contextmanager
def regional_cassandra(stands: Sequence[Stand], border: Border) -> Iterator[PrivateCassandra]:
    """A cluster with a node at each stand; what passes between their regions crosses the border."""
    with _of_own("Cassandra", lambda: regional(stands, border)) as server:
        yield server


@contextmanager
def _of_own(what: str, way: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    with ExitStack() as until_end:
        try:
            server = until_end.enter_context(way())
        except NotHere as reason:
            no_server(what, str(reason))
        yield server


@contextmanager
def fresh_keyspace(hosts: Sequence[str]) -> Iterator[str]:
    """A name for a keyspace that nobody has; what the test made under it is dropped at the end."""
    name = f"t{uuid4().hex[:16]}"
    try:
        yield name
    finally:
        with driver_session(hosts) as session:
            session.execute(f"DROP KEYSPACE IF EXISTS {name}", timeout=60)


def no_server(what: str, why: str) -> NoReturn:
    """End the test that needs ``what``: it is left out and says why, or fails where all servers are required."""
    message = f"{MISSING} {what}: {why}"
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(message)
    raise NoServer(message, _use_item_location=True)


def main() -> None:
    """Be a user of the shared cluster until Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        hosts = ",".join(shared_cassandra().hosts)
        print(f"Cassandra for the tests of this checkout: {hosts}. Ctrl-C ends it", flush=True)
        signal.pause()
    except (NoServer, pytest.fail.Exception) as reason:
        sys.exit(str(reason))
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
