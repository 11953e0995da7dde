"""``Versions`` on Cassandra: the rules of ``heads``, each by one lightweight transaction (DESIGN section 5).

A change goes on to its end when its caller is cancelled, so that it has happened or not, never half. An intent stands for
it from before its transaction until what follows is done: that of its lease for a draft, else one of its own. It is sent together
with the transaction, not awaited before: lost is it only if this process dies and the intent's replicas fail in the same moment.
"""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from discloud.adapters import heads
from discloud.adapters.cassandra.all_log import AllLog
from discloud.adapters.cassandra.buckets import BucketIds
from discloud.adapters.cassandra.changes import Change as Work
from discloud.adapters.cassandra.changes import Changes
from discloud.adapters.cassandra.consequences import Consequences, RepairQueue
from discloud.adapters.cassandra.hints import Hints, hints_at, holders_of
from discloud.adapters.cassandra.intents import Intent, Intents, dead, lease, settling
from discloud.adapters.cassandra.manifests import LONG, is_long
from discloud.adapters.cassandra.mover import Mover
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.names import Names
from discloud.adapters.cassandra.objects import HEAD, Edit, Objects, Row, newborn
from discloud.adapters.cassandra.reading import ReadVersions
from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.snapshot import Name, Snapshot
from discloud.adapters.cassandra.tidying import Tidying
from discloud.adapters.cassandra.together import Step, all_of
from discloud.adapters.heads import LIVE
from discloud.adapters.listing import utf8
from discloud.core.model import (
    BlobId,
    BucketId,
    Change,
    ChangeKind,
    Committed,
    Key,
    NodeId,
    Precondition,
    Repair,
    State,
    Version,
    VersionId,
)
from discloud.errors import DiscloudError, NoSuchVersion, OutcomeUnknown

T = TypeVar("T")

SETTLE = 60.0
"""Seconds after which somebody else looks whether a change was done to its end."""
_DRAFTS = 16_384
"""Drafts whose row this process remembers, to commit them without reading."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A draft as this process wrote it: its row, and the nodes that were hinted at."""

    row: Row
    nodes: frozenset[NodeId]


@dataclass(slots=True)
class _Noted:
    """What was written down for a commit: intents to be ended after it, and whether hints and repairs are there."""

    intents: dict[VersionId, Intent] = field(default_factory=dict)
    hinted: bool = False
    owed: bool = False


