"""What nobody needs any more and no request removes: null heads, and the entries of empty directories. Done while gc looks for work.

A **null head** is kept for ``VACANT``, so that the next PUT's ``seq`` is above it; then ``now`` is above every ``seq`` that the key ever
had (clocks differ by 5 s at the most), so a first head needs no floor. It is removed by a lightweight transaction on what was read: a PUT in
between wins. No other row of the partition needs it: drafts are committed on the head as it is then, dead and moved rows are found by
their own id. What is conditional on there being no head must not be older than ``VACANT``: a request lives for seconds, and the
journal of a move until the sweeper meets it.

Whoever forgets the version that was deleted, or moved away, notes the intent (``versions``): null heads are found without a scan.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial

from discloud import logs
from discloud.adapters.cassandra.intents import Intent, Intents, Kind, vacant
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.names import Names
from discloud.adapters.cassandra.objects import HEAD, Edit, Objects, Row
from discloud.adapters.cassandra.snapshot import Name
from discloud.adapters.cassandra.together import together
from discloud.errors import DiscloudError

VACANT = 30 * 86_400.0
"""Seconds for which a null head stays: longer than any clock is wrong or any mesh stands still in the middle of a change."""
MOST = 10_000
"""Intents of a kind that one run looks at, at the most: gc waits for it."""


class Tidying:
    """Safe to be run by several at once. ``clock`` gives epoch seconds."""

    def __init__(
        self, intents: Intents, names: Names, moves: Moves, objects: Objects, clock: Callable[[], float]
    ) -> None:
        self._intents = intents
        self._names = names
        self._moves = moves
        self._objects = objects
        self._clock = clock

    async def run(self, now: float) -> None:
        """Remove what is due at ``now``; what gives no answer stays for the next run. Raises: Unavailable (the intents themselves)."""
        now = min(now, self._clock())
        await self._all(Kind.VACANT, self._remove_head, now)
        await self._all(Kind.EMPTY, self._remove_directory, now)

    async def note_vacant(self, name: Name, head: Row | None, own: Row | None) -> None:
        """Before ``own``, a version's row, goes: if its end left the null head ``head``, somebody comes for that. Raises: Unavailable."""
        if head is not None and own is not None and head.body is None and head.seq == own.seq:
            await self._intents.note(vacant(*name, due_of(head.seq)))

    async def _all(self, kind: Kind, remove: Callable[[Intent], Awaitable[None]], now: float) -> None:
        looked_at = 0
        async with aclosing(self._intents.due(kind, now)) as due:
            async for intents in due:
                await together(partial(self._end, remove), intents)
                looked_at += len(intents)
                if looked_at >= MOST:
                    return

    async def _end(self, remove: Callable[[Intent], Awaitable[None]], intent: Intent) -> None:
        try:
            await remove(intent)
            await self._intents.done(intent)
        except DiscloudError as error:
            logs.info(
                "tidying_waits", kind=intent.kind.name, key=intent.key, reason=error.code, detail=str(error)
            )

    async def _remove_head(self, intent: Intent) -> None:
        """The intent of a head that was null for a while only is done: whoever made it null again is noted later."""
        name = (intent.bucket, intent.key)
        head = (await self._moves.settled(name, (HEAD,)))[HEAD]
        if head is not None and head.body is None and due_of(head.seq) <= self._clock():
            await self._objects.apply(*name, (Edit(HEAD, head, None),))

    async def _remove_directory(self, intent: Intent) -> None:
        await self._names.prune(intent.bucket, intent.key)


def due_of(seq: int) -> float:
    """When a head that became null with ``seq`` may go."""
    return seq / 1_000_000 + VACANT
