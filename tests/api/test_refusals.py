"""The table of refusals of docs/api.md: every bad input has its status and code, and nothing is lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from yarl import URL

from discloud.core.model import NodeState
from tests.support.grid import TOKEN, Grid, Keeping, grid

MIB = 1 << 20
LIMIT = 3 * MIB


@pytest.fixture
async def mesh(kept: Keeping) -> AsyncIterator[Grid]:
    async with grid(3, ("eu", "eu", "us"), max_object=LIMIT, grace=1.0, kept=kept) as running:
        yield running


FILE = "/v1/files/files/k"
CASES = [
    ("GET", "/v1/files/nobucket/k", 404, "no-such-bucket"),
    ("GET", "/v1/files/NO_bucket/k", 400, "bad-bucket-name"),
    ("GET", "/v1/files/files/nothing", 404, "no-such-key"),
    ("HEAD", "/v1/files/files/nothing", 404, ""),
    ("DELETE", "/v1/files/files/nothing", 404, "no-such-key"),
    ("GET", "/v1/nowhere", 404, "no-such-path"),
    ("GET", "/", 404, "no-such-path"),
    ("DELETE", "/v1/nodes", 405, "method-not-allowed"),
    ("PUT", "/v1/files/files/%00", 400, "bad-key"),
    ("PUT", "/v1/files/files/a%0Ab", 400, "bad-key"),
    ("PUT", "/v1/files/files/%ff", 400, "bad-key"),
    ("PUT", "/v1/files/files/%zz", 400, "bad-key"),
    ("PUT", "/v1/files/files/" + "a" * 1025, 400, "bad-key"),
    ("PUT", FILE + "?nodes=nobody", 400, "unknown-node"),
    ("PUT", FILE + "?regions=mars", 400, "unknown-region"),
    ("PUT", FILE + "?layout=raid5", 400, "bad-layout"),
    ("PUT", FILE + "?layout=stripe:0", 400, "bad-layout"),
    ("PUT", FILE + "?layout=ec:2%2B1", 400, "bad-layout"),
    ("PUT", FILE + "?copie=2", 400, "invalid"),
    ("GET", "/v1/nodes?verbose=1", 400, "invalid"),
    ("PUT", FILE + "?copies=0", 400, "bad-layout"),
    ("PUT", FILE + "?copies=two", 400, "bad-layout"),
    ("PUT", FILE + "?copies=2&layout=mirror:3", 400, "bad-layout"),
    ("PUT", FILE + "?layout=stripe:3&nodes=node1,node2", 400, "bad-layout"),
    ("PUT", FILE + "?ack=many", 400, "bad-layout"),
    ("PUT", FILE + "?copies=4", 507, "not-enough-nodes"),
    ("PUT", FILE + "?layout=stripe:4", 507, "not-enough-nodes"),
    ("PUT", FILE + "?layout=stripe:2x2", 507, "not-enough-nodes"),
    ("POST", FILE, 400, "invalid"),
    ("POST", FILE + "?copy=files/nothing", 404, "no-such-key"),
    ("GET", "/v1/files/files?limit=0", 400, "invalid"),
    ("GET", "/v1/files/files?limit=x", 400, "invalid"),
    ("GET", "/v1/files/files?delimiter=ab", 400, "invalid"),
    ("GET", "/v1/download/nothing", 404, "no-such-bucket"),
    ("PUT", "/v1/buckets/files", 409, "bucket-exists"),
    ("PUT", "/v1/buckets/AB", 400, "bad-bucket-name"),
    ("DELETE", "/v1/buckets/nobucket", 404, "no-such-bucket"),
    ("GET", "/v1/map/files/nothing", 404, "no-such-key"),
]


@pytest.mark.parametrize(("method", "path", "status", "code"), CASES)
async def test_refusal(mesh: Grid, method: str, path: str, status: int, code: str) -> None:
    url = URL(mesh.nodes[0].url + path, encoded=True)
    body = b"data" if method == "PUT" and "/files/" in path else None
    async with mesh.session.request(method, url, data=body) as answer:
        assert answer.status == status, await answer.text()
        if code:
            assert (await answer.json(content_type="application/problem+json"))["code"] == code
    assert sum(mesh.held()) == 0


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer", "Basic YTpi", "Bearer " + "ü"])
async def test_without_a_valid_token(mesh: Grid, header: str | None) -> None:
    headers = {"Authorization": header} if header else {}
    async with aiohttp.ClientSession() as stranger:  # noqa: TID251 - the tests are a client
        for path in ("/v1/files/files/k", "/v1/nodes", "/metrics", "/v1/me"):
            async with stranger.get(mesh.nodes[0].url + path, headers=headers) as answer:
                assert answer.status == 401
                assert "Bearer" in answer.headers["WWW-Authenticate"]
                assert TOKEN not in await answer.text()
        for path in ("/livez", "/healthz", "/readyz", "/v1/openapi.json", "/docs"):
            async with stranger.get(mesh.nodes[0].url + path) as answer:
                assert answer.status == 200


async def test_too_large_is_refused_before_the_body(mesh: Grid) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
    writer.write(
        f"PUT {FILE} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {LIMIT + 1}\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    line = await asyncio.wait_for(reader.readline(), 5)
    assert b" 413 " in line, "refused without 100 Continue"
    writer.close()


async def test_too_large_when_chunked_keeps_nothing(mesh: Grid) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * MIB

    assert await mesh.problem("PUT", FILE, data=body()) == (413, "too-large")
    assert (await mesh.problem("GET", FILE)) == (404, "no-such-key")
    assert await mesh.metadata.queues.expired(9e9, 10) == ()


async def test_expect_continue_is_honoured(mesh: Grid) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
    writer.write(
        f"PUT {FILE}?copies=1 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 5\r\n"
        "Expect: 100-continue\r\n\r\n".encode()
    )
    assert b" 100 " in await asyncio.wait_for(reader.readline(), 5)
    assert await reader.readline() == b"\r\n"
    writer.write(b"hello")
    assert b" 201 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    assert await mesh.get("k") == b"hello"


@pytest.mark.parametrize("sent", [0, 1000, 2 * MIB])
async def test_a_body_cut_in_the_middle_keeps_nothing(mesh: Grid, sent: int) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
    writer.write(
        f"PUT {FILE}?copies=2 HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Length: {LIMIT}\r\n\r\n".encode()
        + b"x" * sent
    )
    await writer.drain()
    writer.close()
    await asyncio.sleep(0.05)
    async with asyncio.timeout(10):
        while sum(mesh.held()) or mesh.nodes[0].surface.threads.busy:
            await asyncio.sleep(0.01)
    assert (await mesh.problem("GET", FILE)) == (404, "no-such-key")


@pytest.mark.parametrize(
    "lies",
    ["Content-Length: -1", "Content-Length: 1\r\nContent-Length: 2", "Content-Length: 1\r\nTransfer-Encoding: chunked",
     "Content-Length: x", "Transfer-Encoding: gzip"],
)  # fmt: skip
async def test_lying_lengths_are_400(mesh: Grid, lies: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
    writer.write(
        f"PUT {FILE} HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n{lies}\r\n\r\n".encode()
        + b"data"
    )
    line = await asyncio.wait_for(reader.readline(), 5)
    assert b" 400 " in line, line
    writer.close()
    assert sum(mesh.held()) == 0


async def test_a_type_that_would_split_the_answer(mesh: Grid) -> None:
    await mesh.put("k", b"x", "nodes=node1")
    for bad in ("a\r\nX-Evil: 1", "a\nb", "", " ", "x" * 300):
        assert await mesh.problem("PATCH", FILE, json={"content_type": bad}) == (400, "invalid")
        assert await mesh.problem("PATCH", FILE, json={"metadata": {"a": bad + "\x00"}}) == (400, "invalid")
    async with mesh.session.get(mesh.nodes[0].url + FILE) as answer:
        assert "X-Evil" not in answer.headers


@pytest.mark.parametrize(
    "head", [b"NONSENSE\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n"]
)
async def test_what_is_no_http_is_told_as_a_problem(mesh: Grid, head: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
    writer.write(head)
    answer = await asyncio.wait_for(reader.read(), 5)
    assert answer.startswith(b"HTTP/1."), answer
    assert b" 400 " in answer.partition(b"\r\n")[0]
    assert b"application/problem+json" in answer
    assert b"aiohttp" not in answer
    writer.close()


async def test_header_floods_are_refused(mesh: Grid) -> None:
    for flood in ("".join(f"X-{number}: y\r\n" for number in range(500)), "X: " + "y" * 20_000 + "\r\n"):
        reader, writer = await asyncio.open_connection("127.0.0.1", mesh.nodes[0].port)
        writer.write(f"GET {FILE} HTTP/1.1\r\nHost: t\r\n{flood}\r\n".encode())
        line = await asyncio.wait_for(reader.readline(), 5)
        assert b" 400 " in line or b" 431 " in line, line
        writer.close()


async def test_a_malformed_form(mesh: Grid) -> None:
    for body, kind in [
        (b"nonsense", "multipart/form-data; boundary=b"),
        (b"nonsense", "multipart/form-data"),
        (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\ncut',
            "multipart/form-data; boundary=b",
        ),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
        (b"a=b", "application/x-www-form-urlencoded"),
    ]:
        assert await mesh.problem(
            "POST", "/v1/files/files/in/", data=body, headers={"Content-Type": kind}
        ) == (
            400,
            "invalid",
        ), body
    assert sum(mesh.held()) == 0


async def test_ranges_out_of_bounds(mesh: Grid) -> None:
    await mesh.put("k", b"x" * 10)
    async with mesh.session.get(mesh.nodes[0].url + FILE, headers={"Range": "bytes=10-"}) as answer:
        assert answer.status == 416
        assert answer.headers["Content-Range"] == "bytes */10"
    assert await mesh.get("k", Range="bytes=nonsense") == b"x" * 10


async def test_max_size(mesh: Grid) -> None:
    await mesh.put("k", b"x" * 10)
    assert await mesh.problem("GET", FILE + "?max-size=9") == (413, "too-large")
    assert await mesh.get("k", "max-size=10") == b"x" * 10


async def test_a_down_or_draining_node_by_name(mesh: Grid) -> None:
    for state in (NodeState.DOWN, NodeState.DRAINING):
        mesh.set_state(2, state)
        assert await mesh.problem("PUT", FILE + "?nodes=node3&copies=1", data=b"x") == (
            409,
            "node-unavailable",
        )


async def test_bucket_states(mesh: Grid) -> None:
    await mesh.put("k", b"x")
    url = mesh.nodes[0].url + "/v1/buckets/files"
    async with mesh.session.patch(url, json={"state": "read-only"}) as answer:
        assert answer.status == 200, await answer.text()
    assert await mesh.problem("PUT", FILE, data=b"y") == (409, "bucket-closed")
    assert await mesh.problem("DELETE", FILE) == (409, "bucket-closed")
    assert await mesh.get("k") == b"x"
    async with mesh.session.patch(url, json={"state": "disabled"}) as answer:
        assert answer.status == 200
    assert await mesh.problem("GET", FILE) == (409, "bucket-closed")
    async with mesh.session.patch(url, json={"state": "active"}) as answer:
        assert answer.status == 200
    assert await mesh.problem("DELETE", "/v1/buckets/files") == (409, "bucket-not-empty")


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"nonsense", "invalid"), (b"[]", "invalid"), (b'{"layuot": "x"}', "invalid"), (b'{"layout": "x"}', "bad-layout"),
     (b'{"layout": 7}', "invalid"), (b'{"state": "deleting"}', "invalid"), (b'{"regions": ["mars"]}', "unknown-region")],
)  # fmt: skip
async def test_bad_bucket_settings(mesh: Grid, body: bytes, code: str) -> None:
    assert await mesh.problem("PATCH", "/v1/buckets/files", data=body) == (400, code)


async def test_a_write_when_all_holders_fail_leaves_nothing(mesh: Grid) -> None:
    for size in (100, 2 * MIB):
        for node in mesh.nodes:
            node.blobs._capacity = 50
        status, code = await mesh.problem("PUT", FILE + "?copies=1", data=b"x" * size)
        assert (status, code) == (507, "no-space")
        assert (await mesh.problem("GET", FILE)) == (404, "no-such-key")
    assert sum(mesh.held()) == 0
