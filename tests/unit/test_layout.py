"""Layouts: the written forms, and that the pieces of any range are exactly its bytes."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.layout import (
    Piece,
    fragment_length,
    layout_name,
    needed_acks,
    parse_copies,
    parse_layout,
    pieces,
    streaming_unit,
)
from discloud.core.model import EVERYWHERE, MIB, Layout
from discloud.errors import BadLayout

LAYOUTS = st.builds(
    Layout, data=st.integers(1, 7), parity=st.integers(0, 2), copies=st.just(1), unit=st.integers(1, 9)
)


def cut(layout: Layout, body: bytes) -> list[bytes]:
    """The naive oracle: deal the bytes out unit by unit, and the last stripe evenly."""
    fragments = [b""] * layout.data
    stripe = layout.data * layout.unit
    whole = len(body) // stripe * stripe
    for start in range(0, whole, layout.unit):
        fragments[start // layout.unit % layout.data] += body[start : start + layout.unit]
    rest = body[whole:]
    for number in range(layout.data):
        share = len(rest) // (layout.data - number) + (len(rest) % (layout.data - number) > 0)
        fragments[number] += rest[:share]
        rest = rest[share:]
    return fragments


@given(LAYOUTS, st.binary(max_size=200), st.integers(0, 210), st.integers(0, 210))
def test_the_pieces_of_a_range_are_its_bytes(layout: Layout, body: bytes, offset: int, count: int) -> None:
    fragments = cut(layout, body)
    found = list(pieces(layout, len(body), offset, count))
    assert (
        b"".join(fragments[p.fragment][p.offset : p.offset + p.length] for p in found)
        == body[offset : offset + count]
    )
    assert all(piece.length > 0 and piece.fragment < layout.data for piece in found)
    assert all(len({p.fragment for p in pair}) == 2 for pair in pairwise(found)) or layout.data == 1
    for fragment in range(layout.data):
        mine = [piece for piece in found if piece.fragment == fragment]
        assert all(one.offset + one.length == other.offset for one, other in pairwise(mine))


@given(LAYOUTS, st.integers(0, 1000))
def test_fragment_lengths(layout: Layout, length: int) -> None:
    lengths = [fragment_length(layout, length, f) for f in range(layout.fragments)]
    data = lengths[: layout.data]
    assert data == list(map(len, cut(layout, bytes(length))))
    assert sum(data) == length
    assert max(data) - min(data) <= 1
    assert lengths[layout.data :] == [max(data)] * layout.parity


@pytest.mark.parametrize("data", [1, 2, 3])
@pytest.mark.parametrize("unit", [1, 2, 3])
def test_every_range_of_every_small_segment(data: int, unit: int) -> None:
    layout = Layout(data=data, copies=1, unit=unit)
    for length in range(20):
        body = bytes(range(length))
        fragments = cut(layout, body)
        for offset in range(length + 1):
            for end in range(offset, length + 1):
                read = (
                    fragments[p.fragment][p.offset : p.offset + p.length]
                    for p in pieces(layout, length, offset, end - offset)
                )
                assert b"".join(read) == body[offset:end]


def test_one_fragment_is_one_piece_however_large() -> None:
    assert list(pieces(Layout(), 5 << 40, 7, 4 << 40)) == [Piece(0, 7, 4 << 40)]


def test_a_range_far_into_a_huge_stripe_costs_nothing_before_it() -> None:
    layout = Layout(data=5, copies=1)
    last = 5 * (1 << 40)
    assert list(pieces(layout, last, last - 1, 1)) == [Piece(4, (1 << 40) - 1, 1)]


WRITTEN = (
    st.integers(1, 64).map(lambda n: f"mirror:{n}")
    | st.just("mirror:all")
    | st.integers(2, 32).map(lambda n: f"stripe:{n}")
    | st.builds("stripe:{}x{}".format, st.integers(2, 32), st.integers(2, 64))
    | st.builds("ec:{}+{}".format, st.integers(1, 16), st.integers(1, 16))
)


@given(WRITTEN)
def test_layouts_are_written_as_they_are_read(text: str) -> None:
    layout = parse_layout(text)
    assert layout_name(layout) == text
    assert layout.unit == MIB


def test_what_the_forms_mean() -> None:
    assert parse_layout("mirror:2") == Layout(1, 0, 2)
    assert parse_layout("mirror:all") == Layout(1, 0, EVERYWHERE)
    assert parse_layout("stripe:5") == Layout(5, 0, 1)
    assert parse_layout("stripe:3x2") == Layout(3, 0, 2)
    assert parse_layout("ec:4+2") == Layout(4, 2, 1)
    assert parse_layout("stripe:1x2") == parse_layout("mirror:2")


@pytest.mark.parametrize(
    "text",
    ["", "mirror", "mirror:0", "mirror:65", "mirror:-1", "mirror:1 ", "stripe:0", "stripe:33", "stripe:2x0", "stripe:2x65",
     "stripe:x2", "ec:4", "ec:4+0", "ec:0+2", "ec:31+2", "raid:5", "MIRROR:2", "mirror:٣", "mirror:99999999", "mirror:2\n"],
)  # fmt: skip
def test_a_bad_layout_names_the_forms(text: str) -> None:
    with pytest.raises(BadLayout) as caught:
        parse_layout(text)
    assert "stripe:NxR" in caught.value.hint


def test_copies() -> None:
    assert [parse_copies(text) for text in ("1", "64", "all")] == [1, 64, EVERYWHERE]
    for text in ("", "0", "65", "-1", "1.0", "ALL", "²", "1\n"):
        with pytest.raises(BadLayout):
            parse_copies(text)


@pytest.mark.parametrize(
    ("text", "copies", "acks"),
    [("mirror:1", 1, 1), ("mirror:2", 2, 2), ("mirror:3", 3, 2), ("mirror:4", 4, 3), ("mirror:5", 5, 3), ("mirror:all", 1, 1),
     ("mirror:all", 2, 2), ("mirror:all", 3, 2), ("stripe:5", 1, 1), ("stripe:5x2", 2, 2), ("stripe:2x3", 3, 2), ("ec:4+2", 1, 5)],
)  # fmt: skip
def test_default_acks(text: str, copies: int, acks: int) -> None:
    assert needed_acks(parse_layout(text), None, copies) == acks


def test_wished_acks() -> None:
    assert needed_acks(Layout(copies=3), "all", 3) == 3
    assert needed_acks(Layout(copies=3), "1", 3) == 1
    assert needed_acks(Layout(4, 2, 1), "all", 1) == 6
    assert needed_acks(Layout(4, 2, 1), "5", 1) == 5
    for layout, ack in (
        (Layout(), "0"),
        (Layout(), "4"),
        (Layout(), ""),
        (Layout(), "most"),
        (Layout(4, 2, 1), "4"),
    ):
        with pytest.raises(BadLayout):
            needed_acks(layout, ack, 3)


def test_a_bad_ack_tells_the_good_ones() -> None:
    for layout, copies, told in (
        (Layout(copies=3), 3, "ack=1 to ack=3 or"),
        (Layout(copies=1), 1, "write ack=1 or"),
    ):
        with pytest.raises(BadLayout, match=told):
            needed_acks(layout, "9", copies)


@given(st.integers(1, 32))
def test_a_stripe_of_unknown_length_fits_a_mebibyte(data: int) -> None:
    unit = streaming_unit(Layout(data=data, copies=1)).unit
    assert 0 < unit * data <= MIB
    assert data == 1 or unit % 4096 == 0
    assert streaming_unit(replace(Layout(data=2, copies=1), unit=5)).unit == 5
