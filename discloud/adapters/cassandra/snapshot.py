"""What a change read of ``objects``, as the rules of ``heads`` want it, and what they wrote, as edits of each partition.

A snapshot is loaded before the rule runs; a rule that asks for a row that is not there yet raises ``Missing`` and is run
again. A *guess* is a snapshot of what was read earlier or is likely: a change made on it is as safe as any, since it is
conditional on what it assumed, but a refusal of the rule counts only on a snapshot that was read strictly.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgpack

from discloud.adapters.cassandra.manifests import Parts, is_long
from discloud.adapters.cassandra.objects import HEAD, NULL, Edit, Row, Rows, row_of, unpack
from discloud.adapters.rows import Moved
from discloud.core.model import BucketId, Key, Repair, State, Version, VersionId

Name = tuple[BucketId, Key]
"""The partition of an object."""


class Missing(Exception):
    """A rule asks for a row that was not loaded."""

    def __init__(self, name: Name, version: VersionId) -> None:
        super().__init__(name, version)
        self.name = name
        self.version = version


@dataclass(slots=True)
class Snapshot:
    """Implements ``discloud.adapters.rows.Rows`` over loaded rows. ``certain``: they were read strictly.

    ``logged`` and ``repairs`` are what the rule wants done after the change, ``dead`` the rows that gc shall come for.
    """

    name: Name
    has: bool
    certain: bool = True
    loaded: dict[Name, dict[VersionId, Row | None]] = field(default_factory=dict)
    wrote: dict[Name, dict[VersionId, Edit]] = field(default_factory=dict)
    left: dict[VersionId, Version] = field(default_factory=dict)
    logged: list[tuple[Version, bool]] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    floor: int = 0

    def add(self, name: Name, rows: Rows) -> None:
        """Take over rows that were read."""
        self.loaded.setdefault(name, {}).update(rows)

    def forget_writes(self) -> None:
        """Let a rule begin anew."""
        self.wrote.clear()
        self.left.clear()
        self.logged.clear()
        self.repairs.clear()
        self.floor = 0

    def edits(self, name: Name) -> list[Edit]:
        """What was written to a partition; the head first."""
        wrote = self.wrote.get(name, {})
        return sorted(wrote.values(), key=lambda edit: edit.version != HEAD)

    def stored(self, name: Name, version: VersionId) -> Row | None:
        """A row as it was read. Raises: Missing."""
        rows = self.loaded.get(name, {})
        if version not in rows:
            raise Missing(name, version)
        return rows[version]

    # ------------------------------------------------------------ Rows: reading

    def has_bucket(self, bucket: BucketId) -> bool:  # noqa: ARG002 - it is the one of its object
        """See ``Rows``."""
        return self.has

    def head(self, bucket: BucketId, key: Key) -> Version | None:
        """See ``Rows``. The floor is that of the key asked for last: a MOVE asks for its target last."""
        row = self.stored((bucket, key), HEAD)
        if row is not None and row.body is None:
            self.floor = row.seq
        return read_head(bucket, key, row)

    def row(self, bucket: BucketId, key: Key, version: VersionId) -> Version | Moved | None:
        """See ``Rows``."""
        return read_row(bucket, key, self.stored((bucket, key), version))

    # ------------------------------------------------------------ Rows: writing

    def write_head(self, head: Version) -> None:
        """See ``Rows``."""
        name, kept = (head.bucket, head.key), row_of(head, State.COMMITTED, head.seq, 0)
        self._write_head(name, kept)
        own = self.loaded[name].get(head.id)
        shown = self.head(*name)
        blind = shown is not None and shown.id == head.id
        after = replace(kept, rev=own.rev + 1 if own else 0)
        self._write(name, Edit(head.id, own, after, blind))

    def write_first_head(self, head: Version) -> bool:
        """See ``Rows``."""
        name = (head.bucket, head.key)
        if self.head(*name) is not None or self.stored(name, head.id) is not None:
            return False
        self.write_head(head)
        return True

    def remove_head(self, bucket: BucketId, key: Key) -> None:
        """See ``Rows``: the head's ``seq`` is the floor by now."""
        self._write_head((bucket, key), Row(NULL, self.floor, 0, None))

    def write_row(self, version: Version) -> None:
        """See ``Rows``. A row that was the head's until now is blind; its own ``rev`` begins anew with its state."""
        name = (version.bucket, version.key)
        shown = self.head(*name)
        own = None if shown and shown.id == version.id else self.stored(name, version.id)
        rev = own.rev + 1 if own and own.state == version.state else 0
        after = row_of(version, version.state, version.seq, rev)
        self._write(name, Edit(version.id, own, after, blind=bool(shown and shown.id == version.id)))
        self.left[version.id] = version

    def write_moved(self, version: Version, to: Key) -> None:
        """See ``Rows``. The row is written by ``moves``, which knows the rest."""

    def remove_row(self, bucket: BucketId, key: Key, version: VersionId) -> None:
        """See ``Rows``."""
        own = self.stored((bucket, key), version)
        if own is not None:
            self._write((bucket, key), Edit(version, own, None))

    def remove_moved(self, version: VersionId) -> None:
        """See ``Rows``. Done by ``moves`` before the version's own row goes."""

    def write_log(self, version: Version, *, removed: bool) -> None:
        """See ``Rows``."""
        self.logged.append((version, removed))

    def write_repair(self, repair: Repair) -> None:
        """See ``Rows``."""
        self.repairs.append(repair)

    def _write_head(self, name: Name, head: Row) -> None:
        """``rev`` counts from the head's ``seq``."""
        before = self.stored(name, HEAD)
        rev = before.rev + 1 if before and before.seq == head.seq else 0
        self._write(name, Edit(HEAD, before, replace(head, rev=rev)))

    def _write(self, name: Name, edit: Edit) -> None:
        self.wrote.setdefault(name, {})[edit.version] = edit


def read_head(bucket: BucketId, key: Key, row: Row | None) -> Version | None:
    """The version that a head's row shows. Raises: Corrupt."""
    return None if row is None or row.body is None else unpack(bucket, key, row.body, _parts(row))


def read_row(bucket: BucketId, key: Key, row: Row | None) -> Version | Moved | None:
    """A version's own row. Raises: Corrupt."""
    if row is None or row.body is None:
        return None
    if row.state == State.MOVED:
        return Moved(moved_to(row.body))
    return unpack(bucket, key, row.body, _parts(row))


def _parts(row: Row) -> Parts | None:
    """Those of a long manifest: a rule that saw it without them would write it without them."""
    assert row.parts is not None or not is_long(row.body), "rows are read whole"
    return row.parts


def moved_to(body: bytes) -> Key:
    """Where a version went whose row is MOVED: the first item of its journal."""
    return Key(msgpack.unpackb(body)[0])
