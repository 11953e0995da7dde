"""Random histories of one bucket, each step compared with a model that is nothing but dictionaries."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, precondition, rule

from discloud.core.model import Change, Key, Precondition, State, Version
from discloud.errors import Aborted, Conflict, DiscloudError, NoSuchKey, PreconditionFailed
from discloud.ports import Metadata
from tests.contract.metadata_adapters import ADAPTERS, LASTING, Clock
from tests.contract.metadata_objects import (
    ABSENT,
    ANY,
    BUCKET,
    N3,
    blob,
    delete_of,
    draft,
    move_of,
    put_of,
    update_of,
)
from tests.contract.metadata_parts_contract import entries_of, naive_page

T = TypeVar("T")
FEW = st.sampled_from(["a", "a/", "a/b", "a/b/c", "a0", "b", "é/b", "é", "\uffff/", "😀"])
PREFIXES = st.sampled_from(["", "a", "a/", "a/b", "é", "b", "c", "\uffff"])
AFTERS = st.one_of(FEW, PREFIXES, st.sampled_from(["a/a", "a/b/", "a/z", "é/", "zz"]))


@dataclass
class Known:
    """What the model knows of a version: where it is, in which state, and its rev as last answered."""

    version: Version
    key: str
    state: State


class MetadataMachine(RuleBasedStateMachine):
    """``adapter`` is the name of one of ``ADAPTERS``."""

    adapter = "memory"
    versions = Bundle("versions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.runner = asyncio.Runner()
        self.folder = TemporaryDirectory()
        self.stack = AsyncExitStack()
        self.known: dict[str, Known] = {}
        self.heads: dict[str, str] = {}
        self.seqs: dict[str, int] = {}
        self.metadata = self.run(self._open())
        self.run(self.metadata.buckets.create(BUCKET))

    async def _open(self) -> Metadata:
        return await self.stack.enter_async_context(
            ADAPTERS[self.adapter](Path(self.folder.name), self.clock)
        )

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()

    # ------------------------------------------------------------ the model

    def etag(self, key: str) -> str | None:
        return self.known[self.heads[key]].version.etag if key in self.heads else None

    def holds(self, only: Precondition, key: str) -> bool:
        etag = self.etag(key)
        if only.if_match is not None and (etag is None or only.if_match not in {("*",), (etag,)}):
            return False
        return only.if_none_match is None or etag is None

    def bury(self, key: str, state: State) -> None:
        """The head of the key, if any, dies."""
        if key in self.heads:
            self.known[self.heads.pop(key)].state = state

    def expect_put(self, version: Version, only: Precondition) -> type[DiscloudError] | None:
        known = self.known.get(version.id)
        if known is not None and known.state is State.ABORTED:
            return Aborted
        if known is not None and known.state is not State.DRAFT:
            return None
        if not self.holds(only, version.key):
            return PreconditionFailed
        self.bury(version.key, State.REPLACED)
        self.heads[version.key] = version.id
        self.known[version.id] = Known(version, version.key, State.COMMITTED)
        return None

    def commit(
        self, change: Change, only: Precondition, expected: type[DiscloudError] | None
    ) -> Version | None:
        if expected is None:
            return self.run(self.metadata.versions.commit(change, only)).version
        with pytest.raises(expected):
            self.run(self.metadata.versions.commit(change, only))
        return None

    def read(self, key: str) -> Version | None:
        """The head as the adapter has it."""
        try:
            return self.run(self.metadata.versions.get(BUCKET.id, Key(key)))
        except NoSuchKey:
            return None

    # ------------------------------------------------------------ steps

    @rule(target=versions, key=FEW)
    def draw(self, key: str) -> Version:
        return draft(key)

    @rule(version=versions)
    def begin(self, version: Version) -> None:
        known = self.known.setdefault(version.id, Known(version, version.key, State.DRAFT))
        if known.state is State.ABORTED:
            with pytest.raises(Aborted):
                self.run(self.metadata.versions.begin(version))
        else:
            self.run(self.metadata.versions.begin(version))

    @rule(version=versions, absent=st.booleans())
    def put(self, version: Version, absent: bool) -> None:
        only = ABSENT if absent else ANY
        expected = self.expect_put(version, only)
        if expected is None:
            self.run(self.metadata.versions.put(version, only))
            return
        with pytest.raises(expected):
            self.run(self.metadata.versions.put(version, only))

    @rule(version=versions, match=st.booleans())
    def commit_draft(self, version: Version, match: bool) -> None:
        etag = self.etag(version.key)
        only = Precondition(if_match=(etag or "*",)) if match else ANY
        expected = Aborted if version.id not in self.known else self.expect_put(version, only)
        self.commit(put_of(version), only, expected)

    @rule(version=versions)
    def abort(self, version: Version) -> None:
        known = self.known.setdefault(version.id, Known(version, version.key, State.DRAFT))
        lost = known.state in {State.DRAFT, State.ABORTED}
        if lost:
            known.state = State.ABORTED
        assert self.run(self.metadata.versions.abort(version)) is lost

    @rule(key=FEW, match=st.sampled_from([None, ("*",), ("other",)]))
    def delete(self, key: str, match: tuple[str, ...] | None) -> None:
        expected = NoSuchKey if key not in self.heads else PreconditionFailed if match == ("other",) else None
        self.commit(delete_of(key), Precondition(if_match=match), expected)
        if expected is None:
            self.bury(key, State.DELETED)

    @rule(version=versions)
    def delete_what_was_read(self, version: Version) -> None:
        known = self.known.get(version.id)
        expected: type[DiscloudError] | None
        if known is not None and known.state is State.DELETED and known.key == version.key:
            expected = None  # repeated
        elif version.key not in self.heads:
            expected = NoSuchKey
        elif self.heads[version.key] != version.id:
            expected = Conflict
        else:
            expected = None
            self.bury(version.key, State.DELETED)
        self.commit(delete_of(version.key, version), ANY, expected)

    @rule(key=FEW, said=st.sampled_from(["x/y", "text/html"]), stale=st.booleans())
    def update(self, key: str, said: str, stale: bool) -> None:
        head = self.read(key)
        if head is None:
            return
        wish = replace(head, content_type=said, rev=head.rev - stale)
        repeated = stale and head.content_type == said
        changed = self.commit(update_of(wish), ANY, Conflict if stale and not repeated else None)
        assert changed is None or changed.content_type == said

    @rule(key=FEW, to=FEW, absent=st.booleans())
    def move(self, key: str, to: str, absent: bool) -> None:
        head = self.read(key)
        if head is None or key == to:
            return
        only = ABSENT if absent else ANY
        refused = not self.holds(only, to)
        self.commit(move_of(head, to), only, PreconditionFailed if refused else None)
        if not refused:
            self.bury(to, State.REPLACED)
            self.heads[to] = self.heads.pop(key)
            self.known[head.id].key = to

    @rule(version=versions)
    def forget(self, version: Version) -> None:
        known = self.known.get(version.id)
        if known is not None and known.state in {State.DRAFT, State.COMMITTED}:
            with pytest.raises(Conflict):
                self.run(self.metadata.versions.forget(version))
        elif known is None or known.state is not State.ABORTED:  # what was aborted shall stay so here
            self.run(self.metadata.versions.forget(version))
            if known is not None:
                known.state = State.ABORTED
                self.run(self.metadata.versions.abort(replace(version, key=Key(known.key))))
                known.version = replace(version, key=Key(known.key))

    @rule(key=FEW)
    def relocate(self, key: str) -> None:
        head = self.read(key)
        if head is not None:
            holders = (*head.segments[0].holders[0][:2], N3)
            assert self.run(self.metadata.versions.relocate(head, blob(head), holders))

    @rule(step=st.integers(-5, 5))
    def time_passes(self, step: int) -> None:
        self.clock.now += step

    @precondition(lambda self: self.adapter in LASTING)
    @rule()
    def reopen(self) -> None:
        self.run(self.stack.aclose())
        self.metadata = self.run(self._open())

    @rule(
        prefix=PREFIXES, delimiter=st.sampled_from(["", "/", "b", "é"]), after=AFTERS, limit=st.integers(1, 4)
    )
    def listing(self, prefix: str, delimiter: str, after: str, limit: int) -> None:
        page = self.run(self.metadata.versions.list_keys(BUCKET.id, prefix, delimiter, after, limit))
        entries, more = naive_page(set(self.heads), prefix, delimiter, after, limit)
        assert entries_of(page) == entries
        assert page.after == (entries[-1] if more else None)

    # ------------------------------------------------------------ what always holds

    @invariant()
    def heads_are_as_the_model_says(self) -> None:
        page = self.run(self.metadata.versions.list_keys(BUCKET.id, "", "", "", 1000))
        assert {version.key: version.id for version in page.versions} == self.heads
        for head in page.versions:
            assert self.read(head.key) == head
            assert self.metadata.versions.peek(BUCKET.id, head.key) in (None, head)
            assert head.state is State.COMMITTED
            last = self.seqs.get(head.key, 0)
            assert head.seq >= last
            self.seqs[head.key] = head.seq

    @invariant()
    def rows_are_as_the_model_says(self) -> None:
        for id, known in self.known.items():
            row = self.run(self.metadata.versions.find(BUCKET.id, known.version.key, known.version.id))
            assert (row.id, row.key, row.state) == (id, known.key, known.state)

    @invariant()
    def queues_are_as_the_model_says(self) -> None:
        drafts = {id for id, known in self.known.items() if known.state is State.DRAFT}
        dead = {
            id
            for id, known in self.known.items()
            if known.state in {State.REPLACED, State.DELETED, State.ABORTED}
        }
        expired = self.run(self.metadata.queues.expired(1e12, 1000))
        collectable = self.run(self.metadata.queues.collectable(1e12, 1000))
        assert {version.id for version in expired} == drafts
        assert {version.id for version in collectable} == dead
