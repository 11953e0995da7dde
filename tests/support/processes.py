"""A mesh of real node processes on loopback, for tests that kill, stop and restart them."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Any

import aiohttp

from tests.support.certificates import authority, files

FAST = {
    "DISCLOUD_PERIODS_HEARTBEAT": "0.2",
    "DISCLOUD_PERIODS_SUSPECT": "0.6",
    "DISCLOUD_PERIODS_DOWN": "2",
    "DISCLOUD_PERIODS_LOST": "60",
    "DISCLOUD_PERIODS_LEASE": "5",
    "DISCLOUD_PERIODS_SWEEP": "0.5",
    "DISCLOUD_PERIODS_ORPHAN": "3",
    "DISCLOUD_PERIODS_GC": "0.5",
    "DISCLOUD_PERIODS_GC_DELAY": "1",
    "DISCLOUD_PERIODS_REPAIR": "0.5",
    "DISCLOUD_PERIODS_PULL": "0.5",
    "DISCLOUD_PERIODS_LEADER": "1.5",
    "DISCLOUD_CASSANDRA_PATIENCE": "5",
    "DISCLOUD_DISK_SOFT": "1",
    "DISCLOUD_DISK_FULL": "1",
    "DISCLOUD_LOG_LEVEL": "info",
}
"""Every period at a tenth or less: tests wait for conditions, these make the conditions come soon. How full the disk of the
machine is decides no test."""
HOST = "127.0.0.1"
_GIVEN: set[int] = set()
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2
"""The two workers of a run choose from ports of their own."""


def free_port() -> int:
    """A port that nobody has, and port + 2 as well; not one that the kernel may give to a client before the node is there.

    Never the same again, and no two meet at port + 2: whoever got one may not have taken it yet.
    """
    while True:
        port = SystemRandom().randrange(20_000 + 4 * _WORKER, 32_000, 8)
        if port in _GIVEN:
            continue
        with suppress(OSError), closing(listener(port)), closing(listener(port + 2)):
            _GIVEN.add(port)
            return port


def listener(port: int) -> socket.socket:
    return socket.create_server((HOST, port))


async def until(
    condition: Callable[[], Awaitable[Any]], seconds: float = 30.0, what: str = "condition"
) -> Any:
    """Wait until ``condition`` gives something true and return that; fail after ``seconds``."""
    end = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < end:
        try:
            if found := await condition():
                return found
        except (aiohttp.ClientError, OSError, AssertionError) as error:
            last = error
        await asyncio.sleep(0.05)
    raise AssertionError(f"{what} did not come within {seconds} s (last: {last!r})")


@dataclass
class NodeProcess:
    """One ``discloud node`` process and its data folder."""

    name: str
    role: str
    data: Path
    port: int
    environ: dict[str, str]
    scheme: str = "http"
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        return self.data.with_suffix(".log")

    def start(self) -> None:
        """Start the process; it keeps name, folder and port."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "discloud.cli.main", "node", "--role", self.role, "--name", self.name,
                 "--data", str(self.data), "--port", str(self.port)],
                env={**os.environ, **self.environ}, stdout=log, stderr=log,
            )  # fmt: skip

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and, if it ends the process, wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
            self.process.wait(20)
            self.process = None

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass
class Mesh:
    """Several nodes, the first of them a root, and a client session with the token."""

    folder: Path
    nodes: list[NodeProcess]
    session: aiohttp.ClientSession  # noqa: TID251 - the tests are a client
    token: str
    settings: dict[str, str] = field(default_factory=dict)
    signer: Path | None = None
    """The folder of the authority that signs every node's certificate, where the mesh has TLS."""

    @property
    def root(self) -> NodeProcess:
        return self.nodes[0]

    async def ready(self, *nodes: NodeProcess, seconds: float = 40.0) -> None:
        """Wait until those nodes (default: all) are ready and everybody sees them alive."""
        asked = nodes or tuple(self.nodes)

        async def all_ready() -> bool:
            for node in asked:
                assert node.running, f"{node.name} ended:\n{node.log.read_text()[-2000:]}"
                async with self.session.get(f"{node.url}/readyz") as answer:
                    if answer.status != 200:
                        return False
            living = {node.name for node in self.nodes if node.running}
            for node in asked:
                found = await self.json("GET", node, "/v1/nodes")
                alive = {each["name"] for each in found["nodes"] if each["state"] == "alive"}
                if not living <= alive:
                    return False
            return True

        await until(all_ready, seconds, "readiness")

    async def json(self, method: str, node: NodeProcess, path: str, **more: Any) -> Any:
        """One request whose answer must be a success with JSON."""
        async with self.session.request(method, node.url + path, **more) as answer:
            text = await answer.text()
            assert answer.status < 300, f"{method} {path}: {answer.status} {text}"
            return await answer.json()

    async def status(self, method: str, node: NodeProcess, path: str, **more: Any) -> int:
        """The status of one request."""
        async with self.session.request(method, node.url + path, **more) as answer:
            await answer.read()
            return answer.status

    async def get(self, node: NodeProcess, path: str, **more: Any) -> bytes:
        """The bytes of a GET that must succeed."""
        async with self.session.get(node.url + path, **more) as answer:
            data = await answer.read()
            assert answer.status in (200, 206), f"GET {path} of {node.name}: {answer.status} {data[:300]!r}"
            return data

    def source_of(self, answer: aiohttp.ClientResponse) -> NodeProcess:
        """The one other node that the bytes of a GET come from."""
        name = answer.headers["Discloud-Source"].removeprefix("peer ")
        return next(node for node in self.nodes if node.name == name)

    def add(self, name: str, role: str = "ordinary", **environ: str) -> NodeProcess:
        """One more node, not started."""
        secret, token = self.folder / "secret", self.folder / "token"
        own = {
            **FAST,
            **self.settings,
            "DISCLOUD_SECRET_FILE": str(secret),
            "DISCLOUD_TOKEN_FILE": str(token),
            **environ,
        }
        if role == "ordinary":
            own["DISCLOUD_ROOTS"] = f"{HOST}:{self.root.port + 2}"
        if self.signer:
            shown = files(self.signer, self.folder / f"{name}.tls", name)
            own["DISCLOUD_TLS_CERT"], own["DISCLOUD_TLS_KEY"] = str(shown.cert), str(shown.key)
            own["DISCLOUD_TLS_AUTHORITY"] = str(shown.authority)
        scheme = "https" if self.signer else "http"
        node = NodeProcess(name, role, self.folder / name, free_port(), own, scheme)
        self.nodes.append(node)
        return node


