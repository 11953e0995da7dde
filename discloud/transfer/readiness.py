"""Waiting for a socket in the loop's selector, so that no thread is held meanwhile, and what the kernel queues for it."""

from __future__ import annotations

import array
import asyncio
import fcntl
import sys
import termios

KERNEL = sys.platform == "linux"
"""Whether sendfile, splice and the queue sizes below work as this package needs them."""
_SIOCOUTQ = termios.TIOCOUTQ  # Linux gives sockets the number of the terminals' request
_SIOCINQ = termios.FIONREAD


async def readable(fd: int, seconds: float) -> bool:
    """True when ``fd`` has bytes, its end or an error to give; False after ``seconds``.

    ``fd`` must not be a transport's own descriptor (a dup of it may be used).
    """
    loop = asyncio.get_running_loop()
    event: asyncio.Future[bool] = loop.create_future()
    loop.add_reader(fd, _settle, event, True)
    alarm = loop.call_later(seconds, _settle, event, False)
    try:
        return await event
    finally:
        alarm.cancel()
        loop.remove_reader(fd)


async def writable(fd: int, seconds: float) -> bool:
    """True when ``fd`` takes bytes or has an error to give; False after ``seconds``. As ``readable``."""
    loop = asyncio.get_running_loop()
    event: asyncio.Future[bool] = loop.create_future()
    loop.add_writer(fd, _settle, event, True)
    alarm = loop.call_later(seconds, _settle, event, False)
    try:
        return await event
    finally:
        alarm.cancel()
        loop.remove_writer(fd)


def unsent(fd: int) -> int:
    """Bytes written to the socket that the other side has not acknowledged; 0 where the system does not tell."""
    return _queued(fd, _SIOCOUTQ)


def unread(fd: int) -> int:
    """Bytes that arrived on the socket and were not read; 0 where the system does not tell."""
    return _queued(fd, _SIOCINQ)


def _queued(fd: int, request: int) -> int:
    if not KERNEL or fd < 0:
        return 0
    count = array.array("i", [0])
    try:
        fcntl.ioctl(fd, request, count, True)
    except OSError:  # a socket that died meanwhile has no queue; whoever uses it next will learn of it
        return 0
    return count[0]


def _settle(event: asyncio.Future[bool], answer: bool) -> None:
    if not event.done():
        event.set_result(answer)
