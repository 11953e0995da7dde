"""Bytes at kernel speed: large GETs against nginx, large PUTs into a hash, each by the kernel and by the copy path.

    python benchmarks/transfer.py [--rounds 5] [--folder FOLDER]

Everything runs on loopback on this machine; the server is a process of its own (one event loop, its worker threads).
Prints a table: median MB/s, the ratio beside the first line, CPU seconds of the server per GiB.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from aiohttp import web
from blake3 import blake3
from crc32c import crc32c

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import (
    GIB,
    HOST,
    Series,
    children,
    cpu_seconds,
    download,
    interleave,
    request_head,
    upload,
)
from discloud.errors import Corrupt
from discloud.ports import FileSource, SocketSource
from discloud.transfer.intake import intake_of
from discloud.transfer.outlet import open_outlet
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

BLOCK = 256 << 10
GET_SIZE = 512 << 20
PUT_SIZE = GIB


class Remote:
    """The body of another server's answer, raw on a socket."""

    def __init__(self, sock: socket.socket, length: int) -> None:
        self.length = length
        self.source: FileSource | SocketSource | None = SocketSource(sock.fileno(), length)
        self._sock = sock
        self._left = length

    async def read(self, limit: int) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self._sock, min(limit, self._left))
        self._left -= len(data)
        return data


async def ask(port: int, length: int) -> tuple[socket.socket, Remote]:
    """A connection to the origin whose next byte is the first of the body."""
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (HOST, port))
    await loop.sock_sendall(sock, request_head("GET", "/plain"))
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await loop.sock_recv(sock, 1)
    return sock, Remote(sock, length)


