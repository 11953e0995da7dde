"""Changes of a head that move no bytes: delete, rename, and what is said of an object."""

from __future__ import annotations

from dataclasses import replace

from discloud.core.access import may_write
from discloud.core.model import (
    Account,
    Change,
    ChangeKind,
    Key,
    Precondition,
    State,
    Version,
)
from discloud.core.preconditions import check_write
from discloud.errors import Conflict, NoSuchKey
from discloud.gateway.buckets import Buckets
from discloud.gateway.seals import Seals
from discloud.ports import Versions

TRIES = 5
"""Tries of an unconditional change of metadata while others change the object too."""


class Changer:
    """Each method is one atomic commit. ``keep``: seconds that gc leaves replaced bytes alone."""

    def __init__(self, versions: Versions, buckets: Buckets, seals: Seals, keep: float) -> None:
        self._versions = versions
        self._buckets = buckets
        self._seals = seals
        self._keep = keep

    async def delete(
        self, account: Account | None, bucket_name: str, key: Key, only: Precondition
    ) -> Version:
        """Remove an object; returns what was removed. Raises: NoSuchKey, PreconditionFailed and as ``put``."""
        bucket = await self._buckets.get(bucket_name)
        may_write(account, bucket)
        change = Change(ChangeKind.DELETE, bucket.id, key, keep=self._keep)
        removed = (await self._versions.commit(change, only)).replaced
        if removed is None:
            raise NoSuchKey(f"bucket {bucket_name} has no object {key!r}")
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
        bucket = await self._buckets.get(bucket_name)
        may_write(account, bucket)
        for tries_left in reversed(range(TRIES)):
            head = await self._versions.get(bucket.id, key)
            changed = replace(
                head,
                content_type=head.content_type if content_type is None else content_type,
                metadata=head.metadata if metadata is None else metadata,
            )
            change = Change(ChangeKind.UPDATE, bucket.id, key, changed)
            try:
                return self._seals.committed(await self._versions.commit(change, only))
            except Conflict:
                if not tries_left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def rename(
        self, account: Account | None, bucket_name: str, key: Key, target: Key, only: Precondition
    ) -> Version:
        """Give an object another key in its bucket; what was there is replaced.

        ``if_match`` and ``if_unmodified_since`` speak of the object, ``if_none_match`` of what is at the target.
        Raises: as ``delete``, Conflict (the object changed meanwhile).
        """
        bucket = await self._buckets.get(bucket_name)
        may_write(account, bucket)
        head = await self._versions.get(bucket.id, key)
        check_write(replace(only, if_none_match=None), head)
        if target == key:
            return head
        change = Change(ChangeKind.MOVE, bucket.id, key, head, target, keep=self._keep)
        at_target = Precondition(if_none_match=only.if_none_match)
        return self._seals.committed(await self._versions.commit(change, at_target))
