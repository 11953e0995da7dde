"""Files over HTTP on a grid of three nodes: what goes in through one comes out of any, ranges and conditions as RFC 9110 says."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from base64 import b64encode
from collections.abc import AsyncIterator

import aiohttp
import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from discloud.core.keys import encode_key
from discloud.core.model import Key, NodeState
from tests.support.grid import Grid, Keeping, grid

MIB = 1 << 20


@pytest.fixture
async def mesh(kept: Keeping) -> AsyncIterator[Grid]:
    async with grid(3, kept=kept) as running:
        yield running


async def test_the_copy_paths_of_other_systems(kept: Keeping) -> None:
    """What macOS and TLS use: no sendfile, no splice, no takeover."""
    async with grid(3, kernel=False, kept=kept) as mesh:
        for size in (4096, 3 * MIB + 17):
            data = os.urandom(size)
            await mesh.put("copied", data, "nodes=node2&copies=1")
            for node in range(3):
                assert await mesh.get("copied", node=node) == data


@pytest.mark.parametrize("size", [0, 1, 4096, 131_072, MIB, MIB + 1, 3 * MIB + 17])
@pytest.mark.parametrize(
    "query", ["copies=1", "copies=3", "copies=all", "layout=stripe:3", "layout=stripe:3x1"]
)
async def test_in_through_one_node_and_out_of_all(mesh: Grid, size: int, query: str) -> None:
    data = os.urandom(size)
    answer = await mesh.put("a/b.bin", data, query, node=1)
    assert answer["size"] == size
    assert answer["digest"] == f"blake3={blake3(data).hexdigest()}"
    for node in range(3):
        assert await mesh.get("a/b.bin", node=node) == data


@pytest.mark.parametrize("query", ["copies=2", "layout=stripe:3"])
async def test_a_body_of_unknown_length(mesh: Grid, query: str) -> None:
    data = os.urandom(5 * MIB + 3)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100_000):
            yield data[start : start + 100_000]

    url = f"{mesh.nodes[0].url}/v1/files/files/chunked?{query}"
    async with mesh.session.put(url, data=chunks()) as answer:
        assert answer.status == 201, await answer.text()
    assert await mesh.get("chunked", node=2) == data
    found = await (await mesh.session.get(f"{mesh.nodes[0].url}/v1/map/files/chunked")).json()
    lengths = [fragment["length"] for fragment in found["segments"][0]["fragments"]]
    assert max(lengths) - min(lengths) <= len(lengths)


@pytest.mark.parametrize("query", ["copies=1", "layout=stripe:3"])
async def test_ranges(mesh: Grid, query: str) -> None:
    data = os.urandom(4 * MIB + 321)
    await mesh.put("ranged", data, query)
    for start, end in [(0, 0), (5, 99), (MIB - 1, MIB), (0, len(data) - 1), (2 * MIB + 7, 4 * MIB)]:
        assert await mesh.get("ranged", node=1, Range=f"bytes={start}-{end}") == data[start : end + 1]
    assert await mesh.get("ranged", Range="bytes=-100") == data[-100:]
    assert await mesh.get("ranged", Range=f"bytes={3 * MIB}-") == data[3 * MIB :]


async def test_several_ranges_are_multipart(mesh: Grid) -> None:
    data = os.urandom(3 * MIB)
    await mesh.put("many", data, "copies=1")
    async with mesh.session.get(
        f"{mesh.nodes[1].url}/v1/files/files/many", headers={"Range": f"bytes=0-9,{2 * MIB}-{2 * MIB + 4}"}
    ) as answer:
        assert answer.status == 206
        reader = aiohttp.MultipartReader.from_response(answer)
        parts = []
        while (part := await reader.next()) is not None:
            assert isinstance(part, aiohttp.BodyPartReader)
            parts.append((part.headers["Content-Range"], bytes(await part.read())))
    assert parts == [
        (f"bytes 0-9/{len(data)}", data[:10]),
        (f"bytes {2 * MIB}-{2 * MIB + 4}/{len(data)}", data[2 * MIB : 2 * MIB + 5]),
    ]


async def test_head_tells_what_get_gives(mesh: Grid) -> None:
    await mesh.put(
        "h", b"hello", "copies=1", headers={"Content-Type": "text/plain", "Discloud-Meta-Author": "Ada"}
    )
    url = f"{mesh.nodes[2].url}/v1/files/files/h"
    async with mesh.session.head(url) as head, mesh.session.get(url) as full:
        assert head.status == 200
        for name in (
            "ETag",
            "Content-Length",
            "Content-Type",
            "Discloud-Digest",
            "Last-Modified",
            "Discloud-Meta-Author",
        ):
            assert head.headers[name] == full.headers[name], name
        assert head.headers["Content-Length"] == "5"
        assert full.headers["X-Content-Type-Options"] == "nosniff"


async def test_conditions_on_reads(mesh: Grid) -> None:
    etag = (await mesh.put("c", b"one"))["etag"]
    url = f"{mesh.nodes[0].url}/v1/files/files/c"
    cases = [
        ({"If-None-Match": f'"{etag}"'}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": f'"{etag}"'}, 200),
        ({"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"If-Unmodified-Since": "Thu, 01 Jan 1970 00:00:01 GMT"}, 412),
        ({"Range": "bytes=0-0", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-0", "If-Range": f'"{etag}"'}, 206),
    ]
    for headers, status in cases:
        async with mesh.session.get(url, headers=headers) as answer:
            assert answer.status == status, headers


async def test_overwrite_answers_200_and_lists_once(mesh: Grid) -> None:
    await mesh.put("o", b"one")
    async with mesh.session.put(f"{mesh.nodes[1].url}/v1/files/files/o", data=b"two") as answer:
        assert answer.status == 200
    assert await mesh.get("o", node=2) == b"two"
    listing = await (await mesh.session.get(f"{mesh.nodes[2].url}/v1/files/files")).json()
    assert [each["key"] for each in listing["objects"]] == ["o"]


async def test_fifty_writers_of_a_new_key_one_wins(mesh: Grid) -> None:
    async def write(number: int) -> int:
        url = f"{mesh.nodes[number % 3].url}/v1/files/files/race"
        async with mesh.session.put(url, data=b"%d" % number, headers={"If-None-Match": "*"}) as answer:
            await answer.read()
            return answer.status

    statuses = await asyncio.gather(*(write(number) for number in range(50)))
    assert sorted(statuses) == [201] + [412] * 49


async def test_digests_are_checked(mesh: Grid) -> None:
    data = b"checked"
    sha = b64encode(hashlib.sha256(data).digest()).decode()
    md5 = b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    await mesh.put("d", data, headers={"Content-Digest": f"sha-256=:{sha}:", "Content-MD5": md5})
    wrong = b64encode(bytes(32)).decode()
    for size in (7, 2 * MIB):
        status, code = await mesh.problem(
            "PUT", "/v1/files/files/wrong", data=b"x" * size, headers={"Content-Digest": f"sha-256=:{wrong}:"}
        )
        assert (status, code) == (400, "bad-digest")
    assert (await mesh.problem("GET", "/v1/files/files/wrong"))[0] == 404


async def test_delete_rename_metadata_and_copy(mesh: Grid) -> None:
    data = os.urandom(2 * MIB)
    await mesh.put("old name", data, "copies=2")
    url = f"{mesh.nodes[1].url}/v1/files/files/"
    async with mesh.session.patch(
        url + "old%20name", json={"key": "new/name", "metadata": {"a": "b"}}
    ) as answer:
        body = await answer.json()
        assert answer.status == 200, body
        assert (body["key"], body["metadata"]) == ("new/name", {"a": "b"})
    assert (await mesh.problem("GET", "/v1/files/files/old%20name")) == (404, "no-such-key")
    async with mesh.session.post(url + "copied?copy=files/new/name&layout=stripe:3") as answer:
        assert answer.status == 201, await answer.text()
        assert (await answer.json())["layout"] == "stripe:3"
    for node in range(3):
        assert await mesh.get("copied", node=node) == data
    async with mesh.session.delete(url + "new/name") as answer:
        assert answer.status == 204
    assert (await mesh.problem("DELETE", "/v1/files/files/new/name")) == (404, "no-such-key")
    assert await mesh.get("copied") == data


async def test_forms_store_many_files_under_a_prefix(mesh: Grid) -> None:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("note", "no file")
    files = {"a.txt": b"small", "ä b.bin": os.urandom(2 * MIB)}
    for name, data in files.items():
        form.add_field("file", io.BytesIO(data), filename=name, content_type="application/x-test")
    async with mesh.session.post(f"{mesh.nodes[0].url}/v1/files/files/in/box/?copies=2", data=form) as answer:
        assert answer.status == 201, await answer.text()
        assert [each["key"] for each in (await answer.json())["files"]] == [
            f"in/box/{name}" for name in files
        ]
    for name, data in files.items():
        assert await mesh.get(encode_key(Key(f"in/box/{name}")), node=1) == data


async def test_upload_and_download_by_id(mesh: Grid) -> None:
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("file", b"by id", filename="отчёт.txt", content_type="text/plain")
    async with mesh.session.post(f"{mesh.nodes[0].url}/v1/upload", data=form) as answer:
        identity = (await answer.json())["id"]
    async with mesh.session.get(f"{mesh.nodes[2].url}/v1/download/{identity}") as answer:
        assert await answer.read() == b"by id"
        assert "filename*=UTF-8''%D0%BE" in answer.headers["Content-Disposition"]


async def test_what_a_browser_could_run_is_sandboxed(mesh: Grid) -> None:
    for kind in ("text/html", "image/svg+xml", "application/xml", "text/HTML; charset=utf-8"):
        await mesh.put("page", b"<script>", headers={"Content-Type": kind})
        async with mesh.session.get(f"{mesh.nodes[0].url}/v1/files/files/page") as answer:
            assert answer.headers["Content-Disposition"].startswith("attachment")
            assert "sandbox" in answer.headers["Content-Security-Policy"]


async def test_a_read_goes_on_when_its_holder_is_down(mesh: Grid) -> None:
    data = os.urandom(3 * MIB)
    await mesh.put("safe", data, "copies=2&nodes=node2,node3")
    mesh.nodes[1].reach.down = True
    assert await mesh.get("safe") == data
    mesh.nodes[2].reach.down = True
    assert await mesh.problem("GET", "/v1/files/files/safe") == (503, "unavailable")


async def test_a_missing_copy_is_queued_for_repair(mesh: Grid) -> None:
    await mesh.put("spoilt", b"x" * 5000, "copies=2&nodes=node2,node3")
    for blob in list(mesh.nodes[1].blobs._held):
        await mesh.nodes[1].blobs.delete(blob)
    for _ in range(8):
        assert await mesh.get("spoilt") == b"x" * 5000
    repairs = await mesh.metadata.queues.repairs(2e9, 10)
    assert [repair.missing for repair in repairs] == [(mesh.nodes[1].node.id,)]


async def test_explain_and_map_name_the_nodes(mesh: Grid) -> None:
    await mesh.put("where", b"x" * 10, "copies=2&nodes=node2,node3")
    told = await (await mesh.session.get(f"{mesh.nodes[0].url}/v1/files/files/where?explain=1")).json()
    assert told["asked"] == "node1"
    assert set(told["sources"]) <= {"node2", "node3"}
    mesh.nodes[2].reach.down = True
    found = await (await mesh.session.get(f"{mesh.nodes[0].url}/v1/map/files/where")).json()
    copies = found["segments"][0]["fragments"][0]["copies"]
    assert {copy["name"]: copy["state"] for copy in copies} == {"node2": "present", "node3": "unknown"}


async def test_source_header(mesh: Grid) -> None:
    await mesh.put("s", b"x", "nodes=node2&copies=1")
    sources = []
    for node in range(3):
        async with mesh.session.get(f"{mesh.nodes[node].url}/v1/files/files/s") as answer:
            sources.append((answer.headers["Discloud-Node"], answer.headers["Discloud-Source"]))
    assert sources == [("node1", "peer node2"), ("node2", "local"), ("node3", "peer node2")]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
        unique=True,
        max_size=8,
    )
)
@settings(max_examples=25)
def test_distinct_keys_stay_distinct(kept: Keeping, keys: list[str]) -> None:
    async def run() -> None:
        async with grid(1, layout="mirror:1", kept=kept) as mesh:
            for number, key in enumerate(keys):
                url = URL(f"{mesh.nodes[0].url}/v1/files/files/{encode_key(Key(key))}", encoded=True)
                async with mesh.session.put(url, data=b"%d" % number) as answer:
                    assert answer.status == 201, await answer.text()
            listing = await (await mesh.session.get(f"{mesh.nodes[0].url}/v1/files/files")).json()
            assert [each["key"] for each in listing["objects"]] == sorted(keys, key=str.encode)
            for number, key in enumerate(keys):
                url = URL(f"{mesh.nodes[0].url}/v1/files/files/{encode_key(Key(key))}", encoded=True)
                async with mesh.session.get(url) as answer:
                    assert await answer.read() == b"%d" % number

    asyncio.run(run())


async def test_a_suspect_node_is_read_last(mesh: Grid) -> None:
    await mesh.put("last", b"x" * 100, "copies=2&nodes=node2,node3")
    mesh.set_state(1, NodeState.SUSPECT)
    for _ in range(10):
        async with mesh.session.get(f"{mesh.nodes[0].url}/v1/files/files/last") as answer:
            assert answer.headers["Discloud-Source"] == "peer node3"
