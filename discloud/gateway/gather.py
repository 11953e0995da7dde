"""The only place where bytes are fetched from holders and put together again.

A stretch of a version is read fragment by fragment in file order. Every fragment has one open reader at a time, on the
nearest holder that serves, or on the next one where that is late to begin (hedge.py); when it fails in the middle (gone,
corrupt, too slow, down by the view) the read goes on at the same offset on the next. A holder that lacks or spoils a
blob it should have is noted for repair. Every answer of another node is measured: the next read begins with the quickest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.model import EVERYWHERE, BlobId, NodeId, Segment, Version
from discloud.core.ranges import Span
from discloud.core.read_plan import Step, nearest, plan_read
from discloud.errors import Corrupt, DiscloudError, NotFound, TooSlow, Unavailable
from discloud.gateway.hedge import Hedges
from discloud.ports import BlobReader
from discloud.transfer.outlet import Outlet

WHOLE = 256 * 1024
"""Bytes up to which a client's stretch is fetched whole; beyond, it is moved without being held."""
BRIEF = 64 * 1024
"""Bytes whose fetch counts as a round trip."""
Spoilt = Callable[[Version, BlobId, NodeId], Awaitable[None]]
"""Told when a recorded holder lacks or spoils a blob."""
Opened = tuple[NodeId, BlobReader, AsyncExitStack]
"""A reader, on which node, and what closes it."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at one holder, for ``explain=1`` and for error messages."""

    blob: str
    node: NodeId
    outcome: str


@dataclass(slots=True)
class _Stream:
    """The open reader of one fragment: ``moved`` bytes of it are out, the next come from there."""

    blob: BlobId
    candidates: deque[NodeId]
    offset: int
    length: int
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    reader: BlobReader | None = None
    node: NodeId | None = None
    base: int = 0
    moved: int = 0


