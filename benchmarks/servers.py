"""The servers that a benchmark runs: a discloud mesh of real processes, and nginx from Debian beside it."""

from __future__ import annotations

import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measure import HOST, children

ENVIRON = {"DISCLOUD_LOG_LEVEL": "warning", "PATH": "/usr/bin:/bin"}
FIRST_PORT = 27070


@dataclass
class BenchNode:
    name: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid


@dataclass
class BenchMesh:
    """Started nodes (the first is the root) and the admin token."""

    nodes: list[BenchNode]
    token: str

    def api(
        self, method: str, path: str, body: object = None, node: int = 0, data: bytes | None = None
    ) -> Any:
        """One small request; gives the decoded JSON, or the bytes where it is none."""
        if body is not None:
            data = json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://{HOST}:{self.nodes[node].port}{path}",
            method=method,
            data=data,
            headers={"Authorization": f"Bearer {self.token}"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            text = answer.read()
        try:
            return json.loads(text)
        except ValueError:
            return text

    @property
    def pids(self) -> list[int]:
        return [node.pid for node in self.nodes]


@contextmanager
def mesh(
    folder: Path,
    count: int,
    pin: str = "",
    environ: dict[str, str] | None = None,
    first: int = FIRST_PORT,
    roots: int = 1,
) -> Iterator[BenchMesh]:
    """``count`` nodes with bucket ``files``, the first ``roots`` of them roots; ``pin`` is a CPU list for taskset."""
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_urlsafe(24)
    (folder / "token").write_text(token)
    if not (folder / "secret").exists():
        (folder / "secret").write_text(secrets.token_urlsafe(32))
    nodes: list[BenchNode] = []
    try:
        for number in range(count):
            role = "root" if number < roots else "ordinary"
            nodes.append(_start(folder, number, role, pin, environ or {}, first))
        running = BenchMesh(nodes, token)
        _wait_ready(running)
        try:
            running.api("PUT", "/v1/buckets/files", {})
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise
        yield running
    finally:
        for node in nodes:
            node.process.terminate()
        for node in nodes:
            try:
                node.process.wait(15)
            except subprocess.TimeoutExpired:
                node.process.kill()
                node.process.wait()


def _start(folder: Path, number: int, role: str, pin: str, environ: dict[str, str], first: int) -> BenchNode:
    name, port = f"node{number + 1}", first + 10 * number
    command = [sys.executable, "-m", "discloud.cli.main", "node", "--role", role,
               "--name", name, "--data", str(folder / name), "--port", str(port)]  # fmt: skip
    own = {
        **ENVIRON,
        "DISCLOUD_SECRET_FILE": str(folder / "secret"),
        "DISCLOUD_TOKEN_FILE": str(folder / "token"),
        **({"DISCLOUD_ROOTS": f"{HOST}:{first + 2}"} if role == "ordinary" else {}),
        **environ,
    }
    log = (folder / f"{name}.log").open("ab")
    process = subprocess.Popen(
        ["taskset", "-c", pin, *command] if pin else command, env=own, stdout=log, stderr=log
    )
    return BenchNode(name, port, process)


def _wait_ready(running: BenchMesh) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            for number in range(len(running.nodes)):
                running.api("GET", "/readyz", node=number)
                alive = [
                    each
                    for each in running.api("GET", "/v1/nodes", node=number)["nodes"]
                    if each["state"] == "alive"
                ]
                if len(alive) < len(running.nodes):
                    raise OSError("not all alive")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("the mesh did not become ready: see its node*.log")


NGINX = """
daemon off; master_process off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{ access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000000; open_file_cache max=10000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u;
  scgi_temp_path {folder}/s; server {{ listen {host}:{port}; root {folder}/www; }} }}
"""


@dataclass
class Nginx:
    port: int
    www: Path
    process: subprocess.Popen[bytes]

    @property
    def pids(self) -> list[int]:
        return children(self.process.pid)


@contextmanager
def nginx(folder: Path, port: int = 27900, pin: str = "") -> Iterator[Nginx]:
    """Nginx with sendfile and an open-file cache, one worker."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("nginx is missing: apt-get install nginx-light")
    (folder / "www").mkdir(parents=True, exist_ok=True)
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, host=HOST, port=port))
    command = [program, "-c", str(config)]
    process = subprocess.Popen(["taskset", "-c", pin, *command] if pin else command)
    try:
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                socket.create_connection((HOST, port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield Nginx(port, folder / "www", process)
    finally:
        process.terminate()
        process.wait()
