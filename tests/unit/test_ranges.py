"""The Range header against a naive oracle that marks bytes."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from discloud.core.ranges import Span, parse_range
from discloud.errors import RangeNotSatisfiable

SPEC = st.tuples(st.integers(0, 40) | st.none(), st.integers(0, 40) | st.none()).filter(
    lambda s: s != (None, None)
)


def asked(specs: list[tuple[int | None, int | None]], size: int) -> list[set[int]]:
    """Per spec the bytes that it asks for."""
    wanted = []
    for first, last in specs:
        if first is None:
            assert last is not None
            wanted.append(set(range(max(size - last, 0), size)))
        else:
            wanted.append(set(range(first, size if last is None else min(last + 1, size))))
    return wanted


@given(st.lists(SPEC, min_size=1, max_size=5), st.integers(1, 40))
def test_any_ranges(specs: list[tuple[int | None, int | None]], size: int) -> None:
    header = "bytes=" + ", ".join(f"{'' if a is None else a}-{'' if b is None else b}" for a, b in specs)
    if any(a is not None and b is not None and b < a for a, b in specs):
        assert parse_range(header, size) is None
        return
    wanted = [bytes_ for bytes_ in asked(specs, size) if bytes_]
    if not wanted:
        with pytest.raises(RangeNotSatisfiable, match=str(size)):
            parse_range(header, size)
        return
    spans = parse_range(header, size)
    if spans is None:
        overlaps = sum(bool(wanted[i] & wanted[j]) for i in range(len(wanted)) for j in range(i))
        assert overlaps > 1
        return
    given_ = [set(range(span.start, span.end)) for span in spans]
    assert set().union(*given_) == set().union(*wanted)
    assert sum(map(len, given_)) == len(set().union(*given_)), "no byte twice"
    firsts = [next(i for i, each in enumerate(wanted) if each <= part) for part in given_]
    assert firsts == sorted(firsts), "in the order asked"
    edges = [span.start for span in spans]
    assert not any(span.end in edges for span in spans), "touching ones are joined"


@pytest.mark.parametrize(
    ("header", "size", "spans"),
    [
        ("bytes=0-0", 10, ((0, 1),)),
        ("bytes=0-", 10, ((0, 10),)),
        ("bytes=-3", 10, ((7, 3),)),
        ("bytes=-30", 10, ((0, 10),)),
        ("bytes=9-99999999999999999999999", 10, ((9, 1),)),
        ("BYTES = 5-6 ,, 0-1\t", 10, ((5, 2), (0, 2))),
        ("bytes=8-9,0-1,2-3", 10, ((8, 2), (0, 4))),
        ("bytes=0-5,3-8", 10, ((0, 9),)),
        ("bytes=20-30,1-1", 10, ((1, 1),)),
        ("bytes=-0,1-1", 10, ((1, 1),)),
    ],
)
def test_ranges(header: str, size: int, spans: tuple[tuple[int, int], ...]) -> None:
    assert parse_range(header, size) == tuple(Span(*span) for span in spans)


@pytest.mark.parametrize(
    "header",
    ["", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=a-b", "bytes=1", "bytes=2-1", "bytes=0-1,x", "lines=0-1", "bytes=--1",
     "bytes=0-1-2", "bytes=٣-4", "bytes=0x1-2", "bytes=+1-2", "bytes=" + "9" * 5000 + "-", "bytes=0-5,1-6,2-7"],
)  # fmt: skip
def test_what_is_ignored(header: str) -> None:
    assert parse_range(header, 10) is None


def test_many_ranges_are_ignored() -> None:
    def spread(count: int) -> str:
        return "bytes=" + ",".join(f"{i * 2}-{i * 2}" for i in range(count))

    assert len(parse_range(spread(32), 100) or ()) == 32
    assert parse_range(spread(33), 100) is None


@pytest.mark.parametrize(
    ("header", "size"),
    [("bytes=10-", 10), ("bytes=-0", 10), ("bytes=-0", 0), ("bytes=0-", 0), ("bytes=0-5,7-", 0)],
)
def test_nothing_to_give(header: str, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable):
        parse_range(header, size)


def test_a_suffix_of_nothing_is_the_whole_nothing() -> None:
    assert parse_range("bytes=-5", 0) is None


@given(st.text(max_size=30), st.integers(0, 100))
def test_no_header_breaks_it(header: str, size: int) -> None:
    assume(not header.startswith("bytes"))
    for text in (header, "bytes=" + header):
        try:
            spans = parse_range(text, size)
        except RangeNotSatisfiable:
            continue
        assert spans is None or all(span.length > 0 and span.end <= size for span in spans)
