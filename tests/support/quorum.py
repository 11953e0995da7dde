"""Metadata as a cluster's: without a memory of its own (``peek``), and without a quorum, gone or silent on command."""

from __future__ import annotations

import asyncio
import inspect
from enum import Enum
from typing import Any, cast

from discloud.adapters.memory_metadata import MemoryMetadata
from discloud.core.model import BucketId, Key, Page, Version, VersionId
from discloud.errors import NotFound, Unavailable
from discloud.ports import Metadata, Versions

WITHOUT_QUORUM = frozenset({"versions.get_stale", "versions.list_stale"})


class Quorum(Enum):
    """What the metadata answers: everything; only what needs no quorum; nothing, at once; nothing, ever."""

    THERE = 1
    LOST = 2
    GONE = 3
    SILENT = 4


class QuorumMetadata:
    """A ``Metadata`` over one in memory. ``replica`` (if set) is the older state that one replica still has."""

    def __init__(self, real: MemoryMetadata) -> None:
        self.cluster = real.cluster
        self.real = real
        self.state = Quorum.THERE
        self.replica: dict[tuple[BucketId, Key], Version] = {}
        self.asked: list[str] = []
        for part in ("versions", "buckets", "queues", "accounts", "nodes", "leases"):
            setattr(self, part, _Part(self, part, getattr(real, part)))

    async def check(self, call: str) -> None:
        """Raises: Unavailable as the state says."""
        self.asked.append(call)
        if self.state is Quorum.SILENT:
            await asyncio.Event().wait()
        if self.state is Quorum.GONE or (self.state is Quorum.LOST and call not in WITHOUT_QUORUM):
            raise Unavailable(f"no quorum for {call}")

    def port(self) -> Metadata:
        """As whoever uses it sees it."""
        return cast("Metadata", self)

    async def close(self) -> None:
        """As Metadata."""
        await self.real.close()


class _Part:
    def __init__(self, whole: QuorumMetadata, name: str, real: Any) -> None:
        self._whole, self._name, self._real = whole, name, real

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._real, name)
        if not inspect.iscoroutinefunction(call):
            return call

        async def checked(*arguments: Any, **named: Any) -> Any:
            await self._whole.check(f"{self._name}.{name}")
            return await call(*arguments, **named)

        return checked

    def peek(self, *_: object) -> None:
        """No process of a cluster knows by itself that a head is current."""

    async def get_stale(self, bucket: BucketId, key: Key, version: VersionId | None = None) -> Version:
        """As one replica: what is absent there may just not have come yet."""
        await self._whole.check("versions.get_stale")
        if old := self._whole.replica.get((bucket, key)):
            return old
        try:
            found: Version = await self._real.get(bucket, key, version)
        except NotFound as error:
            raise Unavailable("one replica does not have it") from error
        return found

    async def list_stale(self, bucket: BucketId, prefix: str, delimiter: str, after: str, limit: int) -> Page:
        """As Versions."""
        await self._whole.check("versions.list_stale")
        versions = cast("Versions", self._real)
        return await versions.list_keys(bucket, prefix, delimiter, after, limit)
