"""The HTTP contract in memory, on a real port: what the command line client is tested against.

Runs in a thread of its own, because commands run a loop of their own. Knobs make it misbehave on purpose.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import uvloop
from aiohttp import web
from blake3 import blake3

from discloud.core.keys import decode_key, encode_key

MODIFIED = 1_790_000_000.0


@dataclass
class Stored:
    data: bytes
    content_type: str = "application/octet-stream"
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return blake3(self.data).hexdigest()


class Problem(Exception):
    def __init__(self, status: int, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.body = {"code": code, "detail": detail, "hint": hint, "request_id": "r-1"}


class FakeApi:
    """Buckets and objects of one mesh; ``seen`` are "METHOD raw-path" of every request."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Any]] = {}
        self.objects: dict[tuple[str, str], Stored] = {}
        self.token = "secret-token"
        self.page = 1000
        self.max_object = 1 << 40
        self.cuts: list[int] = []
        """Bytes after which the next GETs are cut, one entry each."""
        self.stall = False
        """Cut means: send nothing more, until the client leaves."""
        self.busy = 0
        """Requests that the next answers refuse with 503."""
        self.lie = False
        """Send a digest that is not the body's."""
        self.meet = 0
        """PUTs that have to be under way at the same time before any of them goes on, once."""
        self.warnings: list[str] = []
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.writing = 0
        self.received = 0
        self.most_writing = 0
        self.url = ""
        self.make("files")

    def make(self, name: str, **settings: Any) -> dict[str, Any]:
        blank = {"layout": "", "regions": [], "cache_control": "", "verify": "always", "state": "active"}
        self.buckets[name] = {"name": name, **blank, **settings, "created": MODIFIED}
        return self.buckets[name]

    def store(self, key: str, data: bytes = b"x", bucket: str = "files") -> Stored:
        self.objects[bucket, key] = Stored(data)
        return self.objects[bucket, key]

    @contextmanager
    def serving(self) -> Iterator[FakeApi]:
        ready, stop = threading.Event(), asyncio.Event()
        loops: list[asyncio.AbstractEventLoop] = []

        async def serve() -> None:
            runner = web.ServerRunner(web.Server(self._answer), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            assert site._server is not None
            self.url = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
            loops.append(asyncio.get_running_loop())
            ready.set()
            await stop.wait()
            await runner.cleanup()

        def in_thread() -> None:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner_of_loop:
                runner_of_loop.run(serve())

        thread = threading.Thread(target=in_thread)
        thread.start()
        try:
            assert ready.wait(10)
            yield self
        finally:
            loops[0].call_soon_threadsafe(stop.set)
            thread.join(10)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        raw_path = request.raw_path.partition("?")[0]
        self.seen.append(f"{request.method} {request.raw_path}")
        self.headers.append(dict(request.headers))
        try:
            self._admit(request)
            return await self._route(request, raw_path)
        except Problem as problem:
            return web.Response(
                status=problem.status, body=json.dumps(problem.body), content_type="application/problem+json"
            )

    def _admit(self, request: web.BaseRequest) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise Problem(401, "unauthenticated", "no valid token came with Authorization: Bearer")
        if self.busy:
            self.busy -= 1
            raise Problem(503, "unavailable", "the metadata is not reachable", "try again in a moment")

    async def _route(self, request: web.BaseRequest, path: str) -> web.StreamResponse:
        surface, _, rest = path.removeprefix("/v1/").partition("/")
        if surface == "files" and "/" in rest:
            bucket, _, raw = rest.partition("/")
            self._bucket(bucket)
            return await self._object(request, bucket, decode_key(raw))
        if surface == "files":
            return self._list(request, rest)
        if surface == "buckets":
            return await self._buckets(request, rest)
        if surface == "map":
            bucket, _, raw = rest.partition("/")
            return web.json_response(self._map(bucket, decode_key(raw)))
        if surface == "nodes":
            return web.json_response({"nodes": [node(1), node(2, state="down", fill=0.93)]})
        if surface == "cluster":
            return web.json_response(
                {
                    "mesh": "home",
                    "nodes": {"alive": 2, "down": 1, "lost": 0},
                    "capacity": 4096 * 1024,
                    "used": 1024 * 1024,
                    "default_layout": "mirror:3",
                    "version": "0.1.0",
                }
            )
        raise Problem(404, "no-such-path", f"nothing is served at {path}")

    def _bucket(self, name: str) -> dict[str, Any]:
        if name not in self.buckets:
            raise Problem(404, "no-such-bucket", f"there is no bucket {name}", f"make it: discloud mb {name}")
        return self.buckets[name]

    def _find(self, bucket: str, key: str) -> Stored:
        self._bucket(bucket)
        if (bucket, key) not in self.objects:
            raise Problem(404, "no-such-key", f"bucket {bucket} has no object {key}")
        return self.objects[bucket, key]

    async def _object(self, request: web.BaseRequest, bucket: str, key: str) -> web.StreamResponse:
        match request.method:
            case "PUT":
                return await self._put(request, bucket, key)
            case "GET":
                return await self._get(request, self._find(bucket, key))
            case "HEAD":
                return self._head(bucket, key)
            case "DELETE":
                self._find(bucket, key)
                del self.objects[bucket, key]
                return web.Response(status=204)
            case "PATCH":
                new = (await request.json())["key"]
                self.objects[bucket, new] = self._find(bucket, key)
                del self.objects[bucket, key]
                return web.json_response(described(new, self.objects[bucket, new]))
            case "POST":
                source = self._find(*request.query["copy"].split("/", 1))
                self.objects[bucket, key] = source
                return web.json_response(self._written(bucket, key, source), status=201)
            case method:
                raise Problem(405, "method-not-allowed", f"no {method}")

    async def _put(self, request: web.BaseRequest, bucket: str, key: str) -> web.StreamResponse:
        if (request.content_length or 0) > self.max_object:
            raise Problem(413, "too-large", f"{key} is larger than {self.max_object} bytes", "store less")
        if request.headers.get("If-None-Match") == "*" and (bucket, key) in self.objects:
            raise Problem(412, "precondition-failed", f"{key} exists")
        if request.headers.get("Expect"):
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        self.writing += 1
        self.most_writing = max(self.most_writing, self.writing)
        try:
            async with asyncio.timeout(10):
                while self.writing < self.meet:
                    await asyncio.sleep(0.001)
            self.meet = 0
            data = b""
            async for chunk in request.content.iter_any():
                data += chunk
                self.received += len(chunk)
        finally:
            self.writing -= 1
        stored = Stored(data, request.content_type)
        new = (bucket, key) not in self.objects
        self.objects[bucket, key] = stored
        return web.json_response(self._written(bucket, key, stored), status=201 if new else 200)

    def _written(self, bucket: str, key: str, stored: Stored) -> dict[str, Any]:
        return {
            "bucket": bucket,
            "key": key,
            "version": "v-1",
            "size": len(stored.data),
            "etag": stored.etag,
            "digest": f"blake3={'0' * 64 if self.lie else stored.etag}",
            "layout": "mirror:3",
            "placement": [["node1", "node2", "node3"]],
            "warnings": self.warnings,
        }

    async def _get(self, request: web.BaseRequest, stored: Stored) -> web.StreamResponse:
        if len(stored.data) > int(request.query.get("max-size", 1 << 60)):
            raise Problem(413, "too-large", f"the object has {len(stored.data)} bytes")
        if request.headers.get("If-Match", f'"{stored.etag}"') != f'"{stored.etag}"':
            raise Problem(412, "precondition-failed", "the object changed")
        start = int(request.headers.get("Range", "bytes=0-")[len("bytes=") : -1])
        size = len(stored.data)
        if start >= size and start:
            raise Problem(416, "range-not-satisfiable", f"there are {size} bytes")
        response = web.StreamResponse(status=206 if start else 200, headers=self._described(stored))
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        response.content_length = size - start
        await response.prepare(request)
        cut = self.cuts.pop(0) if self.cuts else None
        await response.write(stored.data[start : None if cut is None else start + cut])
        if cut is not None and self.stall:
            while request.transport and not request.transport.is_closing():
                await asyncio.sleep(0.01)
        elif cut is not None:
            assert request.transport is not None
            request.transport.close()
        return response

    def _described(self, stored: Stored) -> dict[str, str]:
        digest = "0" * 64 if self.lie else stored.etag
        return {
            "ETag": f'"{stored.etag}"',
            "Content-Type": stored.content_type,
            "Last-Modified": formatdate(MODIFIED, usegmt=True),
            "Discloud-Digest": f"blake3={digest}",
            "Discloud-Version": "v-1",
            "Discloud-Layout": "mirror:3",
            "Discloud-Node": "node1",
            **{f"Discloud-Meta-{name.title()}": encode_key(value) for name, value in stored.metadata.items()},  # type: ignore[arg-type]
        }

    def _head(self, bucket: str, key: str) -> web.StreamResponse:
        stored = self.objects.get((bucket, key))
        if stored is None:
            return web.Response(status=404)
        return web.Response(
            headers=self._described(stored), body=stored.data
        )  # aiohttp sends no body to a HEAD

    def _list(self, request: web.BaseRequest, bucket: str) -> web.Response:
        self._bucket(bucket)
        query = request.query
        prefix, delimiter, after = query["prefix"], query.get("delimiter", ""), query.get("after", "")
        entries: dict[str, Stored | None] = {}
        for (owner, key), stored in sorted(self.objects.items(), key=lambda item: item[0][1].encode()):
            if owner != bucket or not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            name = prefix + head + delimiter if found else key
            entries.setdefault(name, None if found else stored)
        names = [name for name in entries if name.encode() > after.encode()]
        page = names[: int(query.get("limit", self.page))]
        return web.json_response(
            {
                "bucket": bucket,
                "prefix": prefix,
                "objects": [described(name, shown) for name in page if (shown := entries[name])],
                "prefixes": [name for name in page if entries[name] is None],
                "after": page[-1] if len(page) < len(names) else None,
            }
        )

    async def _buckets(self, request: web.BaseRequest, name: str) -> web.Response:
        if not name:
            return web.json_response({"buckets": list(self.buckets.values())})
        if request.method == "PUT":
            if name in self.buckets:
                raise Problem(409, "bucket-exists", f"there is a bucket {name} already")
            settings = json.loads(await request.read() or b"{}")
            return web.json_response(self.make(name, **settings), status=201)
        bucket = self._bucket(name)
        if request.method == "DELETE":
            if any(owner == name for owner, _ in self.objects):
                raise Problem(
                    409, "bucket-not-empty", f"bucket {name} holds objects", f"discloud rm -r {name}"
                )
            del self.buckets[name]
            return web.Response(status=204)
        return web.json_response(bucket)

    def _map(self, bucket: str, key: str) -> dict[str, Any]:
        stored = self._find(bucket, key)
        size = len(stored.data)
        halves = [size - size // 2, size // 2]
        fragments = [
            {
                "fragment": number,
                "length": length,
                "hash": hashlib.sha256(stored.data).hexdigest(),
                "copies": [copy(1, "present", MODIFIED), copy(2, "missing", None)],
            }
            for number, length in enumerate(halves)
        ]
        segment = {"offset": 0, "length": size, "fragments": fragments}
        return {
            "bucket": bucket,
            "key": key,
            "version": "v-1",
            "size": size,
            "layout": "stripe:2x2",
            "segments": [segment],
        }


def described(key: str, stored: Stored) -> dict[str, Any]:
    return {
        "key": key,
        "size": len(stored.data),
        "etag": stored.etag,
        "digest": f"blake3={stored.etag}",
        "version": "v-1",
        "content_type": stored.content_type,
        "modified": MODIFIED,
        "metadata": stored.metadata,
        "layout": "mirror:3",
    }


def node(number: int, state: str = "alive", fill: float = 0.25) -> dict[str, Any]:
    return {
        "id": f"id-{number}",
        "name": f"node{number}",
        "role": "root" if number == 1 else "ordinary",
        "api": f"127.0.0.1:{7060 + 10 * number}",
        "region": "eu",
        "zone": "a",
        "state": state,
        "capacity": 1 << 30,
        "used": int(fill * (1 << 30)),
        "free": 1 << 30,
        "blobs": 12,
        "fill": fill,
    }


def copy(number: int, state: str, verified: float | None) -> dict[str, Any]:
    place = {"region": "eu", "zone": "a"}
    return {"node": f"id-{number}", "name": f"node{number}", **place, "state": state, "verified": verified}
