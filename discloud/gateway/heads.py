"""The head of an object as a gateway reads it: strictly, or, for a caller that takes that, as it was a while ago.

Owns the bounded memory of the heads that this gateway saw. It is told of every change made here, so it never shows what
this gateway itself knows to be replaced or removed: what it learns later but was older is ignored. An answer that is not
strict is labelled so by whoever sends it (``Discloud-Consistency: stale-possible``) and never says that an object is absent.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from discloud import metrics
from discloud.core.model import Bucket, BucketId, Key, Page, Version, VersionId
from discloud.errors import NoSuchKey, NotFound, Unavailable
from discloud.gateway.breaker import HURRY, Breaker
from discloud.ports import Versions

T = TypeVar("T")
REMEMBERED = 20_000
"""Heads remembered at the most."""
LONGEST = 64
"""Segments of a head that is worth its memory."""
LISTING = 5.0
"""Seconds that one page of a listing may take: it is many reads."""


class Freshness(IntEnum):
    """How old an answer may be: current; or as the bucket's ``max_stale`` allows; or, failing that, whatever is left."""

    STRICT = 0
    LAGGING = 1
    ANY = 2


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head as of ``at``. ``version`` None: the head with this order (or an older one) was removed."""

    version: Version | None
    order: tuple[int, float]
    at: float


def _order(version: Version) -> tuple[int, float]:
    """What grows with every change of a head."""
    return (version.seq, version.rev)


class Heads:
    """Reads of heads. ``clock``: seconds of a clock that only grows; ``breaker`` is that of the metadata."""

    def __init__(self, versions: Versions, breaker: Breaker, clock: Callable[[], float]) -> None:
        self._versions = versions
        self._breaker = breaker
        self._clock = clock
        self._stale_breaker = Breaker(clock, breaker.patience)
        self._seen: dict[tuple[BucketId, Key], _Seen] = {}

    @property
    def failing(self) -> bool:
        """Whether the metadata did not answer when it was asked last."""
        return self._breaker.failing

    def peek(self, bucket: Bucket, key: Key) -> tuple[Version, bool] | None:
        """A head known here and now and whether it may be stale, which only the bucket's ``max_stale`` allows; None = ask."""
        if head := self._versions.peek(bucket.id, key):
            return head, False
        if not bucket.max_stale:
            return None
        seen = self._seen.get((bucket.id, key))
        if seen is None or seen.version is None or self._clock() - seen.at > bucket.max_stale:
            return None
        metrics.STALE_READS.add(1, "memory")
        return seen.version, True

    async def read(self, bucket: Bucket, key: Key, freshness: Freshness) -> tuple[Version, bool]:
        """The head, and whether it may be stale. Raises: NoSuchKey (definitely), Unavailable."""
        if freshness is not Freshness.STRICT and bucket.max_stale:
            if known := self.peek(bucket, key):
                return known
            with suppress(Unavailable):
                return await self._replica(bucket.id, key), True
        if freshness is not Freshness.ANY:
            return await self.strict(bucket.id, key), False
        return await self._or_stale(lambda: self.strict(bucket.id, key), lambda: self._left(bucket.id, key))

    async def strict(self, bucket: BucketId, key: Key) -> Version:
        """The head. Raises: NoSuchKey, Unavailable."""
        if head := self._versions.peek(bucket, key):
            return head
        at = self._clock()
        try:
            version = await self._breaker.ask(self._versions.get(bucket, key))
        except NoSuchKey:
            self._drop(bucket, key)
            raise
        self._learn(version, at)
        return version

    async def version(self, bucket: BucketId, key: Key, version: VersionId) -> Version:
        """That version of the object. Raises: NoSuchKey, NoSuchVersion, Gone, Unavailable."""
        return await self._breaker.ask(self._versions.get(bucket, key, version))

    async def page(
        self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int
    ) -> tuple[Page, bool]:
        """A page of a listing, and whether it may be stale. Raises: Unavailable."""
        asked = (bucket, prefix, delimiter, after, limit)
        patience = self._breaker.patience if self._breaker.failing else LISTING
        return await self._or_stale(
            lambda: self._breaker.ask(self._versions.list_keys(*asked), patience),
            lambda: self._without_quorum(self._versions.list_stale, *asked, patience=self._breaker.patience),
        )

    def learn(self, version: Version) -> None:
        """``version`` has just become the head, by a change made here."""
        self._learn(version, self._clock())

    def forget(self, removed: Version) -> None:
        """The head ``removed`` was removed by a change made here: nothing up to it may be shown again."""
        name = (removed.bucket, removed.key)
        self._note(name, _Seen(None, (removed.seq, math.inf), self._clock()))

    # ------------------------------------------------------------ without a quorum

    async def _or_stale(
        self, strict: Callable[[], Awaitable[T]], stale: Callable[[], Awaitable[T]]
    ) -> tuple[T, bool]:
        """What ``strict`` gives and False; where it is Unavailable what ``stale`` gives and True. Raises: as ``strict``."""
        if self._breaker.failing:
            with suppress(Unavailable, NotFound):
                answer = await stale()
                self._breaker.find_out(strict)
                return answer, True
            return await strict(), False
        try:
            return await strict(), False
        except Unavailable as error:
            try:
                return await stale(), True
            except (Unavailable, NotFound):
                raise error from None  # who reads without a quorum does not know that something is absent

    async def _left(self, bucket: BucketId, key: Key) -> Version:
        """The newest head that can be had without a quorum. Raises: Unavailable, NotFound."""
        if self._stale_breaker.failing and self._newest(bucket, key):
            self._stale_breaker.find_out(lambda: self._replica(bucket, key))
        else:
            with suppress(Unavailable):
                return await self._replica(bucket, key)
        known = self._newest(bucket, key)
        if known is None:
            raise Unavailable(f"nothing is known here of the object {key!r}")
        metrics.STALE_READS.add(1, "memory")
        return known

    async def _replica(self, bucket: BucketId, key: Key) -> Version:
        """What one replica says, unless something newer is known here. Raises: NoSuchKey (definitely), Unavailable."""
        at = self._clock()
        version = await self._without_quorum(self._versions.get_stale, bucket, key, patience=HURRY)
        self._learn(version, at)
        known = self._seen.get((bucket, key))
        if known is not None and known.order > _order(version):
            if known.version is None:
                raise Unavailable(f"the replica that answered has yet to hear that {key!r} was removed")
            version = known.version
        metrics.STALE_READS.add(1, "replica")
        return version

    async def _without_quorum(
        self, question: Callable[..., Awaitable[T]], *asked: object, patience: float
    ) -> T:
        if self._stale_breaker.hopeless:
            raise Unavailable("no replica of the metadata answered a moment ago")
        return await self._stale_breaker.ask(question(*asked), patience)

    # ------------------------------------------------------------ memory

    def _learn(self, version: Version, at: float) -> None:
        if len(version.segments) <= LONGEST:
            name = (version.bucket, version.key)
            self._note(name, _Seen(version, _order(version), at))
        else:
            self._drop(version.bucket, version.key)

    def _note(self, name: tuple[BucketId, Key], seen: _Seen) -> None:
        known = self._seen.pop(name, None)
        if known is not None and known.order > seen.order:
            seen = known
        self._seen[name] = seen
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]

    def _newest(self, bucket: BucketId, key: Key) -> Version | None:
        seen = self._seen.get((bucket, key))
        return seen.version if seen else None

    def _drop(self, bucket: BucketId, key: Key) -> None:
        """The object is absent: what was known is old, but stays the limit for what is learned later."""
        known = self._seen.get((bucket, key))
        if known is not None and known.version is not None:
            self._seen[bucket, key] = _Seen(None, (known.order[0], math.inf), known.at)
