"""The driver's cluster object as this program wants it: no retries, no speculation, nothing on stderr.

Owns the settings of the connection. Threads: the driver has its own; whatever blocks is called from a worker thread.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import namedtuple
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from cassandra import ProtocolVersion
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    HostStateListener,
    RetryPolicy,
    TokenAwarePolicy,
)

from discloud import logs
from discloud.errors import Unavailable

_PORT = 9042
_AVOID = 10.0
"""Seconds for which a coordinator that did not answer in time is asked last: longer than the driver needs to find it down by its
heartbeats (twice ``_HEARTBEAT``), or a call that is repeated meanwhile may be given to it."""
_HEARTBEAT = 2.0
"""Seconds, at the least, after which a silent connection is tried, and given up: a stopped server closes nothing."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Where Cassandra is and how the mesh's keyspace is made; the words are those of the section ``[cassandra]``.

    ``hosts`` are ``host`` or ``host:port``; ``patience`` are the seconds that one call may take.
    """

    hosts: tuple[str, ...]
    keyspace: str = "discloud"
    replication: str = "3"
    datacenter: str = ""
    username: str = ""
    password: str = ""
    patience: float = 1.8
    in_flight: int = 256


class Steering(TokenAwarePolicy):  # type: ignore[misc]
    """Replicas of the own data centre first; coordinators that were silent lately last."""

    def __init__(self, child: Any) -> None:
        super().__init__(child)
        self._silent: dict[Any, float] = {}

    def avoid(self, host: Any) -> None:
        """Ask ``host`` last for a while."""
        self._silent[host] = time.monotonic() + _AVOID

    def make_query_plan(self, working_keyspace: str | None = None, query: Any = None) -> Iterator[Any]:
        """See the driver's ``LoadBalancingPolicy``."""
        plan = super().make_query_plan(working_keyspace, query)
        if not self._silent:
            return iter(plan)
        now = time.monotonic()
        self._silent = {host: until for host, until in self._silent.items() if until > now}
        return iter(sorted(plan, key=self._silent.__contains__))


class Never(RetryPolicy):  # type: ignore[misc]
    """No retry by the driver: only the caller knows what may be repeated."""

    def on_read_timeout(self, *_: Any, **__: Any) -> tuple[int, None]:
        """See the driver's ``RetryPolicy``."""
        return self.RETHROW, None

    on_write_timeout = on_unavailable = on_request_error = on_read_timeout


class _Watch(HostStateListener):  # type: ignore[misc]
    """Tells in our log what the driver sees of the servers; called by the driver's threads."""

    def on_up(self, host: Any) -> None:
        logs.info("cassandra_node_up", address=str(host.endpoint))

    def on_down(self, host: Any) -> None:
        logs.warn("cassandra_node_down", address=str(host.endpoint))

    def on_add(self, host: Any) -> None:
        logs.info("cassandra_node_added", address=str(host.endpoint))

    def on_remove(self, host: Any) -> None:
        logs.info("cassandra_node_removed", address=str(host.endpoint))


def build(settings: Settings) -> tuple[Any, Steering]:
    """The driver's cluster object, not yet connected, and its policy."""
    _quiet()
    several = "," in settings.replication
    near = DCAwareRoundRobinPolicy(settings.datacenter, used_hosts_per_remote_dc=2 if several else 0)
    steering = Steering(near)
    profile = ExecutionProfile(
        load_balancing_policy=steering,
        retry_policy=Never(),
        request_timeout=settings.patience,
        row_factory=rows_of,
    )
    login = PlainTextAuthProvider(settings.username, settings.password) if settings.username else None
    cluster = Cluster(
        [_address(host) for host in settings.hosts],
        protocol_version=ProtocolVersion.V4,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(0.5, 5.0),
        auth_provider=login,
        connect_timeout=max(settings.patience, 2.0),
        control_connection_timeout=max(settings.patience, 2.0),
        idle_heartbeat_interval=max(settings.patience, _HEARTBEAT),
        idle_heartbeat_timeout=max(settings.patience, _HEARTBEAT),
        prepare_on_all_hosts=False,
        reprepare_on_up=False,
        schema_event_refresh_window=-1,
        max_schema_agreement_wait=0,
        # The driver sends in pieces of 4 KiB: with Nagle's algorithm a longer message waits for an acknowledgement, 40 ms.
        sockopts=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    )
    cluster.register_listener(_Watch())
    return cluster, steering


def connect(cluster: Any) -> Any:
    """The driver's session. Blocks. Raises: Unavailable."""
    try:
        session = cluster.connect()
    except NoHostAvailable as error:
        cluster.shutdown()
        tried = "; ".join(f"{host}: {why}" for host, why in error.errors.items())
        raise Unavailable(
            f"no Cassandra node answers ({tried})", "is it running, and [cassandra] right?"
        ) from error
    except Exception as error:
        cluster.shutdown()
        raise Unavailable(f"Cassandra cannot be used: {error}", "look at the section [cassandra]") from error
    patience = cluster.profile_manager.default.request_timeout
    session._default_timeout = patience / 2  # noqa: SLF001 - of prepare(), which takes none and waits 10 s
    session.default_fetch_size = None  # who reads much asks with LIMIT; a hidden second page would be lost
    return session


def rows_of(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Any]:
    """Rows with their columns' names as attributes (``[applied]`` is ``applied``)."""
    make = _row(tuple(columns))
    return [make(row) for row in rows]


@cache
def _row(columns: tuple[str, ...]) -> Any:
    """A class per set of columns: the driver would make one per answer, which costs more than the call."""
    names = [column.strip("[]") for column in columns]
    row: Any = namedtuple("Row", names, rename=True)  # type: ignore[misc]  # noqa: PYI024 - named by the answer
    return row._make


def _address(host: str) -> tuple[str, int]:
    name, colon, port = host.rpartition(":")
    return (name.strip("[]"), int(port)) if colon and port.isdigit() else (host, _PORT)


def _quiet() -> None:
    log = logging.getLogger("cassandra")
    log.propagate = False
    if not log.handlers:
        log.addHandler(logging.NullHandler())
