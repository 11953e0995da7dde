"""The three uses of discloud as processes of this machine: ``make cluster USE=corporate|cdn|user-data``.

The same shapes as ``deploy/compose.USE.yaml``: real nodes, a real Cassandra node in each region, a real Redis. Every server
listens on a loopback address of its own, 127.0.REGION.N, and is known by its entry at the border, 127.1.REGION.N and
the same port (tests/support/region_proxy.py): neighbours pass at once, other regions 50 ms later each way. Clients ask a node at
either address without delay. Linux only: other systems have one loopback address. Data go with the process.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp

from tests.support.cassandra_server import PrivateCassandra
from tests.support.processes import Mesh, NodeProcess
from tests.support.redis_server import RedisServer, local_redis
from tests.support.region_proxy import DELAY, Border, Entry
from tests.support.regional_cassandra import Stand, regional_cassandra
from tests.support.server_process import NotHere, free_port

PORT = 7070
"""Of the API of every node: their addresses differ."""
REDIS, CASSANDRA = 200, 100
"""The last part of a server's addresses; of a node it is the node's number."""


@dataclass(frozen=True, slots=True)
class Place:
    """A node of a use: who it is and where it stands."""

    name: str
    role: str
    region: str
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Use:
    """A use: its sentence, its nodes, the regions of Cassandra's nodes (Redis is in the first) and its buckets."""

    sentence: str
    places: tuple[Place, ...]
    keepers: tuple[str, ...]
    buckets: Mapping[str, Mapping[str, Any]]
    layout: str

    @property
    def regions(self) -> tuple[str, ...]:
        """Every region, in the order of their addresses."""
        return tuple(dict.fromkeys([*(place.region for place in self.places), *self.keepers]))

    @property
    def replication(self) -> str:
        """Copies of the metadata by data centre: one on each of Cassandra's nodes."""
        return ",".join(f"{region}:{self.keepers.count(region)}" for region in dict.fromkeys(self.keepers))


