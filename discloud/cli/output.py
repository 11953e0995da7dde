"""How the client writes: one line per failure on stderr, data on stdout, and nothing a terminal could obey.

Invariant: stdout carries only what was asked for (a listing, JSON, an object's bytes); all else goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from discloud.errors import DiscloudError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


def say_error(text: str) -> None:
    """A failure in one line on stderr."""
    click.echo(f"{paint('discloud: error:', 'red', err=True)} {one_line(text)}", err=True)


def told(error: DiscloudError) -> str:
    """What happened and what to do next, as one sentence: hints are written with and without a capital."""
    if not error.hint:
        return error.detail
    first, space, rest = error.hint.partition(" ")
    if first.istitle() and first.isalpha():
        first = first.lower()
    return f"{error.detail.rstrip('.')}; {first}{space}{rest}"


def say_warning(text: str) -> None:
    """Something the user should know although it went well, in one line on stderr."""
    click.echo(f"{paint('discloud: warning:', 'yellow', err=True)} {one_line(text)}", err=True)


def one_line(text: str) -> str:
    """``text`` with whitespace folded and everything unprintable escaped: it may come from a server."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    r"""``text`` with control characters, surrogates and reversals of direction written as ``\x..`` or ``\u....``."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")


def name(text: str) -> str:
    """A key as it is shown: raw where a program reads it, made visible on a terminal."""
    return visible(text) if sys.stdout.isatty() else text.encode("utf-8", "backslashreplace").decode()


def emit(value: Any) -> None:
    """One JSON value in one line on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))


def human(size: float) -> str:
    """Bytes in the unit that a person would choose: ``0 B``, ``1.5 KiB``, ``12 GiB``."""
    power = 0
    while size >= 1000 and power < len(_UNITS) - 1:  # 1000: at most three digits
        size /= 1024
        power += 1
    return f"{size:.0f} {_UNITS[power]}" if power == 0 or size >= 99.95 else f"{size:.1f} {_UNITS[power]}"


def moment(seconds: float | None) -> str:
    """Epoch seconds as local date and time, ``-`` when unknown."""
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def span(seconds: float) -> str:
    """A duration for a person: ``4 s``, ``2:05``, ``1:02:03``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def paint(text: str, colour: str, *, err: bool = False) -> str:
    """``text`` in a colour on a terminal, plain elsewhere and under NO_COLOR."""
    stream = sys.stderr if err else sys.stdout
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return click.style(text, fg=colour)


def gauge(share: float, width: int = 16) -> str:
    """A bar that is ``share`` (0..1) full."""
    full = round(min(max(share, 0.0), 1.0) * width)
    return f"[{'#' * full}{'.' * (width - full)}] {share * 100:3.0f} %"


def table(rows: Sequence[Sequence[str]], right: frozenset[int] = frozenset()) -> None:
    """Rows with their columns aligned on stdout; the columns in ``right`` are flushed right."""
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [_pad(cell, widths[at], at in right) for at, cell in enumerate(row)]
        click.echo("  ".join(cells).rstrip())


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - len(click.unstyle(cell)))
    return space + cell if right else cell + space
