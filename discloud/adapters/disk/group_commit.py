"""One thread that takes everything that waits, does it together and wakes all callers at once.

That is what makes durability nearly free: many blobs share one fdatasync, and the event loop is woken once a batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from discloud import logs
from discloud.errors import DiscloudError, Unavailable


@dataclass(slots=True, eq=False)
class Request:
    """Something that a caller wants done; ``answer`` is None where nobody waits for it."""

    answer: asyncio.Future[Any] | None = field(default=None, init=False)
    result: Any = field(default=None, init=False)
    error: DiscloudError | None = field(default=None, init=False)

    def settle(self) -> None:
        """Tell the caller, on the event loop; one that was cancelled is not told."""
        if self.answer is None:
            if self.error is not None:
                logs.warn("disk_request_failed", request=type(self).__name__, reason=str(self.error))
            return
        if self.answer.done():
            return
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


R = TypeVar("R", bound=Request)


class GroupCommit(Generic[R]):
    """The thread and its queue. ``apply`` gets whole batches, in order, and sets each request's result or error.

    Requests that nobody waits for stay up to ``linger`` seconds for company. Invariant: every request that was
    submitted is settled, also when ``apply`` breaks or the thread is stopped.
    """

    def __init__(
        self,
        name: str,
        apply: Callable[[list[R]], None],
        loop: asyncio.AbstractEventLoop,
        linger: float = 0.0,
    ) -> None:
        self._apply = apply
        self._loop = loop
        self._linger = linger
        self._queue: SimpleQueue[R | None] = SimpleQueue()
        self._closing = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def do(self, request: R) -> Any:
        """Have it done; returns its result. Cancelled, it is done or not, never half. Raises: its error, Unavailable (closed)."""
        request.answer = self._loop.create_future()
        self.leave(request)
        return await request.answer

    def leave(self, request: R) -> None:
        """Have it done some time soon; may be called from any thread. Raises: Unavailable (closed)."""
        if self._closing:
            raise Unavailable("the disk is closed", "The node is stopping.")
        self._queue.put(request)

    async def close(self) -> None:
        """Do what was submitted, then end the thread."""
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await self._loop.run_in_executor(None, self._thread.join)

    def _run(self) -> None:
        going = True
        while going:
            batch, going = self._take()
            if not batch:
                continue
            try:
                self._apply(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, the callers must not wait for ever
                logs.error("disk_thread_failed", traceback=True)
                for request in batch:
                    request.error = request.error or Unavailable(f"the disk's thread failed: {error}")
            self._loop.call_soon_threadsafe(_settle, batch)

    def _take(self) -> tuple[list[R], bool]:
        """The next batch, and whether more may come: waits for one that is awaited, or for the others' time."""
        batch: list[R] = []
        limit: float | None = None
        while True:
            try:
                request = self._queue.get(
                    timeout=None if limit is None else max(0.0, limit - time.monotonic())
                )
            except Empty:
                return batch, True
            if request is None:
                return batch, False
            batch.append(request)
            if request.answer is not None:
                return batch, self._drain(batch)
            if limit is None:
                limit = time.monotonic() + self._linger

    def _drain(self, batch: list[R]) -> bool:
        while True:
            try:
                request = self._queue.get_nowait()
            except Empty:
                return True
            if request is None:
                return False
            batch.append(request)


def _settle(batch: list[R]) -> None:
    for request in batch:
        request.settle()
