"""The Range header (RFC 9110 section 14): which bytes a client asked for.

Invariant: the spans lie within the representation, do not touch each other, and none is empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from discloud.errors import RangeNotSatisfiable

MAX_RANGES = 32
"""Ranges in one header beyond which it is ignored: each costs the server more than the client."""

_SPEC = re.compile(r"([0-9]{0,4000})-([0-9]{0,4000})")


@dataclass(frozen=True, slots=True)
class Span:
    """``length`` bytes from ``start``."""

    start: int
    length: int

    @property
    def end(self) -> int:
        """The first byte behind the span."""
        return self.start + self.length


def parse_range(header: str, size: int) -> tuple[Span, ...] | None:
    """The spans that a Range header asks of ``size`` bytes, in the order asked; touching ones are joined.

    None = answer as if there were no such header: another unit, malformed, more than 32 ranges, or two or
    more overlaps (section 14.2 lets a server ignore those), and a suffix of nothing, which no Content-Range can tell.
    Raises: RangeNotSatisfiable where it asks only for bytes behind the end.
    """
    unit, equals, rest = header.partition("=")
    if not equals or unit.strip(" \t").lower() != "bytes":
        return None
    specs = [text for part in rest.split(",") if (text := part.strip(" \t"))]
    if not specs or len(specs) > MAX_RANGES:
        return None
    spans = [_span(spec, size) for spec in specs]
    if None in spans or (size == 0 and any(_is_suffix(spec) for spec in specs)):
        return None
    satisfiable = [span for span in spans if span and span.length]
    if not satisfiable:
        raise RangeNotSatisfiable(
            f"no byte of {header[:80]!r} exists: the size is {size}", "ask within the size"
        )
    return None if _overlaps(satisfiable) > 1 else _joined(satisfiable)


def _span(spec: str, size: int) -> Span | None:
    """What one range-spec asks for, empty where none of it exists; None = malformed."""
    found = _SPEC.fullmatch(spec)
    if found is None or spec == "-":
        return None
    first, last = found.groups()
    if not first:
        wanted = min(int(last), size)
        return Span(size - wanted, wanted)
    start = int(first)
    if last and int(last) < start:
        return None
    stop = min(int(last) + 1, size) if last else size
    return Span(start, max(stop - start, 0))


def _is_suffix(spec: str) -> bool:
    """True for a suffix range of some length, which is satisfiable even where there is no byte."""
    return spec[0] == "-" and int(spec[1:]) > 0


def _overlaps(spans: list[Span]) -> int:
    """How many spans begin within another one."""
    count = end = 0
    for span in sorted(spans, key=_by_start):
        count += span.start < end
        end = max(end, span.end)
    return count


def _joined(spans: list[Span]) -> tuple[Span, ...]:
    """The same bytes with touching spans made one, each where the first of its parts was asked."""
    merged: list[Span] = []
    for span in sorted(spans, key=_by_start):
        if merged and span.start <= merged[-1].end:
            start = merged[-1].start
            merged[-1] = Span(start, max(merged[-1].end, span.end) - start)
        else:
            merged.append(span)
    return tuple(sorted(merged, key=lambda whole: _first_asked(spans, whole)))


def _first_asked(spans: list[Span], whole: Span) -> int:
    return next(i for i, span in enumerate(spans) if whole.start <= span.start < whole.end)


def _by_start(span: Span) -> int:
    return span.start