USES = {
    "corporate": Use(
        "three roots: files are written and read while one of them lives",
        tuple(Place(f"root{number}", "root", "office", f"rack{number}") for number in (1, 2, 3)),
        ("office",) * 3,
        {"files": {}},
        "mirror:3",
    ),
    "cdn": Use(
        "every file is on every node: each region answers from its own disks, also a node that joined later",
        tuple(
            Place(f"{region}-{role}", role, region)
            for region in ("eu", "us", "asia")
            for role in ("root", "ordinary")
        ),
        ("eu", "us", "asia"),
        {
            "site": {
                "layout": "mirror:all",
                "cache_control": "public, max-age=3600",
                "verify": "window",
                "max_stale": 60,
            }
        },
        "mirror:all",
    ),
    "user-data": Use(
        "a file is written in one region, has its copies where the bucket says, and is read in every region",
        tuple(
            Place(f"{region}-{role}", role, region) for region in ("eu", "us") for role in ("root", "ordinary")
        ),
        ("eu", "us", "witness"),
        {"users": {"layout": "mirror:2"}, "users-eu": {"layout": "mirror:2", "regions": ["eu"]}},
        "mirror:2",
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Servers:
    """What the nodes of a use need around them."""

    use: Use
    port: int
    border: Border
    redis: RedisServer
    cassandra: PrivateCassandra


@dataclass(kw_only=True)
class PlacedNode(NodeProcess):
    """A node in its region, on an address of its own."""

    stand: Stand
    border: Border

    @property
    def url(self) -> str:
        return f"http://{self.stand.real}:{self.port}"

    def start(self) -> None:
        """Start the process; its region is known before it has connected to anybody."""
        super().start()
        assert self.process is not None
        self.border.stands(self.process.pid, self.stand.region)


class UsedMesh(Mesh):
    """The nodes of a use and the servers around them."""

    def __init__(
        self,
        folder: Path,
        session: aiohttp.ClientSession,  # noqa: TID251 - a client
        token: str,
        settings: Mapping[str, str],
        servers: Servers,
    ) -> None:
        super().__init__(folder, [], session, token, dict(settings))
        self.servers = servers

    def join(self, place: Place) -> PlacedNode:
        """A node more, not started."""
        port, border = self.servers.port, self.servers.border
        stand = stand_of(self.servers.use, place.region, len(self.nodes) + 1)
        for each in (port, port + 2):
            border.open(Entry((stand.entry, each), (stand.real, each), place.region))
        environ = {**self.settings, **self._environ(place, stand)}
        data = self.folder / place.name
        node = PlacedNode(place.name, place.role, data, port, environ, stand=stand, border=border)
        self.nodes.append(node)
        return node

    def in_region(self, region: str) -> list[PlacedNode]:
        """Its nodes there."""
        return [each for each in self.nodes if isinstance(each, PlacedNode) and each.stand.region == region]

    def _environ(self, place: Place, stand: Stand) -> dict[str, str]:
        return {
            "DISCLOUD_SECRET_FILE": str(self.folder / "secret"),
            "DISCLOUD_TOKEN_FILE": str(self.folder / "token"),
            "DISCLOUD_TOKEN": "",  # a client's, in the shell of whoever runs this
            "DISCLOUD_LISTEN": stand.real,
            "DISCLOUD_ADVERTISE": stand.entry,
            "DISCLOUD_REGION": place.region,
            "DISCLOUD_ZONE": place.zone,
            "DISCLOUD_LAYOUT": self.servers.use.layout,
            "DISCLOUD_ROOTS": ",".join(self._roots(place.region)),
        } | (self._keepers(place.region) if place.role == "root" else {})

    def _keepers(self, region: str) -> dict[str, str]:
        """Where a root meets the others and keeps the metadata, the servers of its own region first."""
        use, redis = self.servers.use, self.servers.redis
        meeting = stand_of(use, use.regions[0], REDIS).entry
        hosts = zip(use.keepers, self.servers.cassandra.hosts, strict=True)
        return {
            "DISCLOUD_REDIS_URL": f"redis://{meeting}:{redis.port}/0",
            "DISCLOUD_CASSANDRA_HOSTS": ",".join(
                host for _, host in sorted(hosts, key=lambda each: each[0] != region)
            ),
            "DISCLOUD_CASSANDRA_DATACENTER": region if region in use.keepers else use.keepers[0],
            "DISCLOUD_CASSANDRA_REPLICATION": use.replication,
        }

    def _roots(self, region: str) -> list[str]:
        """Peer addresses of the roots, those of the region first."""
        use, port = self.servers.use, self.servers.port + 2
        roots = [
            (place.region != region, f"{stand_of(use, place.region, number).entry}:{port}")
            for number, place in enumerate(use.places, start=1)
            if place.role == "root"
        ]
        return [address for _, address in sorted(roots, key=lambda each: each[0])]


def stand_of(use: Use, region: str, number: int) -> Stand:
    """The addresses of the server ``number`` in a region of the use."""
    at = use.regions.index(region) + 1
    return Stand(f"127.0.{at}.{number}", f"127.1.{at}.{number}", region)


@asynccontextmanager
async def used_mesh(
    name: str, folder: Path, settings: Mapping[str, str] | None = None, port: int = 0
) -> AsyncIterator[UsedMesh]:
    """The use of that name, ready, with its buckets; ended at the end. Raises: NotHere (no Redis or Cassandra)."""
    use = USES[name]
    token = secrets.token_urlsafe(24)
    (folder / "token").write_text(token)
    (folder / "secret").write_text(secrets.token_urlsafe(32))
    with ExitStack() as stack:
        servers = await asyncio.to_thread(_serve, use, port or _free_port(use), stack)
        async with aiohttp.ClientSession(  # noqa: TID251 - a client
            headers={"Authorization": f"Bearer {token}"}, timeout=aiohttp.ClientTimeout(total=600)
        ) as session:
            mesh = UsedMesh(folder, session, token, settings or {}, servers)
            try:
                await _start(mesh)
                yield mesh
            finally:
                for node in mesh.nodes:
                    if node.running:
                        node.kill()


def _serve(use: Use, port: int, stack: ExitStack) -> Servers:
    """The border, Redis and Cassandra, running until the stack ends."""
    border = stack.enter_context(Border())
    redis = stack.enter_context(local_redis())
    meeting = stand_of(use, use.regions[0], REDIS)
    border.open(Entry((meeting.entry, redis.port), (redis.host, redis.port), meeting.region))
    stands = [stand_of(use, region, CASSANDRA + number) for number, region in enumerate(use.keepers, start=1)]
    return Servers(use, port, border, redis, stack.enter_context(regional_cassandra(stands, border)))


async def _start(mesh: UsedMesh) -> None:
    """All at once, as compose does: whichever root comes first makes the tables, the others wait for them."""
    for place in mesh.servers.use.places:
        mesh.join(place).start()
    await _ready(mesh, *mesh.nodes)
    for bucket, wish in mesh.servers.use.buckets.items():
        await mesh.json("PUT", mesh.root, f"/v1/buckets/{bucket}", json=wish)


async def _ready(mesh: UsedMesh, *nodes: NodeProcess) -> None:
    """Wait for those nodes; one that ends by itself is told at once. Raises: RuntimeError (it did), AssertionError (too late)."""
    waiting = asyncio.create_task(mesh.ready(*nodes, seconds=180))
    while not waiting.done():
        for node in nodes:
            if not node.running:
                waiting.cancel()
                raise RuntimeError(f"{node.name} ended by itself:\n{node.log.read_text()[-3000:]}")
        await asyncio.wait({waiting}, timeout=0.5)
    await waiting


def _free_port(use: Use) -> int:
    """A port that is free, with the one two higher, wherever a node of the use may stand."""
    everywhere = _addresses(use)
    while not are_free(everywhere, (port := free_port(everywhere)) + 2):
        pass
    return port


def _addresses(use: Use) -> list[str]:
    """Every address at which a node of the use may stand."""
    stands = [stand_of(use, region, number) for region in use.regions for number in range(1, 10)]
    return [address for stand in stands for address in (stand.real, stand.entry)]


def are_free(addresses: Sequence[str], port: int) -> bool:
    """Whether nobody listens at that port of any of the addresses."""
    with ExitStack() as sockets:
        try:
            for address in addresses:
                sockets.enter_context(socket.create_server((address, port)))
        except OSError:
            return False
    return True


# ---------------------------------------------------------------- make cluster


async def run(name: str, port: int) -> None:
    """Run the use until Ctrl-C and tell how to use it. Raises: NotHere (no Redis or Cassandra), OSError (a port is taken)."""
    use = USES[name]
    say(f"{name}: {use.sentence}")
    across = f", {DELAY * 1000:.0f} ms from one region to another" if len(use.regions) > 1 else ""
    say(f"Redis in {use.regions[0]}, Cassandra in {', '.join(use.keepers)}, {len(use.places)} nodes{across}")
    with TemporaryDirectory(prefix=f"discloud-{name}-") as folder:
        waiting = asyncio.create_task(_show_waiting("starting Cassandra and the nodes (about half a minute)"))
        try:
            async with used_mesh(name, Path(folder), port=port) as mesh:
                waiting.cancel()
                _tell(mesh)
                await asyncio.Event().wait()
        finally:
            waiting.cancel()


def _usual_port(use: Use) -> int:
    """The port of the documentation where it is free, else any."""
    return PORT if are_free(_addresses(use), PORT) and are_free(_addresses(use), PORT + 2) else 0


async def _show_waiting(what: str) -> None:
    """One line that counts seconds, where a person looks on."""
    say(what, end="" if sys.stdout.isatty() else "\n")
    for seconds in itertools.count(1):
        await asyncio.sleep(1)
        if sys.stdout.isatty():
            say(f"\r{what}: {seconds} s", end=" ")


def _tell(mesh: UsedMesh) -> None:
    """The table of the nodes, the token, and lines to paste."""
    say("")
    for node in mesh.nodes:
        assert isinstance(node, PlacedNode)
        say(f"  {node.name:<14} {node.role:<9} {node.stand.region:<8} {node.url}")
    bucket, there = next(iter(mesh.servers.use.buckets)), mesh.nodes[-1].url
    say(f"\nLogs and data (gone at the end): {mesh.folder}")
    say(f"Cassandra: {','.join(mesh.servers.cassandra.hosts)}\nPaste into another terminal:")
    say(
        f"  export DISCLOUD_URL={mesh.root.url} DISCLOUD_TOKEN={mesh.token} PATH={Path(sys.executable).parent}:$PATH"
    )
    say(
        f"  echo hello > hello.txt; discloud put hello.txt {bucket}/; discloud map {bucket}/hello.txt; discloud nodes"
    )
    say(f'  curl -si -H "Authorization: Bearer $DISCLOUD_TOKEN" {there}/v1/files/{bucket}/hello.txt')
    say(f"Buckets: {', '.join(mesh.servers.use.buckets)}. Ctrl-C stops all.")


def say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


async def main() -> None:
    """``python -m tests.support.cluster USE``: exit code 2 where that is no use, 1 where it cannot run."""
    if len(sys.argv) != 2 or sys.argv[1] not in USES:
        sys.exit(f"usage: make cluster USE={'|'.join(USES)}")
    name = sys.argv[1]
    running = asyncio.create_task(run(name, _usual_port(USES[name])))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        say("\nstopped")
    except NotHere as reason:
        sys.exit(f"cannot run: {reason}")


if __name__ == "__main__":
    asyncio.run(main())
