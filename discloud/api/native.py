"""Files over HTTP (DESIGN section 8): PUT, GET, HEAD, DELETE, PATCH, copy, map and listings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from discloud.api import headers
from discloud.api.call import Call, known_fields, text_field
from discloud.api.send import describe_only, send
from discloud.core.keys import check_key, decode_key
from discloud.core.layout import layout_name
from discloud.core.model import Key, Precondition, Version, VersionId
from discloud.core.ranges import Span
from discloud.errors import Invalid, Unavailable
from discloud.gateway.copy import ObjectBody
from discloud.gateway.heads import Freshness
from discloud.gateway.read import Found, checked_prefix
from discloud.gateway.write import Body, Put, Written


def json_response(body: object, status: int = 200, **more: str) -> web.Response:
    """An answer of JSON."""
    return web.Response(
        body=json.dumps(body, ensure_ascii=False).encode(),
        status=status,
        content_type="application/json",
        headers=more,
    )


def put_wish(call: Call, bucket: str, key: Key) -> Put:
    """What the request's headers and query wish for an object that it writes. Raises: Invalid, BadDigest."""
    request = call.request
    return Put(
        bucket,
        key,
        call.account,
        headers.write_condition(request),
        headers.content_type(request),
        headers.user_metadata(request),
        headers.declared_digests(request),
        layout=call.query("layout"),
        copies=call.query("copies"),
        nodes=call.query("nodes"),
        regions=call.query("regions"),
        ack=call.query("ack"),
    )


async def put_file(call: Call) -> web.StreamResponse:
    """``PUT /v1/files/{bucket}/{key}``: 201 for a new object, 200 where one was replaced."""
    return await store(call, put_wish(call, call.bucket, call.key), call.intake())


async def store(call: Call, wish: Put, body: Body) -> web.StreamResponse:
    """Write and answer with what was written."""
    written = await call.surface.writer.put(wish, body)
    answer = describe_written(call, wish.bucket, written)
    return json_response(
        answer, 200 if written.replaced else 201, ETag=f'"{written.version.etag}"', **_node(call)
    )


def describe_written(call: Call, bucket: str, written: Written) -> dict[str, Any]:
    """A PUT's answer: what was stored and where."""
    version = written.version
    view = call.surface.cluster.view
    names = {node.id: node.name for node in view.nodes}
    return {
        "bucket": bucket,
        "key": version.key,
        "version": version.id,
        "size": version.size,
        "etag": version.etag,
        "digest": headers.digest_header(version),
        "layout": layout_name(version.segments[0].layout),
        "placement": [
            [names.get(node, node) for node in nodes]
            for segment in version.segments
            for nodes in segment.holders
        ],
        "warnings": list(written.warnings),
    }


async def get_file(call: Call) -> web.StreamResponse:
    """``GET /v1/files/{bucket}/{key}``: the bytes, a range of them, or (``explain=1``) how they would be read."""
    return await answer_read(call, call.bucket, call.key)


async def answer_read(call: Call, bucket: str, key: Key) -> web.StreamResponse:
    """Answer a GET of an object. Where the bytes of a head that may be stale are gone, the present one is asked for."""
    found = await _find(call, bucket, key, headers.freshness(call.request))
    try:
        return await _answer_read(call, found)
    except Unavailable:
        if not found.stale:
            raise
    return await _answer_read(call, await _find(call, bucket, key))


async def _answer_read(call: Call, found: Found) -> web.StreamResponse:
    if call.flag("explain"):
        return json_response(await explain(call, found))
    return await send(call, found)


async def head_file(call: Call) -> web.StreamResponse:
    """``HEAD``: a GET's headers without the bytes."""
    return describe_only(call, await _find(call, call.bucket, call.key, headers.freshness(call.request)))


async def explain(call: Call, found: Found) -> dict[str, Any]:
    """What a read of this object would consider, now, and why; nothing but the first bytes' readers is opened."""
    cluster = call.surface.cluster
    names = {node.id: node.name for node in cluster.view.nodes}
    async with call.surface.reader.gather(found, Span(0, found.version.size)) as gather:
        if found.version.size:
            await gather.open()
        attempts = [
            {"blob": each.blob, "node": names.get(each.node, each.node), "outcome": each.outcome}
            for each in gather.attempts
        ]
        sources = [names.get(node, node) for node in gather.sources]
    return {
        "bucket": found.bucket.name,
        "key": found.version.key,
        "version": found.version.id,
        "asked": cluster.own.name,
        "verify": found.bucket.verify,
        "sources": sources,
        "considered": attempts,
        "nodes": [
            {"name": node.name, "state": node.state, "zone": node.zone, "region": node.region}
            for node in cluster.view.nodes
        ],
    }


async def delete_file(call: Call) -> web.StreamResponse:
    """``DELETE``: 204; nothing there is 404."""
    await call.surface.changer.delete(
        call.account, call.bucket, call.key, headers.write_condition(call.request)
    )
    return web.Response(status=204)


