"""Buckets, nodes, the cluster and the caller over HTTP."""

from __future__ import annotations

from collections import Counter
from typing import Any

from aiohttp import web

from discloud.api.call import Call, known_fields, text_field
from discloud.api.native import json_response
from discloud.core.model import Bucket, Node
from discloud.errors import Invalid
from discloud.gateway.buckets import BucketWish

FIELDS = ("layout", "regions", "cache_control", "verify", "state", "max_stale")


async def list_buckets(call: Call) -> web.StreamResponse:
    """``GET /v1/buckets``."""
    buckets = await call.surface.buckets.all(call.account)
    return json_response({"buckets": [describe_bucket(bucket) for bucket in buckets]})


async def get_bucket(call: Call) -> web.StreamResponse:
    """``GET /v1/buckets/{bucket}``."""
    call.admin()
    return json_response(describe_bucket(await call.surface.buckets.get(call.bucket)))


async def put_bucket(call: Call) -> web.StreamResponse:
    """``PUT /v1/buckets/{bucket}``: make a bucket; 409 where there is one."""
    wish = _wish(await call.json())
    bucket = await call.surface.buckets.create(call.account, call.bucket, wish)
    return json_response(describe_bucket(bucket), 201)


async def patch_bucket(call: Call) -> web.StreamResponse:
    """``PATCH /v1/buckets/{bucket}``: change what is named."""
    wish = _wish(await call.json())
    return json_response(describe_bucket(await call.surface.buckets.change(call.account, call.bucket, wish)))


async def delete_bucket(call: Call) -> web.StreamResponse:
    """``DELETE /v1/buckets/{bucket}``: 204; 409 while it holds objects."""
    await call.surface.buckets.remove(call.account, call.bucket)
    return web.Response(status=204)


async def list_nodes(call: Call) -> web.StreamResponse:
    """``GET /v1/nodes``: the view of the asked node."""
    call.admin()
    view = call.surface.cluster.view
    return json_response(
        {
            "epoch": view.epoch,
            "asked": call.surface.cluster.own.name,
            "nodes": [describe_node(node) for node in view.nodes],
        }
    )


async def get_cluster(call: Call) -> web.StreamResponse:
    """``GET /v1/cluster``: the mesh in one answer."""
    call.admin()
    surface = call.surface
    nodes = surface.cluster.view.nodes
    return json_response(
        {
            "mesh": surface.cluster.mesh,
            "asked": surface.cluster.own.name,
            "nodes": Counter(node.state.value for node in nodes),
            "capacity": sum(node.capacity for node in nodes),
            "used": sum(node.used for node in nodes),
            "default_layout": surface.default_layout,
            "version": surface.version,
            "ready": not surface.ready(),
            "reasons": surface.ready(),
        }
    )


async def get_me(call: Call) -> web.StreamResponse:
    """``GET /v1/me``: whose token this is."""
    account = call.signed_in()
    return json_response({"id": account.id, "name": account.name, "admin": account.admin})


def describe_bucket(bucket: Bucket) -> dict[str, Any]:
    """A bucket as the API shows it."""
    return {
        "name": bucket.name,
        "layout": bucket.layout,
        "regions": list(bucket.regions),
        "cache_control": bucket.cache_control,
        "verify": bucket.verify.value,
        "state": bucket.state.value,
        "max_stale": bucket.max_stale,
        "created": bucket.created,
    }


def describe_node(node: Node) -> dict[str, Any]:
    """A node as the API shows it."""
    return {
        "id": node.id,
        "name": node.name,
        "role": node.role.value,
        "api": node.api,
        "host": node.host,
        "zone": node.zone,
        "region": node.region,
        "state": node.state.value,
        "capacity": node.capacity,
        "used": node.used,
        "reserved": node.reserved,
        "free": node.free,
        "blobs": node.blobs,
        "fill": round(node.fill, 4),
        "read_only": node.read_only,
        "version": node.version,
    }


def _wish(body: dict[str, Any]) -> BucketWish:
    known_fields(body, *FIELDS)
    regions = body.get("regions")
    if regions is not None and not (
        isinstance(regions, list) and all(isinstance(region, str) for region in regions)
    ):
        raise Invalid("regions is not a list of names", 'example: {"regions": ["eu", "us"]}')
    cache_control = text_field(body, "cache_control")
    if cache_control and not (cache_control.isascii() and cache_control.isprintable()):
        raise Invalid(
            "cache_control is not a header value", 'example: {"cache_control": "public, max-age=3600"}'
        )
    max_stale = body.get("max_stale")
    if max_stale is not None and (isinstance(max_stale, bool) or not isinstance(max_stale, int | float)):
        raise Invalid("max_stale is not a number of seconds", 'example: {"max_stale": 60}')
    return BucketWish(
        layout=text_field(body, "layout"),
        regions=None if regions is None else tuple(regions),
        cache_control=cache_control,
        verify=text_field(body, "verify"),
        state=text_field(body, "state"),
        max_stale=max_stale,
    )
