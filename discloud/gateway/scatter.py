"""The only place where bytes are cut into fragments and fanned out to holders.

``Scatter.write`` runs in a worker thread and hands every buffer to all writers before it returns (lock-step): that is
the back-pressure, and memory per request stays one buffer (one stripe for a body of unknown length). A holder that
refuses before the first byte is replaced; one that fails later is dropped: the write goes on while ``needed`` copies of
every fragment can still become durable. One that falls silent fails as soon as the view says that it is down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import chain

from blake3 import blake3

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.layout import Piece, fragment_length, pieces
from discloud.core.model import BlobId, Label, Layout, NodeId, SegmentId, VersionId
from discloud.errors import DiscloudError, InsufficientStorage, PeerDown, TooSlow, Unavailable
from discloud.ports import BlobWriter, Breakable

UNBOUNDED = 1 << 62
"""A length far beyond any object: cuts whole stripes only."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a segment goes: ``holders[f]`` for fragment f; ``needed`` durable copies of each; ``spares`` stand in.

    What goes to ``holders`` is promised to them already (``Cluster.promise``); what goes elsewhere is counted here.
    """

    version: VersionId
    segment: SegmentId
    label: Label
    holders: tuple[tuple[NodeId, ...], ...]
    needed: int
    spares: tuple[NodeId, ...] = ()

    def blob(self, fragment: int) -> BlobId:
        """The id of a fragment's blob."""
        return BlobId(self.version, self.segment, fragment)


@dataclass(frozen=True, slots=True)
class Scattered:
    """What became durable: ``holders[f]`` have fragment f, ``missing[f]`` were meant to; hashes are BLAKE3."""

    length: int
    hash: bytes
    hashes: tuple[bytes, ...]
    holders: tuple[tuple[NodeId, ...], ...]
    missing: tuple[tuple[NodeId, ...], ...]


@dataclass(slots=True)
class _Copy:
    """One writer of one fragment on one node; ``failure`` is why it was dropped, ``lost`` what the view says against it."""

    node: NodeId
    fragment: int
    writer: BlobWriter | None = None
    failure: DiscloudError | None = None
    lost: str = ""

    def give_up(self, why: str) -> None:
        """Make a ``write`` fail that waits for the node in a worker thread, and every later one. Called on the loop."""
        self.lost = why
        if isinstance(self.writer, Breakable):
            self.writer.break_off()


def check_acks(fragments: Sequence[Sequence[NodeId]], needed: int, failures: Sequence[DiscloudError]) -> None:
    """Raise what stopped the write if some fragment has fewer than ``needed`` copies."""
    for fragment, holders in enumerate(fragments):
        if len(holders) >= needed:
            continue
        full = [failure for failure in failures if isinstance(failure, InsufficientStorage)]
        if full and len(full) == len(failures):
            raise full[0]
        why = "; ".join(sorted({failure.detail for failure in failures})) or "no holder answered"
        raise Unavailable(
            f"fragment {fragment} reached {len(holders)} of the {needed} nodes it needs: {why}",
            "nothing was stored; repeat the request",
        )


async def scatter_small(cluster: Cluster, target: Target, data: bytes) -> Scattered:
    """Store a body that is held whole (at most ``ports.SMALL`` bytes); a holder that fails is replaced by a spare.

    Raises: Unavailable or InsufficientStorage when some fragment did not reach ``needed`` nodes.
    """
    layout = target.label.layout
    whole = blake3(data).digest()
    if layout.data == 1:
        parts, hashes = [data], [whole]
    else:
        parts = _cut(layout, data)
        hashes = [blake3(part).digest() for part in parts]
    spares = iter(target.spares)
    if layout.data == 1 and len(target.holders[0]) == 1 and not target.spares:
        await _put(cluster, target.holders[0][0], target, 0, data, whole)
        return Scattered(len(data), whole, (whole,), target.holders, ((),))

    async def store(node: NodeId, fragment: int) -> NodeId | DiscloudError:
        failure: DiscloudError | None = None
        part = parts[fragment]
        for candidate in chain((node,), spares):  # all share the spares: each is drawn when it is needed
            if candidate != node:
                cluster.promise(candidate, len(part))
            try:
                await _put(cluster, candidate, target, fragment, part, hashes[fragment])
            except DiscloudError as error:
                cluster.missed(candidate, len(part))
                _note_failure(error, candidate, target)
                failure = failure or error
            else:
                return candidate
        assert failure is not None
        return failure

    wanted = [(node, fragment) for fragment, nodes in enumerate(target.holders) for node in nodes]
    outcomes = await asyncio.gather(*(store(node, fragment) for node, fragment in wanted))
    return _result(target, len(data), whole, tuple(hashes), wanted, outcomes)


