"""Conditional requests (RFC 9110 section 13) and the dates they are written with (section 5.6.7).

A parsed tag is its text without quotes, a weak one ``W/text``, any = ``*``. A tag whose text would look like one of
those two keeps its quotes: ours are made of hex digits, ``b3s``, colons and hyphens, so it equals none of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum
from math import floor

from discloud.core.model import Precondition, Version
from discloud.errors import Invalid, PreconditionFailed

_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\uffff]*)"')
_ITEM = re.compile(rf"[ \t]*({_TAG.pattern})?[ \t]*(?:,|\Z)")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"(?:{'|'.join(_DAYS)}), (?P<day>\d\d) (?P<month>[A-Z][a-z]{{2}}) (?P<year>\d{{4}}) {_CLOCK} GMT",
        rf"[A-Z][a-z]{{5,8}}, (?P<day>\d\d)-(?P<month>[A-Z][a-z]{{2}})-(?P<year>\d\d) {_CLOCK} GMT",
        rf"(?:{'|'.join(_DAYS)}) (?P<month>[A-Z][a-z]{{2}}) (?P<day>[ \d]\d) {_CLOCK} (?P<year>\d{{4}})",
    )
)


class ReadVerdict(Enum):
    """What a conditional GET or HEAD gets: the object, 304 or 412."""

    OK = "ok"
    NOT_MODIFIED = "not-modified"
    FAILED = "failed"


def check_write(only: Precondition, head: Version | None) -> None:
    """Nothing, if the precondition holds of the head that a write replaces (None = there is none).

    In the order of section 13.2.2; If-Unmodified-Since counts only without If-Match, and only where there is
    something with a date. Raises: PreconditionFailed.
    """
    if only.if_match is not None:
        if head is None or not _matches(only.if_match, head.etag, head.md5):
            raise PreconditionFailed("If-Match does not hold: " + _found(head), "read the object again")
    elif only.if_unmodified_since is not None and head and _newer(head.created, only.if_unmodified_since):
        raise PreconditionFailed(
            "If-Unmodified-Since does not hold: " + _found(head), "read the object again"
        )
    if only.if_none_match is not None and head and _matches_weakly(only.if_none_match, head.etag, head.md5):
        raise PreconditionFailed(
            "If-None-Match does not hold: " + _found(head), "use another key or If-Match"
        )


def _found(head: Version | None) -> str:
    return "there is no such object" if head is None else f'the object has the ETag "{head.etag}"'


def check_read(
    if_match: tuple[str, ...] | None,
    if_none_match: tuple[str, ...] | None,
    if_modified_since: float | None,
    if_unmodified_since: float | None,
    etag: str,
    md5: str,
    modified: float,
) -> ReadVerdict:
    """What the conditions of a GET or HEAD, in the order of section 13.2.2, mean for an object; None = no such header."""
    if if_match is not None:
        if not _matches(if_match, etag, md5):
            return ReadVerdict.FAILED
    elif if_unmodified_since is not None and _newer(modified, if_unmodified_since):
        return ReadVerdict.FAILED
    if if_none_match is not None:
        return ReadVerdict.NOT_MODIFIED if _matches_weakly(if_none_match, etag, md5) else ReadVerdict.OK
    if if_modified_since is not None and not _newer(modified, if_modified_since):
        return ReadVerdict.NOT_MODIFIED
    return ReadVerdict.OK


def range_applies(if_range: str | None, etag: str, md5: str, modified: float) -> bool:
    """Whether Range is to be honoured (section 13.1.5): the raw If-Range is absent, the tag, or exactly the date."""
    if if_range is None:
        return True
    if found := _TAG.fullmatch(if_range.strip(" \t")):
        return _matches((_tag(found[1], found[2]),), etag, md5)
    date = parse_http_date(if_range)
    return date is not None and date == floor(modified)


def _matches(tags: Sequence[str], etag: str, md5: str) -> bool:
    """Strong comparison: a weak tag equals nothing."""
    return any(tag == "*" or (tag and tag in {etag, md5}) for tag in tags)


def _matches_weakly(tags: Sequence[str], etag: str, md5: str) -> bool:
    return _matches([tag.removeprefix("W/") for tag in tags], etag, md5)


def _newer(modified: float, than: float) -> bool:
    """HTTP dates have whole seconds: a change within the same second does not show."""
    return floor(modified) > than


def parse_tags(header: str) -> tuple[str, ...]:
    """The tags of an If-Match or If-None-Match header. Raises: Invalid where it is not a list of entity tags."""
    if header.strip(" \t") == "*":
        return ("*",)
    tags: list[str] = []
    position = 0
    while position < len(header):
        item = _ITEM.match(header, position)
        if item is None:
            raise _not_tags(header)
        if item[1]:
            tags.append(_tag(item[2], item[3]))
        position = item.end()
    if not tags:
        raise _not_tags(header)
    return tuple(tags)


def _not_tags(header: str) -> Invalid:
    return Invalid(
        f"{header[:80]!r} is not a list of entity tags", 'write "TAG", "TAG" with the quotes, or *'
    )


def _tag(weak: str | None, text: str) -> str:
    own = f'"{text}"' if text == "*" or text.startswith("W/") else text
    return f"W/{own}" if weak else own


def parse_http_date(text: str) -> float | None:
    """Epoch seconds of an HTTP date in any of its three forms; None = not one, so the header is ignored.

    Two-digit years are 1970..2069: the rule of 50 years needs a clock, and nobody has written them for decades.
    """
    found = next((match for form in _DATES if (match := form.fullmatch(text.strip(" \t")))), None)
    if found is None or found["month"] not in _MONTHS:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        year += 1900 if year >= 70 else 2000
    second = int(found["second"])
    try:
        day = datetime(
            year,
            _MONTHS.index(found["month"]) + 1,
            int(found["day"]),
            int(found["hour"]),
            int(found["minute"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None
    return (day - _EPOCH).total_seconds() + second if second <= 60 else None


def http_date(seconds: float) -> str:
    """The moment as an IMF-fixdate, cut to whole seconds."""
    moment = _EPOCH + timedelta(seconds=floor(seconds))
    return f"{_DAYS[moment.weekday()]}, {moment.day:02} {_MONTHS[moment.month - 1]} {moment.year:04} {moment:%H:%M:%S} GMT"
