"""Answering a GET: conditions, ranges, headers, then the bytes, small ones whole, large ones moved by the kernel.

Invariant I7: once the headers are out, a read that cannot go on cuts the connection; it never ends cleanly short.
"""

from __future__ import annotations

import asyncio
import secrets

from aiohttp import web
from multidict import CIMultiDict

from discloud import metrics
from discloud.api import headers
from discloud.api.call import Call
from discloud.api.problem import NoSuchRange
from discloud.cluster import Cluster
from discloud.core.preconditions import ReadVerdict, range_applies
from discloud.core.ranges import Span, parse_range
from discloud.errors import ClientGone, DiscloudError, PreconditionFailed, RangeNotSatisfiable, TooLarge
from discloud.gateway.gather import WHOLE, Gather
from discloud.gateway.read import Found
from discloud.logs import REQUEST
from discloud.transfer.outlet import Outlet, open_outlet

UNHELD = 32 * 1024
"""Bytes of an answer that fit into a socket's own buffer: they are not waited for."""


async def send(call: Call, found: Found) -> web.StreamResponse:
    """The answer to a GET of ``found``. Raises: PreconditionFailed, TooLarge, RangeNotSatisfiable, Unavailable, Corrupt."""
    if refusal := _refusal(call, found):
        return refusal
    fields = _fields(call, found)
    spans = _spans(call, found)
    if spans is not None and len(spans) > 1:
        return await _send_many(call, found, fields, spans)
    span = spans[0] if spans else Span(0, found.version.size)
    status = 206 if spans else 200
    if spans:
        fields["Content-Range"] = _content_range(span, found.version.size)
    async with call.surface.reader.gather(found, span) as gather:
        if span.length <= WHOLE:
            return await _send_whole(call, gather, span.length, status, fields)
        await gather.open()
        fields["Discloud-Source"] = source_of(call.surface.cluster, gather)
        response = web.StreamResponse(status=status, headers=fields)
        response.content_length = span.length
        return await _stream(call, response, [(b"", gather)], b"")


async def _send_whole(
    call: Call, gather: Gather, length: int, status: int, fields: CIMultiDict[str]
) -> web.StreamResponse:
    """A stretch that is held in memory, as part of the budget, until the client has taken it."""
    async with call.surface.memory.hold(length):
        data = await gather.fetch() if length else b""
        fields["Discloud-Source"] = source_of(call.surface.cluster, gather)
        metrics.BYTES_OUT.add(length, fields["Discloud-Source"][:5])
        response = web.Response(body=data, status=status, headers=fields)
        if length <= UNHELD:
            return response
        _finish_headers(response)
        await response.prepare(call.request)
        await _finish_in_time(call, response, length)
        return response


async def _finish_in_time(call: Call, response: web.Response, length: int) -> None:
    """Send the body at the pace that clients must keep: one that stands still would hold its share of the memory for ever."""
    try:
        async with asyncio.timeout(call.surface.pace.deadline(length)):
            await response.write_eof()
    except TimeoutError as error:
        if (transport := call.request.transport) is not None:
            transport.abort()
        raise ClientGone(
            "the client does not take its answer", "see limits.min_rate, limits.grace"
        ) from error


def _finish_headers(response: web.StreamResponse) -> None:
    """The headers that the app adds to answers that it sends itself."""
    response.headers["Server"] = headers.SERVER
    response.headers["Discloud-Request-Id"] = REQUEST.get()


def describe_only(call: Call, found: Found) -> web.StreamResponse:
    """The answer to a HEAD of ``found``. Raises: as ``send``."""
    if refusal := _refusal(call, found):
        return refusal
    fields = _fields(call, found)
    spans = _spans(call, found)
    length, status = found.version.size, 200
    if spans is not None and len(spans) == 1:
        length, status = spans[0].length, 206
        fields["Content-Range"] = _content_range(spans[0], found.version.size)
    fields["Content-Length"] = str(length)
    return web.Response(status=status, headers=fields)


