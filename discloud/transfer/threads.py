"""A bounded pool of worker threads for calls that block: disks, hashes, quanta of a transfer.

A node has two: one for the gateway's work, which may wait for other nodes, and one for a holder's own
disk work, which never does. So two nodes that are each other's gateway cannot wait for each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

from discloud.errors import Unavailable

T = TypeVar("T")


class Threads:
    """At most ``count`` calls at once; the others wait in line, first come first served.

    ``run`` is called on an event loop. A cancelled ``run`` ends only after its call has ended, so that whoever
    cancels may close what the call was using.
    """

    def __init__(self, name: str, count: int) -> None:
        self._name = name
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._busy = 0

    @property
    def busy(self) -> int:
        """Calls that occupy a thread now."""
        return self._busy

    async def run(self, call: Callable[[], T]) -> T:
        """Make the call in a worker thread, in the caller's context, and return what it returns.

        Raises: whatever the call raises; Unavailable when the pool is closed (the call was not made).
        """
        try:
            work = self._pool.submit(copy_context().run, self._occupy, call)
        except RuntimeError as closed:
            raise self._closed() from closed
        try:
            return await asyncio.shield(asyncio.wrap_future(work))
        except asyncio.CancelledError:
            if work.cancelled() and not _being_cancelled():
                raise self._closed() from None
            if not work.cancel():
                await _settled(work)
            raise

    def close(self) -> None:
        """Take no more calls and drop those in line; those that run finish by themselves."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _closed(self) -> Unavailable:
        return Unavailable(f"the {self._name} threads are closed", "This node is stopping: use another one")

    def _occupy(self, call: Callable[[], T]) -> T:
        self._count(1)
        try:
            return call()
        finally:
            self._count(-1)

    def _count(self, step: int) -> None:
        with self._lock:
            self._busy += step


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _settled(work: Future[T]) -> None:
    """Return when ``work`` is done, whatever its outcome, also if cancelled again meanwhile."""
    outcome = asyncio.wrap_future(work)
    while not outcome.done():
        try:
            await asyncio.wait([outcome])
        except asyncio.CancelledError:
            continue
    if not outcome.cancelled():
        outcome.exception()
