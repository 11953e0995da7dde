"""The table ``names`` in memory, which keeps timestamps as Cassandra does; no server is needed.

Implements what ``Names`` uses of ``Session`` and of ``Intents``. Every call lets others go first, so concurrent callers meet in between.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from discloud.adapters.cassandra.intents import Intent
from discloud.adapters.cassandra.names import Names


class Found(NamedTuple):
    """A row of a slice."""

    name: bytes
    body: bytes | None
    maybe_empty: bool | None


class Written(NamedTuple):
    """The times of a row's columns."""

    body: int | None
    mark: int | None


@dataclass
class Cell:
    """An entry: the newest write, mark and removal of it."""

    written: int = -1
    body: bytes | None = None
    marked: int = -1
    removed: int = -1

    @property
    def alive(self) -> bool:
        return max(self.written, self.marked) > self.removed

    @property
    def found(self) -> tuple[bytes | None, bool | None]:
        """Body and mark, as they are read."""
        return self.body if self.written > self.removed else None, self.marked > self.removed or None


@dataclass
class Table:
    """``passed``: removed entries that reads went over; ``writes``: what was sent; ``pauses``: how long a call lets others go first."""

    directories: dict[bytes, dict[bytes, Cell]] = field(default_factory=lambda: defaultdict(dict))
    passed: int = 0
    writes: int = 0
    pauses: Callable[[], int] = lambda: 1

    async def write(self, cql: str, *values: Any) -> None:
        await self.write_all([(cql, values)])

    async def write_all(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """Statements happen one after the other, and others come in between."""
        for cql, values in statements:
            await self._pause()
            self.writes += 1
            self._write(cql, list(values))

    async def read(self, cql: str, *values: Any, one: bool = False) -> list[Any]:
        await self._pause()
        if "WRITETIME" in cql:
            _, directory, _, name = values
            cell = self.directories[directory].get(name, Cell())
            times = (time if time > cell.removed else None for time in (cell.written, cell.marked))
            return [Written(*times)] if cell.alive else []
        _, directory, _, low, limit = values
        found: list[Found] = []
        for name, cell in sorted(self.directories[directory].items(), key=lambda item: item[0]):
            if name >= low and len(found) < limit:
                if cell.alive:
                    found.append(Found(name, *cell.found))
                else:
                    self.passed += 1
        return found

    def shown(self) -> set[str]:
        """Every entry that is there, by its whole name."""
        return {
            (directory + name).decode()
            for directory, cells in self.directories.items()
            for name, cell in cells.items()
            if cell.alive
        }

    async def _pause(self) -> None:
        for _ in range(self.pauses()):
            await asyncio.sleep(0)

    def _write(self, cql: str, values: list[Any]) -> None:
        if cql.startswith("DELETE"):
            stamp, _, directory, _, name = values
            cell = self.directories[directory].setdefault(name, Cell())
            cell.removed = max(cell.removed, stamp)
            return
        stamp = values.pop()
        _, directory, _, name, *body = values
        cell = self.directories[directory].setdefault(name, Cell())
        if "maybe_empty" in cql:
            cell.marked = max(cell.marked, stamp)
        elif stamp > cell.written:
            cell.written, cell.body = stamp, body[0] if body else b""


@dataclass
class Noted:
    """Intents that were noted, each once."""

    intents: list[Intent] = field(default_factory=list)

    async def note(self, intent: Intent) -> Intent:
        await asyncio.sleep(0)
        if intent not in self.intents:
            self.intents.append(intent)
        return intent


def names_over(table: Table, noted: Noted, clock: Callable[[], float] = lambda: 1000.0) -> Names:
    """One process's index over ``table``."""
    return Names(table, noted, clock)  # type: ignore[arg-type]  # what it uses of them