async def _put(
    cluster: Cluster, node: NodeId, target: Target, fragment: int, data: bytes, hash: bytes
) -> None:
    blobs = cluster.blobs(node)
    if node == cluster.me:
        await blobs.put(target.blob(fragment), target.label, data, hash)
        return
    async with cluster.while_serving(node):
        await blobs.put(target.blob(fragment), target.label, data, hash)


def _result(
    target: Target,
    length: int,
    whole: bytes,
    hashes: tuple[bytes, ...],
    wanted: Sequence[tuple[NodeId, int]],
    outcomes: Sequence[NodeId | DiscloudError],
) -> Scattered:
    holders: list[list[NodeId]] = [[] for _ in target.holders]
    missing: list[list[NodeId]] = [[] for _ in target.holders]
    for (node, fragment), outcome in zip(wanted, outcomes, strict=True):
        if isinstance(outcome, DiscloudError):
            missing[fragment].append(node)
        else:
            holders[fragment].append(outcome)
    check_acks(holders, target.needed, [each for each in outcomes if isinstance(each, DiscloudError)])
    return Scattered(length, whole, hashes, tuple(map(tuple, holders)), tuple(map(tuple, missing)))


def _cut(layout: Layout, data: bytes) -> list[bytes]:
    parts = [bytearray() for _ in range(layout.data)]
    position = 0
    for piece in pieces(layout, len(data), 0, len(data)):
        parts[piece.fragment] += data[position : position + piece.length]
        position += piece.length
    return [bytes(part) for part in parts]


def _note_failure(error: DiscloudError, node: NodeId, target: Target) -> None:
    if isinstance(error, TooSlow):
        metrics.SLOW_HOLDERS.add(1, "write")
    logs.warn("holder_dropped", holder=node, version=target.version, reason=error.code, detail=error.detail)


