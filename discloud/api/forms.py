"""Files by form (multipart/form-data, RFC 7578): one or many, streamed one after the other, never held whole."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial

from aiohttp import BodyPartReader, MultipartReader, StreamReader, web
from aiohttp.http import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from discloud.api.call import Call
from discloud.api.headers import FILENAME
from discloud.api.native import UPLOADS, describe_written, json_response, post_file, put_wish
from discloud.core.keys import check_key, decode_key
from discloud.errors import BucketExists, ClientGone, Invalid, NoSuchBucket, TooLarge
from discloud.gateway.buckets import BucketWish
from discloud.transfer.threads import Threads

STEP = 256 * 1024
"""Bytes taken from a part at a time."""


class PartBody:
    """One file of a form as the body of a write. Its length shows only at its end; ``limit`` holds while it streams."""

    length: int | None = None

    def __init__(self, part: BodyPartReader, content: StreamReader, threads: Threads, limit: int) -> None:
        self._part = part
        self._content = content
        self._threads = threads
        self._limit = limit
        self._first = b""

    async def small(self, limit: int) -> bytes | None:
        """The whole file if it ends within ``limit``; otherwise what was read begins a later ``pump``."""
        while chunk := await self._chunk():
            self._first += chunk
            if len(self._first) > limit:
                return None
        return self._first

    async def pump(self, sink: Callable[[memoryview], None]) -> int:
        """Hand the file to ``sink``. Raises: TooLarge at the step that crosses the limit, Invalid, ClientGone."""
        taken, chunk, self._first = 0, self._first, b""
        while chunk:
            taken += len(chunk)
            if taken > self._limit:
                raise TooLarge(
                    f"a file of the form has more than {self._limit} bytes", "the limit is limits.max_object"
                )
            await self._threads.run(partial(sink, memoryview(chunk)))
            chunk = await self._chunk()
        return taken

    async def _chunk(self) -> bytes:
        try:
            chunk = await self._part.read_chunk(STEP)
        except (ValueError, AssertionError, HttpProcessingError) as error:
            raise Invalid(f"the form is malformed: {error}", "send multipart/form-data") from error
        except (RequestPayloadError, ConnectionError) as error:
            raise ClientGone("the client left in the middle of a form") from error
        if not chunk and self._content.at_eof():
            # A part that ends properly leaves the boundary behind it unread.
            raise Invalid("the form is malformed: it ends in the middle of a file", "send it again, whole")
        return chunk


async def post_form(call: Call) -> web.StreamResponse:
    """``POST /v1/files/{bucket}/{prefix/}``: every file of the form becomes an object under the prefix."""
    if call.query("copy") is not None:
        return await post_file(call)
    prefix = decode_key(call.path["key"]) if call.path.get("key") else ""
    if prefix and not prefix.endswith("/"):
        raise Invalid(
            f"a form goes to a prefix that ends in '/', {prefix!r} does not", f"POST to {prefix}/ instead"
        )
    stored = []
    async for name, part in _files(call):
        key = check_key(prefix + name)
        written = await _store(call, call.bucket, key, name, part)
        stored.append(written)
    if not stored:
        raise Invalid("the form has no file", "send a file field: curl -F file=@photo.jpg URL")
    return json_response({"files": stored}, 201)


async def post_upload(call: Call) -> web.StreamResponse:
    """``POST /v1/upload``: the form's file is stored under a new id, which is answered."""
    identity = ""
    async for name, part in _files(call):
        if identity:
            raise Invalid(
                "the form has several files", "send one file, or POST to /v1/files/{bucket}/{prefix/}"
            )
        identity = call.surface.new_id()
        await _ensure_uploads(call)
        await _store(call, UPLOADS, identity, name, part)
    if not identity:
        raise Invalid("the form has no file", "send a file field: curl -F file=@photo.jpg URL")
    return json_response({"id": identity}, 201)


async def _store(call: Call, bucket: str, key: str, name: str, part: BodyPartReader) -> dict[str, object]:
    wish = replace(
        put_wish(call, bucket, check_key(key)),
        content_type=part.headers.get("Content-Type", "application/octet-stream")[:255],
        metadata=((FILENAME, name),),
        digests=(),
    )
    surface = call.surface
    written = await surface.writer.put(
        wish, PartBody(part, call.request.content, surface.threads, surface.max_object)
    )
    return describe_written(call, bucket, written)


async def _files(call: Call) -> AsyncIterator[tuple[str, BodyPartReader]]:
    """The parts that carry a file name; other fields are passed over."""
    reader = await _open(call)
    while True:
        try:
            part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise Invalid("the form nests another form", "send a flat multipart/form-data")
            name = part.filename
            if name is None:
                await part.release()
                continue
        except (ValueError, AssertionError, HttpProcessingError, RuntimeError) as error:
            raise Invalid(f"the form is malformed: {error}", "send multipart/form-data") from error
        except (RequestPayloadError, ConnectionError) as error:
            raise ClientGone("the client left in the middle of a form") from error
        yield name, part


async def _open(call: Call) -> MultipartReader:
    request = call.request
    if not request.content_type.startswith("multipart/form-data"):
        raise Invalid(
            f"expected multipart/form-data, got {request.content_type}",
            "PUT sends a file as it is; POST takes forms: curl -F file=@photo.jpg URL",
        )
    try:
        return await request.multipart()
    except (ValueError, AssertionError) as error:
        raise Invalid(
            f"the form is malformed: {error}", "send multipart/form-data with a boundary"
        ) from error


async def _ensure_uploads(call: Call) -> None:
    """The bucket of uploads is made by the first of them."""
    buckets = call.surface.buckets
    try:
        await buckets.get(UPLOADS)
    except NoSuchBucket:
        try:
            await buckets.create(call.account, UPLOADS, BucketWish())
        except BucketExists:
            return
