"""Every change of ``objects``: a rule of ``heads`` on a snapshot, then one lightweight transaction conditional on what it read.

What it begins with is remembered or read at the quorum's level: a strict read is a round of Paxos itself, which makes writers of the
same object lose theirs. Refused: the rows are read again and the rule decides anew, with jitter, within the patience of one call. Unknown: a
strict read tells whether it was applied; what cannot be told, by it or because others went on, is ``OutcomeUnknown``. A repeated change finds what the first
one did, since the rules are idempotent by version id.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, Self, TypeVar
from weakref import WeakValueDictionary

from discloud.adapters.cassandra.manifests import is_long
from discloud.adapters.cassandra.moves import Moves
from discloud.adapters.cassandra.objects import HEAD, Edit, Objects, Row, Rows
from discloud.adapters.cassandra.snapshot import Missing, Name, Snapshot
from discloud.adapters.cassandra.together import Step, together
from discloud.adapters.rows import Torn
from discloud.core.model import State, VersionId
from discloud.errors import DiscloudError, OutcomeUnknown, Unavailable

T = TypeVar("T")
Rule = Callable[[Snapshot, float], T]
"""A change: what it writes to the snapshot, and its answer; the second argument is the time. Must be repeatable."""
_RECENT = 8192
"""Heads' rows that are remembered as a first guess."""
_UNKNOWN = object()
_CALM = 8
"""Objects that are being changed here; from so many on the rate of changes counts more than how soon one is done."""
_PAUSE = 0.004
"""Seconds by which a writer that was refused waits at first, times 0..1; twice as long after each further refusal."""
_LONGEST_PAUSE = 0.25


def _no_steps(_: Snapshot) -> Sequence[Step]:
    return ()


async def _nothing(_: Snapshot) -> None:
    return


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """What is to be done to the object ``name``, when it is this change's turn.

    ``versions``: rows that the rule will ask for beside the head. ``guess``: what to begin with instead of reading;
    ``has_bucket`` is given to the rule.
    ``beside`` gives the steps that run together with each transaction, sent in their order and before it (intents, hints);
    ``after`` runs when one was applied, or when nothing had to change (the snapshot has no edits then: the change was made
    before). All may be repeated. ``keep``: seconds for which the row of a version that was replaced stays.
    """

    name: Name
    rule: Rule[T]
    versions: Sequence[VersionId] = ()
    guess: Callable[[], Snapshot] | None = None
    has_bucket: bool = True
    keep: float = 0.0
    beside: Callable[[Snapshot], Sequence[Step]] = _no_steps
    after: Callable[[Snapshot], Awaitable[None]] = _nothing


