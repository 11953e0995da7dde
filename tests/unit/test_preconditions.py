"""Conditional requests: the tables of RFC 9110 section 13, and dates that survive being written."""

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.model import BucketId, Key, Precondition, State, Version, VersionId
from discloud.core.preconditions import (
    ReadVerdict,
    check_read,
    check_write,
    http_date,
    parse_http_date,
    parse_tags,
    range_applies,
)
from discloud.errors import Invalid, PreconditionFailed

ETAG, MD5, MODIFIED = "ab12", "cd34", 1000.7
HEAD = Version(
    BucketId("b"), Key("k"), VersionId("v"), State.COMMITTED, 0, (), etag=ETAG, md5=MD5, created=MODIFIED
)


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("*", ("*",)),
        (' "a" ', ("a",)),
        ('"a","b"', ("a", "b")),
        ('"a,b" , W/"c",,', ("a,b", "W/c")),
        ('""', ("",)),
        ('"*"', ('"*"',)),
        ('W/"*"', ('W/"*"',)),
        ('"W/ab12"', ('"W/ab12"',)),
        ('"b3s-3:ff"', ("b3s-3:ff",)),
    ],
)
def test_tags(header: str, tags: tuple[str, ...]) -> None:
    assert parse_tags(header) == tags


@pytest.mark.parametrize(
    "header",
    [
        "",
        " ",
        ",",
        "a",
        '"a',
        'a"',
        '"a" "b"',
        'w/"a"',
        'W/ "a"',
        '*, "a"',
        '"a\x00"',
        '"a"\n',
        "'a'",
        '"a b"',
    ],
)
def test_malformed_tags(header: str) -> None:
    with pytest.raises(Invalid):
        parse_tags(header)


def holds(only: Precondition, head: Version | None) -> bool:
    try:
        check_write(only, head)
    except PreconditionFailed:
        return False
    return True


@pytest.mark.parametrize(
    ("header", "strong", "weak"),
    [("*", True, True), ('"ab12"', True, True), ('"x", "cd34"', True, True), ('W/"ab12"', False, True), ('"x"', False, False),
     ('"*"', False, False), ('W/"*"', False, False), ('"W/ab12"', False, False), ('"AB12"', False, False), ('""', False, False)],
)  # fmt: skip
def test_how_tags_compare(header: str, strong: bool, weak: bool) -> None:
    tags = parse_tags(header)
    assert holds(Precondition(if_match=tags), HEAD) is strong
    assert holds(Precondition(if_none_match=tags), HEAD) is not weak
    assert not holds(Precondition(if_match=tags), None)
    assert holds(Precondition(if_none_match=tags), None)
    assert check_read(tags, None, None, None, ETAG, MD5, MODIFIED) is (
        ReadVerdict.OK if strong else ReadVerdict.FAILED
    )
    expected = ReadVerdict.NOT_MODIFIED if weak else ReadVerdict.OK
    assert check_read(None, tags, None, None, ETAG, MD5, MODIFIED) is expected


def test_an_empty_tag_does_not_match_a_missing_md5() -> None:
    assert check_read(parse_tags('""'), None, None, None, ETAG, "", MODIFIED) is ReadVerdict.FAILED


def test_writes_by_date() -> None:
    assert holds(Precondition(), None)
    assert holds(Precondition(if_unmodified_since=1000.0), HEAD), "the same second"
    assert not holds(Precondition(if_unmodified_since=999.0), HEAD)
    assert holds(Precondition(if_unmodified_since=999.0), None), "nothing has no date"
    assert holds(Precondition(if_match=(ETAG,), if_unmodified_since=999.0), HEAD), "If-Match goes first"
    assert not holds(Precondition(if_match=(ETAG,), if_none_match=("*",)), HEAD)


VERDICTS = st.tuples(*[st.none() | st.booleans()] * 4)


@given(VERDICTS)
def test_reads_in_the_order_of_the_rfc(
    conditions: tuple[bool | None, bool | None, bool | None, bool | None],
) -> None:
    match, none_match, modified_since, unmodified_since = conditions
    verdict = check_read(
        None if match is None else ((ETAG,) if match else ("x",)),
        None if none_match is None else (("x",) if none_match else (ETAG,)),
        None if modified_since is None else (999.0 if modified_since else 1000.0),
        None if unmodified_since is None else (1000.0 if unmodified_since else 999.0),
        ETAG,
        MD5,
        MODIFIED,
    )
    first = match if match is not None else unmodified_since
    second = none_match if none_match is not None else modified_since
    if first is False:
        assert verdict is ReadVerdict.FAILED
    else:
        assert verdict is (ReadVerdict.NOT_MODIFIED if second is False else ReadVerdict.OK)


@pytest.mark.parametrize(
    ("if_range", "applies"),
    [(None, True), ('"ab12"', True), ('"cd34"', True), ('W/"ab12"', False), ('"x"', False), ("ab12", False), ('"*"', False),
     ("*", False), (http_date(1000), True), (http_date(1001), False), (http_date(999), False), ("", False)],
)  # fmt: skip
def test_if_range(if_range: str | None, applies: bool) -> None:
    assert range_applies(if_range, ETAG, MD5, MODIFIED) is applies


@given(st.integers(-10_000_000_000, 200_000_000_000))
def test_dates_survive(seconds: int) -> None:
    text = http_date(seconds + 0.9)
    assert text == format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)
    assert parse_http_date(text) == seconds == parsedate_to_datetime(text).timestamp()


@pytest.mark.parametrize(
    "text",
    ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994", " Sun, 06 Nov 1994 08:49:37 GMT "],
)  # fmt: skip
def test_the_three_forms(text: str) -> None:
    assert parse_http_date(text) == 784111777.0


def test_two_digit_years_and_leap_seconds() -> None:
    assert parse_http_date("Thursday, 01-Jan-70 00:00:00 GMT") == 0.0
    assert parse_http_date("Tuesday, 01-Jan-69 00:00:00 GMT") == 3124224000.0
    assert parse_http_date("Sat, 31 Dec 2016 23:59:60 GMT") == 1483228800.0


@pytest.mark.parametrize(
    "text",
    ["", "now", "Sun, 31 Feb 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:49:37 GMT", "Sun, 06 Nov 1994 08:49:61 GMT", "784111777",
     "Sun, 06 Nop 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT",
     "Sun, ０6 Nov 1994 08:49:37 GMT"],
)  # fmt: skip
def test_what_is_no_date(text: str) -> None:
    assert parse_http_date(text) is None
