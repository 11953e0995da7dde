"""Which blobs this disk holds and where: in memory, so that "absent" is always a definite answer.

A blob takes about 200 bytes of memory, the seal of its version 170 more.

Invariant: an entry names bytes that are durable. Looking up needs no lock and never waits; changes come from the pack
writer, the file publisher and whoever finds rot, and exclude each other.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from itertools import islice
from threading import Lock
from typing import NamedTuple

from discloud.adapters.disk.record import ALIGN, TRAILER, record_size

_ENTRY = struct.Struct(">IIQIIQd")
ENTRY = _ENTRY.size
_SEALED = struct.Struct(">QIIII")
SEALED = _SEALED.size
VERSION = 16
"""Bytes of a key that name the version."""
FILE = 0
"""``Entry.pack`` of a blob with a file of its own."""
_CHUNK = 1024


class Entry(NamedTuple):
    """Where a blob lies. ``position`` is its record's in the pack; ``footer``: length; ``sum``: CRC32C of a packed blob's bytes."""

    pack: int
    position: int
    length: int
    footer: int
    sum: int
    seq: int
    created: float

    @property
    def size(self) -> int:
        """Bytes it takes on the disk."""
        if self.pack == FILE:
            return self.length + self.footer + TRAILER.size
        return record_size(self.length, self.footer)


class Sealed(NamedTuple):
    """Where the newest seal of a version lies. ``size`` is its record's, ``created`` in whole seconds."""

    seq: int
    pack: int
    position: int
    size: int
    created: int


