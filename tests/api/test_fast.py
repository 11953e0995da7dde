"""The short path and aiohttp answer alike, byte for byte but for what changes with every request."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator

import pytest

from discloud.api.fast import FastHandler
from tests.support.grid import TOKEN, Grid, Keeping, grid

CHANGES = re.compile(rb"(?im)^(date|discloud-request-id): .*\r\n")


@pytest.fixture
async def mesh(kept: Keeping) -> AsyncIterator[Grid]:
    async with grid(2, layout="mirror:1", kept=kept) as running:
        await running.put("plain", b"x" * 4096, "nodes=node1", headers={"Content-Type": "text/plain"})
        await running.put("dir/ü ✓.html", b"<p>", "nodes=node1", headers={"Content-Type": "text/html"})
        await running.put("empty", b"", "nodes=node1")
        await running.put("elsewhere", b"far", "nodes=node2")
        await running.put("meta", b"m", "nodes=node1", headers={"Discloud-Meta-Author": "Ada"})
        await running.get("plain")
        yield running


class Client:
    """One raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, mesh: Grid) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port))

    async def answer(self, head_only: bool = False) -> bytes:
        """One whole answer, headers sorted, without what changes."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 5)
        lines = CHANGES.sub(b"", head[:-2]).split(b"\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        body = await self.reader.readexactly(int(length[1])) if length and not head_only else b""
        if b"application/problem+json" in head:
            body = b"problem"
            lines = [line for line in lines if not line.lower().startswith(b"content-length")]
        return b"\r\n".join([lines[0], *sorted(line.lower() for line in lines[1:])]) + body

    def close(self) -> None:
        self.writer.close()


TARGETS = [
    "/v1/files/files/plain", "/v1/files/files/empty", "/v1/files/files/meta", "/v1/files/files/elsewhere",
    "/v1/files/files/dir/%C3%BC%20%E2%9C%93.html", "/v1/files/files/nothing", "/v1/files/nobucket/plain",
    "/v1/files/files/plain?max-size=5", "/v1/files/files/plain?", "/v1/files/files/%ff", "/v1/files/files/", "/v1/files/files",
    "/v1/files/files/dir/../plain", "/v1/files//plain", "/livez",
]  # fmt: skip
EXTRAS = [
    "", "", "", "Range: bytes=1-3\r\n", "If-None-Match: *\r\n", "Accept: */*\r\n", "X-Odd: 1\r\n", "Connection: keep-alive\r\n",
    "accept-encoding: gzip\r\n", "Content-Length: 0\r\n", "Accept: a\r\nAccept: b\r\n", " folded: x\r\n", "Bad Name: x\r\n",
    "Cookie: a=b\r\n", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n",
]  # fmt: skip
TOKENS = [f"Bearer {TOKEN}", f"Bearer {TOKEN}", f"bearer  {TOKEN}", "Bearer wrong", "Basic x", ""]


def generate(rng: random.Random) -> str:
    token = rng.choice(TOKENS)
    authorization = f"Authorization: {token}\r\n" if token else ""
    host = "Host: t\r\n" if rng.random() < 0.95 else ""
    method = rng.choice(["GET"] * 8 + ["HEAD", "get"])
    version = rng.choice(["1.1"] * 12 + ["1.0"])
    return f"{method} {rng.choice(TARGETS)} HTTP/{version}\r\n{host}{authorization}{rng.choice(EXTRAS)}\r\n"


async def ask(mesh: Grid, request: str) -> bytes:
    client = await Client.to(mesh)
    client.writer.write(request.encode())
    try:
        return await client.answer(head_only=request.startswith("HEAD"))
    finally:
        client.close()


async def test_both_paths_answer_alike(mesh: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(1)
    requests = [generate(rng) for _ in range(3000)]
    fast = [await ask(mesh, request) for request in requests]
    used = 0

    def never(self: FastHandler, data: bytes) -> bool:
        nonlocal used
        used += 1
        return False

    monkeypatch.setattr(FastHandler, "_answer", never)
    slow = [await ask(mesh, request) for request in requests]
    for request, one, other in zip(requests, fast, slow, strict=True):
        assert one == other, request
    assert used > 1000


async def test_the_short_path_is_really_taken(mesh: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> None:
        raise AssertionError("aiohttp was asked")

    monkeypatch.setattr("aiohttp.web_protocol.RequestHandler._handle_request", refuse)
    plain = f"GET /v1/files/files/plain HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    assert (await ask(mesh, plain)).endswith(b"x" * 4096)


async def test_pipelined_requests_are_answered_in_order(mesh: Grid) -> None:
    head = f"Host: t\r\nAuthorization: Bearer {TOKEN}\r\n"
    plain = f"GET /v1/files/files/plain HTTP/1.1\r\n{head}\r\n"
    ranged = f"GET /v1/files/files/plain HTTP/1.1\r\n{head}Range: bytes=0-1\r\n\r\n"
    client = await Client.to(mesh)
    client.writer.write((plain + plain + ranged + plain).encode())
    answers = [await client.answer() for _ in range(4)]
    assert [len(each) > 4096 for each in answers] == [True, True, False, True]
    client.writer.write(plain[:40].encode())
    await client.writer.drain()
    client.writer.write(plain[40:].encode())
    assert (await client.answer()).endswith(b"x" * 4096)
    client.close()


async def test_answers_from_elsewhere_keep_their_place(mesh: Grid) -> None:
    head = f"Host: t\r\nAuthorization: Bearer {TOKEN}\r\n"
    plain = f"GET /v1/files/files/plain HTTP/1.1\r\n{head}\r\n"
    far = f"GET /v1/files/files/elsewhere HTTP/1.1\r\n{head}\r\n"
    ranged = f"GET /v1/files/files/plain HTTP/1.1\r\n{head}Range: bytes=0-1\r\n\r\n"
    nothing = f"GET /v1/files/files/nothing HTTP/1.1\r\n{head}\r\n"
    rng = random.Random(5)
    for _ in range(100):
        requests = rng.choices([plain, far, ranged, nothing], k=rng.randrange(1, 9))
        data = "".join(requests).encode()
        client = await Client.to(mesh)
        for start in range(0, len(data), step := rng.choice([len(data), 300, 77])):
            client.writer.write(data[start : start + step])
            await asyncio.sleep(0)
        for request in requests:
            answer = await client.answer()
            expected = {plain: b"x" * 4096, far: b"far", ranged: b"xx", nothing: b"problem"}[request]
            assert answer.endswith(expected), (request, answer[:200])
            assert (b" 404 " in answer[:20]) == (request == nothing)
        client.close()


async def test_a_client_that_leaves_early_disturbs_nobody(mesh: Grid) -> None:
    head = f"Host: t\r\nAuthorization: Bearer {TOKEN}\r\n"
    far = f"GET /v1/files/files/elsewhere HTTP/1.1\r\n{head}\r\n"
    for _ in range(50):
        client = await Client.to(mesh)
        client.writer.write((far * 3).encode())
        await client.writer.drain()
        client.close()
    assert (await ask(mesh, far)).endswith(b"far")


async def test_an_overwrite_is_seen_at_once(mesh: Grid) -> None:
    plain = f"GET /v1/files/files/plain HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    for number in range(20):
        data = b"%04d" % number
        await mesh.put("plain", data, "nodes=node1", node=number % 2)
        assert (await ask(mesh, plain)).endswith(data)


async def test_a_body_between_two_gets_on_one_connection(mesh: Grid) -> None:
    head = f"Host: t\r\nAuthorization: Bearer {TOKEN}\r\n"
    plain = f"GET /v1/files/files/plain HTTP/1.1\r\n{head}\r\n".encode()
    client = await Client.to(mesh)
    for size in (10, 3 << 20):
        client.writer.write(plain)
        assert (await client.answer()).endswith(b"x" * 4096)
        body = b"GET /v1/files/files/plain HTTP/1.1\r\n\r\n".ljust(size, b"\r\n\r\n"[:1])[:size]
        client.writer.write(
            f"PUT /v1/files/files/between HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        assert b" 20" in (await client.answer())[:20]
    client.close()
