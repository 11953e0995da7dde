"""Reading objects through any node: find the version, plan, gather; and the questions about where it lies.

Invariant I7: what leaves is what was written, or the client sees an error or a cut, never a clean end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from discloud import logs
from discloud.cluster import Cluster
from discloud.core.access import may_read
from discloud.core.keys import check_key
from discloud.core.layout import layout_name
from discloud.core.model import (
    EVERYWHERE,
    Account,
    BlobId,
    Bucket,
    Key,
    NodeId,
    Page,
    Repair,
    Segment,
    Verify,
    Version,
    VersionId,
)
from discloud.core.ranges import Span
from discloud.errors import DiscloudError, NotFound
from discloud.gateway.buckets import Buckets
from discloud.gateway.gather import Gather
from discloud.gateway.heads import Freshness, Heads
from discloud.gateway.hedge import Hedges
from discloud.ports import Metadata


@dataclass(frozen=True, slots=True)
class Found:
    """A version that the caller may read, and its bucket. ``stale``: the object may have another head by now."""

    bucket: Bucket
    version: Version
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """One page of a bucket's listing. ``stale``: it may lack changes."""

    bucket: Bucket
    page: Page
    stale: bool


PeekBlob = Callable[[BlobId, int, int], bytes | None]
"""Verified bytes of a local blob if they can be had without waiting, else None."""


class Reader:
    """Every read of an object goes through here. ``window`` = seconds for which ``verify=window`` trusts a check."""

    def __init__(
        self,
        cluster: Cluster,
        metadata: Metadata,
        buckets: Buckets,
        *,
        clock: Callable[[], float],
        draw: Callable[[int], int],
        heads: Heads,
        peek_blob: PeekBlob | None = None,
        window: float = 86_400.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._metadata = metadata
        self._buckets = buckets
        self._clock = clock
        self._draw = draw
        self._peek_blob = peek_blob
        self._window = window
        self._heads = heads
        self._hedges = Hedges(cluster, monotonic)

    async def find(
        self,
        account: Account | None,
        bucket_name: str,
        key: Key,
        version: VersionId | None = None,
        freshness: Freshness = Freshness.STRICT,
    ) -> Found:
        """The object's head, as old as ``freshness`` allows, or one version of it.

        Raises: NoSuchBucket, NoSuchKey, NoSuchVersion, Gone, Forbidden, Unavailable.
        """
        bucket = await self._buckets.read(bucket_name)
        may_read(account, bucket)
        if version is not None:
            return Found(bucket, await self._heads.version(bucket.id, key, version))
        if head := self._metadata.versions.peek(bucket.id, key):
            return Found(bucket, head)
        return Found(bucket, *await self._heads.read(bucket, key, freshness))

    @property
    def degraded(self) -> bool:
        """Whether reads go on without a quorum of the metadata."""
        return self._heads.failing

    def quick(self, account: Account, bucket_name: str, key: Key) -> tuple[Found, bytes] | None:
        """A small local object whole, if everything about it is known here and now; None = use ``find``."""
        bucket = self._buckets.peek(bucket_name)
        if bucket is None or self._peek_blob is None:
            return None
        known = self._heads.peek(bucket, key)
        if known is None or len(known[0].segments) != 1:
            return None
        version = known[0]
        segment = version.segments[0]
        layout = segment.layout
        if layout.data != 1 or not (layout.everywhere or self._cluster.me in segment.holders[0]):
            return None
        try:
            may_read(account, bucket)
        except DiscloudError:
            return None
        data = self._peek_blob(BlobId(version.id, segment.id, 0), 0, version.size)
        return None if data is None else (Found(bucket, *known), data)

    def gather(self, found: Found, span: Span) -> Gather:
        """The bytes of ``span``: ``async with`` it, ``open`` it, then ``move`` or ``fetch``."""
        return Gather(
            self._cluster,
            found.version,
            span,
            self._trust(found.bucket),
            self._draw,
            None if found.stale else self._spoilt,  # what a stale head names may have been removed rightly
            self._hedges,
        )

    async def page(
        self, account: Account | None, bucket_name: str, prefix: str, delimiter: str, after: str, limit: int
    ) -> Listed:
        """One page of a listing. Raises: NoSuchBucket, Forbidden, Unavailable."""
        bucket = await self._buckets.read(bucket_name)
        may_read(account, bucket)
        return Listed(bucket, *await self._heads.page(bucket.id, prefix, delimiter, after, limit))

    async def map(self, found: Found) -> dict[str, Any]:
        """Every fragment and copy as it is now, asked of the nodes themselves."""
        version = found.version
        segments, offset = [], 0
        for segment in version.segments:
            fragments = await asyncio.gather(
                *(self._fragment(version, segment, number) for number in range(len(segment.holders)))
            )
            segments.append({"offset": offset, "length": segment.length, "fragments": fragments})
            offset += segment.length
        return {
            "bucket": found.bucket.name,
            "key": version.key,
            "version": version.id,
            "size": version.size,
            "layout": layout_name(version.segments[0].layout) if version.segments else "",
            "segments": segments,
        }

    async def _fragment(self, version: Version, segment: Segment, number: int) -> dict[str, Any]:
        nodes = segment.holders[number]
        if segment.layout.copies == EVERYWHERE:
            nodes = tuple(dict.fromkeys((*nodes, *(node.id for node in self._cluster.view.nodes))))
        blob = BlobId(version.id, segment.id, number)
        copies = await asyncio.gather(*(self._copy(blob, node) for node in nodes))
        return {
            "fragment": number,
            "hash": segment.hashes[number].hex() if segment.hashes else "",
            "length": next((copy.pop("length") for copy in copies if copy["state"] == "present"), None),
            "copies": [{name: value for name, value in copy.items() if name != "length"} for copy in copies],
        }

    async def _copy(self, blob: BlobId, node: NodeId) -> dict[str, Any]:
        known = self._cluster.view.find(node)
        place: dict[str, Any] = {
            "node": node,
            "name": known.name if known else "",
            "zone": known.zone if known else "",
            "region": known.region if known else "",
            "verified": None,
        }
        try:
            stored = await self._cluster.blobs(node).stat(blob)
        except NotFound:
            return place | {"state": "missing"}
        except DiscloudError:
            return place | {"state": "unknown"}
        return place | {"state": "present", "verified": stored.checked or None, "length": stored.length}

    def _trust(self, bucket: Bucket) -> float:
        return self._window if bucket.verify is Verify.WINDOW else 0.0

    async def _spoilt(self, version: Version, blob: BlobId, node: NodeId) -> None:
        """A recorded holder lacks the blob: it is queued to be copied there again; the read does not fail for it."""
        repair = Repair(version.bucket, version.key, blob, (node,), self._clock())
        try:
            await self._metadata.queues.add_repairs((repair,))
        except DiscloudError as error:
            logs.warn("repair_not_queued", blob=str(blob), holder=node, reason=error.code)


def checked_prefix(prefix: str) -> str:
    """A listing's prefix: empty, or text that a key could begin with. Raises: BadKey."""
    return check_key(prefix) if prefix else ""
