"""Sizes and durations as people write them: ``128 KiB``, ``15m``. The inverse of each parse is its format."""

from __future__ import annotations

import re

from discloud.errors import Invalid

SIZES = {
    "": 1,
    "b": 1,
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgtp", start=1)},
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgtp", start=1)},
}
"""Factor of each unit of size, in lower case: KiB is 1024 bytes, kB is 1000."""
DURATIONS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""Seconds of each unit of time."""

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-zA-Z]*)", re.ASCII)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[dhms])\s*", re.ASCII)
_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes of ``5 TiB``, ``1.5MiB``, ``10 MB`` or ``4096``. Raises: Invalid."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or (factor := SIZES.get(match[2].lower())) is None:
        raise Invalid(f"{text!r} is not a size", "write it like 4096, 128 KiB, 10 MB or 5 TiB")
    number: str = match[1]
    exact: int = round(float(number) * factor) if "." in number else int(number) * factor
    return exact


def parse_duration(text: str) -> float:
    """Seconds of ``15m``, ``1h30m``, ``500ms`` or ``2.5``. Raises: Invalid."""
    text = text.strip()
    if _NUMBER.fullmatch(text):
        return float(text)
    parts = _DURATION.findall(text)
    if not parts or _DURATION.sub("", text):
        raise Invalid(f"{text!r} is not a duration", "write it like 500ms, 30s, 15m, 1h30m or 7d")
    return sum(float(number) * DURATIONS[unit] for number, unit in parts)


def format_size(size: int) -> str:
    """``size`` in the largest binary unit that divides it: nothing is rounded."""
    for unit in ("PiB", "TiB", "GiB", "MiB", "KiB"):
        factor = SIZES[unit.lower()]
        if size and size % factor == 0:
            return f"{size // factor} {unit}"
    return str(size)


def format_duration(seconds: float) -> str:
    """``seconds`` in the largest unit that divides it."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % DURATIONS[unit] == 0:
            return f"{seconds / DURATIONS[unit]:.0f}{unit}"
    return f"{seconds:g}s" if seconds >= 1 or not seconds else f"{seconds * 1000:g}ms"
