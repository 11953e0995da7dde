"""A copy is equal to the record or is not made."""

from __future__ import annotations

from dataclasses import replace

import pytest

from discloud.core.model import Label, Layout, NodeId, Version
from discloud.errors import Corrupt, NoSpace, PeerDown, Unavailable
from discloud.ports import SMALL
from discloud.services.copy import Labels, copy_blob, copy_from_any

from .mesh import BUCKET, Mesh, blob_of

MIRROR = Layout(copies=2)
SIZES = [0, 1, SMALL, SMALL + 1, 3 * SMALL + 12345]


def label_of(version: Version) -> Label:
    return Label("mesh", BUCKET, "files", version.key, MIRROR)


@pytest.mark.parametrize("size", SIZES)
async def test_a_copy_has_the_same_bytes_and_record(size: int) -> None:
    mesh = await Mesh(2).open()
    data = bytes(range(251)) * (size // 251 + 1)
    version = await mesh.put("k", data[:size], MIRROR, ("n1",))
    blob, (n1, n2) = blob_of(version), mesh.disks.values()
    stored = await copy_blob(n1, n2, blob, label_of(version), version.segments[0].hashes[0], mesh.threads)
    original = await n1.stat(blob)
    assert (stored.length, stored.hash) == (size, original.hash)
    async with n2.open(blob) as reader:
        copied = bytearray()
        while piece := await reader.read(SMALL):
            copied += piece
    assert copied == data[:size]
    assert (await n2.stat(blob)).key == "k"


@pytest.mark.parametrize("size", [5, SMALL + 5])
async def test_other_bytes_than_recorded_are_not_copied(size: int) -> None:
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"a" * size, MIRROR, ("n1",))
    n1, n2 = mesh.disks.values()
    with pytest.raises(Corrupt):
        await copy_blob(n1, n2, blob_of(version), label_of(version), b"\0" * 32, mesh.threads)
    assert await mesh.where(version) == {"n1"}
    assert (await n2.usage()).reserved == 0


@pytest.mark.parametrize("size", [5, SMALL + 5])
async def test_the_next_source_is_asked_when_one_fails(size: int) -> None:
    mesh = await Mesh(4).open()
    version = await mesh.put("k", b"a" * size, MIRROR, ("n1", "n2", "n3"))
    mesh.lines[NodeId("n1")].failing = {"stat"}
    mesh.lines[NodeId("n2")].failing = {"fetch", "open"}
    sources = [NodeId(node) for node in ("n1", "n2", "n3")]
    arguments = (blob_of(version), label_of(version), version.segments[0].hashes[0], mesh.threads)
    cluster, target = mesh.clusters[NodeId("n4")], mesh.disks[NodeId("n4")]
    await copy_from_any(cluster, sources, target, *arguments)
    assert await mesh.where(version) == {"n1", "n2", "n3", "n4"}
    with pytest.raises(PeerDown):
        await copy_from_any(cluster, sources[:2], target, *arguments)
    with pytest.raises(Unavailable):
        await copy_from_any(cluster, [], target, *arguments)


async def test_a_full_target_is_not_tried_with_every_source() -> None:
    mesh = await Mesh(2).open()
    version = await mesh.put("k", b"a" * 5, MIRROR, ("n1",))
    full = type(mesh.disks[NodeId("n2")])(capacity=1)
    line = mesh.lines[NodeId("n1")]
    line.calls.clear()
    with pytest.raises(NoSpace):
        await copy_from_any(
            mesh.clusters[NodeId("n2")],
            [NodeId("n1"), NodeId("n1")],
            full,
            blob_of(version),
            label_of(version),
            version.segments[0].hashes[0],
            mesh.threads,
        )
    assert line.calls.count("fetch") == 1


async def test_a_label_says_where_the_segment_begins() -> None:
    mesh = await Mesh(1).open()
    first = mesh.draft("k", b"12345", MIRROR, ("n1",))
    second = mesh.draft("k", b"678", MIRROR, ("n1",))
    version = replace(first, segments=(*first.segments, *second.segments), content_type="text/x")
    labels = Labels("mesh", mesh.metadata.buckets)
    told = [await labels.of(version, segment) for segment in version.segments]
    assert [label.offset for label in told] == [0, 5]
    assert told[0] == Label("mesh", BUCKET, "files", version.key, MIRROR, "text/x", 0)
    assert mesh.faults.buckets.calls == ["all"]


async def test_the_name_of_a_bucket_that_is_gone_is_empty() -> None:
    mesh = Mesh(1)
    version = mesh.draft("k", b"12345", MIRROR, ("n1",))
    assert (await Labels("mesh", mesh.metadata.buckets).of(version, version.segments[0])).bucket_name == ""