@asynccontextmanager
async def local_mesh(
    folder: Path, count: int, settings: Mapping[str, str] | None = None, *, tls: bool = False
) -> AsyncIterator[Mesh]:
    """``count`` started nodes (node1 is the root) with bucket ``files``; all are killed at the end.

    ``tls``: the API and the connections between the nodes, each with a certificate of its own.
    """
    token = secrets.token_urlsafe(24)
    (folder / "token").write_text(token)
    (folder / "secret").write_text(secrets.token_urlsafe(32))
    timeout = aiohttp.ClientTimeout(total=600)
    signer = authority(folder) if tls else None
    trust = ssl.create_default_context(cafile=signer / "ca.pem") if signer else True
    async with aiohttp.ClientSession(  # noqa: TID251 - the tests are a client
        headers={"Authorization": f"Bearer {token}"},
        timeout=timeout,
        connector=aiohttp.TCPConnector(ssl=trust),
    ) as session:
        mesh = Mesh(folder, [], session, token, dict(settings or {}), signer)
        try:
            for number in range(1, count + 1):
                mesh.add(f"node{number}", "root" if number == 1 else "ordinary").start()
            await mesh.ready()
            await mesh.json("PUT", mesh.root, "/v1/buckets/files", json={})
            yield mesh
        finally:
            for node in mesh.nodes:
                if node.running:
                    node.kill()
