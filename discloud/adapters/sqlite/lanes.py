"""Threads that do what coroutines ask for, and wake the event loop once for everything that they did in one go.

Invariant: every call that was accepted is answered, also when a thread breaks or the lane is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from discloud import logs
from discloud.errors import DiscloudError, OutcomeUnknown, Unavailable

T = TypeVar("T")
C = TypeVar("C")


class Call(Generic[C]):
    """One operation on a context of type C, with its outcome once it is done."""

    __slots__ = ("answer", "error", "operation", "result")

    def __init__(self, operation: Callable[[C], object], answer: asyncio.Future[object]) -> None:
        self.operation = operation
        self.answer = answer
        self.result: object = None
        self.error: DiscloudError | None = None

    def settle(self) -> None:
        """Tell the caller, on the event loop; one that was cancelled is not told."""
        if self.answer.done():
            return
        if self.error is None:
            self.answer.set_result(self.result)
        else:
            self.answer.set_exception(self.error)


class Lane(Generic[C]):
    """A queue and its threads, one per ``serve``; each takes up to ``most`` waiting calls at a time, in order.

    ``serve`` gives every call its result or error; after one that raised nothing is done any more, every call fails. Runs
    for the loop on which it was made.
    """

    def __init__(self, name: str, serves: Sequence[Callable[[list[Call[C]]], None]], most: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[Call[C] | None] = SimpleQueue()
        self._most = most
        self._closed = False
        self._broken = False
        self._threads = [
            Thread(target=self._run, args=(serve,), name=f"{name}-{number}", daemon=True)
            for number, serve in enumerate(serves)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed

    async def run(self, operation: Callable[[C], T]) -> T:
        """Have it done. Cancelled, it is done or not, never half. Raises: what it raised, Unavailable (closed, broken)."""
        if self._closed:
            raise Unavailable("the metadata is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(Call(operation, answer))  # type: ignore[arg-type]  # a future of T takes what returns T
        return await answer

    async def close(self) -> None:
        """Do what was accepted, refuse the rest, end the threads. Idempotent."""
        self._closed = True
        for _ in self._threads:
            self._queue.put(None)
        await self._loop.run_in_executor(None, self._join)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _run(self, serve: Callable[[list[Call[C]]], None]) -> None:
        going = True
        while going:
            calls, going = self._take()
            if self._broken:
                _fail(calls, Unavailable)
            else:
                self._serve(serve, calls)
            self._wake(calls)

    def _serve(self, serve: Callable[[list[Call[C]]], None], calls: list[Call[C]]) -> None:
        try:
            serve(calls)
        except Exception:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            logs.error("metadata_thread_failed", traceback=True)
            self._broken = True
            _fail(calls, OutcomeUnknown)

    def _take(self) -> tuple[list[Call[C]], bool]:
        """Waiting calls, at least one, and whether to go on after them."""
        calls: list[Call[C]] = []
        call = self._queue.get()
        while call is not None:
            calls.append(call)
            if len(calls) >= self._most:
                return calls, True
            try:
                call = self._queue.get_nowait()
            except Empty:
                return calls, True
        return calls, False

    def _wake(self, calls: list[Call[C]]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(_settle, calls)


def _fail(calls: list[Call[C]], kind: type[Unavailable]) -> None:
    for call in calls:
        call.error = kind("a thread of the metadata broke", "restart this node")


def _settle(calls: list[Call[C]]) -> None:
    for call in calls:
        call.settle()
