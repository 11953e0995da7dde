"""Objects for the tests of metadata: versions of one bucket with ids of their own."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

from discloud.core.model import (
    EVERYWHERE,
    BlobId,
    Bucket,
    BucketId,
    Change,
    ChangeKind,
    Key,
    Layout,
    Node,
    NodeId,
    Precondition,
    Repair,
    Role,
    Segment,
    SegmentId,
    State,
    Version,
    VersionId,
)

BUCKET = Bucket(BucketId("b0000000-0000-4000-8000-000000000000"), "files", 1.0)
ANY = Precondition()
ABSENT = Precondition(if_none_match=("*",))
N1, N2, N3 = (NodeId(f"0000000{number}-0000-4000-8000-000000000000") for number in (1, 2, 3))


def draft(key: str, *, copies: int = 2, **more: Any) -> Version:
    """A draft of one segment with a 64-bit id beyond what is signed, on N1 and N2."""
    id = VersionId(str(uuid.uuid4()))
    layout = Layout(copies=copies)
    segment = Segment(SegmentId(2**64 - 1), 5, layout, ((N1, N2),), b"h" * 32, (b"h" * 32,))
    given = {"etag": f"etag of {id}", "content_type": "text/plain", "created": 5.0, "due": 1_800_000_000.0}
    return Version(BUCKET.id, Key(key), id, State.DRAFT, 5, (segment,), **{**given, **more})


def everywhere(key: str) -> Version:
    return draft(key, copies=EVERYWHERE)


def long(key: str, segments: int = 200) -> Version:
    """A draft of many segments, each unlike the others."""
    version = draft(key)
    (first,) = version.segments
    many = tuple(replace(first, id=SegmentId(number), hash=number.to_bytes(32)) for number in range(segments))
    return replace(version, segments=many, size=5 * segments)


def blob(version: Version) -> BlobId:
    return version.blobs()[0][0]


def put_of(version: Version, **more: Any) -> Change:
    return Change(ChangeKind.PUT, version.bucket, version.key, version, **more)


def delete_of(key: str, version: Version | None = None, **more: Any) -> Change:
    return Change(ChangeKind.DELETE, BUCKET.id, Key(key), version, **more)


def update_of(version: Version, **more: Any) -> Change:
    return Change(ChangeKind.UPDATE, version.bucket, version.key, version, **more)


def move_of(version: Version, target: str, **more: Any) -> Change:
    return Change(ChangeKind.MOVE, version.bucket, version.key, version, Key(target), **more)


def repair_of(version: Version, since: float = 1.0, not_before: float = 0.0) -> Repair:
    return Repair(version.bucket, version.key, blob(version), (N3,), since, not_before)


def node(id: NodeId, name: str, **more: Any) -> Node:
    return Node(id, name, Role.ORDINARY, f"{name}:7070", f"{name}:7072", "host", **more)
