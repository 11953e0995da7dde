"""What the rules of ``heads`` need from whoever keeps the rows of objects (memory, SQLite).

A version is in exactly one row: as the head of its key, or beside it while it is a draft or dead. A key that a version
was moved away from keeps a ``Moved`` row beside its head for as long as the version itself is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from discloud.core.model import BucketId, Key, Repair, Version, VersionId


@dataclass(frozen=True, slots=True)
class Moved:
    """What stays at a key whose version went to another key of the bucket."""

    to: Key


class Torn(Exception):
    """Rows that were read at different moments contradict each other: they must be read again."""


class ReadRows(Protocol):
    """The rows at one moment."""

    def head(self, bucket: BucketId, key: Key) -> Version | None:
        """The head of the key, None = null or never was."""

    def row(self, bucket: BucketId, key: Key, version: VersionId) -> Version | Moved | None:
        """The row beside the head."""


class Rows(ReadRows, Protocol):
    """The rows inside one transaction; no call blocks on anybody else, none is seen by others before its end."""

    floor: int
    """The highest ``seq`` of a head that became null: a later head is above it, so I3 needs no row of a null head."""

    def has_bucket(self, bucket: BucketId) -> bool:
        """Whether a bucket of that id exists."""

    def write_head(self, head: Version) -> None:
        """Make ``head`` the head of its key."""

    def write_first_head(self, head: Version) -> bool:
        """``write_head`` if its key has no head and the version no row at it; False = nothing was written."""

    def remove_head(self, bucket: BucketId, key: Key) -> None:
        """Make the head of the key null."""

    def write_row(self, version: Version) -> None:
        """Write a row beside the head, in place of the version's row there."""

    def write_moved(self, version: Version, to: Key) -> None:
        """Write what stays at ``version.key``."""

    def remove_row(self, bucket: BucketId, key: Key, version: VersionId) -> None:
        """Remove a row beside the head, if it is there."""

    def remove_moved(self, version: VersionId) -> None:
        """Remove what the version left at its former keys."""

    def write_log(self, version: Version, *, removed: bool) -> None:
        """Append to the ``all`` log."""

    def write_repair(self, repair: Repair) -> None:
        """Queue a repair in place of one of the same blob."""
