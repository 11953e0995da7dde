"""Long manifests: the segments of a version that has more than ``LONG`` of them lie in the table ``segments``, not in its row.

They are cut into parts, named by the hash of their bytes and never changed. The row names its parts in their order, so whoever
changes the row changes the manifest with it: a relocation writes one part anew and the row names that one. Parts are written before the
row that names them, ``USING TIMESTAMP 1``, and go all at once, before the row of the dead version. What no row names any more (the parts of
a draft, or from before a relocation) stays until then.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import msgpack

from discloud.adapters.cassandra.session import Session
from discloud.adapters.cassandra.together import together
from discloud.core.model import Version, VersionId

LONG = 64
"""Segments that a row keeps itself, at the most."""
PART = 64
"""Segments of a part: about 13 kB with three copies, so that a batch of one is far below what Cassandra warns of."""
_MARK = b"\xc1"
"""How the body of a long one begins: no msgpack does."""
_CACHED = 32 << 20
"""Bytes of parts that a process remembers."""
_WIDTH = 16
"""Parts written, or asked for by one read, at once."""
_ID, _SEGMENTS = ([field.name for field in fields(Version)].index(name) for name in ("id", "segments"))

_WRITE = "INSERT INTO segments (version, part, body) VALUES (?, ?, ?) USING TIMESTAMP 1"
_READ = "SELECT part, body FROM segments WHERE version = ? AND part IN ?"
_DROP = "DELETE FROM segments WHERE version = ?"

Parts = Mapping[bytes, bytes]
"""Parts by name."""


def pack(record: list[Any]) -> tuple[bytes, Parts | None]:
    """The body of a version's record; of a long one also its parts."""
    segments = record[_SEGMENTS]
    if len(segments) <= LONG:
        return bytes(msgpack.packb(record)), None
    parts: dict[bytes, bytes] = {}
    names = []
    for start in range(0, len(segments), PART):
        body = bytes(msgpack.packb(segments[start : start + PART]))
        names.append(name := hashlib.blake2b(body, digest_size=16).digest())
        parts[name] = body
    short = [*record]
    short[_SEGMENTS] = names
    return _MARK + bytes(msgpack.packb(short)), parts


def unpack(body: bytes, parts: Parts | None) -> list[Any]:
    """The record; parts that are not given are left out. Raises: ValueError."""
    if not is_long(body):
        return list(msgpack.unpackb(body))
    record = list(msgpack.unpackb(body[1:]))
    known = parts or {}
    record[_SEGMENTS] = [
        segment for name in record[_SEGMENTS] if name in known for segment in msgpack.unpackb(known[name])
    ]
    return record


def is_long(body: bytes | None) -> bool:
    """Whether a row's body names parts."""
    return body is not None and body.startswith(_MARK)


def parts_of(body: bytes) -> tuple[VersionId, list[bytes]]:
    """The version of a long body, and its parts in order."""
    record = msgpack.unpackb(body[1:])
    return VersionId(record[_ID]), record[_SEGMENTS]


class Manifests:
    """The table, over a session; remembers what it read and wrote."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: OrderedDict[tuple[VersionId, bytes], bytes] = OrderedDict()
        self._size = 0

    async def read(self, body: bytes, *, one: bool = False) -> Parts:
        """Those parts of a long body that are there. Raises: Unavailable."""
        version, names = parts_of(body)
        missing = [name for name in names if (version, name) not in self._known]
        found = {name: known for name in names if (known := self._known.get((version, name))) is not None}
        for page in await together(partial(self._page, version, one=one), _chunks(missing)):
            for row in page:
                found[row.part] = row.body
                self._remember(version, row.part, row.body)
        return found

    async def write(self, version: VersionId, parts: Parts) -> None:
        """Those that are not known to be there. Raises: Unavailable."""
        missing = [name for name in parts if (version, name) not in self._known]

        async def write(name: bytes) -> None:
            await self._session.write(_WRITE, uuid.UUID(version), name, parts[name])
            self._remember(version, name, parts[name])

        for names in _chunks(missing):
            await together(write, names)

    async def drop(self, version: VersionId) -> None:
        """All parts of a version that is dead. Raises: Unavailable."""
        await self._session.write(_DROP, uuid.UUID(version))

    async def _page(self, version: VersionId, names: Sequence[bytes], *, one: bool) -> list[Any]:
        return await self._session.read(_READ, uuid.UUID(version), list(names), one=one)

    def _remember(self, version: VersionId, name: bytes, body: bytes) -> None:
        if (version, name) not in self._known:
            self._known[version, name] = body
            self._size += len(body)
        while self._size > _CACHED:
            _, old = self._known.popitem(last=False)
            self._size -= len(old)


def _chunks(names: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    return (names[start : start + _WIDTH] for start in range(0, len(names), _WIDTH))