class Changes:
    """``clock`` gives epoch seconds, ``draw`` a number 0..1, ``patience`` the seconds that a change may take in all."""

    def __init__(
        self,
        objects: Objects,
        moves: Moves,
        patience: float,
        clock: Callable[[], float],
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._objects = objects
        self._moves = moves
        self._patience = patience
        self._clock = clock
        self._draw = draw
        self._recent: OrderedDict[Name, Row | None] = OrderedDict()
        self._turns: WeakValueDictionary[Name, asyncio.Lock] = WeakValueDictionary()
        self._expected: dict[Name, asyncio.Task[None]] = {}

    async def close(self) -> None:
        """Let what is under way come to its end."""
        await asyncio.gather(*self._expected.values())

    def expect(self, name: Name) -> None:
        """A change of that object comes soon: see meanwhile what its head is, unless a change that is under way will tell.

        Where much is under way nobody looks: that every change costs a read more weighs more there than that a few are refused once.
        """
        if len(self._turns) < _CALM and name not in self._turns and name not in self._expected:
            self._expected[name] = asyncio.create_task(self._look(name))

    def turn(self, name: Name) -> asyncio.Lock:
        """Writers of one object in this process go one after another: that is faster than to refuse each other.

        Who needs the turns of several objects takes them in the order of their names, and holds none before.
        """
        turn = self._turns.get(name)
        if turn is None:
            turn = self._turns[name] = asyncio.Lock()
        return turn

    async def run(self, change: Change[T]) -> T:
        """The rule's answer once it is applied. Raises: what the rule raises, OutcomeUnknown, Unavailable (not applied)."""
        progress = Progress()
        with progress:
            async with asyncio.timeout(self._patience):
                async with self.turn(change.name):
                    answer, snapshot = await self._until_applied(change, progress)
                progress.applied = True
                await change.after(snapshot)
                if progress.beside is not None:
                    raise progress.beside
                return answer
        raise AssertionError("the block above returns or raises")

    async def load(
        self,
        name: Name,
        versions: Sequence[VersionId],
        *,
        has: bool = True,
        beside: Sequence[Name] = (),
        strict: bool = True,
    ) -> Snapshot:
        """The rows of one moment, nothing half moved among them; and those of objects ``beside``, of their own moments.

        They are certain if read strictly, else a good guess: every change that was acknowledged is seen. Raises: Unavailable.
        """
        snapshot, wanted = Snapshot(name, has, certain=strict), (HEAD, *versions)
        settled = partial(self._moves.settled, versions=wanted, strict=strict)
        rows, *others = await together(settled, (name, *beside))
        self.remember(name, rows[HEAD])
        snapshot.add(name, rows)
        # What moved away is surely seen elsewhere only in rows that are read after this.
        if not any(row is not None and row.state == State.MOVED for row in rows.values()):
            for each, found in zip(beside, others, strict=True):
                snapshot.add(each, found)
        return snapshot

    def remembers(self, name: Name) -> bool:
        """Whether the object's head, or that it has none, was seen here."""
        return name in self._recent

    def guess(self, name: Name, own: Rows) -> Snapshot:
        """What is likely: the head as last seen here, else none, and those rows beside it."""
        snapshot = Snapshot(name, has=True, certain=False)
        snapshot.add(name, {HEAD: self._recent.get(name), **own})
        return snapshot

    def remember(self, name: Name, head: Row | None) -> None:
        """A head's row as it was just seen; one with a long manifest is not worth its memory."""
        if head is not None and (head.state == State.MOVED or is_long(head.body)):
            self._recent.pop(name, None)
            return
        self._recent[name] = head
        self._recent.move_to_end(name)
        if len(self._recent) > _RECENT:
            self._recent.popitem(last=False)

    def remember_edits(self, name: Name, edits: Sequence[Edit]) -> None:
        """The head as a change that was made left it."""
        for edit in edits:
            if edit.version == HEAD:
                self.remember(name, edit.after)

    async def surely(
        self, rule: Rule[T], snapshot: Snapshot, load: Callable[[], Awaitable[Snapshot]]
    ) -> tuple[T, Snapshot]:
        """The rule's answer and what it was given on; a refusal, or that nothing need change, only on what ``load`` reads strictly.

        Raises: what the rule raises, Unavailable.
        """
        if not snapshot.certain:
            with suppress(DiscloudError):
                answer = await self.decide(rule, snapshot)
                if snapshot.wrote:
                    return answer, snapshot
            snapshot = await load()
        return await self.decide(rule, snapshot), snapshot

    async def decide(self, rule: Rule[T], snapshot: Snapshot) -> T:
        """The rule's answer; rows that it asks for are loaded. Raises: what the rule raises, Unavailable."""
        while True:
            snapshot.forget_writes()
            try:
                return rule(snapshot, self._clock())
            except Missing as missing:
                wanted = (HEAD, missing.version)
                rows = await self._moves.settled(missing.name, wanted, strict=snapshot.certain)
                if not snapshot.certain and missing.name in snapshot.loaded:
                    rows = {missing.version: rows[missing.version]}  # the head stays as it was assumed
                snapshot.add(missing.name, rows)
            except Torn:
                # Partitions are read one after the other, and a version went to and fro meanwhile.
                snapshot.loaded.clear()
                snapshot.certain = True

    async def _until_applied(self, change: Change[T], progress: Progress) -> tuple[T, Snapshot]:
        if looking := self._expected.get(change.name):
            await asyncio.shield(looking)
        load = partial(self.load, change.name, change.versions, has=change.has_bucket)
        snapshot = change.guess() if change.guess else await load(strict=False)
        while True:
            answer, snapshot = await self.surely(change.rule, snapshot, load)
            fresh = await self._apply(change, snapshot, progress) if snapshot.wrote else None
            if fresh is None:
                return answer, snapshot
            snapshot = fresh

    async def _look(self, name: Name) -> None:
        """Remember the head as it is, unless a change told it meanwhile."""
        known = self._recent.get(name, _UNKNOWN)
        try:
            rows = await self._objects.rows(*name, (HEAD,), strict=False)
            if self._recent.get(name, _UNKNOWN) is known:
                self.remember(name, rows[HEAD])
        except DiscloudError:
            return  # a guess that is wrong costs a refusal; what is wrong the change itself will say
        finally:
            del self._expected[name]

    async def _apply(self, change: Change[T], snapshot: Snapshot, progress: Progress) -> Snapshot | None:
        """None: applied. Else what was found instead, after a pause."""
        ((at, _),) = snapshot.wrote.items()  # one partition: a MOVE writes to two, it is not run here
        edits = snapshot.edits(at)
        progress.tries += 1
        progress.sent = True
        beside = [asyncio.create_task(_outcome(step)) for step in change.beside(snapshot)]
        try:
            await asyncio.sleep(0)  # each is sent now
            applied, met = await self._objects.apply(*at, edits)
        except OutcomeUnknown:
            progress.doubtful = True
            met = (await self.load(at, _beside_head(edits), has=snapshot.has)).loaded[at]
            applied = was_applied(edits, met, kept=progress.seconds < change.keep / 2)
            progress.doubtful = False
        except asyncio.CancelledError:
            for step in beside:
                step.cancel()
            raise
        finally:
            outcomes = await asyncio.gather(*beside, return_exceptions=True)
        progress.beside = next((error for error in outcomes if error is not None), None)
        if applied:
            self.remember_edits(at, edits)
            return None
        progress.sent = False
        await self.pause(progress)
        return await self._fresh(at, snapshot, met)

    async def _fresh(self, at: Name, refused: Snapshot, met: Rows | None) -> Snapshot:
        """A snapshot of the rows that a refusal met; they are read where it does not tell, or tells of a move under way."""
        head = (met or {}).get(HEAD)
        if met is None or HEAD not in met or (head is not None and head.state == State.MOVED):
            versions = [version for version in refused.loaded[at] if version != HEAD]
            return await self.load(at, versions, has=refused.has)
        self.remember(at, head)
        snapshot = Snapshot(at, refused.has)
        snapshot.add(at, met)
        return snapshot

    async def pause(self, progress: Progress) -> None:
        """Let others go first, longer with each try."""
        longest = min(_LONGEST_PAUSE, _PAUSE * 2 ** min(progress.tries, 10))
        await asyncio.sleep(self._draw() * longest)


class Progress:
    """How far a change came, and what its failure therefore means; a context manager that says it.

    ``sent``: a transaction is under way; ``doubtful``: the outcome of one was unknown; ``applied``: one was applied, or
    had been before; ``beside``: what failed beside the last one.
    """

    def __init__(self) -> None:
        self.tries = 0
        self._began = asyncio.get_running_loop().time()
        self.sent = self.doubtful = self.applied = False
        self.beside: BaseException | None = None

    @property
    def seconds(self) -> float:
        """Since the change began; also those for which the process was paused."""
        return asyncio.get_running_loop().time() - self._began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Raises: OutcomeUnknown, Unavailable."""
        if not isinstance(error, TimeoutError | Unavailable) and not (
            self.doubtful and isinstance(error, DiscloudError)
        ):
            return
        if self.applied:
            raise OutcomeUnknown(
                "the change is made, but not yet what follows it", "repeat it: that is safe"
            ) from error
        if self.sent or self.doubtful:
            raise OutcomeUnknown(
                "Cassandra does not tell whether the change was made", "repeat it: that is safe"
            ) from error
        if isinstance(error, TimeoutError):
            raise Unavailable(
                f"Cassandra did not take the change in time ({self.tries} tries)", "repeat it"
            ) from error


async def _outcome(step: Step) -> Unavailable | None:
    """What a step failed with."""
    try:
        await step()
    except Unavailable as error:
        return error
    return None


def _beside_head(edits: Sequence[Edit]) -> list[VersionId]:
    return [edit.version for edit in edits if edit.version != HEAD]


def was_applied(edits: Sequence[Edit], rows: Rows, *, kept: bool) -> bool:
    """Whether a change of unknown outcome was applied, by its rows as they are now: its edits apply together.

    False also where the rule itself sees it: the version that it brought is there. ``kept``: no row that it wrote can be gone
    again. Raises: OutcomeUnknown: others changed the object since, and what it brought may have come and gone. Made again it
    would undo what they did.
    """
    now = [(edit, rows.get(edit.version)) for edit in edits]
    if any(same(row, edit.after) for edit, row in now):
        return True
    if any(_tells(edit, row, kept=kept) for edit, row in now):
        return False
    raise OutcomeUnknown("others changed the object meanwhile, and whether this did is not told any more")


def _tells(edit: Edit, now: Row | None, *, kept: bool) -> bool:
    """Whether this row shows that its change was not made, or lets the rule see what became of it.

    A head's seq only grows, so one below what it would have got was not passed by; nor was it removed: that comes 30 days after.
    """
    if edit.version == HEAD and now is None:
        return True
    if edit.before is not None and same(now, edit.before):
        return True
    if edit.after is None:
        return False
    if now is None:
        return kept
    if edit.version == HEAD:
        return now.seq < edit.after.seq
    return edit.before is None or edit.before.state == State.DRAFT


def same(row: Row | None, other: Row | None) -> bool:
    """Whether a row is kept as that (what its version was moved away from aside)."""
    if row is None or other is None:
        return row is other
    return (row.state, row.seq, row.rev, row.body) == (other.state, other.seq, other.rev, other.body)
