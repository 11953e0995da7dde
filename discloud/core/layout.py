"""How the bytes of a segment fall into fragments, and what the written forms of layouts mean (DESIGN section 3).

Striping is interleaved: stripe s holds ``data`` runs of ``unit`` bytes, run f belongs to fragment f. The last,
short stripe of t bytes is divided evenly: fragment f gets t // data bytes, the first t % data fragments one
more. Invariants: the pieces of a range are in file order, contiguous in every fragment and add up to the range;
fragment lengths differ by a byte at most in the last stripe, and fragment 0 is never shorter than another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from discloud.core.model import EVERYWHERE, MIB, Layout
from discloud.errors import BadLayout

MAX_FRAGMENTS = 32
"""Data and parity fragments of a segment: the limit of liberasurecode, kept for stripes too."""
MAX_COPIES = 64
STREAMING_STRIPE = MIB
"""Bytes of a whole stripe where a body's length is unknown: what a writer holds before it can cut the next."""

_ALIGNMENT = 4096
_FORMS = f"write mirror:N (up to {MAX_COPIES}), mirror:all, stripe:N (up to {MAX_FRAGMENTS}), or stripe:NxR"
_MIRROR = re.compile(r"mirror:([0-9]{1,4}|all)")
_STRIPE = re.compile(r"stripe:([0-9]{1,4})(?:x([0-9]{1,4}))?")
_ERASURE = re.compile(r"ec:([0-9]{1,4})\+([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Piece:
    """``length`` bytes at ``offset`` of a fragment."""

    fragment: int
    offset: int
    length: int


def parse_layout(text: str) -> Layout:
    """The layout that is written as ``text``. Raises: BadLayout, which names the accepted forms."""
    if found := _MIRROR.fullmatch(text):
        layout = Layout(copies=EVERYWHERE if found[1] == "all" else _at_least_one(text, found[1]))
    elif found := _STRIPE.fullmatch(text):
        layout = Layout(data=_at_least_one(text, found[1]), copies=_at_least_one(text, found[2] or "1"))
    elif found := _ERASURE.fullmatch(text):
        data, parity = _at_least_one(text, found[1]), _at_least_one(text, found[2])
        layout = Layout(data=data, parity=parity, copies=1)
    else:
        raise BadLayout(f"{text[:80]!r} is not a layout", _FORMS)
    if layout.fragments > MAX_FRAGMENTS or layout.copies > MAX_COPIES:
        raise BadLayout(f"{text!r} is over the limits of a layout", _FORMS)
    return layout


def _at_least_one(text: str, digits: str) -> int:
    if (number := int(digits)) < 1:
        raise BadLayout(f"{text!r} asks for none of something", _FORMS)
    return number


def parse_copies(text: str) -> int:
    """The number of copies that is written as ``text``: 1..64, or ``all`` = EVERYWHERE. Raises: BadLayout."""
    if text == "all":
        return EVERYWHERE
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= MAX_COPIES:
        raise BadLayout(
            f"{text[:80]!r} is not a number of copies", f"write copies=1 to copies={MAX_COPIES} or copies=all"
        )
    return int(text)


def layout_name(layout: Layout) -> str:
    """How the layout is written; ``parse_layout`` reads it back (with the default unit)."""
    if layout.parity:
        return f"ec:{layout.data}+{layout.parity}"
    if layout.data > 1:
        return f"stripe:{layout.data}" + (f"x{layout.copies}" if layout.copies > 1 else "")
    return "mirror:all" if layout.everywhere else f"mirror:{layout.copies}"


def fragment_length(layout: Layout, length: int, fragment: int) -> int:
    """Bytes of a fragment of a segment of ``length`` bytes; parity fragments are as long as fragment 0."""
    whole, tail = divmod(length, layout.data * layout.unit)
    return whole * layout.unit + _run(layout, tail, fragment if fragment < layout.data else 0)


def _run(layout: Layout, tail: int, fragment: int) -> int:
    """Bytes of the fragment's run in the last stripe, which has ``tail`` bytes."""
    return tail // layout.data + (fragment < tail % layout.data)


def pieces(layout: Layout, length: int, offset: int, count: int) -> Iterator[Piece]:
    """The stretches of data fragments that hold bytes [offset, offset + count) of a segment, in file order.

    The range is cut at the segment's end; one piece in all where there is one data fragment.
    """
    end = min(offset + count, length)
    if layout.data == 1:
        if offset < end:
            yield Piece(0, offset, end - offset)
        return
    whole, tail = divmod(length, layout.data * layout.unit)
    for stripe in range(offset // (layout.data * layout.unit), whole + (tail > 0)):
        begin = stripe * layout.data * layout.unit
        if begin >= end:
            return
        runs = (
            [layout.unit] * layout.data
            if stripe < whole
            else [_run(layout, tail, f) for f in range(layout.data)]
        )
        yield from _stripe_pieces(runs, stripe * layout.unit, offset - begin, end - begin)


def _stripe_pieces(runs: list[int], base: int, start: int, end: int) -> Iterator[Piece]:
    """The parts of a stripe's runs within [start, end) of the stripe; each run begins at ``base`` of its fragment."""
    position = 0
    for fragment, run in enumerate(runs):
        first, last = max(start - position, 0), min(end - position, run)
        if first < last:
            yield Piece(fragment, base + first, last - first)
        position += run


def needed_acks(layout: Layout, ack: str | None, copies: int) -> int:
    """How much must be durable before success, and below which a write has failed.

    Mirror and stripe: copies of EACH fragment, of the ``copies`` that were placed; all of 1-2, the majority from
    3, two of ``mirror:all`` (one of one). Erasure: durable fragments; the answer is the floor k + 1: without an
    ``ack`` the writer still waits for every fragment whose holder lives. ``ack`` is ``all`` or a number within what
    was placed (for erasure k + 1 and up). Raises: BadLayout.
    """
    least, most = (layout.data + 1, layout.fragments) if layout.parity else (1, copies)
    if ack is None:
        return _default_acks(layout, copies)
    if ack == "all":
        return most
    if not re.fullmatch(r"[0-9]{1,4}", ack) or not least <= int(ack) <= most:
        allowed = f"ack={least}" if least == most else f"ack={least} to ack={most}"
        raise BadLayout(f"ack={ack[:80]} does not fit {layout_name(layout)}", f"write {allowed} or ack=all")
    return int(ack)


def _default_acks(layout: Layout, copies: int) -> int:
    if layout.parity:
        return layout.data + 1
    if layout.everywhere:
        return min(copies, 2)
    return copies // 2 + 1  # the majority, which of one and of two is all


def streaming_unit(layout: Layout) -> Layout:
    """The layout for a body of unknown length: a whole stripe, which has to be held before it is cut, is at most 1 MiB."""
    if layout.data == 1:
        return layout
    unit = STREAMING_STRIPE // layout.data // _ALIGNMENT * _ALIGNMENT
    return replace(layout, unit=min(layout.unit, unit))
