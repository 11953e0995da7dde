"""Socket to sink in a worker thread, through one buffer per thread, however many bodies are under way."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from discloud.core.model import KIB, MIB
from discloud.errors import ClientGone
from discloud.transfer.connection import Takeover

BUFFER = MIB
"""Bytes that a sink gets at most in one call."""
QUANTUM = 8 * MIB
"""Bytes after which a body gives its worker thread back, so that others get their turn."""
LOW_WATER = 256 * KIB
"""Bytes worth waking a worker thread for, while more are to come."""

Sink = Callable[[memoryview], None]
"""Takes over a buffer's bytes before it returns. May block, may raise: that ends the body."""


class _Thread(threading.local):
    """What each worker thread owns: 64 slow bodies take turns on the buffers of a few threads."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(BUFFER))


_thread = _Thread()


def give(sink: Sink, data: bytes) -> None:
    """Hand ``data`` to the sink in pieces of at most BUFFER bytes."""
    whole = memoryview(data)
    for start in range(0, len(whole), BUFFER):
        sink(whole[start : start + BUFFER])


def receive_quantum(way: Takeover, sink: Sink) -> bool:
    """Give the sink what arrives until QUANTUM bytes, the body's end, or (then True) nothing is there for now.

    Counts ``way.rest`` down. What arrived before a loss has reached the sink. Raises: ClientGone, what the sink raises.
    """
    stop = max(0, way.rest - QUANTUM)
    while way.rest > stop:
        count, lost = _fill(way.connection, _thread.buffer[: min(BUFFER, way.rest)])
        way.rest -= count
        if count:
            sink(_thread.buffer[:count])
        if isinstance(lost, BlockingIOError):
            return True
        if lost:
            raise ClientGone(f"the client left with {way.rest} bytes of the body to come: {lost}") from lost
    return False


def _fill(connection: socket.socket, buffer: memoryview) -> tuple[int, OSError | None]:
    """Bytes received, and why there are no more before the buffer is full."""
    count = 0
    while count < len(buffer):
        try:
            part = connection.recv_into(buffer[count:])
        except OSError as error:
            return count, error
        if not part:
            return count, ConnectionResetError("end of the stream")
        count += part
    return count, None


def wake_at(connection: socket.socket, count: int) -> None:
    """Let the selector report the socket only when ``count`` bytes have arrived, or its end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
