"""What the tests of discloud.transfer share: readers over memory, files and sockets, and a real aiohttp server."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from discloud.errors import Corrupt, PeerDown
from discloud.ports import FileSource, SocketSource
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
DEADLINE = 30.0


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


@dataclass
class FileReader:
    """A BlobReader over a file; verification fails at the byte ``rotten``."""

    fd: int
    begin: int
    length: int
    rotten: int | None = None
    checked: list[tuple[int, int]] = field(default_factory=list)
    given: int = 0
    source: FileSource | SocketSource | None = None

    def __post_init__(self) -> None:
        self.source = FileSource(self.fd, self.begin, self.length, self.check)

    def check(self, offset: int, length: int) -> None:
        self.checked.append((offset, length))
        if self.rotten is not None and offset <= self.rotten < offset + length:
            raise Corrupt(f"block at {offset}")

    async def read(self, limit: int) -> bytes:
        data = os.pread(self.fd, min(limit, self.length - self.given), self.begin + self.given)
        self.check(self.begin + self.given, len(data))
        self.given += len(data)
        return data


@dataclass
class SocketReader:
    """A BlobReader over a non-blocking socket."""

    sock: socket.socket
    length: int
    given: int = 0
    source: FileSource | SocketSource | None = None

    def __post_init__(self) -> None:
        self.source = SocketSource(self.sock.fileno(), self.length)

    async def read(self, limit: int) -> bytes:
        if self.given == self.length:
            return b""
        data = await asyncio.get_running_loop().sock_recv(self.sock, min(limit, self.length - self.given))
        if not data:
            raise PeerDown("the source ended")
        self.given += len(data)
        return data


@dataclass
class MemoryReader:
    """A BlobReader that offers nothing to the kernel."""

    data: bytes
    given: int = 0
    source: FileSource | SocketSource | None = None
    length: int = 0

    def __post_init__(self) -> None:
        self.length = len(self.data)

    async def read(self, limit: int) -> bytes:
        part = self.data[self.given : self.given + limit]
        self.given += len(part)
        return part


@contextmanager
def file_of(folder: Path, data: bytes) -> Iterator[int]:
    path = folder / "blob"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setblocking(False)
    return near, far


@asynccontextmanager
async def serving(
    handler: Handler, context: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[str, int]]:
    """A real aiohttp server with that handler; its address."""
    server = web.Server(handler, access_log=None, **options)
    runner = web.ServerRunner(server, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


@asynccontextmanager
async def threads(count: int = 4) -> AsyncIterator[Threads]:
    pool = Threads("test", count)
    try:
        yield pool
    finally:
        pool.close()


def pace(grace: float = DEADLINE, min_rate: float = 16384) -> Pace:
    return Pace(grace, min_rate)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)
    assert condition(), what


@asynccontextmanager
async def client(
    address: tuple[str, int], context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection(*address, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One response with its Content-Length body."""
    async with asyncio.timeout(DEADLINE):
        status, headers = await head(reader)
        body = await reader.readexactly(int(headers.get("content-length", "0")))
    return status, headers, body


async def head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    async with asyncio.timeout(DEADLINE):
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    fields = (line.split(": ", 1) for line in lines[1:] if line)
    return int(lines[0].split()[1]), {name.lower(): value for name, value in fields}


def certificates(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """What a server and its client need for TLS on loopback; skips where the openssl program is missing."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command.split(), *names], check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))
