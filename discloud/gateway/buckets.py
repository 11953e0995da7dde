"""Buckets as the surfaces see them: looked up by name with a short memory, created, changed, removed.

Owns the cache; what it answers is at most ``FRESH`` seconds old (DESIGN section 5: that is the bound within which
a closed bucket closes everywhere), and for reads, while the metadata is silent, at most ``GRACE``. A change made through
this node is seen by this node at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from discloud.cluster import Cluster
from discloud.core.access import may_admin, may_write
from discloud.core.keys import check_bucket_name
from discloud.core.layout import parse_layout
from discloud.core.model import Account, Bucket, BucketId, BucketState, Verify
from discloud.errors import BadLayout, Invalid, NoSuchBucket, Unavailable, UnknownRegion
from discloud.gateway.breaker import HURRY, Breaker
from discloud.ports import Metadata

FRESH = 5.0
"""Seconds for which a looked-up bucket is believed."""
GRACE = 600.0
"""Seconds for which reads go on with it without metadata."""
LONGEST_STALE = 7 * 86_400.0
"""The largest ``max_stale``, in seconds."""
REMEMBERED = 10_000
"""Buckets remembered at the most."""


@dataclass(frozen=True, slots=True)
class BucketWish:
    """What a caller wants of a bucket; None = leave as it is."""

    layout: str | None = None
    regions: tuple[str, ...] | None = None
    cache_control: str | None = None
    verify: str | None = None
    state: str | None = None
    max_stale: float | None = None


class Buckets:
    """Namespaces for everybody above: cached reads, checked writes."""

    def __init__(
        self,
        metadata: Metadata,
        cluster: Cluster,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        breaker: Breaker,
    ) -> None:
        self._metadata = metadata
        self._cluster = cluster
        self._clock = clock
        self._new_id = new_id
        self._breaker = breaker
        self._known: dict[str, tuple[Bucket, float]] = {}

    def peek(self, name: str) -> Bucket | None:
        """The bucket, for a read, if it is remembered and fresh, or remembered and nobody to be asked; None = use ``read``."""
        return self._remembered(name, GRACE if self._breaker.hopeless else FRESH)

    async def read(self, name: str) -> Bucket:
        """The bucket of that name, for a read. Raises: BadBucketName, NoSuchBucket, Unavailable."""
        if bucket := self.peek(name):
            return bucket
        graced = self._remembered(name, GRACE)
        if graced and self._breaker.failing:
            self._breaker.find_out(lambda: self._look_up(name, self._breaker.patience))
            return graced
        try:
            return await self._look_up(name, HURRY if graced else self._breaker.patience)
        except Unavailable:
            if graced:
                return graced
            raise

    async def get(self, name: str) -> Bucket:
        """The bucket of that name as it is, for whoever changes something. Raises: as ``read``."""
        return self._remembered(name, FRESH) or await self._look_up(name, self._breaker.patience)

    async def writable(self, account: Account | None, name: str) -> Bucket:
        """The bucket, for a change of its objects by this account through this node.

        Raises: as ``get``; Forbidden, BucketClosed; Unavailable also where this node's clock is off.
        """
        self._check_clock()
        bucket = await self.get(name)
        may_write(account, bucket)
        return bucket

    async def create(self, account: Account | None, name: str, wish: BucketWish) -> Bucket:
        """Make a bucket. Raises: BadBucketName, BadLayout, UnknownRegion, BucketExists, Forbidden."""
        may_admin(account)
        blank = Bucket(BucketId(self._new_id()), check_bucket_name(name), self._clock())
        bucket = self._apply(blank, wish)
        await self._metadata.buckets.create(bucket)
        return self._remember(bucket)

    async def change(self, account: Account | None, name: str, wish: BucketWish) -> Bucket:
        """Change a bucket's settings. Raises: as ``create``, NoSuchBucket, Conflict (changed meanwhile)."""
        may_admin(account)
        current = await self._metadata.buckets.get(check_bucket_name(name))
        return self._remember(await self._metadata.buckets.update(self._apply(current, wish)))

    async def remove(self, account: Account | None, name: str) -> None:
        """Remove an empty bucket. Raises: NoSuchBucket, BucketNotEmpty, Forbidden."""
        may_admin(account)
        bucket = await self._metadata.buckets.get(check_bucket_name(name))
        self._known.pop(name, None)
        await self._metadata.buckets.remove(bucket)

    async def all(self, account: Account | None) -> tuple[Bucket, ...]:
        """Every bucket by name. Raises: Forbidden, Unavailable."""
        may_admin(account)
        return await self._metadata.buckets.all()

    def _remembered(self, name: str, age: float) -> Bucket | None:
        known = self._known.get(name)
        return known[0] if known and self._clock() - known[1] < age else None

    async def _look_up(self, name: str, patience: float) -> Bucket:
        check_bucket_name(name)
        try:
            bucket = await self._breaker.ask(self._metadata.buckets.get(name), patience)
        except NoSuchBucket:
            self._known.pop(name, None)
            raise
        return self._remember(bucket)

    def _check_clock(self) -> None:
        """Times of writes order them for people and end leases: a node whose clock is off must not set any."""
        if self._cluster.clock_is_off:
            offset = self._cluster.clock_offset or 0.0
            raise Unavailable(
                f"the clock of {self._cluster.own.name} is {abs(offset):.1f} s {'behind' if offset > 0 else 'ahead of'} the mesh's",
                "set it right (NTP) or write through another node",
            )

    def _remember(self, bucket: Bucket) -> Bucket:
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[bucket.name] = (bucket, self._clock())
        return bucket

    def _apply(self, bucket: Bucket, wish: BucketWish) -> Bucket:
        if wish.layout and parse_layout(wish.layout).parity:
            raise BadLayout(f"layout {wish.layout} needs erasure coding, which this version does not have")
        for region in wish.regions or ():
            self._check_region(region)
        try:
            return replace(
                bucket,
                layout=bucket.layout if wish.layout is None else wish.layout,
                regions=bucket.regions if wish.regions is None else wish.regions,
                cache_control=bucket.cache_control if wish.cache_control is None else wish.cache_control,
                verify=bucket.verify if wish.verify is None else Verify(wish.verify),
                state=bucket.state if wish.state is None else _settable(wish.state),
                max_stale=bucket.max_stale if wish.max_stale is None else _bounded(wish.max_stale),
            )
        except ValueError as error:
            raise Invalid(
                str(error),
                "verify: always or window; state: active, read-only or disabled; max_stale: seconds, 0 to a week",
            ) from error

    def _check_region(self, region: str) -> None:
        regions = {node.region for node in self._cluster.view.nodes if node.region}
        if region not in regions:
            known = ", ".join(sorted(regions)) or "none"
            raise UnknownRegion(f"the mesh has no node in region {region!r}", f"regions it has: {known}")


def _settable(state: str) -> BucketState:
    if state == BucketState.DELETING:
        raise ValueError(f"{state!r} is not a state to set")
    return BucketState(state)


def _bounded(max_stale: float) -> float:
    if not 0 <= max_stale <= LONGEST_STALE:
        raise ValueError(f"max_stale={max_stale:g} is out of bounds")
    return float(max_stale)
