"""Changes of a head that move no bytes: delete, rename, and what is said of an object."""

from __future__ import annotations

from dataclasses import replace

from discloud.core.model import (
    Account,
    Change,
    ChangeKind,
    Committed,
    Key,
    Precondition,
    State,
    Version,
)
from discloud.core.preconditions import check_write
from discloud.errors import Conflict, NoSuchKey
from discloud.gateway.buckets import Buckets
from discloud.gateway.heads import Heads
from discloud.gateway.seals import Seals
from discloud.ports import Versions

TRIES = 5
"""Tries of an unconditional change of metadata while others change the object too."""


class Changer:
    """Each method is one atomic commit. ``keep``: seconds that gc leaves replaced bytes alone."""

    def __init__(self, versions: Versions, buckets: Buckets, seals: Seals, keep: float, heads: Heads) -> None:
        self._versions = versions
        self._buckets = buckets
        self._seals = seals
        self._keep = keep
        self._heads = heads

    async def delete(
        self, account: Account | None, bucket_name: str, key: Key, only: Precondition
    ) -> Version:
        """Remove an object; returns what was removed. Raises: NoSuchKey, PreconditionFailed and as ``put``."""
        bucket = await self._buckets.writable(account, bucket_name)
        change = Change(ChangeKind.DELETE, bucket.id, key, keep=self._keep)
        removed = (await self._versions.commit(change, only)).replaced
        if removed is None:
            raise NoSuchKey(f"bucket {bucket_name} has no object {key!r}")
        self._heads.forget(removed)
        self._seals.add(replace(removed, state=State.DELETED))
        return removed

    async def update(
        self,
        account: Account | None,
        bucket_name: str,
        key: Key,
        only: Precondition,
        *,
        content_type: str | None,
        metadata: tuple[tuple[str, str], ...] | None,
    ) -> Version:
        """Change what is said of an object, not its bytes; None leaves as it is. Raises: as ``delete``, Conflict."""
        bucket = await self._buckets.writable(account, bucket_name)
        for tries_left in reversed(range(TRIES)):
            head = await self._heads.strict(bucket.id, key)
            changed = replace(
                head,
                content_type=head.content_type if content_type is None else content_type,
                metadata=head.metadata if metadata is None else metadata,
            )
            change = Change(ChangeKind.UPDATE, bucket.id, key, changed)
            try:
                committed = await self._versions.commit(change, only)
            except Conflict:
                if not tries_left:
                    raise
            else:
                return self._committed(committed)
        raise AssertionError("the last try returns or raises")

    async def rename(
        self, account: Account | None, bucket_name: str, key: Key, target: Key, only: Precondition
    ) -> Version:
        """Give an object another key in its bucket; what was there is replaced.

        ``if_match`` and ``if_unmodified_since`` speak of the object, ``if_none_match`` of what is at the target.
        Raises: as ``delete``, Conflict (the object changed meanwhile).
        """
        bucket = await self._buckets.writable(account, bucket_name)
        head = await self._heads.strict(bucket.id, key)
        check_write(replace(only, if_none_match=None), head)
        if target == key:
            return head
        change = Change(ChangeKind.MOVE, bucket.id, key, head, target, keep=self._keep)
        at_target = Precondition(if_none_match=only.if_none_match)
        committed = await self._versions.commit(change, at_target)
        self._heads.forget(head)
        return self._committed(committed)

    def _committed(self, committed: Committed) -> Version:
        version = self._seals.committed(committed)
        self._heads.learn(version)
        return version
