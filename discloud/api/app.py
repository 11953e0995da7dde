"""The HTTP surface of a node: one function that every request passes, and the server that calls it.

Order: request id and trace, route, account, handler; errors become problems; one log line and one count per request.
aiohttp's low-level server is used, without its router: keys are decoded here, once (see call.py).
"""

from __future__ import annotations

import itertools
import secrets
import time

from aiohttp import web

from discloud import logs, metrics
from discloud.api.call import Call, Surface, bearer
from discloud.api.headers import SERVER
from discloud.api.problem import problem
from discloud.api.routes import Router
from discloud.errors import ClientGone, DiscloudError

OPEN_PATHS = ("/livez", "/healthz", "/readyz")
"""Paths whose requests are not logged: probes ask them every second."""


class App:
    """Answers requests; ``__call__`` is the handler of an ``aiohttp.web.Server``."""

    def __init__(self, surface: Surface, router: Router) -> None:
        self._surface = surface
        self._router = router
        self._run = secrets.token_hex(4)
        self._number = itertools.count()

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; never raises but for a connection that is gone."""
        started = time.perf_counter()
        request_id = self._request_id(request)
        logs.REQUEST.set(request_id)
        logs.TRACE.set(request.headers.get("traceparent", "")[:64])
        try:
            response = await self._answer(request)
        except ClientGone as error:
            self._count(request, 499, started)
            raise ConnectionResetError(error.detail) from error
        except DiscloudError as error:
            response = problem(error)
        except ConnectionError:
            self._count(request, 499, started)
            raise
        except Exception:  # noqa: BLE001 - the surface's last resort: a bug is logged whole and told without it
            logs.error("request_failed", traceback=True, method=request.method, path=raw_path(request)[:200])
            response = problem(
                DiscloudError("internal error", "the node's log has the details under this request_id")
            )
        if not response.prepared:
            response.headers["Discloud-Request-Id"] = request_id
            response.headers["Server"] = SERVER
        self._count(request, response.status, started)
        return response

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = raw_path(request)
        route, values = self._router.find(request.method, path)
        call = Call(request, self._surface, values)
        if not route.open:
            if token := bearer(request):
                accounts = self._surface.accounts
                call.account = accounts.peek(token) or await accounts.of_token(token)
            call.signed_in()
        call.check_query(route.query)
        return await route.handler(call)

    def _request_id(self, request: web.BaseRequest) -> str:
        """The client's request id where it is a plain one, else a new one."""
        given = request.headers.get("X-Request-Id", "")
        if 0 < len(given) <= 64 and given.isascii() and given.isprintable():
            return given
        return f"{self._run}{next(self._number):08x}"

    def _count(self, request: web.BaseRequest, status: int, started: float) -> None:
        metrics.REQUESTS.add(1, request.method if request.method in METHODS else "other", str(status))
        path = raw_path(request)
        if path in OPEN_PATHS:
            return
        logs.info(
            "request",
            method=request.method,
            path=path[:1200],
            status=status,
            ms=round((time.perf_counter() - started) * 1000, 2),
            remote=request.remote,
        )


METHODS = frozenset({"GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"})


def raw_path(request: web.BaseRequest) -> str:
    """The path of the request target as it was sent, without the query; also of an absolute-form target."""
    target = request.raw_path.partition("?")[0]
    if target.startswith("/"):
        return target
    return "/" + target.partition("://")[2].partition("/")[2]
