"""A version goes from one key to another: a journaled change of two partitions that anybody can finish.

1. The source is marked: its head's row and the version's own row become MOVED, the own row's body is the *journal*: where
   to, and the edits that shall be made there, conditional on what was read there. The head still shows the version.
2. The target's edits: one lightweight transaction. From here on the move has happened.
3. The source's head becomes null. The own row stays: it tells where the version went.
If 2 is refused because the target changed, the mark is taken back and the mover tries anew. Whoever meets a mark (a reader,
a writer, the sweeper by the intent) does 2 and 3 first, so nobody sees the version at both keys or at none.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgpack

from discloud.adapters.cassandra.objects import HEAD, NULL, Edit, Objects, Row, Rows
from discloud.adapters.cassandra.snapshot import Name, read_head
from discloud.core.model import Key, State, VersionId
from discloud.errors import Corrupt, OutcomeUnknown

_TRIES = 4
"""Settlings of a step's transaction while its outcome is unknown."""


@dataclass(frozen=True, slots=True)
class Journal:
    """A move under way: its target, the ``seq`` that the version gets there, and the target's edits."""

    to: Key
    seq: int
    edits: tuple[Edit, ...]

    def pack(self) -> bytes:
        """The body of the marked row."""
        return bytes(msgpack.packb([self.to, self.seq, [_edit_record(edit) for edit in self.edits]]))


def read_journal(body: bytes) -> Journal:
    """What ``Journal.pack`` wrote. Raises: Corrupt."""
    try:
        to, seq, edits = msgpack.unpackb(body, use_list=False)
        return Journal(Key(to), seq, tuple(_edit(record) for record in edits))
    except (ValueError, TypeError) as error:
        raise Corrupt(f"the journal of a move cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Mark:
    """A marked source: the rows of the head and of the version, and the version's journal."""

    head: Row
    own: Row
    version: VersionId
    journal: Journal


class Moves:
    """Over the table ``objects``. What follows a move (listing, gc) is not done here."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    async def settled(self, name: Name, versions: Iterable[VersionId], *, strict: bool = True) -> Rows:
        """These rows of one moment at which the head is not being moved. Raises: Unavailable."""
        wanted = tuple(versions)
        while True:
            rows = await self._objects.rows(*name, wanted, strict=strict)
            head = rows.get(HEAD)
            if head is None or head.state != State.MOVED:
                return rows
            await self.complete(name)

    async def mark(
        self, name: Name, version: VersionId, head: Row, own: Row, journal: Journal
    ) -> Mark | None:
        """Step 1; None = the head is another one by now. Raises: OutcomeUnknown, Unavailable."""
        marked = replace(head, state=State.MOVED, rev=head.rev + 1)
        row = Row(State.MOVED, journal.seq, own.rev + 1, journal.pack())
        edits = (Edit(HEAD, head, marked), Edit(version, own, row, blind=True))
        await self._objects.write_parts_of(journal.edits)  # whoever finishes it has the journal only
        applied, _ = await self._objects.apply(*name, edits)
        return Mark(marked, row, version, journal) if applied else None

    async def complete(self, name: Name) -> bool:
        """Steps 2 and 3 of the move that the head is marked with; False = it was taken back, or there is none (any more).

        Raises: OutcomeUnknown, Unavailable.
        """
        head = (await self._objects.rows(*name, (HEAD,)))[HEAD]
        shown = read_head(*name, head)
        if head is None or shown is None or head.state != State.MOVED:
            return False
        own = (await self._objects.rows(*name, (shown.id,)))[shown.id]
        if own is None or own.state != State.MOVED or own.body is None:
            return False  # completed or taken back in between
        return await self.finish(name, Mark(head, own, shown.id, read_journal(own.body)))

    async def finish(self, name: Name, mark: Mark) -> bool:
        """Steps 2 and 3 of a move that was seen marked; False = it was taken back. Raises: OutcomeUnknown, Unavailable.

        Others may finish it too, or take it back: what each step finds says so.
        """
        head, own, journal = mark.head, mark.own, mark.journal
        if await self._reach((name[0], journal.to), mark.version, journal):
            await self._vacate(name, head, journal.seq)
            return True
        back = replace(head, state=State.COMMITTED, rev=head.rev + 1)
        again = Row(State.COMMITTED, head.seq, own.rev + 1, head.body)
        await self._objects.apply(*name, (Edit(HEAD, head, back), Edit(mark.version, own, again, blind=True)))
        return False

    async def _reach(self, target: Name, version: VersionId, journal: Journal) -> bool:
        """Step 2: whether the version is, or was, at the target by this journal."""

        def is_there(rows: Rows) -> bool:
            own = rows[version]
            return own is not None and own.seq >= journal.seq

        return await self._made(target, journal.edits, version, is_there)

    async def _vacate(self, name: Name, marked: Row, seq: int) -> None:
        """Step 3; others may have done it."""

        def is_unmarked(rows: Rows) -> bool:
            head = rows[HEAD]
            return head is None or head.state != State.MOVED

        await self._made(name, (Edit(HEAD, marked, Row(NULL, seq, 0, None)),), HEAD, is_unmarked)

    async def _made(
        self, name: Name, edits: Sequence[Edit], telling: VersionId, made: Callable[[Rows], bool]
    ) -> bool:
        """Whether a step is made, now or before, as the row ``telling`` shows. Raises: OutcomeUnknown, Unavailable."""
        for tries in range(1, _TRIES + 1):
            known = True
            try:
                if (await self._objects.apply(*name, edits))[0]:
                    return True
            except OutcomeUnknown:
                if tries == _TRIES:
                    raise
                known = False
            if made(await self._objects.rows(*name, (telling,))):
                return True
            if known:
                break
        return False


def _edit_record(edit: Edit) -> list[Any]:
    id = uuid.UUID(edit.version).bytes
    return [id, _row_record(edit.before), _row_record(edit.after), edit.blind]


def _row_record(row: Row | None) -> list[Any] | None:
    return None if row is None else [row.state, row.seq, row.rev, row.body, row.formers]


def _edit(record: Sequence[Any]) -> Edit:
    id, before, after, blind = record
    return Edit(VersionId(str(uuid.UUID(bytes=id))), before and Row(*before), after and Row(*after), blind)
