"""Whether two sides hold the same rows, told without keeping them: counts and sums of BLAKE3 hashes.

A sum of hashes does not depend on the order in which rows come, and two different sets of rows have the same sum only with
the luck of guessing a 256-bit number (an additive multiset hash: Clarke et al., "Incremental Multiset Hash Functions",
ASIACRYPT 2003). Sums are kept in slots by the rows' names, so that rows that differ can be found in a second pass without
keeping all of them either.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

import msgpack
from blake3 import blake3

from discloud.adapters.claims import Claim
from discloud.adapters.portable import GivenBucket, Listed, MovedVersion, Row, Vacant
from discloud.core.model import Account, Repair, Version
from discloud.core.records import to_record
from discloud.ports import LogEntry

SLOTS = 1024
_WIDTH = 1 << 256


class Tally:
    """The rows of one kind on one side."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums = [0] * SLOTS

    def add(self, row: Row) -> None:
        """Count a row. Log entries must come in their order: their numbers may differ, their order may not."""
        hashed = hash_of(row, self.rows)
        slot = slot_of(row)
        self._sums[slot] = (self._sums[slot] + int.from_bytes(hashed)) % _WIDTH
        self.rows += 1

    @property
    def digest(self) -> str:
        """The hex BLAKE3 of everything that was counted, whatever its order."""
        whole = b"".join(each.to_bytes(32) for each in self._sums)
        return blake3(self.rows.to_bytes(8) + whole).hexdigest()

    def differing(self, other: Tally) -> frozenset[int]:
        """Slots in which the two sides are not the same."""
        pairs = zip(self._sums, other._sums, strict=True)
        return frozenset(slot for slot, (one, two) in enumerate(pairs) if one != two)


class Suspects:
    """A second pass over the rows of the slots that differ, at most ``most`` of them, to name what differs."""

    def __init__(self, slots: Collection[int], most: int = 100_000) -> None:
        self._slots = slots
        self._most = most
        self._left: Counter[tuple[str, bytes]] = Counter()
        self._met = [0, 0]

    def add(self, row: Row, side: int) -> None:
        """A row of the source (``side`` 0) or of the target (1)."""
        position = self._met[side]
        self._met[side] += 1
        if slot_of(row) in self._slots and len(self._left) < self._most:
            self._left[name_of(row), hash_of(row, position)] += 1 if side == 0 else -1

    def names(self, most: int) -> tuple[str, ...]:
        """Some of the rows that are not the same on both sides."""
        return tuple(sorted({name for (name, _), left in self._left.items() if left})[:most])


def hash_of(row: Row, position: int) -> bytes:
    """32 bytes that tell a row from every other; a log entry's number counts as its position."""
    same = replace(row, number=position) if isinstance(row, LogEntry) else row
    return blake3(msgpack.packb([type(row).__name__, *map(_plain, to_record(same))])).digest()


def _plain(value: object) -> object:
    """Zero has no sign and no type here: adapters may keep a whole number of seconds either way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def slot_of(row: Row) -> int:
    """The slot of a row: that of the row of the same name on the other side."""
    return int.from_bytes(blake3(name_of(row).encode()).digest(2)) % SLOTS


def name_of(row: Row) -> str:
    """How a person is told which row it is."""
    match row:
        case GivenBucket(id, bucket):
            return f"bucket {bucket.name if bucket else id}"
        case Version() | Listed():
            version = row.id if isinstance(row, Version) else row.version
            return f"{row.key!r} of bucket {row.bucket}, version {version}"
        case LogEntry():
            return f"{row.key!r} of bucket {row.bucket}, version {row.version}"
        case MovedVersion():
            return f"{row.at!r} of bucket {row.bucket}, version {row.version}"
        case Vacant():
            return f"{row.key!r} of bucket {row.bucket}"
        case Repair():
            return f"blob {row.blob}"
        case Account():
            return f"account {row.id}"
        case Claim():
            return f"node {row.node.id}"
