"""Writing objects: place, begin, scatter, commit (DESIGN section 5). Changes without bytes are in change.py.

A PUT of at most ``ports.SMALL`` bytes is held whole: its blobs become durable first, then begin and commit are one
step. A larger one begins as a draft with a lease that is renewed while bytes flow. Whatever fails before the
commit is aborted, so that nothing of it is ever seen; what the abort cannot reach, the sweeper ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from discloud import logs, metrics
from discloud.cluster import Cluster
from discloud.core.digests import etag_of
from discloud.core.layout import layout_name, needed_acks, streaming_unit
from discloud.core.model import (
    Account,
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Committed,
    Key,
    Label,
    Precondition,
    Repair,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
)
from discloud.core.placement import Placement, Wish, make_wish, place
from discloud.core.preconditions import check_write
from discloud.errors import BadLayout, DiscloudError, NoSuchKey, OutcomeUnknown, TooLarge, Unavailable
from discloud.gateway.breaker import HURRY, PATIENCE
from discloud.gateway.buckets import Buckets
from discloud.gateway.digest_check import DigestCheck
from discloud.gateway.heads import Heads
from discloud.gateway.memory import BodyMemory
from discloud.gateway.scatter import Scatter, Scattered, Target, scatter_small
from discloud.gateway.seals import Seals
from discloud.ports import SMALL, Metadata
from discloud.transfer.threads import Threads

WISHES = 1000
"""Different wishes remembered for one view."""
ANY = Precondition()
"""A change without conditions."""


class Body(Protocol):
    """The bytes of a write, whoever sends them (a request, a form's part, another object)."""

    length: int | None

    async def small(self, limit: int) -> bytes | None:
        """The whole body if it ends within ``limit``, else None (and ``pump`` begins at its first byte)."""

    async def pump(self, sink: Callable[[memoryview], None]) -> int:
        """Hand all bytes to ``sink``, in order, from a worker thread; returns how many."""


@dataclass(frozen=True, slots=True)
class Put:
    """What a client wants written. The layout words are as the client wrote them, None where absent."""

    bucket: str
    key: Key
    account: Account | None
    only: Precondition = ANY
    content_type: str = "application/octet-stream"
    metadata: tuple[tuple[str, str], ...] = ()
    digests: tuple[tuple[str, bytes], ...] = ()
    layout: str | None = None
    copies: str | None = None
    nodes: str | None = None
    regions: str | None = None
    ack: str | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """A committed version, whether it replaced one, and what the client should know."""

    version: Version
    replaced: Version | None
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WritePolicy:
    """Bytes and seconds that bind writes: the largest object, a draft's lease, how long gc leaves replaced bytes alone."""

    max_object: int
    lease: float
    keep: float
    layout: str
    soft: float = 0.90
    full: float = 0.95


class Writer:
    """Every write of bytes goes through here."""

    def __init__(
        self,
        cluster: Cluster,
        metadata: Metadata,
        buckets: Buckets,
        seals: Seals,
        policy: WritePolicy,
        threads: Threads,
        memory: BodyMemory,
        *,
        clock: Callable[[], float],
        draw: Callable[[int], int],
        new_version: Callable[[], str],
        heads: Heads,
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._buckets = buckets
        self._seals = seals
        self._policy = policy
        self._threads = threads
        self._memory = memory
        self._clock = clock
        self._draw = draw
        self._new_version = new_version
        self._heads = heads
        self._aborting: set[asyncio.Task[bool]] = set()
        self._wishes_view = cluster.view
        self._wishes: dict[tuple[object, ...], Wish] = {}

    async def put(self, wanted: Put, body: Body) -> Written:
        """Store an object. Everything that can be refused is refused before the body is read.

        Raises: NoSuchBucket, BucketClosed, Forbidden, TooLarge, BadLayout, UnknownNode, UnknownRegion, NodeUnavailable,
        NotEnoughNodes, NoSpace, PreconditionFailed, BadDigest, ClientGone, TooSlow, Unavailable, OutcomeUnknown.
        """
        bucket = await self._buckets.writable(wanted.account, wanted.bucket)
        self._check_length(body.length)
        await self._check_early(bucket.id, wanted)
        placement, needed = self._place(bucket, wanted, body.length)
        async with self._memory.hold(_held(body.length)):
            data = await body.small(SMALL)
            if data is not None:
                self._check_length(len(data))
                if body.length is None:
                    self._promise(placement, len(data) - SMALL)
                draft, target = self._draft(bucket, wanted, placement, needed, len(data))
                return await self._put_small(draft, target, wanted, placement, data)
            if body.length is None:
                placement = replace(placement, layout=streaming_unit(placement.layout))
            draft, target = self._draft(bucket, wanted, placement, needed, body.length)
            return await self._put_large(draft, target, wanted, placement, body)

    # ------------------------------------------------------------ steps of a put

    def _check_length(self, length: int | None) -> None:
        if length is not None and length > self._policy.max_object:
            raise TooLarge(
                f"the body has {length} bytes, an object may have {self._policy.max_object}",
                "the limit is limits.max_object in the configuration",
            )

    async def _check_early(self, bucket: BucketId, wanted: Put) -> None:
        """Refuse before the body what the commit would refuse after it; the commit checks again, atomically."""
        if wanted.only == ANY:
            return
        head: Version | None = None
        with suppress(NoSuchKey):
            head = await self._heads.strict(bucket, wanted.key)
        check_write(wanted.only, head)

    def _place(self, bucket: Bucket, wanted: Put, length: int | None) -> tuple[Placement, int]:
        wish = self._wish(bucket, wanted)
        placement = place(
            wish,
            self._cluster.planned(),
            self._cluster.me,
            length,
            self._draw,
            self._policy.soft,
            self._policy.full,
            counted=self._cluster.counted,
        )
        # At once: whoever is placed while this body is still on its way must see it.
        self._promise(placement, SMALL if length is None else length)
        return placement, needed_acks(placement.layout, wanted.ack, len(placement.holders[0]))

    def _wish(self, bucket: Bucket, wanted: Put) -> Wish:
        """What the words of the request mean in this view; the same words mean the same until the view changes."""
        view = self._cluster.view
        if view is not self._wishes_view:
            self._wishes_view, self._wishes = view, {}
        words = (wanted.layout, wanted.copies, wanted.nodes, wanted.regions, wanted.ack)
        name = (*words, bucket.layout, bucket.regions)
        wish = self._wishes.get(name)
        if wish is None:
            wish = make_wish(
                view,
                self._cluster.me,
                layout=wanted.layout,
                copies=wanted.copies,
                nodes=wanted.nodes,
                regions=wanted.regions,
                ack=wanted.ack,
                bucket_layout=bucket.layout,
                bucket_regions=bucket.regions,
                mesh_layout=self._policy.layout,
            )
            if wish.layout.parity:
                raise BadLayout(
                    f"layout {layout_name(wish.layout)} needs erasure coding, which this version does not have",
                    "keep it as copies (mirror:3) or as a stripe with copies (stripe:4x2)",
                )
            if len(self._wishes) < WISHES:
                self._wishes[name] = wish
        return wish

    def _draft(
        self, bucket: Bucket, wanted: Put, placement: Placement, needed: int, length: int | None
    ) -> tuple[Version, Target]:
        now = self._clock()
        version = VersionId(self._new_version())
        segment = SegmentId(self._draw(1 << 63))
        draft = Version(
            bucket=bucket.id,
            key=wanted.key,
            id=version,
            state=State.DRAFT,
            size=length or 0,
            segments=(Segment(segment, length or 0, placement.layout, placement.holders),),
            content_type=wanted.content_type,
            metadata=wanted.metadata,
            created=now,
            due=now + self._policy.lease,
            gateway=self._cluster.me,
        )
        label = Label(
            self._cluster.mesh, bucket.id, bucket.name, wanted.key, placement.layout, wanted.content_type
        )
        return draft, Target(version, segment, label, placement.holders, needed, placement.spares)

    def _promise(self, placement: Placement, length: int) -> None:
        share = length // placement.layout.data
        for nodes in placement.holders:
            for node in nodes:
                self._cluster.promise(node, share)

    async def _put_small(
        self, draft: Version, target: Target, wanted: Put, placement: Placement, data: bytes
    ) -> Written:
        check = DigestCheck(wanted.digests)
        check.update(data)
        check.finish()
        self._metadata.versions.expect(draft.bucket, draft.key)
        try:
            scattered = await scatter_small(self._cluster, target, data)
            version = _complete(draft, scattered, check.md5)
            repairs = self._repairs(version, scattered)
            committed = await self._metadata.versions.put(version, wanted.only, repairs, self._policy.keep)
        except (DiscloudError, asyncio.CancelledError) as error:
            committed = await self._settle(draft, error)
        return self._written(committed, placement)

    async def _put_large(
        self, draft: Version, target: Target, wanted: Put, placement: Placement, body: Body
    ) -> Written:
        try:
            version, scattered = await self._stream(draft, target, wanted, body)
            change = Change(
                ChangeKind.PUT,
                version.bucket,
                version.key,
                version,
                repairs=self._repairs(version, scattered),
                keep=self._policy.keep,
            )
            committed = await self._metadata.versions.commit(change, wanted.only)
        except (DiscloudError, asyncio.CancelledError) as error:
            committed = await self._settle(draft, error)
        return self._written(committed, placement)

    async def _stream(
        self, draft: Version, target: Target, wanted: Put, body: Body
    ) -> tuple[Version, Scattered]:
        """Begin the draft while the first bytes already flow; return when every needed copy is durable."""
        check = DigestCheck(wanted.digests)
        async with AsyncExitStack() as stack:
            begun = asyncio.create_task(self._metadata.versions.begin(draft))
            stack.push_async_callback(_settled, begun)
            scatter = Scatter(self._cluster, target, body.length, stack)
            await scatter.open()

            def sink(data: memoryview) -> None:
                check.update(data)
                scatter.write(data)

            renewal = asyncio.create_task(self._renew(draft))
            stack.push_async_callback(_settled, renewal)
            await body.pump(sink)
            await self._threads.run(scatter.finish)
            check.finish()
            scattered = await scatter.commit()
            await begun
            return _complete(draft, scattered, check.md5), scattered

    async def _renew(self, draft: Version) -> None:
        """Keep the lease alive. A missed renewal is no failure: whether it was too late, the commit will say."""
        while True:
            await asyncio.sleep(self._policy.lease / 3)
            try:
                await self._metadata.versions.renew(draft, self._clock() + self._policy.lease)
            except DiscloudError as error:
                logs.warn("lease_not_renewed", version=draft.id, reason=error.code)

    async def _settle(self, draft: Version, error: DiscloudError | asyncio.CancelledError) -> Committed:
        """End a write that failed: abort it, so that it can never be seen, and raise; or find that it was committed.

        An abort that fails is left to the sweeper (the lease ends by itself); then the error stays as it is. One that takes
        long goes on without being waited for: the client has its 503 in time, and what is not settled is told as that. That it was
        aborted shows that it never was committed only while gc cannot have taken what was replaced since (this may have been paused).
        """
        versions = self._metadata.versions
        try:
            aborted = await self._abort(draft, PATIENCE if isinstance(error, OutcomeUnknown) else HURRY)
            if not aborted and isinstance(error, OutcomeUnknown):
                return Committed(await versions.find(draft.bucket, draft.key, draft.id))
        except DiscloudError as failure:
            logs.warn("abort_left_to_sweeper", version=draft.id, cause=repr(error), reason=failure.code)
            raise error from failure
        surely = self._clock() - draft.created < self._policy.keep / 2
        if aborted and surely and isinstance(error, OutcomeUnknown):
            raise Unavailable(
                f"the write of {draft.key!r} was given up: its commit did not answer", "repeat the request"
            ) from error
        raise error

    async def _abort(self, draft: Version, patience: float) -> bool:
        abort = asyncio.create_task(self._metadata.versions.abort(draft))
        self._aborting.add(abort)
        abort.add_done_callback(self._abort_ended)
        try:
            async with asyncio.timeout(patience):
                return await asyncio.shield(abort)
        except TimeoutError as error:
            raise Unavailable(f"the abort of {draft.id} did not end within {patience:g} s") from error

    def _abort_ended(self, abort: asyncio.Task[bool]) -> None:
        self._aborting.discard(abort)
        if not abort.cancelled():
            abort.exception()  # told by _settle where it still waited, else left to the sweeper

    def _repairs(self, version: Version, scattered: Scattered) -> tuple[Repair, ...]:
        now = self._clock()
        return tuple(
            Repair(version.bucket, version.key, blob, missing, now)
            for (blob, _), missing in zip(version.blobs(), scattered.missing, strict=True)
            if missing
        )

    def _written(self, committed: Committed, placement: Placement) -> Written:
        version = self._seals.committed(committed)
        self._heads.learn(version)
        metrics.BYTES_IN.add(version.size)
        return Written(version, committed.replaced, placement.warnings)


async def _settled(task: asyncio.Task[None]) -> None:
    """Stop a task that is not needed any more and forget how it ended."""
    task.cancel()
    with suppress(asyncio.CancelledError, DiscloudError):
        await task


def _held(length: int | None) -> int:
    """Bytes of a body that are held in memory: a small one whole, the first of an unknown one, no known large one."""
    if length is None:
        return SMALL
    return length if length <= SMALL else 0


def _complete(draft: Version, scattered: Scattered, md5: str) -> Version:
    """The draft with what is known of it once its bytes are durable."""
    segment = replace(
        draft.segments[0],
        length=scattered.length,
        hash=scattered.hash,
        hashes=scattered.hashes,
        holders=scattered.holders,
    )
    return replace(draft, size=scattered.length, segments=(segment,), etag=etag_of(scattered.hash), md5=md5)
