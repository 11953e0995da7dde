"""An object as the body of a write: what server-side copy and relayout stream from."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from discloud.core.ranges import Span
from discloud.gateway.gather import Gather
from discloud.gateway.read import Found, Reader
from discloud.ports import SMALL
from discloud.transfer.threads import Threads

STEP = SMALL
"""Bytes read and handed on at a time."""


class ObjectBody:
    """The bytes of a stored version, read through the mesh; memory is one step."""

    def __init__(self, reader: Reader, found: Found, threads: Threads) -> None:
        self.length: int | None = found.version.size
        self._reader = reader
        self._found = found
        self._threads = threads

    async def small(self, limit: int) -> bytes | None:
        """The whole object if it is no larger than ``limit``."""
        size = self._found.version.size
        if size > min(limit, SMALL):
            return None
        return await self._read(Span(0, size)) if size else b""

    async def pump(self, sink: Callable[[memoryview], None]) -> int:
        """Hand the object's bytes to ``sink`` in order, each step from a worker thread."""
        size = self._found.version.size
        for start in range(0, size, STEP):
            data = memoryview(await self._read(Span(start, min(STEP, size - start))))
            await self._threads.run(partial(sink, data))
        return size

    async def _read(self, span: Span) -> bytes:
        gather: Gather
        async with self._reader.gather(self._found, span) as gather:
            return await gather.fetch()
