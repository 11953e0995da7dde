"""The MOVE of an object, from the rule to its end (``moves`` says how its steps are safe)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from discloud.adapters import heads
from discloud.adapters.cassandra.changes import Changes, Progress
from discloud.adapters.cassandra.consequences import Consequences
from discloud.adapters.cassandra.intents import Intents, settling
from discloud.adapters.cassandra.moves import Journal, Moves
from discloud.adapters.cassandra.objects import HEAD, NULL, Edit, Row
from discloud.adapters.cassandra.snapshot import Missing, Name, Snapshot
from discloud.adapters.cassandra.together import all_of
from discloud.core.model import Change, Committed, Precondition, Version, VersionId
from discloud.errors import Invalid, OutcomeUnknown


class Mover:
    """``patience``: the seconds that a move may take; ``later``: when somebody else shall look whether it is done."""

    def __init__(
        self,
        changes: Changes,
        moves: Moves,
        consequences: Consequences,
        intents: Intents,
        patience: float,
        later: Callable[[], float],
    ) -> None:
        self._changes = changes
        self._moves = moves
        self._consequences = consequences
        self._intents = intents
        self._patience = patience
        self._later = later

    async def move(self, change: Change, only: Precondition) -> Committed:
        """See ``Versions.commit``. Raises: as it."""
        if change.target is None or change.target == change.key:
            raise Invalid(f"a move of {change.key!r} needs another key as its target")
        first, second = (
            self._changes.turn((change.bucket, key)) for key in sorted((change.key, change.target))
        )
        progress = Progress()
        with progress:
            async with asyncio.timeout(self._patience), first, second:
                strict = False
                while (done := await self._try(change, only, progress, strict=strict)) is None:
                    await self._changes.pause(progress)
                    strict = True
                return done
        raise AssertionError("the block above returns or raises")

    async def _try(
        self, change: Change, only: Precondition, progress: Progress, *, strict: bool
    ) -> Committed | None:
        """What the move did, None = the source or the target is another by now. ``strict``: how they are read at first."""
        source = (change.bucket, change.key)
        versions = [change.version.id] if change.version else []
        target = [(change.bucket, change.target)] if change.target else []
        load = partial(self._changes.load, source, versions, beside=target)
        done, snapshot = await self._changes.surely(
            lambda rows, now: heads.commit(rows, change, only, now), await load(strict=strict), load
        )
        if not snapshot.wrote or done.version is None:
            await self._finish_again(source, done)
            return done
        head, own = await self._rows(source, snapshot, done.version.id)
        if head is None or own is None:
            return None
        journal = _journal(done.version, snapshot, source, own)
        intent = settling(replace(done.version, key=change.key), self._later(), change.target)
        intent = await self._intents.note(intent)
        progress.tries += 1
        try:
            mark = await self._moves.mark(source, done.version.id, head, own, journal)
        except OutcomeUnknown:
            progress.doubtful = True
            return None
        if mark is None:
            return None
        progress.sent = True
        moved = await self._moves.finish(source, mark)
        progress.sent = False
        if not moved:
            return None
        progress.applied = True
        null = Edit(HEAD, head, Row(NULL, journal.seq, 0, None))
        snapshot.wrote[source] = {HEAD: null}
        self._changes.remember_edits(source, (null,))
        self._changes.remember_edits((change.bucket, done.version.key), journal.edits)
        await self._consequences.follow(snapshot)
        self._consequences.end(intent)
        return done

    async def _finish_again(self, source: Name, done: Committed) -> None:
        """The listing of a move that was made before, at both keys: a reader that finished it leaves that to the mover."""
        if done.version is not None:
            target = (done.version.bucket, done.version.key)
            publish = self._consequences.publish
            await all_of(partial(publish, source), partial(publish, target))

    async def _rows(
        self, source: Name, snapshot: Snapshot, version: VersionId
    ) -> tuple[Row | None, Row | None]:
        """The head's row and the version's own at the source."""
        try:
            own = snapshot.stored(source, version)
        except Missing:
            own = (await self._moves.settled(source, (HEAD, version)))[version]
        return snapshot.stored(source, HEAD), own


def _journal(version: Version, snapshot: Snapshot, source: Name, own: Row) -> Journal:
    """The target's edits; the version's own row there also tells where it was before."""
    target = (version.bucket, version.key)
    formers = {*(own.formers or ()), source[1].encode()} - {version.key.encode()}
    edits = [
        replace(edit, after=replace(edit.after, formers=tuple(sorted(formers))))
        if edit.version == version.id and edit.after is not None
        else edit
        for edit in snapshot.edits(target)
    ]
    return Journal(version.key, version.seq, tuple(edits))
