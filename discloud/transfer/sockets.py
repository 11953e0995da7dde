"""Whole messages through non-blocking sockets, for worker threads.

O_NONBLOCK belongs to the open file and not to the descriptor: a socket that the event loop also knows can never be
made blocking for a thread. So these calls poll.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable

from discloud.errors import PeerDown, TooSlow

Clock = Callable[[], float]


def send_all(fd: int, data: bytes | memoryview, deadline: float, clock: Clock = time.monotonic) -> None:
    """Send all of ``data`` within ``deadline`` seconds from now. Blocks: for worker threads.

    Raises: PeerDown (connection lost), TooSlow; then an unknown part of ``data`` has left.
    """
    end = clock() + deadline
    rest = memoryview(data).cast("B")
    while rest:
        try:
            rest = rest[os.write(fd, rest) :]
        except BlockingIOError:
            await_event(fd, select.POLLOUT, end, clock, f"to take {len(rest)} more bytes")
        except OSError as lost:
            raise PeerDown(f"the connection was lost with {len(rest)} bytes to send: {lost}") from lost


def receive_exactly(
    fd: int, buffer: bytearray | memoryview, deadline: float, clock: Clock = time.monotonic
) -> None:
    """Fill ``buffer`` within ``deadline`` seconds from now. Blocks: for worker threads.

    Raises: PeerDown (connection lost or ended before the buffer was full), TooSlow.
    """
    end = clock() + deadline
    rest = memoryview(buffer).cast("B")
    while rest:
        try:
            count = os.readv(fd, [rest])
        except BlockingIOError:
            await_event(fd, select.POLLIN, end, clock, f"to send {len(rest)} more bytes")
            continue
        except OSError as lost:
            raise PeerDown(f"the connection was lost with {len(rest)} bytes to come: {lost}") from lost
        if not count:
            raise PeerDown(f"the connection ended with {len(rest)} bytes to come")
        rest = rest[count:]


def await_event(fd: int, event: int, end: float, clock: Clock, what: str) -> None:
    """Block until ``fd`` has the event of select.poll. Raises: TooSlow when ``clock`` is past ``end``; ``what`` was wanted."""
    poll = select.poll()
    poll.register(fd, event)
    left = end - clock()
    if left <= 0 or not poll.poll(left * 1000):
        raise TooSlow(f"the other node had no time left {what}")
