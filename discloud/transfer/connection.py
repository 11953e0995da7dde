"""An aiohttp connection from the inside: everything here that uses private names of aiohttp 3.14.5 (pinned).

    out   how full the transport's write buffer is, and waiting for it
    in    taking the rest of a request's body away from aiohttp's parser, and giving the connection back

uvloop hands every byte that it reads to the protocol within the same callback, so between two awaits whatever the
loop has read lies in aiohttp's parser or in the request's ``content``, and the rest is still in the kernel.
"""
# ruff: noqa: SLF001

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser
from aiohttp.streams import StreamReader
from aiohttp.web import BaseRequest, RequestHandler
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from discloud.errors import ClientGone, Invalid, Unavailable
from discloud.transfer.pace import Patience
from discloud.transfer.readiness import KERNEL

_NOTHING: tuple[tuple[()], bool, bytes] = ((), False, b"")


def check_open(transport: asyncio.Transport | None) -> asyncio.Transport:
    """The transport, if its client is still there. Raises: ClientGone."""
    if transport is None or transport.is_closing():
        raise ClientGone("the client closed its connection")
    return transport


def plain_tcp(transport: asyncio.Transport) -> int | None:
    """The descriptor of a connection whose bytes the kernel may move; None for TLS, other sockets, other systems."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if not KERNEL or connection is None or transport.get_extra_info("sslcontext") is not None:
        return None
    return connection.fileno() if connection.family in (socket.AF_INET, socket.AF_INET6) else None


def duplicate(transport: asyncio.Transport) -> int:
    """A descriptor of our own for the connection: the loop watches the transport's. Raises: ClientGone, Unavailable."""
    try:
        return os.dup(check_open(transport).get_extra_info("socket").fileno())
    except OSError as full:
        raise Unavailable(
            f"no descriptor for a transfer: {full}", "Raise this process's limit of open files"
        ) from full


async def wait_drained(transport: asyncio.Transport, patience: Patience, taken: Callable[[], int]) -> None:
    """Wait until the write buffer is below its high water. Raises: ClientGone, TooSlow."""

    async def drained(seconds: float) -> bool:
        return await _resumed(_protocol(transport), seconds)

    await patience.wait(drained, taken)
    check_open(transport)


async def wait_empty(transport: asyncio.Transport, patience: Patience, taken: Callable[[], int]) -> None:
    """Wait until the write buffer is empty, so that the descriptor may be written to. Raises: ClientGone, TooSlow."""
    check_open(transport)
    if not transport.get_write_buffer_size():
        return
    low, high = transport.get_write_buffer_limits()
    transport.set_write_buffer_limits(high=0)
    try:
        while transport.get_write_buffer_size():
            await wait_drained(transport, patience, taken)
    finally:
        if not transport.is_closing():
            transport.set_write_buffer_limits(high=high, low=low)


async def _resumed(protocol: BaseProtocol, seconds: float) -> bool:
    """False when writing is still paused after ``seconds``.

    Not ``_drain_helper``: a timeout there would cancel the future that the next one waits for.
    """
    check_open(protocol.transport)
    if not protocol._paused:
        return True
    waiter = protocol._drain_waiter
    if waiter is None:
        waiter = protocol._drain_waiter = asyncio.get_running_loop().create_future()
        waiter.add_done_callback(_look_at)
    await asyncio.wait([waiter], timeout=seconds)
    return waiter.done()


def _look_at(waiter: asyncio.Future[None]) -> None:
    """A lost connection is found by ``check_open``; asyncio must not report the future's exception as well."""
    if not waiter.cancelled():
        waiter.exception()


def _protocol(transport: asyncio.Transport) -> BaseProtocol:
    protocol = transport.get_protocol()
    if not isinstance(protocol, BaseProtocol):  # uvloop clears it when the connection is lost
        raise ClientGone("the client closed its connection")
    return protocol


# ---------------------------------------------------------------- in


def declared_length(request: BaseRequest) -> int | None:
    """Bytes of the body as it will be read; None when only its end will tell."""
    if request._message.chunked or _unpacked(request):
        return None
    return request.content_length or 0


def _unpacked(request: BaseRequest) -> bool:
    """Whether aiohttp decodes the body's Content-Encoding, so that Content-Length is not what will be read."""
    manager = request.protocol._manager
    unpacks = manager is None or manager._kwargs.get("auto_decompress", True)
    return bool(request._message.compression and unpacks)


