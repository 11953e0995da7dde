"""JSON log lines on stderr: an event, its fields, and the request they belong to.

One line per event; secrets and the contents of files are never passed in. ``REQUEST`` and ``TRACE`` follow the
task that serves a request, so that every line of it (also on another node) can be found by one id.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from typing import Any

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The id of the request that this task serves, empty outside of one."""
TRACE: ContextVar[str] = ContextVar("trace", default="")
"""Its W3C ``traceparent``, passed on to peers as it came."""

_log = logging.getLogger("discloud")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON with ``time``, ``level``, ``event``, the node and the event's fields."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its newline."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "node": self._node,
        }
        if request := REQUEST.get():
            line["request_id"] = request
        if trace := TRACE.get():
            line["traceparent"] = trace
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(node: str, level: str = "info") -> None:
    """Send the lines of this process to stderr. Called once, by the composition root."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(node))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    _log.setLevel(level.upper())


def info(event: str, **fields: object) -> None:
    """Something happened as it should."""
    if _log.isEnabledFor(logging.INFO):
        _log.info(event, extra={"fields": fields})


def debug(event: str, **fields: object) -> None:
    """A detail for whoever looks for a fault."""
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug(event, extra={"fields": fields})


def warn(event: str, **fields: object) -> None:
    """Something a person should look at when they have time; the mesh goes on."""
    _log.warning(event, extra={"fields": fields})


def error(event: str, *, traceback: bool = False, **fields: object) -> None:
    """Something is broken. ``traceback`` adds the current exception's."""
    _log.error(event, extra={"fields": fields}, exc_info=traceback)
