"""The digests that clients send are read strictly; those we give out follow from the segments alone."""

from base64 import b64encode

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.digests import combined_digest, etag_of, parse_content_digest, parse_content_md5
from discloud.core.model import Layout, Segment, SegmentId
from discloud.errors import BadDigest


def field(name: str, digest: bytes) -> str:
    return f"{name}=:{b64encode(digest).decode()}:"


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=64, max_size=64),
    st.binary(min_size=16, max_size=16),
)
def test_known_algorithms(short: bytes, long: bytes, md5: bytes) -> None:
    header = f"{field('sha-256', short)}, {field('sha-512', long)};q=1,\t{field('md5', md5)}, {field('crc32c', b'1234')}"
    assert parse_content_digest(header) == {"sha-256": short, "sha-512": long, "md5": md5}
    assert parse_content_md5(f" {b64encode(md5).decode()}") == md5


def test_of_a_repeated_algorithm_the_last_counts() -> None:
    header = f"{field('sha-256', bytes(32))}, {field('sha-256', b'x' * 32)}"
    assert parse_content_digest(header) == {"sha-256": b"x" * 32}


def test_nothing_known_is_no_error() -> None:
    assert parse_content_digest("unixsum=:AAAA:") == {}
    assert parse_content_digest("") == {}


GOOD = b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "header",
    ["sha-256", f"sha-256={GOOD}", f"sha-256=:{GOOD}", f"SHA-256=:{GOOD}:", "sha-256=:AAAA:", "sha-256=::", f"sha-256=:{GOOD[:-1]}:",
     f"sha-256=:{GOOD}:,", f"sha-256=:{GOOD}:,,md5=:AAAA:", f"sha-256=:{GOOD}: x", f"sha-256 = :{GOOD}:", "sha-256=:\N{DIGIT ONE}\xff:", ","],
)  # fmt: skip
def test_malformed_digests(header: str) -> None:
    with pytest.raises(BadDigest):
        parse_content_digest(header)


@pytest.mark.parametrize(
    "header", ["", "AAAA", "d41d8cd98f00b204e9800998ecf8427e", "é" * 24, "1B2M2Y8AsgTpgAmY7PhCfg="]
)
def test_malformed_md5(header: str) -> None:
    with pytest.raises(BadDigest):
        parse_content_md5(header)


def segment(number: int, body: bytes) -> Segment:
    return Segment(SegmentId(number), len(body), Layout(), (), blake3(body).digest())


def test_one_segment_is_the_plain_hash() -> None:
    assert (
        combined_digest([segment(1, b"abc")])
        == etag_of(blake3(b"abc").digest())
        == blake3(b"abc").hexdigest()
    )
    assert combined_digest([]) == blake3(b"").hexdigest()


def test_the_digest_of_several_is_as_documented() -> None:
    parts = [segment(1, b"abc"), segment(2, b"defg")]
    expected = blake3(
        bytes(7) + b"\x03" + blake3(b"abc").digest() + bytes(7) + b"\x04" + blake3(b"defg").digest()
    ).hexdigest()
    assert combined_digest(parts) == f"b3s-2:{expected}"


@given(
    st.lists(st.binary(max_size=5), min_size=2, max_size=4),
    st.lists(st.binary(max_size=5), min_size=2, max_size=4),
)
def test_other_segments_other_digest(one: list[bytes], other: list[bytes]) -> None:
    same = combined_digest([segment(i, b) for i, b in enumerate(one)]) == combined_digest(
        [segment(i + 9, b) for i, b in enumerate(other)]
    )
    assert same is (one == other)