def pack_entry(entry: Entry) -> bytes:
    """An entry as 40 bytes: the form in which it is kept and saved (a tuple would take 300)."""
    pack, position, *rest = entry
    return _ENTRY.pack(pack, position // ALIGN, *rest)


def read_entry(data: bytes) -> Entry:
    """The entry that ``pack_entry`` packed."""
    pack, block, length, footer, checksum, seq, created = _ENTRY.unpack(data)
    return Entry(pack, block * ALIGN, length, footer, checksum, seq, created)


def pack_sealed(sealed: Sealed) -> bytes:
    """The place of a seal as 24 bytes."""
    seq, pack, position, size, created = sealed
    return _SEALED.pack(seq, pack, position // ALIGN, size, created)


def read_sealed(data: bytes) -> Sealed:
    """The place that ``pack_sealed`` packed."""
    seq, pack, block, size, created = _SEALED.unpack(data)
    return Sealed(seq, pack, block * ALIGN, size, created)


class Order:
    """Keys in order, as a list of short sorted lists: an insertion moves at most one of them."""

    def __init__(self, keys: list[bytes]) -> None:
        self._chunks = [keys[first : first + _CHUNK] for first in range(0, len(keys), _CHUNK)] or [[]]
        self._firsts = [chunk[0] if chunk else b"" for chunk in self._chunks]

    def add(self, key: bytes) -> None:
        """Insert a key that is not in it."""
        place = self._place(key)
        chunk = self._chunks[place]
        insort(chunk, key)
        self._firsts[place] = chunk[0]
        if len(chunk) > 2 * _CHUNK:
            self._chunks.insert(place + 1, chunk[_CHUNK:])
            self._firsts.insert(place + 1, chunk[_CHUNK])
            del chunk[_CHUNK:]

    def remove(self, key: bytes) -> None:
        """Take a key out that is in it."""
        place = self._place(key)
        chunk = self._chunks[place]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._firsts[place] = chunk[0]
        elif len(self._chunks) > 1:
            del self._chunks[place], self._firsts[place]

    def after(self, key: bytes, limit: int) -> list[bytes]:
        """The next keys behind ``key``, at most ``limit``."""
        place = self._place(key)
        found = self._chunks[place][bisect_right(self._chunks[place], key) :][:limit]
        for chunk in islice(self._chunks, place + 1, None):
            if len(found) >= limit:
                break
            found += chunk[: limit - len(found)]
        return found

    def _place(self, key: bytes) -> int:
        return max(0, bisect_right(self._firsts, key) - 1)


class Index:
    """Entries by key, seals by version, and what each pack holds that still counts.

    ``condemned``: keys of rotten blobs that are hidden, but would rise again at a start because that is not durable yet.
    """

    def __init__(self) -> None:
        self._entries: dict[bytes, bytes] = {}
        self._seals: dict[bytes, bytes] = {}
        self._order = Order([])
        self._lock = Lock()
        self.condemned: set[bytes] = set()
        self.used = 0
        self.used_by_files = 0
        self.live: defaultdict[int, int] = defaultdict(int)

    def load(self, entries: dict[bytes, bytes], seals: dict[bytes, bytes]) -> None:
        """Begin with what a recovery found."""
        self._entries, self._seals = entries, seals
        self._order = Order(sorted(entries))
        for packed in entries.values():
            self._count(read_entry(packed), 1)
        for packed in seals.values():
            sealed = read_sealed(packed)
            self.live[sealed.pack] += sealed.size

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Entry | None:
        """The entry of a blob, None = definitely not here."""
        packed = self._entries.get(key)
        return None if packed is None else read_entry(packed)

    def sealed(self, key: bytes) -> bool:
        """Has a seal named the blob's version?"""
        return key[:VERSION] in self._seals

    def seal_of(self, version: bytes) -> Sealed | None:
        """Where the newest seal of a version lies."""
        packed = self._seals.get(version)
        return None if packed is None else read_sealed(packed)

    def add(self, key: bytes, entry: Entry) -> bool:
        """Show a durable blob; False = there is one already, which stays."""
        with self._lock:
            if key in self._entries:
                return False
            self._entries[key] = pack_entry(entry)
            self._order.add(key)
            self._count(entry, 1)
            return True

    def remove(self, key: bytes, entry: Entry) -> bool:
        """Hide a blob if it is still the one of ``entry``. The seal goes with the version's last blob."""
        with self._lock:
            if self._entries.get(key) != pack_entry(entry):
                return False
            del self._entries[key]
            self._order.remove(key)
            self._count(entry, -1)
            if not self._has_version(key[:VERSION]):
                self._unseal(key[:VERSION])
            return True

    def move(self, key: bytes, old: Entry, new: Entry) -> bool:
        """Let a blob lie elsewhere if it is still the one of ``old``."""
        with self._lock:
            if self._entries.get(key) != pack_entry(old):
                return False
            self._entries[key] = pack_entry(new)
            self._count(old, -1)
            self._count(new, 1)
            return True

    def seal(self, version: bytes, sealed: Sealed) -> bool:
        """Note the place of a seal; False = a newer one is known. Of equal ones the later counts."""
        with self._lock:
            known = self.seal_of(version)
            if known is not None and known.seq > sealed.seq:
                return False
            if known is not None:
                self.live[known.pack] -= known.size
            self._seals[version] = pack_sealed(sealed)
            self.live[sealed.pack] += sealed.size
            return True

    def move_seal(self, version: bytes, old: Sealed, new: Sealed) -> bool:
        """Let a seal lie elsewhere if it is still the newest."""
        with self._lock:
            if self._seals.get(version) != pack_sealed(old):
                return False
            self._seals[version] = pack_sealed(new)
            self.live[old.pack] -= old.size
            self.live[new.pack] += new.size
            return True

    def prune(self, before: int) -> None:
        """Forget seals from before that second of versions that have no blob here."""
        for version in list(self._seals):
            sealed = self.seal_of(version)
            with self._lock:
                if sealed is not None and sealed.created < before and not self._has_version(version):
                    self._unseal(version)

    def after(self, key: bytes, limit: int) -> list[tuple[bytes, Entry]]:
        """The next blobs behind ``key`` (empty = from the first) in the order of their ids."""
        with self._lock:
            return [(each, read_entry(self._entries[each])) for each in self._order.after(key, limit)]

    def packed(self) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, bytes]]]:
        """All entries and all seals in their packed form, as of now: for a checkpoint."""
        with self._lock:
            return list(self._entries.items()), list(self._seals.items())

    def in_pack(self, number: int) -> list[tuple[bytes, Entry]]:
        """All blobs that lie in a pack; looks at every entry."""
        prefix = number.to_bytes(4)
        return [
            (key, read_entry(each)) for key, each in tuple(self._entries.items()) if each.startswith(prefix)
        ]

    def _count(self, entry: Entry, sign: int) -> None:
        size = entry.size
        self.used += sign * size
        if entry.pack == FILE:
            self.used_by_files += sign * size
        else:
            self.live[entry.pack] += sign * size

    def _has_version(self, version: bytes) -> bool:
        return any(key.startswith(version) for key in self._order.after(version, 1))

    def _unseal(self, version: bytes) -> None:
        packed = self._seals.pop(version, None)
        if packed is not None:
            sealed = read_sealed(packed)
            self.live[sealed.pack] -= sealed.size
