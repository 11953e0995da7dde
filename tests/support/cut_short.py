"""A target of a migration that stops working in the middle, wherever a test wants it to."""

from __future__ import annotations

from collections.abc import Sequence

from discloud.adapters.portable import Kind, Note, Row, Stretch, Target


class Cut(Exception):
    """The run ends here."""


class CutShort:
    """``target`` until ``writes`` pages are written; the next one is not begun, or (``late``) its answer is lost."""

    def __init__(self, target: Target, writes: int, *, late: bool = False) -> None:
        self._target = target
        self._left = writes
        self._late = late

    @property
    def cluster(self) -> str:
        return self._target.cluster

    async def write(self, kind: Kind, rows: Sequence[Row], note: Note) -> None:
        self._left -= 1
        if self._left < 0 and not self._late:
            raise Cut
        await self._target.write(kind, rows, note)
        if self._left < 0:
            raise Cut

    async def finish(self, note: Note) -> None:
        if self._left <= 0:
            raise Cut
        await self._target.finish(note)

    async def count(self, kind: Kind) -> int | None:
        return await self._target.count(kind)

    async def read(self, kind: Kind, after: str, limit: int) -> Stretch:
        return await self._target.read(kind, after, limit)

    async def leave(self, other: str, now: float) -> None:
        await self._target.leave(other, now)

    async def note(self) -> Note | None:
        return await self._target.note()

    async def is_empty(self) -> bool:
        return await self._target.is_empty()

    async def erase(self) -> None:
        await self._target.erase()

    async def close(self) -> None:
        await self._target.close()
