"""Memory under many slow or idle clients."""

from __future__ import annotations

import os
import resource
import selectors
import socket
import time
from pathlib import Path

from benchmarks.measure import GIB, HOST, request_head, rss_mib
from benchmarks.servers import BenchMesh, mesh

RATE = 4_000_000
"""Bytes per second of each paced client."""
CLIENTS = 64
SECONDS = 60


def paced(folder: Path) -> None:
    """64 uploads and 64 downloads declared 1 GiB, 4 MB/s each, for 60 s, then cut: peak RSS, and what is left after."""
    environ = {
        "DISCLOUD_PERIODS_SWEEP": "1",
        "DISCLOUD_PERIODS_ORPHAN": "3",
        "DISCLOUD_PERIODS_GC": "1",
        "DISCLOUD_PERIODS_GC_DELAY": "1",
        "DISCLOUD_PERIODS_LEASE": "6",
        # 64 GiB are promised at once on what is one disk: only its very end is out of bounds.
        "DISCLOUD_DISK_FULL": "1",
        "DISCLOUD_DISK_SOFT": "1",
    }
    with mesh(folder / "paced", 3, environ=environ) as running:
        _fill(running)
        peak = _drive(running)
        print(f"| 64 + 64 paced transfers: peak RSS of a process | {peak:.0f} MiB | - | - |")
        running.api("DELETE", "/v1/files/files/download")
        end = time.monotonic() + 120
        left = -1
        while time.monotonic() < end and left:
            left = sum(node["blobs"] for node in running.api("GET", "/v1/nodes")["nodes"])
            time.sleep(0.5)
        bytes_left = sum(
            path.stat().st_size
            for kind in ("temp", "large")
            for path in (folder / "paced").glob(f"*/blobs/{kind}/**/*")
            if path.is_file()
        )
        print(f"| left after sweeper and gc | {left} blobs, {bytes_left} bytes of blob files | - | - |")


def _fill(running: BenchMesh) -> None:
    with socket.create_connection((HOST, running.nodes[0].port)) as sock:
        sock.sendall(
            request_head("PUT", "/v1/files/files/download?copies=1", running.token, Content_Length=str(GIB))
        )
        block = os.urandom(1 << 20)
        for _ in range(1024):
            sock.sendall(block)
        assert b" 201 " in sock.recv(65536)


def _drive(running: BenchMesh) -> float:
    """Run all clients from one thread; gives the highest RSS of any node in MiB."""
    selector = selectors.DefaultSelector()
    moved: dict[socket.socket, int] = {}
    block = memoryview(os.urandom(1 << 18))
    for number in range(CLIENTS):
        port = running.nodes[number % len(running.nodes)].port
        for method, path in (
            ("PUT", f"/v1/files/files/up/{number}?copies=1"),
            ("GET", "/v1/files/files/download"),
        ):
            sock = socket.create_connection((HOST, port))
            sock.sendall(
                request_head(
                    method, path, running.token, **({"Content_Length": str(GIB)} if method == "PUT" else {})
                )
            )
            sock.setblocking(False)
            moved[sock] = 0
            selector.register(
                sock, selectors.EVENT_WRITE if method == "PUT" else selectors.EVENT_READ, method
            )
    started, peak, next_look = time.monotonic(), 0.0, 0.0
    while (now := time.monotonic() - started) < SECONDS:
        allowed = now * RATE
        for key, _ in selector.select(0.02):
            assert isinstance(key.fileobj, socket.socket)
            sock = key.fileobj
            if moved[sock] < allowed:
                try:
                    moved[sock] += sock.send(block) if key.data == "PUT" else len(sock.recv(1 << 18))
                except BlockingIOError:
                    continue
                except ConnectionError as error:
                    raise AssertionError(f"cut by the node: {sock.recv(4096)!r}") from error
        if now > next_look:
            peak = max(peak, *(rss_mib(pid) for pid in running.pids))
            next_look = now + 0.5
            time.sleep(0.005)
    total = sum(moved.values())
    print(
        f"| moved by the paced clients | {total / SECONDS / 1e6:.0f} MB/s of {2 * CLIENTS * RATE / 1e6:.0f} | - | - |"
    )
    for client in moved:
        client.close()
    return peak


def idle_connections(folder: Path, count: int = 5000) -> None:
    """RSS with 5,000 connections that ask once and then stay."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with mesh(folder / "idle", 1) as running:
        node = running.nodes[0]
        sockets = []
        for _ in range(count):
            sock = socket.create_connection((HOST, node.port))
            sock.sendall(request_head("GET", "/livez"))
            sockets.append(sock)
        for sock in sockets:
            assert b" 200 " in sock.recv(4096)
        print(f"| {count} idle connections: RSS | {rss_mib(node.pid):.0f} MiB | - | - |")
        for sock in sockets:
            sock.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
