"""Moves a mesh's metadata from one adapter to another: copies row by row, compares both sides, then says where they are now.

Offline: no root runs on either side. Invariants: the source's rows are never changed; a target that holds anything else is
refused before anything is written; no root can start from the target before it was verified, nor by accident from the source
after. A run that was cut goes on where it stopped: the target keeps the place together with the rows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from discloud.adapters.portable import CHECKED, COPIED, Kind, Note, Progress, Row, Source, Target
from discloud.adapters.tally import Suspects, Tally
from discloud.errors import Conflict, Corrupt
from discloud.ports import LogEntry

PAGE = 500
"""Rows that are in memory at once."""
MICROS = 10**15
"""Log numbers from here on are moments in microseconds, below they are counts."""
SPACING = 1000
"""Microseconds between two entries whose count becomes a moment: so that no minute of the log gets too many of them."""
VERIFY = "verify "
"""Before the kind, in what is told while both sides are compared."""
_NAMED = 3
_ORDER = tuple(Kind)

Told = Callable[[str, int], None]
"""Hears what is being done and how many rows of it are through."""


@dataclass(frozen=True, slots=True)
class Moved:
    """One kind of rows that is the same on both sides: how many, and the digest of all of them."""

    kind: Kind
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Migrated:
    """A migration that is done. ``resumed`` are the rows that an earlier run had copied."""

    kinds: tuple[Moved, ...]
    resumed: int


async def survey(source: Source, told: Told) -> dict[Kind, int]:
    """How many rows there are of each kind that would be copied; nothing is written. Raises: Corrupt, Unavailable."""
    found: dict[Kind, int] = {}
    for kind in COPIED:
        found[kind] = 0
        async for _ in _rows(source, kind):
            found[kind] += 1
            told(kind, found[kind])
    return found


async def migrate(
    source: Source,
    target: Target,
    names: tuple[str, str],
    now: Callable[[], float],
    told: Told,
    *,
    restart: bool,
) -> Migrated:
    """Copy, verify, switch. ``names`` are the addresses of source and target; ``now`` gives epoch seconds.

    With ``restart`` what an unfinished run left in the target is removed first. Raises: Conflict (the target is not for this),
    Corrupt (the two sides differ afterwards), Unavailable.
    """
    note = await _prepare(source, target, names[0], now(), restart=restart)
    resumed = note.rows
    note = await _copy(source, target, note, told)
    kinds = await verify(source, target, told)
    # Nobody can start from either side in between: the target is not finished, the source is left.
    await source.leave(names[1], now())
    await target.finish(replace(note, progress=Progress.FINISHED))
    return Migrated(kinds, resumed)


async def _prepare(source: Source, target: Target, name: str, now: float, *, restart: bool) -> Note:
    """The place to go on from. Raises: Conflict."""
    if target.cluster != source.cluster:
        raise Conflict(
            f"the target holds mesh {target.cluster}, the source is mesh {source.cluster}",
            "choose an empty target",
        )
    fresh = Note(Progress.UNDER_WAY, name, now)
    note = await target.note()
    if note is None:
        if not await target.is_empty():
            raise Conflict(
                "the target holds rows that no migration wrote",
                "choose an empty target, or remove what is there if nobody needs it",
            )
    elif note.progress is not Progress.UNDER_WAY:
        state = (
            "was filled by an earlier migration" if note.progress is Progress.FINISHED else "was left before"
        )
        raise Conflict(f"the target {state} and may have been used since", "choose an empty target")
    elif restart:
        await target.erase()
    elif note.other != name:
        raise Conflict(
            f"the target holds an unfinished migration from {note.other}",
            "go on with that one, or begin anew with --restart",
        )
    else:
        return note
    await target.write(Kind.BUCKETS, (), fresh)
    return fresh


# ---------------------------------------------------------------- copying


async def _copy(source: Source, target: Target, note: Note, told: Told) -> Note:
    """Copy what the note does not say to be copied; the note of the end."""
    done = 0
    while (kind := note.kind) in COPIED:
        stretch = await source.read(kind, note.after, PAGE)
        rows = await _with_numbers(source, stretch.rows, note) if kind is Kind.LOG else stretch.rows
        note = _behind(note, rows, stretch.after)
        await target.write(kind, rows, note)
        done += len(rows)
        told(kind, done)
        if stretch.after is None:
            done = 0
    return note


def _behind(note: Note, rows: Sequence[Row], after: str | None) -> Note:
    """The note once ``rows`` are copied too."""
    last = rows[-1] if rows else None
    number = last.number if isinstance(last, LogEntry) else note.number
    note = replace(note, rows=note.rows + len(rows), number=number)
    if after is None:
        return replace(note, kind=_ORDER[_ORDER.index(note.kind) + 1], after="")
    return replace(note, after=after)


async def _with_numbers(source: Source, rows: Sequence[Row], note: Note) -> list[Row]:
    """Log entries under numbers that no node's cursor has passed: nodes keep the number of the last entry they followed.

    Numbers never go down and keep their order. Moments stay what they are (a follower neither misses nor repeats an entry);
    counts become moments before the migration began, so that every node follows the log once more from its start, which
    costs it a look at each entry, and every later entry comes behind them.
    """
    numbered: list[Row] = []
    last = note.number
    for row in rows:
        assert isinstance(row, LogEntry)
        if row.number >= MICROS:
            last = max(row.number, last + 1)
        else:
            last = (last or await _first_moment(source, note)) + SPACING
        numbered.append(replace(row, number=last))
    return numbered


async def _first_moment(source: Source, note: Note) -> int:
    count = await source.count(Kind.LOG)
    if count is None:
        count = len([None async for _ in _rows(source, Kind.LOG)])
    return int(note.began * 1_000_000) - (count + 1) * SPACING


# ---------------------------------------------------------------- verifying


async def verify(source: Source, target: Source, told: Told) -> tuple[Moved, ...]:
    """Compare every row of both sides, and what both list. Raises: Corrupt, naming some rows that differ."""
    return tuple([await _compare(source, target, kind, told) for kind in CHECKED])


async def _compare(source: Source, target: Source, kind: Kind, told: Told) -> Moved:
    mine, other = Tally(), Tally()
    for side, tally in ((source, mine), (target, other)):
        async for row in _rows(side, kind):
            tally.add(row)
            if tally.rows % PAGE == 0:
                told(f"{VERIFY}{kind}", tally.rows)
    if different := mine.differing(other):
        suspects = Suspects(different)
        for number, side in enumerate((source, target)):
            async for row in _rows(side, kind):
                suspects.add(row, number)
        raise Corrupt(
            f"the copy is not the same: {mine.rows} {kind} in the source, {other.rows} in the target; "
            f"different: {'; '.join(suspects.names(_NAMED))}",
            "did somebody change one side meanwhile? Begin anew with --restart",
        )
    told(f"{VERIFY}{kind}", mine.rows)
    return Moved(kind, mine.rows, mine.digest)


async def _rows(side: Source, kind: Kind) -> AsyncIterator[Row]:
    after: str | None = ""
    while after is not None:
        stretch = await side.read(kind, after, PAGE)
        for row in stretch.rows:
            yield row
        after = stretch.after
