"""Without a metadata quorum: reads go on and say that they may be stale, what needs certainty is refused, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.ports import Metadata
from tests.api.test_fast import ask
from tests.support.grid import MESH, TOKEN, Grid, Kept, grid
from tests.support.quorum import Quorum, QuorumMetadata

LABEL = "Discloud-Consistency"
STRONG, STALE = "strong", "stale-possible"
FILE = "/v1/files/files/"


class Mesh:
    """A grid, and what each of its gateways has of the metadata."""

    def __init__(self, running: Grid, metadata: list[QuorumMetadata]) -> None:
        self.grid = running
        self.metadata = metadata

    def set(self, state: Quorum, *nodes: int) -> None:
        for number in nodes or range(len(self.metadata)):
            self.metadata[number].state = state

    async def ask(
        self, path: str, node: int = 0, method: str = "GET", **headers: str
    ) -> tuple[int, Any, bytes]:
        """Status, headers and body."""
        async with self.grid.session.request(
            method, self.grid.nodes[node].url + path, headers=headers
        ) as answer:
            return answer.status, answer.headers, await answer.read()


@asynccontextmanager
async def degradable(count: int = 3, **settings: Any) -> AsyncIterator[Mesh]:
    each: list[QuorumMetadata] = []

    @asynccontextmanager
    async def kept() -> AsyncIterator[Kept]:
        real = MemoryMetadata(MESH)

        def of_a_gateway() -> Metadata:
            each.append(QuorumMetadata(real))
            return each[-1].port()

        yield Kept(of_a_gateway)

    async with grid(count, kept=kept, **settings) as running:
        yield Mesh(running, each)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with degradable() as running:
        await running.grid.put("a", b"0123456789")
        yield running


async def test_strong_answers_say_so(mesh: Mesh) -> None:
    for path, method in (
        (FILE + "a", "GET"),
        (FILE + "a", "HEAD"),
        ("/v1/files/files", "GET"),
        ("/v1/map/files/a", "GET"),
    ):
        status, headers, _ = await mesh.ask(path, method=method)
        assert (status, headers[LABEL]) == (200, STRONG)
    status, headers, _ = await mesh.ask(FILE + "a", 0, "GET", **{"If-None-Match": "*"})
    assert (status, headers[LABEL]) == (304, STRONG)


async def test_reads_go_on_and_say_so(mesh: Mesh) -> None:
    for node in range(3):
        assert (await mesh.ask("/v1/files/files", node))[0] == 200, "the token and the bucket have been seen"
    mesh.set(Quorum.LOST)
    for node in range(3):
        status, headers, body = await mesh.ask(FILE + "a", node)
        assert (status, headers[LABEL], body) == (200, STALE, b"0123456789")
    status, headers, body = await mesh.ask(FILE + "a", Range="bytes=2-4")
    assert (status, headers[LABEL], body) == (206, STALE, b"234")
    status, headers, body = await mesh.ask(FILE + "a", Range="bytes=0-0,2-4")
    assert (status, headers[LABEL]) == (206, STALE)
    for path, method in ((FILE + "a", "HEAD"), ("/v1/map/files/a", "GET"), (FILE + "a?explain=1", "GET")):
        status, headers, _ = await mesh.ask(path, method=method)
        assert status == 200
        assert headers.get(LABEL, STALE) == STALE
    status, headers, body = await mesh.ask("/v1/files/files?prefix=")
    assert (status, headers[LABEL]) == (200, STALE)
    assert b'"key": "a"' in body


async def test_a_range_that_depends_on_the_tag_is_the_whole(mesh: Mesh) -> None:
    _, headers, _ = await mesh.ask(FILE + "a")
    wish = {"Range": "bytes=2-4", "If-Range": headers["ETag"]}
    assert (await mesh.ask(FILE + "a", **wish))[2] == b"234"
    mesh.set(Quorum.LOST)
    status, headers, body = await mesh.ask(FILE + "a", **wish)
    assert (status, headers[LABEL], body) == (200, STALE, b"0123456789")


async def test_what_needs_certainty_is_refused(mesh: Mesh) -> None:
    _, headers, _ = await mesh.ask(FILE + "a")
    tag, version = headers["ETag"], headers["Discloud-Version"]
    since = headers["Last-Modified"]
    mesh.set(Quorum.LOST)
    conditions = {
        "If-Match": tag,
        "If-None-Match": tag,
        "If-Modified-Since": since,
        "If-Unmodified-Since": since,
    }
    problem = mesh.grid.problem
    for name, value in conditions.items():
        assert await problem("GET", FILE + "a", headers={name: value}) == (503, "unavailable"), name
    assert await problem("GET", FILE + f"a?version={version}") == (503, "unavailable")
    assert await problem("PUT", FILE + "a", data=b"new") == (503, "unavailable")
    assert await problem("PUT", FILE + "b", data=b"new", headers={"If-None-Match": "*"}) == (
        503,
        "unavailable",
    )
    assert await problem("DELETE", FILE + "a") == (503, "unavailable")
    assert await problem("PATCH", FILE + "a", json={"key": "c"}) == (503, "unavailable")
    assert await problem("POST", FILE + "d?copy=files/a") == (503, "unavailable")
    mesh.set(Quorum.THERE)
    assert await mesh.grid.get("a") == b"0123456789"
    for key in "bcd":
        assert await problem("GET", FILE + key) == (404, "no-such-key")


async def test_unknown_is_never_404(mesh: Mesh) -> None:
    mesh.set(Quorum.LOST)
    for _ in range(3):
        assert await mesh.grid.problem("GET", FILE + "nothing") == (503, "unavailable")
    mesh.set(Quorum.GONE)
    assert await mesh.grid.problem("GET", FILE + "nothing") == (503, "unavailable")
    assert await mesh.grid.problem("GET", "/v1/files/never-seen/a") == (503, "unavailable")
    assert await mesh.grid.problem("GET", "/v1/files/files") == (503, "unavailable")


async def test_without_any_metadata_a_node_serves_what_it_knows(mesh: Mesh) -> None:
    await mesh.grid.put("b", b"bbb", node=1)
    await mesh.ask(FILE + "a", 1)
    await mesh.ask(FILE + "a", 2)
    mesh.set(Quorum.GONE)
    for node, key, body in ((1, "a", b"0123456789"), (1, "b", b"bbb"), (2, "a", b"0123456789")):
        for _ in range(3):
            status, headers, got = await mesh.ask(FILE + key, node)
            assert (status, headers[LABEL], got) == (200, STALE, body)
    assert await mesh.grid.problem("GET", FILE + "b", 2) == (503, "unavailable")
    mesh.set(Quorum.THERE)

    async def strong() -> bool:
        return bool((await mesh.ask(FILE + "a", 1))[1][LABEL] == STRONG)

    async with asyncio.timeout(10):
        while not await strong():
            await asyncio.sleep(0.05)


async def test_own_changes_are_never_undone(mesh: Mesh) -> None:
    await mesh.ask(FILE + "a")
    await mesh.grid.put("a", b"new")
    await mesh.grid.put("b", b"b")
    async with mesh.grid.session.delete(mesh.grid.nodes[0].url + FILE + "b") as answer:
        assert answer.status == 204
    async with mesh.grid.session.patch(mesh.grid.nodes[0].url + FILE + "a", json={"key": "c"}) as answer:
        assert answer.status == 200
    mesh.set(Quorum.GONE)
    assert (await mesh.ask(FILE + "c"))[2] == b"new"
    for key in "ab":
        assert await mesh.grid.problem("GET", FILE + key) == (503, "unavailable")


async def test_both_paths_label_alike(mesh: Mesh) -> None:
    plain = f"GET {FILE}a HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer {TOKEN}\r\n"
    for state in (Quorum.THERE, Quorum.LOST, Quorum.GONE):
        mesh.set(state)
        short, long = [await ask(mesh.grid, f"{plain}{more}\r\n") for more in ("", "X-Odd: 1\r\n")]
        assert short == long
        assert (f"{LABEL}: {STRONG if state is Quorum.THERE else STALE}".lower().encode()) in short


async def test_silent_metadata_is_waited_for_once(mesh: Mesh) -> None:
    await mesh.ask(FILE + "a")
    mesh.set(Quorum.SILENT)
    assert (await mesh.ask(FILE + "a"))[1][LABEL] == STALE
    asked = len(mesh.metadata[0].asked)
    answers = await asyncio.gather(*(mesh.ask(FILE + "a") for _ in range(50)))
    assert {(status, headers[LABEL]) for status, headers, _ in answers} == {(200, STALE)}
    assert len(mesh.metadata[0].asked) <= asked + 2
    async with asyncio.timeout(4):
        assert await mesh.grid.problem("GET", FILE + "a", headers={"If-Match": "x"}) == (503, "unavailable")


# ---------------------------------------------------------------- max_stale


async def lagging(mesh: Mesh, seconds: float) -> None:
    url = mesh.grid.nodes[0].url + "/v1/buckets/files"
    async with mesh.grid.session.patch(url, json={"max_stale": seconds}) as answer:
        assert answer.status == 200
        assert (await answer.json())["max_stale"] == seconds


async def test_a_bucket_that_may_lag_is_read_here() -> None:
    async with degradable(2, layout="mirror:all") as mesh:
        await lagging(mesh, 60)
        await mesh.grid.put("a", b"old", "copies=1&nodes=node1")
        await mesh.grid.put("all", b"everywhere", "copies=all")
        first = await mesh.ask(FILE + "a")
        assert (first[1][LABEL], first[2]) == (STALE, b"old"), "the write was here, but others may write"
        await mesh.grid.put("a", b"new", "copies=1&nodes=node1", node=1)
        asked = len(mesh.metadata[0].asked)
        assert (await mesh.ask(FILE + "a"))[2] == b"old"
        assert len(mesh.metadata[0].asked) == asked, "no metadata was asked"
        tag = first[1]["ETag"]
        status, headers, _ = await mesh.ask(FILE + "a", 0, "GET", **{"If-None-Match": tag})
        assert (status, headers[LABEL]) == (304, STALE), "validation is what caches do"
        status, _, body = await mesh.ask(FILE + "a", 0, "GET", **{"If-Match": "*"})
        assert (status, body) == (200, b"new"), "a condition is about the present"
        for node in (0, 1):
            status, headers, body = await mesh.ask(FILE + "all", node)
            assert (status, headers["Discloud-Source"], body) == (200, "local", b"everywhere")


async def test_where_an_old_heads_bytes_are_gone_the_present_one_is_read() -> None:
    async with degradable(2, layout="mirror:1") as mesh:
        await lagging(mesh, 60)
        for key, size in (("small", 100), ("large", 3 << 20)):
            await mesh.grid.put(key, b"o" * size, "nodes=node2")
            await mesh.grid.get(key)
            await mesh.grid.put(key, b"n" * size, "nodes=node2", node=1)
            held = mesh.grid.nodes[1].blobs._held
            for blob in [blob for blob, each in held.items() if each.data[:1] == b"o"]:
                del held[blob]
            status, headers, body = await mesh.ask(FILE + key)
            assert (status, body) == (200, b"n" * size)
            assert headers[LABEL] == STRONG
        assert not await mesh.grid.metadata.queues.repairs(float("inf"), 10), "nothing is missing"


# ---------------------------------------------------------------- clocks


async def test_a_node_whose_clock_is_off_takes_no_writes(mesh: Mesh) -> None:
    mesh.grid.nodes[0].cluster.clock_offset = -20.0
    problem = mesh.grid.problem
    assert await problem("PUT", FILE + "b", data=b"b") == (503, "unavailable")
    assert await problem("DELETE", FILE + "a") == (503, "unavailable")
    assert await problem("PATCH", FILE + "a", json={"content_type": "a/b"}) == (503, "unavailable")
    assert await problem("POST", FILE + "c?copy=files/a") == (503, "unavailable")
    assert await mesh.grid.get("a") == b"0123456789"
    await mesh.grid.put("b", b"through another node", node=1)
    mesh.grid.nodes[0].cluster.clock_offset = -4.0
    await mesh.grid.put("b", b"within what is allowed")
