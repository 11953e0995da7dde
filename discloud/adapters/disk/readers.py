"""Stretches of blobs being read: small ones lie in memory when they are opened, large ones come block by block."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from discloud.adapters.disk.large import LargeFile
from discloud.core.model import MIB
from discloud.errors import Corrupt, Unavailable
from discloud.ports import FileSource, SocketSource

T = TypeVar("T")
AHEAD = MIB
"""Bytes that one trip to the disk brings: four blocks, and all that a reader ever holds."""


class SmallReader:
    """A verified blob, or a stretch of it, in memory."""

    source: FileSource | SocketSource | None = None

    def __init__(self, data: memoryview) -> None:
        self.length = len(data)
        self._data = data
        self._position = 0

    async def read(self, limit: int) -> bytes:
        """See ``BlobReader.read``."""
        piece = bytes(self._data[self._position : self._position + limit])
        self._position += len(piece)
        return piece


class LargeReader:
    """A stretch of a large blob. The file stays open until the reader's owner drops its handle.

    ``run`` has a function done by a thread; ``condemn`` is told when a block is not what was written.
    """

    def __init__(
        self,
        file: LargeFile,
        offset: int,
        length: int,
        trust: float,
        clock: Callable[[], float],
        run: Callable[[Callable[[], bytes]], Awaitable[bytes]],
        condemn: Callable[[Corrupt], None],
    ) -> None:
        self.length = length
        self.source: FileSource | SocketSource | None = FileSource(
            file.handle.fd, offset, length, self._check
        )
        self._file, self._trust, self._clock, self._run, self._condemn = file, trust, clock, run, condemn
        self._offset = offset
        self._end = offset + length
        self._ahead = memoryview(b"")

    async def read(self, limit: int) -> bytes:
        """See ``BlobReader.read``."""
        if not self._ahead and self._offset < self._end:
            self._ahead = memoryview(await self._run(self._load))
        piece = bytes(self._ahead[:limit])
        self._ahead = self._ahead[limit:]
        return piece

    def _load(self) -> bytes:
        # Up to a multiple of AHEAD, so that no block is read twice.
        end = min(self._end, (self._offset // AHEAD + 1) * AHEAD)
        data = self._guarded(lambda: self._file.read(self._offset, end - self._offset, self._clock()))
        self._offset = end
        return data

    def _check(self, offset: int, length: int) -> None:
        self._guarded(lambda: self._file.check(offset, length, self._clock(), self._trust))

    def _guarded(self, action: Callable[[], T]) -> T:
        if not self._file.handle.take():
            raise Unavailable(f"blob {self._file.footer.blob} is no longer being read")
        try:
            return action()
        except Corrupt as error:
            self._condemn(error)
            raise
        finally:
            self._file.handle.drop()
