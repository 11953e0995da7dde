"""One page of a listing out of anything that can seek in the byte order of the keys.

An entry is a key, or a common prefix into which the keys beyond it are rolled up. A prefix is skipped by seeking
behind it, so the cost follows the entries and not the keys: no key's UTF-8 holds the byte 0xff.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from discloud.core.model import Page, Version
from discloud.errors import BadKey

Row = TypeVar("Row")
Seek = Callable[[bytes, bytes], Iterator[tuple[bytes, Row]]]
"""``seek(low, high)``: rows with low <= key < high in the order of their keys, read as they are asked for."""

_END = b"\xff"


def utf8(text: str) -> bytes:
    """The bytes of a key, prefix or delimiter. Raises: BadKey (a lone surrogate has none)."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadKey(f"{text!r} is not text that UTF-8 can carry") from error


def page(
    seek: Seek[Row], read: Callable[[Row], Version], prefix: str, delimiter: str, after: str, limit: int
) -> Page:
    """The page behind ``after``: its entries are those whose key or prefix is greater, in byte order."""
    versions: list[Version] = []
    prefixes: list[str] = []
    last = b""
    for name, row in _entries(seek, utf8(prefix), utf8(delimiter), utf8(after)):
        if len(versions) + len(prefixes) >= limit:
            return Page(tuple(versions), tuple(prefixes), last.decode() if limit > 0 else None)
        if row is None:
            prefixes.append(name.decode())
        else:
            versions.append(read(row))
        last = name
    return Page(tuple(versions), tuple(prefixes))


def _entries(
    seek: Seek[Row], prefix: bytes, delimiter: bytes, after: bytes
) -> Iterator[tuple[bytes, Row | None]]:
    """Keys with their rows and common prefixes with None, in one order."""
    low, high = first_behind(prefix, delimiter, after), prefix + _END
    while low < high:
        for key, row in seek(low, high):
            end = key.find(delimiter, len(prefix)) if delimiter else -1
            if end >= 0:
                name = key[: end + len(delimiter)]
                yield name, None
                low = name + _END
                break
            yield key, row
        else:
            return


def first_behind(prefix: bytes, delimiter: bytes, after: bytes) -> bytes:
    """Where the first entry behind ``after`` can begin."""
    if not after:
        return prefix
    end = after.find(delimiter, len(prefix)) if delimiter and after.startswith(prefix) else -1
    if end >= 0:  # behind a common prefix, or behind a key that is rolled up into it
        return after[: end + len(delimiter)] + _END
    return max(prefix, after + b"\x00")
