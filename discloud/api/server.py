"""The HTTP listener of a node: aiohttp's low-level server with our connection limits.

``auto_decompress`` is off: bytes are stored as they were sent. A connection over the limit is closed at once.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from discloud import metrics
from discloud.api.fast import FastHandler, ShortCut

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
BACKLOG = 1024
GRACE = 5.0
"""Seconds that requests under way get when the node stops."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the node answers, and on which connections limits hold: ``idle`` and ``head`` are seconds.

    ``tls``: HTTPS and nothing else on that port; its handshake is part of the head's time.
    """

    host: str
    port: int
    connections: int = 10_000
    idle: float = 75.0
    head: float = 10.0
    tls: ssl.SSLContext | None = None


class Server(web.Server):
    """Makes a ``FastHandler`` per connection."""

    def __init__(self, handler: Handler, short_cut: ShortCut | None, listening: Listening) -> None:
        super().__init__(
            handler,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=listening.idle,
            lingering_time=2.0,
        )
        self._short_cut = short_cut
        self._listening = listening

    def __call__(self) -> FastHandler:
        """The protocol of a new connection."""
        full = len(self.connections) >= self._listening.connections
        return FastHandler(
            self, self._loop, self._short_cut, full=full, head=self._listening.head, **self._kwargs
        )


@asynccontextmanager
async def serve(handler: Handler, short_cut: ShortCut | None, listening: Listening) -> AsyncIterator[int]:
    """Listen while the context lasts; gives the port. Requests under way get ``GRACE`` seconds at the end.

    Raises: OSError when the port is taken.
    """
    server = Server(handler, short_cut, listening)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(
        server,
        listening.host,
        listening.port,
        backlog=BACKLOG,
        reuse_address=True,
        ssl=listening.tls,
        ssl_handshake_timeout=listening.head if listening.tls else None,
        ssl_shutdown_timeout=GRACE if listening.tls else None,
    )
    metrics.OPEN_CONNECTIONS.read = lambda: len(server.connections)
    try:
        yield _port(listener.sockets)
    finally:
        listener.close()
        server.pre_shutdown()
        await server.shutdown(GRACE)
        metrics.OPEN_CONNECTIONS.read = None


def _port(sockets: Any) -> int:
    sock: socket.socket = sockets[0]
    port: int = sock.getsockname()[1]
    return port
