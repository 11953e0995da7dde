"""The table ``objects`` in memory, with lightweight transactions that can lose their answer; no server is needed.

Implements what ``Changes``, ``Moves`` and ``Mover`` use of ``discloud.adapters.cassandra.objects.Objects``. Every call lets others
go first, so concurrent callers meet in between.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from discloud.adapters.cassandra.objects import HEAD, Edit, Row, Rows
from discloud.adapters.cassandra.snapshot import Name, read_head, read_row
from discloud.core.model import BucketId, Key, Version, VersionId
from discloud.errors import OutcomeUnknown


class Fate(Enum):
    """What becomes of a transaction."""

    ANSWERED = "answered"
    LOST = "not applied, and no answer"
    APPLIED = "applied, and no answer"
    LATE = "no answer, and applied when the next one has been"


@dataclass
class Table:
    """``fates`` are those of the next transactions; then all are answered. ``steps`` is called before each.

    ``stale``: whether a read that is not strict shows its partition as it was before the last transaction.
    """

    fates: list[Fate] = field(default_factory=list)
    steps: Callable[[], None] = lambda: None
    stale: Callable[[], bool] = lambda: False
    applied: int = 0
    cells: dict[Name, dict[VersionId, Row]] = field(default_factory=lambda: defaultdict(dict))
    before: dict[Name, dict[VersionId, Row]] = field(default_factory=lambda: defaultdict(dict))
    late: list[tuple[Name, Sequence[Edit]]] = field(default_factory=list)

    async def rows(
        self,
        bucket: BucketId,
        key: Key,
        versions: Iterable[VersionId],
        *,
        strict: bool = True,
        one: bool = False,
    ) -> dict[VersionId, Row | None]:
        await asyncio.sleep(0)
        found = (self.before if not strict and self.stale() else self.cells)[bucket, key]
        return {version: found.get(version) for version in versions}

    async def write_parts_of(self, edits: Sequence[Edit]) -> None:
        """Rows are kept with their parts here."""

    async def apply(self, bucket: BucketId, key: Key, edits: Sequence[Edit]) -> tuple[bool, Rows | None]:
        self.steps()
        await asyncio.sleep(0)
        fate = self.fates.pop(0) if self.fates else Fate.ANSWERED
        name, late = (bucket, key), self.late
        if fate is Fate.LATE:
            self.late = [*late, (name, edits)]
        if fate in {Fate.LOST, Fate.LATE}:
            raise OutcomeUnknown("no answer")
        applied = self._write(name, edits)
        self.late = []
        for each in late:
            self._write(*each)
        await asyncio.sleep(0)
        if fate is Fate.APPLIED:
            raise OutcomeUnknown("no answer")
        if applied or not any(edit.before is None and not edit.blind for edit in edits):
            return applied, None
        return False, {edit.version: self.cells[name].get(edit.version) for edit in edits if not edit.blind}

    def head(self, name: Name) -> Version | None:
        """The head that is kept."""
        return read_head(*name, self.cells[name].get(HEAD))

    def row(self, name: Name, version: VersionId) -> object:
        """A version's own row."""
        return read_row(*name, self.cells[name].get(version))

    def _write(self, name: Name, edits: Sequence[Edit]) -> bool:
        cells = self.cells[name]
        if not all(edit.blind or _same(cells.get(edit.version), edit.before) for edit in edits):
            return False
        self.applied += 1
        self.before[name] = dict(cells)
        for edit in edits:
            if edit.after is None:
                del cells[edit.version]
                continue
            kept, formers = cells.get(edit.version), edit.after.formers
            if formers is None and kept is not None:
                formers = kept.formers
            cells[edit.version] = replace(edit.after, formers=formers)
        return True


def _same(row: Row | None, other: Row | None) -> bool:
    """What the condition of a transaction looks at."""
    if row is None or other is None:
        return row is other
    return (row.state, row.seq, row.rev) == (other.state, other.seq, other.rev)