@dataclass(slots=True)
class Scatter:
    """A segment being streamed to its holders. Use: ``await open``, ``write`` from a thread, ``await commit``.

    ``length`` None = not known yet: then the layout's stripe must be small (``streaming_unit``), because the last
    stripe, which is divided evenly, is only known to be the last when the body ends.
    """

    cluster: Cluster
    target: Target
    length: int | None
    stack: AsyncExitStack
    copies: list[_Copy] = field(default_factory=list)
    received: int = 0
    _held: bytearray = field(default_factory=bytearray)
    _whole: blake3 = field(default_factory=blake3)
    _parts: list[blake3] = field(default_factory=list)

    async def open(self) -> None:
        """Open a writer on every holder, all at once; a spare stands in for one that refuses. Raises: as ``write``."""
        layout = self.target.label.layout
        self._parts = [blake3() for _ in range(layout.data)] if layout.data > 1 else []
        self.copies = [
            _Copy(node, fragment) for fragment, nodes in enumerate(self.target.holders) for node in nodes
        ]
        spares = iter(self.target.spares)
        await asyncio.gather(*(self._open(copy, spares) for copy in self.copies))
        self._check()

    async def _open(self, copy: _Copy, spares: Iterator[NodeId]) -> None:
        """Begin a copy, on a spare where the holder takes nothing: no byte was sent yet."""
        length = self._length_of(copy.fragment)
        failure: DiscloudError | None = None
        for candidate in chain((copy.node,), spares):
            if candidate != copy.node:
                self.cluster.promise(candidate, length or 0)
            try:
                async with self.cluster.while_serving(candidate):
                    copy.writer = await self.stack.enter_async_context(
                        self.cluster.blobs(candidate).create(
                            self.target.blob(copy.fragment), self.target.label, length
                        )
                    )
            except DiscloudError as error:
                self.cluster.missed(candidate, length or 0)
                _note_failure(error, candidate, self.target)
                failure = failure or error
            else:
                copy.node = candidate
                self.stack.enter_context(self.cluster.watched(candidate, copy.give_up))
                return
        copy.failure = failure

    def _length_of(self, fragment: int) -> int | None:
        return (
            None if self.length is None else fragment_length(self.target.label.layout, self.length, fragment)
        )

    def write(self, data: memoryview) -> None:
        """Fan one buffer out; called from a worker thread, in order. Raises: Unavailable or InsufficientStorage."""
        self._whole.update(data)
        if self.length is not None or self.target.label.layout.data == 1:
            self._spread(data, self.length or UNBOUNDED)
            return
        self._held += data
        stripe = self.target.label.layout.data * self.target.label.layout.unit
        # The last byte is held back: whether a full stripe is the last one shows only with the next byte.
        ready = (len(self._held) - 1) // stripe * stripe
        if ready > 0:
            head = bytes(self._held[:ready])
            del self._held[:ready]
            self._spread(memoryview(head), UNBOUNDED)

    def finish(self) -> None:
        """Fan out what was held back; called from a worker thread after the last ``write``."""
        if self._held:
            tail = bytes(self._held)
            self._held.clear()
            self._spread(memoryview(tail), self.received + len(tail))

    async def commit(self) -> Scattered:
        """Make every fragment durable. Raises: Unavailable or InsufficientStorage when too few became so."""
        whole = self._whole.digest()
        hashes = tuple(part.digest() for part in self._parts) or (whole,)
        wanted = [(copy.node, copy.fragment) for copy in self.copies]
        outcomes = await asyncio.gather(*(self._commit(copy, hashes[copy.fragment]) for copy in self.copies))
        return _result(self.target, self.received, whole, hashes, wanted, outcomes)

    async def _commit(self, copy: _Copy, hash: bytes) -> NodeId | DiscloudError:
        if copy.writer is None:
            return copy.failure or Unavailable(f"node {copy.node} took no bytes")
        if copy.failure is None:
            try:
                async with self.cluster.while_serving(copy.node):
                    await copy.writer.commit(hash)
            except DiscloudError as error:
                self._drop(copy, error)
        if copy.failure is not None:
            self.cluster.missed(copy.node, self._length_of(copy.fragment) or 0)
        return copy.failure or copy.node

    def _spread(self, data: memoryview, length: int) -> None:
        position = 0
        for piece in self._pieces(length, len(data)):
            part = data[position : position + piece.length]
            position += piece.length
            if self._parts:
                self._parts[piece.fragment].update(part)
            for copy in self.copies:
                if copy.fragment == piece.fragment and copy.failure is None:
                    self._give(copy, part)
        self.received += len(data)

    def _pieces(self, length: int, count: int) -> Iterator[Piece]:
        layout = self.target.label.layout
        if layout.data == 1:
            return iter((Piece(0, self.received, count),))
        return pieces(layout, length, self.received, count)

    def _give(self, copy: _Copy, part: memoryview) -> None:
        assert copy.writer is not None
        try:
            copy.writer.write(part)
        except DiscloudError as error:
            self._drop(copy, error)
            self._check()

    def _drop(self, copy: _Copy, error: DiscloudError) -> None:
        error = PeerDown(copy.lost) if copy.lost else error
        copy.failure = error
        _note_failure(error, copy.node, self.target)

    def _check(self) -> None:
        living: list[list[NodeId]] = [[] for _ in self.target.holders]
        for copy in self.copies:
            if copy.failure is None:
                living[copy.fragment].append(copy.node)
        check_acks(living, self.target.needed, [copy.failure for copy in self.copies if copy.failure])
