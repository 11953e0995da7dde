"""The HTTP API over TLS, on nodes as they are started: the same answers, by the copy paths; new certificates without a restart."""

from __future__ import annotations

import asyncio
import io
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from discloud.config import load
from discloud.node import Running, started
from discloud.transfer import connection
from tests.support.certificates import authority, files, sign
from tests.support.command_line import CommandLine
from tests.support.processes import free_port

MIB = 1 << 20
pytestmark = pytest.mark.timeout(120)


@dataclass
class TlsMesh:
    """A root and an ordinary node in this process, TLS on every port."""

    folder: Path
    signer: Path
    nodes: list[Running]
    token: str
    trust: ssl.SSLContext
    session: aiohttp.ClientSession  # noqa: TID251 - the tests are a client

    def url(self, key: str, node: int = 0) -> str:
        return f"https://{self.nodes[node].api}/v1/files/files/{key}"

    async def put(self, key: str, data: bytes, query: str, node: int = 0) -> None:
        async with self.session.put(f"{self.url(key, node)}?{query}", data=io.BytesIO(data)) as answer:
            assert answer.status in (200, 201), await answer.text()

    async def get(self, key: str, node: int = 0, **headers: str) -> bytes:
        async with self.session.get(self.url(key, node), headers=headers) as answer:
            assert answer.status in (200, 206), await answer.text()
            return await answer.read()

    async def connect(self, node: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host, port = self.nodes[node].api.split(":")
        return await asyncio.open_connection(host, int(port), ssl=self.trust)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[TlsMesh]:
    signer = authority(tmp_path)
    root, joins = free_port(), free_port()
    async with AsyncExitStack() as stack:
        nodes = []
        for name, port in (("node1", root), ("node2", joins)):
            shown = files(signer, tmp_path / f"{name}.tls", name)
            flags: dict[str, object] = {
                "node.name": name,
                "node.data": str(tmp_path / name),
                "node.port": str(port),
                "tls.cert": str(shown.cert),
                "tls.key": str(shown.key),
                "tls.authority": str(shown.authority),
                "periods.heartbeat": "0.2",
            }
            if name == "node2":
                flags["node.role"] = "ordinary"
                flags["node.roots"] = f"127.0.0.1:{root + 2}"
                flags["node.secret_file"] = str(tmp_path / "node1" / "secret")
            nodes.append(await stack.enter_async_context(started(load(None, {}, flags))))
        token = (tmp_path / "node1" / "token").read_text().strip()
        trust = ssl.create_default_context(cafile=signer / "ca.pem")
        session = await stack.enter_async_context(
            aiohttp.ClientSession(  # noqa: TID251 - the tests are a client
                headers={"Authorization": f"Bearer {token}"}, connector=aiohttp.TCPConnector(ssl=trust)
            )
        )
        async with session.put(f"https://{nodes[0].api}/v1/buckets/files", json={}) as answer:
            assert answer.status == 201, await answer.text()
        async with asyncio.timeout(20):
            while len(nodes[0].cluster.view.nodes) < 2:
                await asyncio.sleep(0.02)
        yield TlsMesh(tmp_path, signer, nodes, token, trust, session)


@pytest.mark.parametrize("size", [0, 1, 4096, MIB, 3 * MIB + 17, 40 * MIB])
async def test_in_through_one_node_and_out_of_both(mesh: TlsMesh, size: int) -> None:
    data = os.urandom(size)
    # held by the other node only: every byte passes between the nodes and to the client, encrypted on both ways
    for query in ("nodes=node2&copies=1", "copies=2", "layout=stripe:2"):
        await mesh.put("k", data, query)
        for node in (0, 1):
            assert await mesh.get("k", node) == data


async def test_a_body_of_unknown_length_and_one_that_is_asked_for(mesh: TlsMesh) -> None:
    data = os.urandom(5 * MIB + 3)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    async with mesh.session.put(mesh.url("chunked"), data=chunks(), expect100=True) as answer:
        assert answer.status == 201, await answer.text()
    assert await mesh.get("chunked", 1) == data


async def test_ranges(mesh: TlsMesh) -> None:
    data = os.urandom(4 * MIB + 321)
    await mesh.put("ranged", data, "nodes=node2&copies=1")
    for start, end in [(0, 0), (5, 99), (MIB - 1, MIB), (0, len(data) - 1), (2 * MIB + 7, 4 * MIB)]:
        for node in (0, 1):
            assert await mesh.get("ranged", node, Range=f"bytes={start}-{end}") == data[start : end + 1]
    assert await mesh.get("ranged", Range="bytes=-100") == data[-100:]


async def test_small_requests_in_one_piece_are_all_answered(mesh: TlsMesh) -> None:
    """The short path gets them as one piece of plain text, as it does without TLS."""
    data = os.urandom(4096)
    await mesh.put("hot", data, "copies=2")
    reader, writer = await mesh.connect()
    request = (
        f"GET /v1/files/files/hot HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.token}\r\n\r\n".encode()
    )
    writer.write(request * 20)
    for _ in range(20):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert await reader.readexactly(len(data)) == data
    writer.transport.abort()


async def test_the_kernel_never_gets_the_descriptor_of_a_tls_connection(
    mesh: TlsMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int | None] = []
    looked = connection.plain_tcp

    def look(transport: asyncio.Transport) -> int | None:
        found.append(looked(transport))
        return found[-1]

    monkeypatch.setattr("discloud.transfer.connection.plain_tcp", look)
    monkeypatch.setattr("discloud.transfer.outlet.plain_tcp", look)
    data = os.urandom(4 * MIB)
    await mesh.put("big", data, "copies=2")
    assert await mesh.get("big") == data
    assert len(found) >= 2
    assert set(found) == {None}


async def test_a_slow_reader_gets_all_of_it_and_holds_nobody_up(mesh: TlsMesh) -> None:
    data = os.urandom(40 * MIB)
    await mesh.put("slow", data, "nodes=node2&copies=1")
    await mesh.put("other", b"other", "copies=2")
    for node in (0, 1):
        reader, writer = await mesh.connect(node)
        writer.write(
            f"GET /v1/files/files/slow HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.token}\r\n\r\n".encode()
        )
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        got = bytearray()
        while len(got) < len(data):
            assert await mesh.get("other", node) == b"other"
            got += await reader.readexactly(min(4 * MIB, len(data) - len(got)))
        assert got == data
        writer.transport.abort()


async def test_a_reader_that_left_costs_only_its_own_request(mesh: TlsMesh) -> None:
    data = os.urandom(20 * MIB)
    await mesh.put("left", data, "nodes=node2&copies=1")
    for node in (0, 1):
        reader, writer = await mesh.connect(node)
        writer.write(
            f"GET /v1/files/files/left HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.token}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        assert await mesh.get("left", node) == data


async def test_plain_http_and_old_tls_get_no_answer(mesh: TlsMesh) -> None:
    host, port = mesh.nodes[0].api.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
    with suppress(ConnectionResetError):
        assert not (await reader.read(1000)).startswith(b"HTTP/")
    writer.transport.abort()
    old = ssl.create_default_context(cafile=mesh.signer / "ca.pem")
    old.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1 is deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    _, last = await asyncio.open_connection(host, int(port), ssl=old)
    last.transport.abort()
    with pytest.warns(DeprecationWarning, match=r"TLSv1_1 is deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(OSError):
        await asyncio.open_connection(host, int(port), ssl=old)
    assert await (await mesh.session.get(f"https://{mesh.nodes[0].api}/livez")).read()


async def test_a_new_certificate_is_shown_while_bodies_move(
    mesh: TlsMesh, caplog: pytest.LogCaptureFixture
) -> None:
    """Old connections go on with what they have; the loop of the node looks at the files by itself."""
    data = os.urandom(20 * MIB)
    await mesh.put("moved", data, "nodes=node2&copies=1")

    def shown(writer: asyncio.StreamWriter) -> str:
        found: str = writer.get_extra_info("peercert")["serialNumber"]
        return found

    reader, writer = await mesh.connect()
    first = shown(writer)
    request = f"GET /v1/files/files/moved HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mesh.token}\r\n\r\n"
    writer.write(request.encode())
    await reader.readuntil(b"\r\n\r\n")
    got = await reader.readexactly(MIB)
    second = sign(mesh.signer, mesh.folder / "node1.tls", "node1").serial
    now = first
    async with asyncio.timeout(30):
        while now == first:
            _, new = await mesh.connect()
            now = shown(new)
            new.transport.abort()
            assert await mesh.get("moved", 1) == data
    assert now == second
    got += await reader.readexactly(len(data) - MIB)
    assert got == data
    writer.write(request.encode())  # the old connection serves more requests, too
    assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(data)) == data
    writer.transport.abort()
    assert "PRIVATE" not in caplog.text
    assert mesh.token not in caplog.text


async def test_the_client_believes_the_authority_that_it_is_told(mesh: TlsMesh, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    discloud = CommandLine(home, {"DISCLOUD_TOKEN": mesh.token})
    address = f"https://{mesh.nodes[0].api}"
    ca = mesh.signer / "ca.pem"

    async def ls(*options: str | Path, **environ: str) -> tuple[int, str]:
        result = await asyncio.to_thread(discloud.run, "ls", *options, env=environ)
        return result.exit_code, result.stdout + result.stderr

    async def check(found: tuple[int, str], code: int, *words: str) -> None:
        assert found[0] == code, found
        assert all(word in found[1] for word in words), found
        assert len(found[1].strip().splitlines()) == 1

    await check(await ls("--url", address, "--ca", ca), 0, "files")
    await check(await ls("--url", address, DISCLOUD_CA=str(ca)), 0, "files")
    await check(await ls("--url", address), 1, "cannot be trusted", "--ca", "DISCLOUD_CA")
    await check(await ls("--url", address, "--ca", "none.pem"), 1, "none.pem", "ca.pem")
    stranger = authority(tmp_path, "stranger") / "ca.pem"
    await check(await ls("--url", address, "--ca", stranger), 1, "cannot be trusted", "--ca")
    sign(mesh.signer, mesh.folder / "unused")
    plain = address.replace("https:", "http:")
    await check(await ls("--url", plain), 1, "connection", "https://")
    # the authority of the profile, like its token, is for the addresses of the profile only
    discloud.environ.pop("DISCLOUD_TOKEN")
    discloud.profile(url=address, token=mesh.token, ca=str(ca))
    await check(await ls(), 0, "files")
    other = f"https://{mesh.nodes[1].api}"
    await check(await ls("--url", other, DISCLOUD_TOKEN=mesh.token), 1, "cannot be trusted")
