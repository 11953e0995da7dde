"""Errors as HTTP: one table from error class to status, and the problem+json body (RFC 9457)."""

from __future__ import annotations

import json

from aiohttp import web

from discloud import errors, logs

STATUS: dict[type[errors.DiscloudError], int] = {
    errors.Invalid: 400,
    errors.Unauthenticated: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.Gone: 410,
    errors.PreconditionFailed: 412,
    errors.TooLarge: 413,
    errors.RangeNotSatisfiable: 416,
    errors.ClientGone: 499,
    errors.Corrupt: 500,
    errors.Unavailable: 503,
    errors.Aborted: 503,
    errors.InsufficientStorage: 507,
    errors.DiscloudError: 500,
}
"""Status by the nearest class in an error's ancestry. An aborted draft is our lease's doing: repeat, 503."""

CONTENT_TYPE = "application/problem+json"
TITLES = {499: "Client Closed Request", 507: "Insufficient Storage"}


class MethodNotAllowed(errors.Invalid):
    """The path exists, the method does not; ``allow`` are those that do."""

    code = "method-not-allowed"

    def __init__(self, method: str, path: str, allow: str) -> None:
        super().__init__(f"{path} does not take {method}", f"it takes {allow}")
        self.allow = allow


class NoSuchRange(errors.RangeNotSatisfiable):
    """None of the ranges asked for exists in the ``size`` bytes of the object."""

    def __init__(self, error: errors.RangeNotSatisfiable, size: int) -> None:
        super().__init__(error.detail, error.hint)
        self.size = size


class NoSuchPath(errors.NotFound):
    """Nothing is served at the path."""

    code = "no-such-path"


def status_of(error: errors.DiscloudError) -> int:
    """The HTTP status that tells this error."""
    if isinstance(error, MethodNotAllowed):
        return 405
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem(error: errors.DiscloudError) -> web.Response:
    """The answer that tells this error; a 401 names the header, a 503 says when to repeat."""
    status = status_of(error)
    body = {
        "type": f"urn:discloud:error:{error.code}",
        "title": error.code.replace("-", " "),
        "status": status,
        "code": error.code,
        "detail": error.detail,
        "request_id": logs.REQUEST.get(),
    }
    if error.hint:
        body["hint"] = error.hint
    response = web.Response(status=status, body=json.dumps(body).encode(), content_type=CONTENT_TYPE)
    if status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="discloud"'
    if status == 503:
        response.headers["Retry-After"] = "1"
    if isinstance(error, NoSuchRange):
        response.headers["Content-Range"] = f"bytes */{error.size}"
    if isinstance(error, MethodNotAllowed):
        response.headers["Allow"] = error.allow
    return response