def _content_type(body: dict[str, Any]) -> str | None:
    """The new type; what could not stand in a header would end, or split, every answer from then on. Raises: Invalid."""
    value = text_field(body, "content_type")
    if value is not None and (not value.strip() or not value.isprintable() or len(value) > 255):
        raise Invalid("content_type is not a media type", 'example: {"content_type": "image/png"}')
    return value


async def patch_file(call: Call) -> web.StreamResponse:
    """``PATCH`` with JSON: ``key`` renames; ``metadata`` and ``content_type`` replace what is said of the object."""
    body = await call.json()
    known_fields(body, "key", "metadata", "content_type")
    only = headers.write_condition(call.request)
    bucket, key = call.bucket, call.key
    if not body:
        raise Invalid("the body changes nothing", "send key, metadata or content_type")
    target = text_field(body, "key")
    changer = call.surface.changer
    new_type, metadata = _content_type(body), _metadata(body)
    if target is not None:
        target_key = check_key(target)
        version = await changer.rename(call.account, bucket, key, target_key, only)
        if new_type is None and metadata is None:
            return json_response(describe_object(version))
        key, only = target_key, Precondition(if_match=(version.etag,))
    version = await changer.update(call.account, bucket, key, only, content_type=new_type, metadata=metadata)
    # As it was changed, not as it is found now: others may have replaced or removed it since.
    return json_response(describe_object(version))


async def post_file(call: Call) -> web.StreamResponse:
    """``POST /v1/files/{bucket}/{key}?copy=bucket/key``: a copy with bytes of its own, laid out as wished."""
    source = call.query("copy")
    if source is None:
        raise Invalid(
            "POST to a key needs copy=", "example: POST /v1/files/b/new?copy=b/old; forms go to a prefix/"
        )
    bucket, _, key = source.partition("/")
    found = await call.surface.reader.find(call.account, bucket, check_key(key), _version(call))
    body = ObjectBody(call.surface.reader, found, call.surface.threads)
    wish = put_wish(call, call.bucket, call.key)
    wish = replace(
        wish,
        content_type=found.version.content_type,
        metadata=wish.metadata or found.version.metadata,
        digests=(),
    )
    return await store(call, wish, body)


async def list_files(call: Call) -> web.StreamResponse:
    """``GET /v1/files/{bucket}?prefix=&delimiter=&after=&limit=``: one page in byte order of the keys."""
    most = call.surface.max_list
    limit = call.number("limit", most) or 0
    if not 1 <= limit <= most:
        raise Invalid(f"limit={limit} is out of bounds", f"from 1 to {most}")
    delimiter = call.query("delimiter") or ""
    if len(delimiter) > 1:
        raise Invalid(f"delimiter={delimiter!r} is longer than one character", "example: delimiter=/")
    prefix = checked_prefix(call.query("prefix") or "")
    listed = await call.surface.reader.page(
        call.account, call.bucket, prefix, delimiter, call.query("after") or "", limit
    )
    page = listed.page
    return json_response(
        {
            "bucket": listed.bucket.name,
            "prefix": prefix,
            "objects": [describe_object(version) for version in page.versions],
            "prefixes": list(page.prefixes),
            "after": page.after,
        },
        200,
        **{headers.CONSISTENCY: headers.consistency(stale=listed.stale)},
    )


def describe_object(version: Version) -> dict[str, Any]:
    """An object as listings and changes show it."""
    return {
        "key": version.key,
        "size": version.size,
        "etag": version.etag,
        "digest": headers.digest_header(version),
        "version": version.id,
        "content_type": version.content_type,
        "modified": version.created,
        "metadata": dict(version.metadata),
        "layout": layout_name(version.segments[0].layout) if version.segments else "",
    }


async def map_file(call: Call) -> web.StreamResponse:
    """``GET /v1/map/{bucket}/{key}``: every fragment and copy as it is now."""
    found = await _find(call, call.bucket, call.key, headers.freshness(call.request))
    return json_response(
        await call.surface.reader.map(found),
        200,
        **{headers.CONSISTENCY: headers.consistency(stale=found.stale)},
    )


async def get_download(call: Call) -> web.StreamResponse:
    """``GET /v1/download/{id}``: an object of the bucket ``uploads`` by its id."""
    return await answer_read(call, UPLOADS, decode_key(call.path["id"]))


async def head_download(call: Call) -> web.StreamResponse:
    """``HEAD /v1/download/{id}``."""
    key = decode_key(call.path["id"])
    return describe_only(call, await _find(call, UPLOADS, key, headers.freshness(call.request)))


UPLOADS = "uploads"
"""The bucket of ``/v1/upload``; its keys are ids."""


async def _find(call: Call, bucket: str, key: Key, freshness: Freshness = Freshness.STRICT) -> Found:
    return await call.surface.reader.find(call.account, bucket, key, _version(call), freshness)


def _version(call: Call) -> VersionId | None:
    text = call.query("version")
    return None if text is None else VersionId(text)


def _node(call: Call) -> dict[str, str]:
    return {"Discloud-Node": call.surface.cluster.own.name}


def _metadata(body: dict[str, Any]) -> tuple[tuple[str, str], ...] | None:
    metadata = body.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Invalid("metadata is not an object of strings", 'example: {"metadata": {"author": "Ada"}}')
    return headers.checked_metadata(metadata)