class Blob:
    """A file with a CRC32C per block, as the disk keeps it."""

    def __init__(self, path: Path, *, verify: bool) -> None:
        self.fd = os.open(path, os.O_RDONLY)
        self.length = os.fstat(self.fd).st_size
        self.given = 0
        self._verify = verify
        self._buffer = memoryview(bytearray(BLOCK))
        self._sums = [self._sum(block) for block in range(self.length // BLOCK)] if verify else []
        self.source: FileSource | SocketSource | None = FileSource(self.fd, 0, self.length, self.check)

    def _sum(self, block: int) -> int:
        os.preadv(self.fd, [self._buffer], block * BLOCK)
        return int(crc32c(self._buffer))

    def check(self, offset: int, length: int) -> None:
        if not self._verify:
            return
        for block in range(offset // BLOCK, -(-(offset + length) // BLOCK)):
            if self._sum(block) != self._sums[block]:
                raise Corrupt(f"block {block}")

    async def read(self, limit: int) -> bytes:
        data = os.pread(self.fd, min(limit, self.length - self.given), self.given)
        self.given += len(data)
        return data


async def serve(path: Path, origin: int) -> None:
    """The measured server: /plain, /checked and /copied give the file, /passed/... that of the origin (another one).

    PUT /kernel and /copied hash the body, /nothing drops it.
    """
    pool = Threads("bench", 8)
    pace = Pace(30, 16384)
    blobs = {"/plain": Blob(path, verify=False), "/checked": Blob(path, verify=True)}
    blobs["/copied"] = blobs["/plain"]

    async def get(request: web.BaseRequest) -> web.StreamResponse:
        blob = blobs.get(request.path, blobs["/plain"])
        blob.given = 0
        response = web.StreamResponse(headers={"Content-Length": str(blob.length)})
        await response.prepare(request)
        assert request.transport is not None
        kernel = not request.path.endswith("/copied")
        async with open_outlet(request.transport, pool, pace, kernel=kernel) as outlet:
            if request.path.startswith("/passed"):
                sock, remote = await ask(origin, blob.length)
                with sock:
                    await outlet.move(remote, 0, blob.length)
            else:
                await outlet.move(blob, 0, blob.length)
        return response

    async def put(request: web.BaseRequest) -> web.StreamResponse:
        hasher = blake3()

        def sink(data: memoryview) -> None:
            if request.path != "/nothing":
                hasher.update(data)

        intake = intake_of(request, pool, pace, limit=1 << 40, kernel=request.path != "/copied")
        count = await intake.pump(sink)
        return web.Response(text=f"{count} {hasher.hexdigest()}")

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await (get if request.method == "GET" else put)(request)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, HOST, 0).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


@contextmanager
def ours(path: Path, origin: int = 0) -> Iterator[tuple[int, int]]:
    """Port and process id of the measured server."""
    command = [sys.executable, __file__, "--serve", str(path), "--origin", str(origin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


NGINX = """daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{ access_log off; sendfile on; tcp_nodelay on; client_body_temp_path {folder}/body; proxy_temp_path {folder}/p;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  server {{ listen {host}:{port}; location / {{ root {root}; }} }} }}
"""


@contextmanager
def nginx(path: Path) -> Iterator[tuple[int, int]]:
    """Port and process id of an nginx that serves the file's folder."""
    with tempfile.TemporaryDirectory() as folder:
        with socket.create_server((HOST, 0)) as free:
            port = free.getsockname()[1]
        config = Path(folder) / "nginx.conf"
        config.write_text(NGINX.format(folder=folder, host=HOST, port=port, root=path.parent))
        with subprocess.Popen(["nginx", "-c", str(config), "-p", folder]) as process:
            try:
                _wait_for(port)
                yield port, process.pid
            finally:
                process.send_signal(signal.SIGTERM)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            return
    raise SystemExit("nginx does not answer")


def measured(pid: int, size: int, transfer: Callable[[], float]) -> tuple[float, float]:
    """MB/s and CPU seconds per GiB of one transfer."""
    tree = children(pid)
    before = cpu_seconds(tree)
    seconds = transfer()
    return size / seconds / 1e6, (cpu_seconds(tree) - before) * GIB / size


def make(path: Path, size: int) -> Path:
    """A file of random bytes that lies in the page cache."""
    if not path.exists() or path.stat().st_size != size:
        with path.open("wb") as file:
            for _ in range(size >> 20):
                file.write(os.urandom(1 << 20))
    with path.open("rb") as file:
        while file.read(1 << 20):
            pass
    return path


def compare(rounds: int, folder: Path) -> None:
    """Measure all cases in interleaved rounds and print the tables."""
    get_file, put_file = make(folder / "get", GET_SIZE), make(folder / "put", PUT_SIZE)
    with (
        ours(get_file) as (origin, _),
        ours(get_file, origin) as (port, pid),
        nginx(get_file) as (other, other_pid),
    ):

        def get(
            name: str, path: str, port: int, pid: int
        ) -> tuple[Series, Callable[[], tuple[float, float]]]:
            return Series(name, "MB/s"), lambda: measured(
                pid, GET_SIZE, lambda: download(port, path, GET_SIZE)
            )

        def put(name: str, path: str) -> tuple[Series, Callable[[], tuple[float, float]]]:
            return Series(name, "MB/s"), lambda: measured(
                pid, PUT_SIZE, lambda: upload(port, path, put_file, "")
            )

        for cases in (
            [
                get("GET nginx sendfile", "/get", other, other_pid),
                get("GET sendfile", "/plain", port, pid),
                get("GET sendfile, verified", "/checked", port, pid),
                get("GET copied", "/copied", port, pid),
            ],
            [
                get("GET sendfile", "/plain", port, pid),
                get("GET of another node, splice", "/passed/kernel", port, pid),
                get("GET of another node, copied", "/passed/copied", port, pid),
            ],
            [
                put("PUT taken over, no hash", "/nothing"),
                put("PUT taken over, blake3", "/kernel"),
                put("PUT copied, blake3", "/copied"),
            ],
        ):
            interleave(rounds, cases)
            print("| case | median | ratio | CPU s/GiB |\n|---|---|---|---|")
            for series, _ in cases:
                print(series.line(cases[0][0]))


def main() -> None:
    """Parse the arguments and measure, or serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--serve", type=Path)
    parser.add_argument("--origin", type=int, default=0)
    chosen = parser.parse_args()
    if chosen.serve:
        uvloop.run(serve(chosen.serve, chosen.origin))
    folder = chosen.folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    try:
        compare(chosen.rounds, folder)
    finally:
        if not chosen.folder:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
