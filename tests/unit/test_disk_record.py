"""The bytes of records: they come back as they were, and nothing else is ever taken for one."""

from __future__ import annotations

import os
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.adapters.disk.record import (
    ALIGN,
    HEADER,
    PACK_HEAD,
    Footer,
    Header,
    Kind,
    PackHead,
    blob_of,
    key_of,
    pack_footer,
    pack_head,
    pack_header,
    read_footer,
    read_header,
    read_pack_head,
    record_size,
)
from discloud.core.model import BlobId, BucketId, Key, Label, Layout, SegmentId, VersionId
from discloud.errors import Invalid

BLOBS = st.builds(
    BlobId,
    st.uuids().map(lambda each: VersionId(str(each))),
    st.integers(0, 2**64 - 1).map(SegmentId),
    st.integers(0, 2**16 - 1),
)
SALT = b"12345678"


def header(position: int = 1024) -> Header:
    return Header(Kind.BLOB, bytes(26), SALT, position, 7, 1.5, 4096, 200, 1, 2)


@given(BLOBS)
def test_an_id_comes_back(blob: BlobId) -> None:
    assert blob_of(key_of(blob)) == blob


@given(BLOBS, BLOBS)
def test_keys_sort_as_ids_do(one: BlobId, other: BlobId) -> None:
    def order(blob: BlobId) -> tuple[str, int, int]:
        return blob.version, blob.segment, blob.fragment

    assert (key_of(one) < key_of(other)) == (order(one) < order(other))


@pytest.mark.parametrize(
    "version",
    [
        "",
        "x",
        "../../etc/passwd",
        "01A1FC60-F28B-7E63-AF36-6BB8A7934A2B",
        "01a1fc60f28b7e63af366bb8a7934a2b",
        "0" * 36,
        "01a1fc60-f28b-7e63-af36-6bb8a7934a2b/",
    ],
)
def test_a_version_that_is_no_uuid_is_refused(version: str) -> None:
    with pytest.raises(Invalid):
        key_of(BlobId(VersionId(version), SegmentId(1), 0))


@pytest.mark.parametrize(("segment", "fragment"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**16)])
def test_numbers_out_of_range_are_refused(segment: int, fragment: int) -> None:
    with pytest.raises(Invalid):
        key_of(BlobId(VersionId(str(uuid.uuid4())), SegmentId(segment), fragment))


def test_a_header_comes_back_only_at_its_place_in_its_pack() -> None:
    packed = memoryview(pack_header(header()))
    assert len(packed) == HEADER
    assert read_header(packed, SALT, 1024) == header()
    assert read_header(packed, None, 1024) == header()
    assert read_header(packed, SALT, 1536) is None
    assert read_header(packed, b"87654321", 1024) is None
    assert read_header(packed[:-1], SALT, 1024) is None


def test_no_flipped_bit_in_a_header_passes() -> None:
    packed = pack_header(header())
    for place in range(len(packed) * 8):
        broken = bytearray(packed)
        broken[place // 8] ^= 1 << place % 8
        assert read_header(memoryview(broken), SALT, 1024) is None


def test_no_flipped_bit_in_a_packs_head_passes() -> None:
    head = PackHead(3, SALT, 5.0, (1, 2))
    packed = pack_head(head)
    assert len(packed) == PACK_HEAD
    assert read_pack_head(packed) == head
    for place in range(PACK_HEAD * 8):
        broken = bytearray(packed)
        broken[place // 8] ^= 1 << place % 8
        assert read_pack_head(bytes(broken)) is None


@given(BLOBS, st.integers(0, 2**63), st.binary(max_size=40), st.text(max_size=50))
def test_a_footer_comes_back(blob: BlobId, length: int, sums: bytes, key: str) -> None:
    label = Label("cluster", BucketId("b"), "photos", Key(key), Layout(4, 2, 1), "image/png", 77)
    footer = Footer(blob, length, os.urandom(32), 1.25, sums, label)
    assert read_footer(pack_footer(footer)) == footer


@given(st.binary(max_size=100))
def test_garbage_is_no_footer(data: bytes) -> None:
    with pytest.raises(ValueError):
        read_footer(data)


@given(st.integers(0, 10**6), st.integers(0, 1000))
def test_records_fill_whole_sectors(data: int, footer: int) -> None:
    size = record_size(data, footer)
    assert size % ALIGN == 0
    assert HEADER + data + footer <= size < HEADER + data + footer + ALIGN