def _refusal(call: Call, found: Found) -> web.Response | None:
    """304 where the client has it already. Raises: PreconditionFailed, TooLarge."""
    version = found.version
    verdict = headers.read_verdict(call.request, version)
    if verdict is ReadVerdict.FAILED:
        raise PreconditionFailed(
            f"object {version.key!r} has the entity tag {version.etag}", "read it again without the condition"
        )
    if verdict is ReadVerdict.NOT_MODIFIED:
        fields = headers.describe(found, download=False)
        for name in ("Content-Type", "Content-Disposition"):
            fields.pop(name, None)
        return web.Response(status=304, headers=fields)
    most = call.number("max-size")
    if most is not None and version.size > most:
        raise TooLarge(
            f"object {version.key!r} has {version.size} bytes, max-size allows {most}",
            "ask with a larger max-size or for a Range",
        )
    return None


def _fields(call: Call, found: Found) -> CIMultiDict[str]:
    fields = headers.describe(found, download=call.flag("download"))
    fields["Discloud-Node"] = call.surface.cluster.own.name
    return fields


def _spans(call: Call, found: Found) -> tuple[Span, ...] | None:
    """The ranges asked for, None = the whole. Raises: RangeNotSatisfiable."""
    header, if_range = call.request.headers.get("Range"), call.request.headers.get("If-Range")
    version = found.version
    unsure = found.stale and if_range is not None  # whether the client's tag is still the object's
    if header is None or unsure:
        return None
    if not range_applies(if_range, version.etag, version.md5, version.created):
        return None
    try:
        return parse_range(header, version.size)
    except RangeNotSatisfiable as error:
        raise NoSuchRange(error, version.size) from error


def source_of(cluster: Cluster, gather: Gather) -> str:
    """``Discloud-Source``: ``local``, or ``peer`` and the names of the nodes that the bytes come from."""
    nodes = dict.fromkeys(each.node for each in gather.attempts if each.outcome == "serves")
    others = [node for node in nodes if node != cluster.me]
    if not others:
        return "local"
    return f"peer {','.join(known.name for node in others if (known := cluster.view.find(node)))}"


async def _stream(
    call: Call, response: web.StreamResponse, parts: list[tuple[bytes, Gather]], tail: bytes
) -> web.StreamResponse:
    """Headers, then each part (its own head, then its bytes), then ``tail``; a failure cuts the connection."""
    request, surface = call.request, call.surface
    _finish_headers(response)
    await response.prepare(request)
    transport = request.transport
    if transport is None:
        raise ClientGone("the client left before the first byte")
    try:
        async with open_outlet(transport, surface.threads, surface.pace, kernel=surface.kernel) as outlet:
            for head, gather in parts:
                await _part(outlet, head, gather)
            if tail:
                await outlet.write(tail)
            metrics.BYTES_OUT.add(outlet.sent, response.headers["Discloud-Source"][:5])
    except DiscloudError as error:
        transport.abort()
        raise ClientGone(f"the answer was cut: {error.detail}") from error
    await response.write_eof()
    return response


async def _part(outlet: Outlet, head: bytes, gather: Gather) -> None:
    if head:
        await outlet.write(head)
    await gather.move(outlet)


async def _send_many(
    call: Call, found: Found, fields: CIMultiDict[str], spans: tuple[Span, ...]
) -> web.StreamResponse:
    """Several ranges as multipart/byteranges (RFC 9110 section 14.6)."""
    boundary = secrets.token_hex(12)
    version = found.version
    heads = [
        f"\r\n--{boundary}\r\nContent-Type: {version.content_type}\r\n"
        f"Content-Range: {_content_range(span, version.size)}\r\n\r\n".encode()
        for span in spans
    ]
    tail = f"\r\n--{boundary}--\r\n".encode()
    fields["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
    response_length = sum(map(len, heads)) + sum(span.length for span in spans) + len(tail)
    gathers = [call.surface.reader.gather(found, span) for span in spans]
    try:
        await gathers[0].open()
        fields["Discloud-Source"] = source_of(call.surface.cluster, gathers[0])
        response = web.StreamResponse(status=206, headers=fields)
        response.content_length = response_length
        return await _stream(call, response, list(zip(heads, gathers, strict=True)), tail)
    finally:
        for gather in gathers:
            await gather.close()


def _content_range(span: Span, size: int) -> str:
    return f"bytes {span.start}-{span.start + span.length - 1}/{size}"