@dataclass(slots=True)
class Gather:
    """A stretch of a version on its way to a client. Use as ``async with``; ``open`` before the headers go out."""

    cluster: Cluster
    version: Version
    span: Span
    trust: float
    draw: Callable[[int], int]
    spoilt: Spoilt | None
    hedges: Hedges
    attempts: list[Attempt] = field(default_factory=list)
    _streams: dict[BlobId, _Stream] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Gather:  # noqa: PYI034 - a slotted dataclass is not subclassed
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every reader; may be called twice."""
        await self._stack.aclose()

    @property
    def sources(self) -> tuple[NodeId, ...]:
        """The nodes that the open readers read from."""
        return tuple(dict.fromkeys(stream.node for stream in self._streams.values() if stream.node))

    async def open(self) -> None:
        """Open the readers of the first segment, all at once, so that failures show before the headers.

        Raises: Unavailable when a fragment has no serving holder; Corrupt when every copy is spoilt.
        """
        first = next(plan_read(self.version, self.span), None)
        if first is not None:
            await self._open_segment(first.segment)

    async def fetch(self) -> bytes:
        """The whole stretch (at most ``ports.SMALL`` bytes) in memory. Raises: as ``open``."""
        steps = list(plan_read(self.version, self.span))
        if len(steps) == 1:
            return await self._fetch(steps[0])
        return b"".join(await asyncio.gather(*(self._fetch(step) for step in steps)))

    async def move(self, outlet: Outlet) -> None:
        """Move the whole stretch to ``outlet``.

        Raises: ClientGone; Unavailable or Corrupt when no holder can go on (the client must see a cut, not an end).
        """
        for step in plan_read(self.version, self.span):
            blob = BlobId(self.version.id, step.segment.id, step.fragment)
            if blob not in self._streams:
                await self._close_streams()
                await self._open_segment(step.segment)
            await self._move(self._streams[blob], step.length, outlet)

    # ------------------------------------------------------------ streams

    async def _open_segment(self, segment: Segment) -> None:
        stretches: dict[int, list[Step]] = {}
        for step in plan_read(self.version, self.span):
            if step.segment.id == segment.id:
                stretches.setdefault(step.fragment, []).append(step)
        for fragment, steps in stretches.items():
            blob = BlobId(self.version.id, segment.id, fragment)
            start, end = steps[0].offset, steps[-1].offset + steps[-1].length
            self._streams[blob] = _Stream(
                blob,
                deque(self._candidates(segment, fragment)),
                start,
                end - start,
            )
        await _all_of(self._advance(stream) for stream in self._streams.values())

    async def _close_streams(self) -> None:
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            await stream.stack.aclose()

    async def _advance(self, stream: _Stream, failure: DiscloudError | None = None) -> None:
        """Open the stream's rest on its next candidate. Raises: ``failure`` (or the last one) when none is left."""
        await stream.stack.aclose()
        stream.reader = None

        async def ask(node: NodeId) -> Opened:
            return await self._open_at(stream, node)

        if not stream.candidates:
            raise self._exhausted(stream.blob, failure)
        try:
            node, reader, stack = await self.hedges.first_answer(stream.candidates, ask, _close)
        except DiscloudError as error:
            raise self._exhausted(stream.blob, error) from error
        stream.stack, stream.node, stream.reader, stream.base = stack, node, reader, stream.moved
        self.attempts.append(Attempt(str(stream.blob), node, "serves"))

    async def _open_at(self, stream: _Stream, node: NodeId) -> Opened:
        stack = await self._stack.enter_async_context(AsyncExitStack())  # closed with all, whoever wins
        started = self.hedges.clock()
        try:
            reader = await stack.enter_async_context(
                self.cluster.blobs(node).open(
                    stream.blob, stream.offset + stream.moved, stream.length - stream.moved, self.trust
                )
            )
        except DiscloudError as error:
            await self._note(stream.blob, node, error)
            raise
        self._measure(node, started, brief=False)
        return node, reader, stack

    async def _move(self, stream: _Stream, length: int, outlet: Outlet) -> None:
        end = stream.moved + length
        while stream.moved < end:
            assert stream.reader is not None
            assert stream.node is not None
            before = outlet.sent
            try:
                async with self._patience(stream):
                    await outlet.move(stream.reader, stream.moved - stream.base, end - stream.moved)
                stream.moved += outlet.sent - before
            except (Corrupt, NotFound, Unavailable) as error:
                stream.moved += outlet.sent - before
                metrics.FAILOVERS.add(1, error.code)
                await self._note(stream.blob, stream.node, error)
                await self._advance(stream, error)

    def _patience(self, stream: _Stream) -> AbstractAsyncContextManager[None]:
        """Ends when the view gives the stream's holder up, where another one is left to go on with."""
        if (
            stream.node
            and stream.node != self.cluster.me
            and any(map(self.cluster.serving, stream.candidates))
        ):
            return self.cluster.while_serving(stream.node)
        return nullcontext()

    async def _fetch(self, step: Step) -> bytes:
        blob = BlobId(self.version.id, step.segment.id, step.fragment)

        async def ask(node: NodeId) -> tuple[NodeId, bytes]:
            return node, await self._fetch_at(node, blob, step)

        holders = deque(self._candidates(step.segment, step.fragment))
        if not holders:
            raise self._exhausted(blob, None)
        try:
            node, data = await self.hedges.first_answer(holders, ask, _nothing_to_close)
        except DiscloudError as error:
            raise self._exhausted(blob, error) from error
        self.attempts.append(Attempt(str(blob), node, "serves"))
        return data

    async def _fetch_at(self, node: NodeId, blob: BlobId, step: Step) -> bytes:
        started = self.hedges.clock()
        try:
            data = await self.cluster.blobs(node).fetch(blob, step.offset, step.length, self.trust)
            if len(data) != step.length:
                raise Corrupt(f"blob {blob} on {node} gave {len(data)} of {step.length} bytes")
        except DiscloudError as error:
            await self._note(blob, node, error)
            raise
        self._measure(node, started, brief=step.length <= BRIEF)
        return data

    def _measure(self, node: NodeId, started: float, *, brief: bool) -> None:
        if node == self.cluster.me:
            return
        now, rtt = self.hedges.clock(), self.cluster.rtt
        (rtt.answered if brief else rtt.took_at_most)(node, now - started, now)

    def _candidates(self, segment: Segment, fragment: int) -> tuple[NodeId, ...]:
        """Holders, nearest first. A ``mirror:all`` blob may also lie here, pulled, without being recorded."""
        holders = segment.holders[fragment]
        me, rtt = self.cluster.me, self.cluster.rtt
        if len(holders) == 1 and holders[0] == me:
            return holders
        if segment.layout.copies == EVERYWHERE and me not in holders:
            holders = (me, *holders)
        rtt.refresh(self.hedges.clock())
        return nearest(holders, self.cluster.view, me, rtt.seconds, self.draw, rtt.silent)

    async def _note(self, blob: BlobId, node: NodeId, error: DiscloudError) -> None:
        self.attempts.append(Attempt(str(blob), node, error.code))
        if isinstance(error, TooSlow):
            metrics.SLOW_HOLDERS.add(1, "read")
        recorded = any(node in holders for each, holders in self.version.blobs() if each == blob)
        if recorded:
            logs.warn("holder_failed", holder=node, blob=str(blob), reason=error.code, detail=error.detail)
            if self.spoilt is not None and isinstance(error, (Corrupt, NotFound)):
                await self.spoilt(self.version, blob, node)

    def _exhausted(self, blob: BlobId, failure: DiscloudError | None) -> DiscloudError:
        """What to say when no holder is left: corrupt only if that is what the last one said."""
        tried = ", ".join(f"{each.node}: {each.outcome}" for each in self.attempts if each.blob == str(blob))
        if isinstance(failure, Corrupt):
            return Corrupt(
                f"every copy of blob {blob} is spoilt ({tried})", "restore the file from its source"
            )
        return Unavailable(
            f"no holder of blob {blob} serves it now ({tried or 'none in the view'})",
            "the nodes that hold it are down or unreachable: see discloud nodes; repeat the request",
        )


async def _close(opened: Opened) -> None:
    await opened[2].aclose()


async def _nothing_to_close(_: object) -> None:
    """Bytes in memory are just dropped."""


async def _all_of(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all at once. Raises what the first failed with, when the others have ended too: none of them opens anything after that."""
    try:
        async with asyncio.TaskGroup() as group:
            for work in works:
                group.create_task(work)
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
