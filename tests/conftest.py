"""Shared by all tests: uvloop as in production, hypothesis without a stopwatch, and a line that says what did not run."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support import servers
from tests.support.redis_server import RedisServer

settings.register_profile(
    "discloud", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("discloud")

LEFT_OUT = pytest.StashKey[Counter[str]]()
"""How many tests a run left out, or ran with less than their sizes, by what they are and how to run them."""


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every test runs on uvloop."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A Redis of the test's own, which it may break."""
    with servers.redis_server() as redis:
        yield redis


@pytest.fixture(scope="session")
def shared_redis() -> servers.SharedRedis:
    """A Redis that lasts; never flush it."""
    return servers.shared_redis()


@pytest.fixture(scope="session")
def cassandra_cluster() -> servers.SharedCassandra:
    """Three nodes that all tests use; never break them."""
    return servers.shared_cassandra()


@pytest.fixture
def fresh_keyspace(cassandra_cluster: servers.SharedCassandra) -> Iterator[str]:
    """The name of a keyspace of the test's own in the shared cluster."""
    with servers.fresh_keyspace(cassandra_cluster.hosts) as name:
        yield name


@pytest.fixture(scope="module")
def keyspace(cassandra_cluster: servers.SharedCassandra) -> Iterator[str]:
    """The name of a keyspace that the tests of a module share."""
    with servers.fresh_keyspace(cassandra_cluster.hosts) as name:
        yield name


def pytest_configure(config: pytest.Config) -> None:
    # a job in the background of a script ignores Ctrl-C, and so would every program that a test starts and interrupts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    none: Counter[str] = Counter()
    config.stash[LEFT_OUT] = none


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A module whose SCALE is below 1 moves smaller files than a person would."""
    for item in items:
        if getattr(item.getparent(pytest.Module).obj, "SCALE", 1) < 1:  # type: ignore[union-attr]
            config.stash[LEFT_OUT][f"{item.location[0]} at full size (make integration-test)"] += 1


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        alone = item.get_closest_marker("alone") is not None
        what = "what needs the machine for itself (make alone)" if alone else "what was deselected"
        item.config.stash[LEFT_OUT][what] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist tells the run that started it."""
    if hasattr(session.config, "workeroutput"):
        left_out = session.config.stash[LEFT_OUT]
        session.config.workeroutput["left_out"] = dict(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Every worker leaves out the same tests: they are counted once."""
    left_out = node.config.stash[LEFT_OUT]
    left_out.clear()
    left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> Iterator[None]:
    yield
    left_out = [f"{what}: {count} tests" for what, count in sorted(config.stash[LEFT_OUT].items())]
    skipped = Counter(_why(report) for report in terminalreporter.stats.get("skipped", []))
    left_out += [f"{why}: {count} tests" for why, count in sorted(skipped.items())]
    terminalreporter.write_line(f"not run: {'; '.join(left_out) or 'nothing, all tests ran'}")


def _why(report: pytest.TestReport) -> str:
    """A server that is missing is named, other reasons stand above."""
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
    _, missing, why = reason.partition(servers.MISSING)
    return (missing + why).partition("\n")[0] or "what was skipped for the reasons above"
