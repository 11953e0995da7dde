"""The native surface as an OpenAPI 3.1 document and as a page to read; both are built from the table of routes."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from typing import Any

from aiohttp import web

from discloud import __version__
from discloud.api.call import Call
from discloud.api.routes import Parameter, Route

BODIES = {
    "binary": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    "json": {"application/json": {"schema": {"type": "object"}}},
    "form": {
        "multipart/form-data": {
            "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}}
        }
    },
}
PROBLEM: dict[str, Any] = {
    "type": "object",
    "required": ["status", "code", "detail", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "hint": {"type": "string"},
        "request_id": {"type": "string"},
    },
}
INTRODUCTION = (
    "<p>Send <code>Authorization: Bearer TOKEN</code>. Errors are <code>application/problem+json</code>. "
    "Machines read <a href=/v1/openapi.json>openapi.json</a>.</p>"
)
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}"
    "code,kbd{font-family:ui-monospace,monospace}h3{margin:1.6rem 0 .2rem}h3 kbd{display:inline-block;min-width:4.5rem}"
    "table{border-collapse:collapse}td{padding:.1rem .8rem .1rem 0;vertical-align:top}"
)


def self_describing(routes: Sequence[Route]) -> tuple[Route, ...]:
    """``routes`` and the two that describe them all: built once, sent as they are."""

    async def show(_call: Call) -> web.StreamResponse:
        return web.Response(body=described, content_type="application/json")

    async def docs(_call: Call) -> web.StreamResponse:
        """No script, nothing from elsewhere."""
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=readable, content_type="text/html", headers=headers)

    every = (
        *routes,
        Route("GET", "/v1/openapi.json", show, "This description", open=True, tag="machines"),
        Route("GET", "/docs", docs, "This description to read", open=True, tag="machines"),
    )
    described = json.dumps(document(every)).encode()
    readable = page(every)
    return every


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The OpenAPI 3.1 document of ``routes``."""
    paths: dict[str, Any] = {}
    for route in routes:
        path = route.pattern.replace("*}", "}")
        paths.setdefault(path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "discloud",
            "version": __version__,
            "summary": "A mesh of equal containers that keep files",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": PROBLEM},
        },
    }


def _operation(route: Route) -> dict[str, Any]:
    names = re.findall(r"\{(\w+)\*?\}", route.pattern)
    operation: dict[str, Any] = {
        "operationId": f"{route.method.lower()}_{re.sub(r'[^a-z0-9]+', '_', route.pattern.lower()).strip('_')}"
        + ("_slash" if route.pattern.endswith("/") else ""),
        "summary": route.summary,
        "tags": [route.tag],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names
        ]
        + [_parameter(parameter) for parameter in route.parameters],
        "responses": _responses(route),
    }
    if route.body:
        operation["requestBody"] = {"content": BODIES[route.body]}
    if route.open:
        operation["security"] = []
    return operation


def _parameter(parameter: Parameter) -> dict[str, Any]:
    return {
        "name": parameter.name,
        "in": parameter.where,
        "description": parameter.doc,
        "schema": {"type": parameter.kind},
    }


def _responses(route: Route) -> dict[str, Any]:
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    responses: dict[str, Any] = {
        str(status): {"description": doc} | ({"content": problem} if status >= 400 else {})
        for status, doc in route.answers
    }
    if not route.open:
        responses["401"] = {"description": "no valid token", "content": problem}
    responses["default"] = {"description": "an error", "content": problem}
    return responses


def page(routes: Sequence[Route]) -> str:
    """The routes as one HTML page."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>discloud API</title><style>{STYLE}</style>",
        f"<h1>discloud API {__version__}</h1>{INTRODUCTION}",
    ]
    tag = ""
    for route in routes:
        if route.tag != tag:
            tag = route.tag
            parts.append(f"<h2>{html.escape(tag)}</h2>")
        parts.append(_section(route))
    return "".join(parts)


def _section(route: Route) -> str:
    rows = "".join(
        f"<tr><td><code>{html.escape(each.name)}</code><td>{html.escape(each.where)}<td>{html.escape(each.doc)}"
        for each in route.parameters
    )
    answers = "".join(f"<tr><td>{status}<td><td>{html.escape(doc)}" for status, doc in route.answers)
    path = html.escape(json.dumps(route.pattern.replace("*}", "}"))[1:-1])
    return (
        f"<h3><kbd>{route.method}</kbd> <code>{path}</code></h3><p>{html.escape(route.summary)}</p>"
        f"<table>{rows}{answers}</table>"
    )