def read_arrived(request: BaseRequest) -> bytes:
    """What aiohttp has of the body, without waiting; b"" when it has nothing for now. Raises: ClientGone, Invalid, Unavailable."""
    content = request.content
    if (error := content.exception()) is None:
        return content.read_nowait()
    # What arrived before the cut counts, and so does a body that is complete.
    if content._buffer or content.is_eof():
        return content._read_nowait(-1)
    if isinstance(error, RequestPayloadError):
        raise Invalid(
            f"the body is malformed: {error}", "Check its chunks and its Content-Encoding"
        ) from error
    if isinstance(
        error, asyncio.CancelledError
    ):  # how aiohttp's shutdown ends a body; the client is still there
        raise Unavailable(
            "this node is stopping: it did not wait for the body", "use another node"
        ) from error
    raise ClientGone(f"the client left before the end of the body: {error}") from error


async def read_some(request: BaseRequest, seconds: float) -> bytes | None:
    """What arrives of the body, b"" at its end; None when nothing did in ``seconds``. Raises: as ``read_arrived``."""
    content = request.content
    if (chunk := read_arrived(request)) or content.is_eof():
        return chunk
    check_open(request.transport)
    try:
        async with asyncio.timeout(seconds):
            return await content.readany()
    except TimeoutError:
        _check_framing(request)
        return None
    except (OSError, RuntimeError, RequestPayloadError) as error:
        if content.exception() is None:
            raise ClientGone(f"the client left before the end of the body: {error}") from error
        return read_arrived(request)


def _check_framing(request: BaseRequest) -> None:
    """Raises: Invalid. aiohttp queues broken framing as an answer of its own and lets the body's reader wait."""
    for message, _ in request.protocol._messages:
        if isinstance(message, _ErrInfo):
            raise Invalid(f"the body is malformed: {message.message}", "Check its chunks") from message.exc


def may_take_over(request: BaseRequest) -> bool:
    """Whether the body of known length can be received from the socket itself."""
    transport = request.transport
    if transport is None or transport.is_closing() or request._message.upgrade or _unpacked(request):
        return False
    return plain_tcp(transport) is not None


def close_after_answer(request: BaseRequest) -> None:
    """Let the answer say ``Connection: close`` and end the connection behind it.

    aiohttp then reads and drops for a while (its lingering time), so that the answer is not lost to a reset.
    """
    request._message = request._message._replace(should_close=True)


class Takeover:
    """The next ``rest`` bytes of a connection, all of one request's body, received past aiohttp.

    A context manager on the event loop. The caller has read all that ``request.content`` had and has not awaited since.
    ``connection`` is a duplicate of the non-blocking socket; whoever receives from it counts ``rest`` down. Left with
    ``rest`` = 0 the connection goes on with the next request; else aiohttp drops what is still to come.
    """

    def __init__(self, request: BaseRequest, rest: int) -> None:
        self.rest = rest
        self._protocol: RequestHandler = request.protocol
        self._content: StreamReader = request.content

    def __enter__(self) -> Self:
        self.connection = socket.socket(fileno=duplicate(check_open(self._protocol.transport)))
        self._protocol.pause_reading()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()
        if self._protocol.transport is None:
            return
        if self.rest:
            # Everything aiohttp's server asks of a parser in the middle of a body is feed_data.
            self._protocol._parser = _Drop(self._protocol, self._content, self.rest)  # type: ignore[assignment]
            self._protocol.resume_reading(resume_parser=False)
        else:
            self._protocol._parser = _fresh_parser(self._protocol)
            self._content.feed_eof()  # resumes reading

    def check_open(self) -> None:
        """Raises: ClientGone when this node or the client closed the connection."""
        check_open(self._protocol.transport)


class _Drop:
    """In the place of a parser: drops the rest of a body that nobody wants any more, and what is behind it."""

    def __init__(self, protocol: RequestHandler, content: StreamReader, rest: int) -> None:
        self._protocol = protocol
        self._content = content
        self._rest = rest

    def feed_data(self, data: bytes) -> tuple[tuple[()], bool, bytes]:
        self._rest -= len(data)
        if self._rest <= 0 and not self._content.is_eof():
            self._content.feed_eof()
            self._protocol.close()
        return _NOTHING


def _fresh_parser(protocol: RequestHandler) -> HttpRequestParser:
    """A parser at the start of a request, as RequestHandler.__init__ makes it: the old one still waits for the body."""
    manager = protocol._manager
    assert manager is not None
    return HttpRequestParser(
        protocol,
        protocol._loop,
        protocol._read_bufsize,
        max_line_size=protocol.max_line_size,
        max_field_size=protocol.max_field_size,
        max_headers=protocol.max_headers,
        payload_exception=RequestPayloadError,
        auto_decompress=manager._kwargs.get("auto_decompress", True),
        max_msg_queue_size=protocol._max_msg_queue_size,
    )