class CassandraVersions(ReadVersions):
    """The ``Versions`` port.

    ``clock`` gives epoch seconds, ``monotonic`` seconds that never go back, ``draw`` a number 0..1, ``bits`` that many random bits.
    """

    def __init__(
        self,
        session: Session,
        ids: BucketIds,
        intents: Intents,
        log: AllLog,
        repairs: Callable[[], RepairQueue],
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
        bits: Callable[[int], int] = random.getrandbits,
    ) -> None:
        objects = Objects(session)
        moves, names = Moves(objects), Names(session, intents, clock)
        super().__init__(objects, moves, names, Hints(session), monotonic)
        self._ids = ids
        self._intents = intents
        self._clock = clock
        self._bits = bits
        self._changes = Changes(objects, moves, session.patience, clock, draw)
        self._consequences = Consequences(names, intents, log, self._hints, moves, repairs)
        self._mover = Mover(self._changes, moves, self._consequences, intents, session.patience, self._later)
        self.tidying = Tidying(intents, names, moves, objects, clock)
        self._drafts: OrderedDict[VersionId, _Begun] = OrderedDict()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Let what is under way come to its end."""
        while self._under_way:
            await asyncio.wait(self._under_way)
        await self._changes.close()
        await self._consequences.close()

    # ------------------------------------------------------------ drafts

    async def begin(self, draft: Version) -> None:
        """See ``Versions.begin``."""
        utf8(draft.key)
        await self._to_its_end(self._begin(draft))

    async def renew(self, draft: Version, due: float) -> None:
        """See ``Versions.renew``."""

        def beside(_: Snapshot) -> list[Step]:
            return [partial(self._intents.note, lease(replace(draft, due=due)))]

        async def after(snapshot: Snapshot) -> None:
            for edit in snapshot.edits(name):
                if edit.after is not None and edit.version == draft.id:
                    self._remember(draft, edit.after)

        name = (draft.bucket, draft.key)
        work = Work(
            name, lambda rows, _: heads.renew(rows, draft, due), (draft.id,), beside=beside, after=after
        )
        await self._to_its_end(self._changes.run(work))

    async def abort(self, draft: Version) -> bool:
        """See ``Versions.abort``."""

        def beside(snapshot: Snapshot) -> list[Step]:
            return [partial(self._intents.note, dead(each)) for each in snapshot.left.values()]

        async def after(_: Snapshot) -> None:
            self._drafts.pop(draft.id, None)
            self._consequences.end(lease(draft))

        name = (draft.bucket, draft.key)
        work = Work(name, lambda rows, _: heads.abort(rows, draft), (draft.id,), beside=beside, after=after)
        return await self._to_its_end(self._changes.run(work))

    # ------------------------------------------------------------ changes of heads

    def expect(self, bucket: BucketId, key: Key) -> None:
        """See ``Versions.expect``."""
        self._changes.expect((bucket, key))

    async def put(
        self, version: Version, only: Precondition, repairs: tuple[Repair, ...] = (), keep: float = 3600.0
    ) -> Committed:
        """See ``Versions.put``: one transaction where there is no head, or this process knows it."""
        utf8(version.key)
        return await self._to_its_end(self._put(version, only, repairs, keep))

    async def commit(self, change: Change, only: Precondition) -> Committed:
        """See ``Versions.commit``: one transaction where this process knows the head, and began what a PUT commits."""
        utf8(change.target or change.key)
        if change.kind is ChangeKind.MOVE:
            return await self._to_its_end(self._move(change, only))
        version = change.version
        is_put = change.kind is ChangeKind.PUT
        begun = self._drafts.get(version.id) if version and is_put else None
        own = {version.id: begun.row} if version and begun else {}
        name = (change.bucket, change.key)
        likely = bool(own) if is_put else self._changes.remembers(name)
        work = Work(
            name,
            lambda rows, now: heads.commit(rows, change, only, now),
            (version.id,) if version else (),
            partial(self._changes.guess, name, own) if likely else None,
            keep=change.keep,
        )
        fresh = version if is_put else None
        return await self._to_its_end(self._commit(work, fresh, change.repairs, leased=is_put))

    # ------------------------------------------------------------ rows

    async def relocate(self, version: Version, blob: BlobId, holders: tuple[NodeId, ...]) -> bool:
        """See ``Versions.relocate``."""
        noted = _Noted()

        def beside(_: Snapshot) -> list[Step]:
            if version.state is State.DRAFT:
                return [partial(self._hints.add, version, holders)]
            return [partial(self._note, noted, version, holders)]

        async def after(snapshot: Snapshot) -> None:
            self._forget_known(version.id)
            await self._consequences.follow(snapshot)
            self._consequences.end(*noted.intents.values())

        name = (version.bucket, version.key)
        work = Work(
            name,
            lambda rows, _: heads.relocate(rows, version, blob, holders),
            (version.id,),
            beside=beside,
            after=after,
        )
        return await self._to_its_end(self._changes.run(work))

    async def postpone(self, version: Version, due: float) -> bool:
        """Let gc come back to a dead version later, of which an intent is noted already; False = it does not wait for gc."""

        def rule(rows: Snapshot, _: float) -> bool:
            heads.postpone(rows, version, due)
            return bool(rows.wrote)

        name = (version.bucket, version.key)
        return await self._to_its_end(self._changes.run(Work(name, rule, (version.id,))))

    async def forget(self, version: Version) -> None:
        """See ``Versions.forget``: first what it left at former keys, then its row, then the hints."""
        await self._to_its_end(self._forget(version))

    async def settle(self, intent: Intent, version: Version) -> None:
        """Do to its end what a change owes that ``intent`` stands for. Raises: Unavailable."""
        await self._consequences.settle((intent.bucket, intent.key), version.id)

    # ------------------------------------------------------------ how

    async def _begin(self, draft: Version) -> None:
        name, has = (draft.bucket, draft.key), await self._ids.exists(draft.bucket)
        snapshot = await self._changes.load(name, (draft.id,), has=has, strict=False)
        await self._changes.decide(lambda rows, _: heads.begin(rows, draft), snapshot)
        if snapshot.wrote:
            await all_of(
                partial(self._intents.note, lease(draft), *hints_at(draft, holders_of(draft))),
                partial(self._objects.birth, draft),
            )
            self._remember(draft, newborn(draft))

    async def _put(
        self, version: Version, only: Precondition, repairs: tuple[Repair, ...], keep: float
    ) -> Committed:
        has, begun = await self._ids.exists(version.bucket), self._drafts.get(version.id)
        name, own = (version.bucket, version.key), {version.id: begun.row if begun else None}
        work = Work(
            name,
            lambda rows, now: heads.put(rows, version, only, repairs, keep, now),
            (version.id,),
            partial(self._changes.guess, name, own) if has else None,
            has,
            keep,
        )
        return await self._commit(work, version, repairs, leased=begun is not None)

    async def _commit(
        self, work: Work[Committed], fresh: Version | None, repairs: Sequence[Repair], *, leased: bool
    ) -> Committed:
        """A change of the head. ``fresh``: the version that a PUT brings; ``leased``: its lease's intent stands for it."""
        noted = _Noted({fresh.id: lease(fresh)} if leased and fresh else {})

        def beside(snapshot: Snapshot) -> list[Step]:
            subject = fresh or snapshot.head(*snapshot.name)
            note: list[Step] = [partial(self._note, noted, subject, self._unhinted(fresh))] if subject else []
            return [*note, partial(self._owe, noted, repairs)] if repairs else note

        async def after(snapshot: Snapshot) -> None:
            await self._consequences.follow(snapshot)
            for edit in snapshot.edits(work.name):
                self._forget_known(edit.version)
            if snapshot.wrote:
                self._consequences.end(*noted.intents.values())

        try:
            return await self._changes.run(replace(work, beside=beside, after=after))
        except OutcomeUnknown:
            raise
        except DiscloudError:
            if not leased and not (fresh and len(fresh.segments) > LONG):
                self._consequences.end(*noted.intents.values())  # of a long one the sweeper drops the parts
            if noted.owed:
                self._consequences.later(self._consequences.take_back(repairs))
            raise

    async def _owe(self, noted: _Noted, repairs: Sequence[Repair]) -> None:
        """The repairs that come with a commit, once."""
        if not noted.owed:
            await self._consequences.owe(repairs)
            noted.owed = True

    async def _note(self, noted: _Noted, subject: Version, nodes: Sequence[NodeId]) -> None:
        """That somebody shall look at the subject, and hints at it for these nodes, each once."""
        hints = [] if noted.hinted else hints_at(subject, nodes)
        if subject.id not in noted.intents:
            intent = settling(subject, self._later(), new_tag=self._new_tag)
            noted.intents[subject.id] = await self._intents.note(intent, *hints)
        elif hints:
            await self._hints.add(subject, nodes)
        noted.hinted = True

    async def _move(self, change: Change, only: Precondition) -> Committed:
        committed = await self._mover.move(change, only)
        for version in (committed.version, committed.replaced):
            if version is not None:
                self._forget_known(version.id)
        return committed

    async def _forget(self, version: Version) -> None:
        name = await self._located(version)
        if name is None:
            return
        rows = await self._objects.rows(*name, (HEAD, version.id))
        row = rows[version.id]
        if row is not None and row.state not in LIVE:
            for former in row.formers or ():
                await self._forget_former((version.bucket, Key(former.decode())), version.id)
            await self.tidying.note_vacant(name, rows[HEAD], row)
            if is_long(row.body) or row.state == State.ABORTED:
                await self._objects.drop_parts(version.id)
        at = replace(version, key=name[1])
        await self._changes.run(Work(name, lambda rows, _: heads.forget(rows, at), (version.id,)))
        self._consequences.later(self._hints.remove(version))

    async def _located(self, version: Version) -> Name | None:
        """Where a version's row is now."""
        try:
            return version.bucket, (await self.find(version.bucket, version.key, version.id)).key
        except NoSuchVersion:
            return None

    async def _forget_former(self, name: Name, version: VersionId) -> None:
        """What a move left."""
        rows = await self._moves.settled(name, (HEAD, version))
        row = rows[version]
        if row is not None and row.state == State.MOVED:
            await self.tidying.note_vacant(name, rows[HEAD], row)
            await self._objects.apply(*name, (Edit(version, row, None),))

    def _remember(self, draft: Version, row: Row) -> None:
        if is_long(row.body):
            return
        self._drafts[draft.id] = _Begun(row, frozenset(holders_of(draft)))
        self._drafts.move_to_end(draft.id)
        if len(self._drafts) > _DRAFTS:
            self._drafts.popitem(last=False)

    def _unhinted(self, fresh: Version | None) -> Sequence[NodeId]:
        """The holders at which ``begin`` did not hint."""
        if fresh is None:
            return ()
        begun = self._drafts.get(fresh.id)
        return [node for node in holders_of(fresh) if begun is None or node not in begun.nodes]

    def _new_tag(self) -> uuid.UUID:
        """It must be unlike others, not secret; uuid4 would ask the kernel each time."""
        return uuid.UUID(int=self._bits(128))

    def _later(self) -> float:
        return self._clock() + SETTLE

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of ``work``, which goes on when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        if not task.cancelled():
            task.exception()  # told to whoever waited for it
