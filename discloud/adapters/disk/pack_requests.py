"""What the pack writer can be asked for: put, delete, condemn, seal, and where the packs end.

Invariant: a request changes the index only when its records are durable. All of it runs in the writer's thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from discloud.adapters.disk.index import Entry, Sealed
from discloud.adapters.disk.pack_writer import PackRequest, PackWriter, Record
from discloud.adapters.disk.packs import Pack
from discloud.adapters.disk.record import Header, blob_of


@dataclass(slots=True, eq=False)
class Put(PackRequest):
    """Keep a small blob; the result says whether it is new."""

    record: Record

    @property
    def key(self) -> bytes:
        """The blob's."""
        return self.record.key

    def records(self, writer: PackWriter) -> Sequence[Record]:
        """The blob, unless it is there."""
        self.result = writer.index.get(self.key) is None
        return (self.record,) if self.result else ()

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """Show it."""
        entry = Entry(
            pack.number, place.position, place.data, place.footer, place.data_sum, place.seq, place.created
        )
        writer.index.add(record.key, entry)


@dataclass(slots=True, eq=False)
class Delete(PackRequest):
    """Remove a small blob."""

    blob: bytes

    @property
    def key(self) -> bytes:
        """The blob's."""
        return self.blob

    def records(self, writer: PackWriter) -> Sequence[Record]:
        """A tombstone, unless the blob is gone. On a broken disk nothing is certainly gone."""
        writer.space.require_writable()
        entry = writer.index.get(self.blob)
        return () if entry is None else (writer.tombstone(self.blob, entry.seq, entry.pack),)

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """Hide it."""
        entry = writer.index.get(record.key)
        if entry is not None:
            writer.killed(record, place, pack)
            writer.index.remove(record.key, entry)


@dataclass(slots=True, eq=False)
class Condemn(PackRequest):
    """Put a rotten small blob aside for good; the index has dropped it already."""

    blob: bytes
    entry: Entry

    def records(self, writer: PackWriter) -> Sequence[Record]:
        """A tombstone, so that it does not rise again after a start."""
        writer.quarantine.keep(f"{blob_of(self.blob)}.record", writer.packs.read_raw(self.entry))
        return (writer.tombstone(self.blob, self.entry.seq, self.entry.pack),)

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """Count the tombstone."""
        writer.killed(record, place, pack)
        writer.index.condemned.discard(self.blob)


@dataclass(slots=True, eq=False)
class AppendSeals(PackRequest):
    """Keep seals; each with its ``seq``."""

    seals: Sequence[tuple[Record, int]]

    def records(self, writer: PackWriter) -> Sequence[Record]:
        """Those that tell something new."""
        return [record for record, seq in self.seals if self._news(writer, record, seq)]

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """Let the newest count."""
        seq = next(seq for each, seq in self.seals if each is record)
        sealed = Sealed(seq, pack.number, place.position, place.size, int(place.created))
        writer.index.seal(record.key[:16], sealed)

    @staticmethod
    def _news(writer: PackWriter, record: Record, seq: int) -> bool:
        known = writer.index.seal_of(record.key[:16])
        return known is None or known.seq <= seq


@dataclass(slots=True, eq=False)
class TakeMark(PackRequest):
    """Ask for a ``Mark``: the result."""

    def records(self, writer: PackWriter) -> Sequence[Record]:
        """Nothing to write: between two batches all is quiet."""
        self.result = writer.mark()
        return ()
