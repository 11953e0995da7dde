"""What a change of ``objects`` owes beside its transaction: hints and intents before, listing, gc queue and ``all`` log after.

Invariant: whoever makes a change notes an intent before it and ends it when all of this is done, so that the sweeper does
what a process left undone. All of it may be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Protocol

from discloud import logs
from discloud.adapters.cassandra.all_log import AllLog
from discloud.adapters.cassandra.hints import Hints
from discloud.adapters.cassandra.intents import Intent, Intents, dead
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.names import Names
from discloud.adapters.cassandra.objects import HEAD
from discloud.adapters.cassandra.snapshot import Name, Snapshot, read_row
from discloud.adapters.cassandra.together import Step, all_of, together
from discloud.adapters.heads import COLLECTABLE, everywhere
from discloud.adapters.rows import Moved
from discloud.core.model import Repair, Version, VersionId
from discloud.errors import Unavailable


class RepairQueue(Protocol):
    """What is used here of ``Queues``."""

    async def add_repairs(self, repairs: Sequence[Repair]) -> None:
        """See ``Queues.add_repairs``."""

    async def repaired(self, repair: Repair) -> None:
        """See ``Queues.repaired``."""


class Consequences:
    """``repairs`` gives the queue of repairs, which needs the versions itself."""

    def __init__(
        self,
        names: Names,
        intents: Intents,
        log: AllLog,
        hints: Hints,
        moves: Moves,
        repairs: Callable[[], RepairQueue],
    ) -> None:
        self._names = names
        self._intents = intents
        self._log = log
        self._hints = hints
        self._moves = moves
        self._repairs = repairs
        self._later: set[asyncio.Task[None]] = set()
        self._ended: list[Intent] = []
        self._ending = False

    async def follow(self, snapshot: Snapshot) -> None:
        """What the change owes that the snapshot's edits made; without edits it was made before: only the listing, as it is now."""
        if not snapshot.wrote:
            await self.publish(snapshot.name)
            return
        steps: list[Step] = [
            partial(self._names.publish, *name, head)
            for name, edits in snapshot.wrote.items()
            if HEAD in edits and (head := edits[HEAD].after) is not None
        ]
        steps += [
            partial(self._intents.note, dead(each))
            for each in snapshot.left.values()
            if each.state in COLLECTABLE
        ]
        steps += [partial(self._log.add, version, removed=removed) for version, removed in snapshot.logged]
        if snapshot.repairs:
            steps.append(partial(self.owe, snapshot.repairs))
        if steps:
            await all_of(*steps)

    async def owe(self, repairs: Sequence[Repair]) -> None:
        """Queue repairs. Raises: Unavailable."""
        await self._repairs().add_repairs(repairs)

    async def take_back(self, repairs: Sequence[Repair]) -> None:
        """Unqueue the repairs of a version that did not come to be. Raises: Unavailable."""
        await together(self._repairs().repaired, repairs)

    async def publish(self, name: Name) -> None:
        """Let the listing say what the head is now. Raises: Unavailable."""
        head = (await self._moves.settled(name, (HEAD,)))[HEAD]
        if head is not None:
            await self._names.publish(*name, head)

    async def settle(self, name: Name, version: VersionId) -> None:
        """Do to its end what a change of that version owes, whoever made it. Raises: Unavailable."""
        rows = await self._moves.settled(name, (HEAD, version))
        if (head := rows[HEAD]) is not None:
            await self._names.publish(*name, head)
        own = read_row(*name, rows[version])
        if isinstance(own, Moved):
            await self.settle((name[0], own.to), version)
        elif own is not None:
            await self._settle_row(own)

    def end(self, *intents: Intent) -> None:
        """Take intents off, without making anybody wait for it: one that stays costs the sweeper a look.

        What gathers while a call is under way goes in the next one.
        """
        self._ended += intents
        if self._ended and not self._ending:
            self._ending = True
            self.later(self._end())

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something after the answer; its failure is told in the log."""
        task = asyncio.create_task(_logged(work))
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def close(self) -> None:
        """Wait for what is done after answers."""
        while self._later:
            await asyncio.wait(self._later)

    async def _end(self) -> None:
        try:
            while ended := self._ended:
                self._ended = []
                await self._intents.done(*ended)
        finally:
            self._ending = False

    async def _settle_row(self, own: Version) -> None:
        """What a version's row as it is now owes, and the one that it replaced."""
        if own.state in COLLECTABLE:
            await self._bury(own)
        else:
            await self._hints.add(own)
            if everywhere(own):
                await self._log.add(own, removed=False)
        if own.replaced is not None:
            replaced = await self._row((own.bucket, own.key), own.replaced)
            if isinstance(replaced, Version) and replaced.state in COLLECTABLE:
                await self._bury(replaced)

    async def _bury(self, version: Version) -> None:
        await self._intents.note(dead(version))
        if everywhere(version):
            await self._log.add(version, removed=True)

    async def _row(self, name: Name, version: VersionId) -> Version | Moved | None:
        rows = await self._moves.settled(name, (HEAD, version))
        return read_row(*name, rows[version])


async def _logged(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Unavailable as error:
        logs.debug("metadata_work_left_to_the_sweeper", reason=error.code)
