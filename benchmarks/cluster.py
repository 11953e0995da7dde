"""The cluster's figures: metadata on one real Cassandra node, requests through roots, views and heartbeats.

    python -m benchmarks.run --only cluster

Cassandra and Redis are the ones that tests use (tests/support/servers.py), started for this run and ended with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import uvloop

from benchmarks.cluster_beats import heartbeats, views
from benchmarks.cluster_calls import calls
from benchmarks.cluster_requests import requests
from benchmarks.servers import mesh
from tests.support.server_process import Server, ServerProcess
from tests.support.servers import NoServer, private_cassandra, redis_server

FIRST_PORT = 27170


@dataclass(frozen=True)
class Stores:
    """One Cassandra node and one Redis; ``pids`` are the Cassandra's, where it is a process of this machine."""

    hosts: tuple[str, ...]
    redis: str
    pids: list[int]

    def environ(self) -> dict[str, str]:
        """What makes roots of a new mesh keep their metadata there."""
        return {
            "DISCLOUD_CASSANDRA_HOSTS": ",".join(self.hosts),
            "DISCLOUD_CASSANDRA_KEYSPACE": new_keyspace(),
            "DISCLOUD_CASSANDRA_REPLICATION": "1",
            "DISCLOUD_REDIS_URL": self.redis,
        }


def cluster(folder: Path, rounds: int) -> None:
    """Everything that needs Cassandra and Redis."""
    try:
        with stores() as servers:
            uvloop.run(calls(servers.hosts, new_keyspace(), rounds))
            requests(folder, rounds, servers.environ(), servers.pids)
            with mesh(folder / "roots", 3, environ=servers.environ(), first=FIRST_PORT, roots=3) as running:
                asyncio.run(views(running, folder / "roots" / "secret", rounds))
            with mesh(folder / "root", 1, environ=servers.environ(), first=FIRST_PORT) as running:
                asyncio.run(heartbeats(running, folder / "root" / "secret"))
    except NoServer as reason:
        raise SystemExit(str(reason)) from None


@contextmanager
def stores() -> Iterator[Stores]:
    """Both servers. Raises: NoServer."""
    with redis_server() as redis, private_cassandra(1) as cassandra:
        pids = [pid for node in cassandra.nodes if (pid := _pid(node.server))]
        yield Stores(cassandra.hosts, redis.url, pids)


def _pid(server: Server) -> int | None:
    return server.process.pid if isinstance(server, ServerProcess) and server.process else None


def new_keyspace() -> str:
    """A name that nobody has."""
    return f"bench_{uuid4().hex[:12]}"
