"""One blob from node to node, without a gateway: read, hash, write, and commit only what is equal to the record.

Invariant: nothing is committed whose BLAKE3 differs from the one in the version's row, so a copy is never worse than
its source should be. Memory: one buffer of ``CHUNK`` bytes, or the whole blob up to ``ports.SMALL``.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from blake3 import blake3

from discloud import logs
from discloud.cluster import Cluster
from discloud.core.model import BlobId, BucketId, Label, NodeId, Segment, Stored, Version
from discloud.errors import Corrupt, DiscloudError, InsufficientStorage, Unavailable
from discloud.ports import SMALL, Blobs, BlobWriter, Buckets
from discloud.transfer.threads import Threads

CHUNK = 1 << 20
"""Bytes that are read, hashed and written at once."""


async def copy_blob(
    source: Blobs, target: Blobs, blob: BlobId, label: Label, hash: bytes, threads: Threads
) -> Stored:
    """Copy ``blob``, whose bytes must have the BLAKE3 ``hash``; durable at the target on return.

    Raises: Corrupt (the source's bytes are others), NoSuchBlob (at the source), NoSpace (at the target), BadDigest,
    PeerDown, TooSlow, Unavailable. After an error the target has nothing of it.
    """
    stored = await source.stat(blob)
    if stored.length <= SMALL:
        data = await source.fetch(blob)
        _check(blob, await threads.run(lambda: blake3(data).digest()), hash)
        return await target.put(blob, label, data, hash)
    digest = blake3()
    async with source.open(blob) as reader, target.create(blob, label, reader.length) as writer:
        while data := await reader.read(CHUNK):
            await threads.run(partial(_take, writer, digest, data))
        _check(blob, digest.digest(), hash)
        return await writer.commit(hash)


def _take(writer: BlobWriter, digest: blake3, data: bytes) -> None:
    digest.update(data)
    writer.write(memoryview(data))


def _check(blob: BlobId, found: bytes, recorded: bytes) -> None:
    if found != recorded:
        raise Corrupt(f"blob {blob} has other bytes than were written", "it is copied from another holder")


async def copy_from_any(
    cluster: Cluster,
    sources: Iterable[NodeId],
    target: Blobs,
    blob: BlobId,
    label: Label,
    hash: bytes,
    threads: Threads,
) -> Stored:
    """``copy_blob`` from the first of ``sources`` that gives the bytes.

    Raises: InsufficientStorage at once (another source does not make room); otherwise what the last source failed with.
    """
    failure: DiscloudError = Unavailable(f"no holder of blob {blob} serves now", "it is tried again later")
    for node in sources:
        try:
            return await copy_blob(cluster.blobs(node), target, blob, label, hash, threads)
        except InsufficientStorage:
            raise
        except DiscloudError as error:
            failure = error
            logs.info("copy_source_failed", blob=str(blob), holder=node, reason=error.code)
    raise failure


class Labels:
    """Makes the labels that copies carry. Remembers the names of buckets: an id never gets another name."""

    def __init__(self, mesh: str, buckets: Buckets) -> None:
        self._mesh = mesh
        self._buckets = buckets
        self._names: dict[BucketId, str] = {}

    async def of(self, version: Version, segment: Segment) -> Label:
        """The label of a blob of ``segment``; the name of a bucket that is gone is empty. Raises: Unavailable."""
        if version.bucket not in self._names:
            self._names |= {bucket.id: bucket.name for bucket in await self._buckets.all()}
        return Label(
            cluster=self._mesh,
            bucket=version.bucket,
            bucket_name=self._names.get(version.bucket, ""),
            key=version.key,
            layout=segment.layout,
            content_type=version.content_type,
            offset=_offset(version, segment),
        )


def _offset(version: Version, segment: Segment) -> int:
    offset = 0
    for each in version.segments:
        if each.id == segment.id:
            break
        offset += each.length
    return offset
