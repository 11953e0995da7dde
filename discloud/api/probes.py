"""Questions of machines: is the process alive, may it get traffic, what does it count."""

from __future__ import annotations

from aiohttp import web

from discloud import metrics
from discloud.api.call import Call
from discloud.api.native import json_response


async def livez(_call: Call) -> web.StreamResponse:
    """The process answers: nothing else is asked, so that a sick neighbour never gets this one restarted."""
    return web.Response(text="ok\n")


async def readyz(call: Call) -> web.StreamResponse:
    """200 when the node can serve, else 503 with every reason."""
    reasons = call.surface.ready()
    return json_response({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)


async def show_metrics(call: Call) -> web.StreamResponse:
    """Counters and gauges in the Prometheus text format; scrape with the bearer token."""
    call.signed_in()
    return web.Response(
        body=metrics.render().encode(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
    )
