"""Brings a disk's folder back to a known state: what every start does, after a clean stop as after a power cut.

Invariants: every record that was durable is in the index unless a tombstone kills it; nothing that is not whole is;
what was damaged lies in the quarantine and is told. Blocking; runs in a thread, before anybody else touches the folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from discloud import logs, metrics
from discloud.adapters.disk import checkpoint
from discloud.adapters.disk.checkpoint import Checkpoint
from discloud.adapters.disk.files import Files, Handle
from discloud.adapters.disk.index import (
    FILE,
    Entry,
    Index,
    Sealed,
    pack_entry,
    pack_sealed,
    read_entry,
    read_sealed,
)
from discloud.adapters.disk.large import LargeFiles, read_file_footer
from discloud.adapters.disk.packs import Pack, Packs
from discloud.adapters.disk.quarantine import Quarantine
from discloud.adapters.disk.record import (
    PACK_HEAD,
    PACK_MAGIC,
    TRAILER,
    Header,
    Kind,
    PackHead,
    blob_of,
    key_of,
    read_kill,
    read_pack_head,
    read_seal,
)
from discloud.adapters.disk.scan import Found, Gap, scan
from discloud.core.model import BlobId, SegmentId, VersionId
from discloud.errors import Conflict, Invalid

_ALWAYS = 2**64
"""Above every seq: what no tombstone kills."""
_PACK_NAME = re.compile(r"(\d{10})\.pack")
_BLOB_NAME = re.compile(r"([0-9a-f-]{36})\.([0-9a-f]{16})\.(\d{1,5})")


@dataclass(slots=True)
class Recovered:
    """What a start found. ``active``: the pack to go on with; ``lost``: blobs of which only damaged bytes were found."""

    active: Pack | None
    next_seq: int
    lost: list[BlobId]


@dataclass(slots=True)
class _Replay:
    """Records in whatever order the packs come; the highest ``seq`` that no tombstone kills counts."""

    entries: dict[bytes, bytes]
    seals: dict[bytes, bytes]
    next_seq: int
    kills: dict[bytes, int] = field(default_factory=dict)

    def apply(self, found: Found, pack: Pack) -> None:
        """Take a record in."""
        header = found.header
        self.next_seq = max(self.next_seq, header.seq + 1)
        if header.kind == Kind.BLOB:
            self._blob(header, pack.number)
        elif header.kind == Kind.TOMBSTONE:
            self._tombstone(found, pack)
        elif header.kind == Kind.SEAL:
            self._seal(found, pack.number)

    def _blob(self, header: Header, pack: int) -> None:
        known = self.entries.get(header.key)
        if self.kills.get(header.key, -1) >= header.seq or (known and read_entry(known).seq > header.seq):
            return
        self.entries[header.key] = pack_entry(
            Entry(
                pack, header.position, header.data, header.footer, header.data_sum, header.seq, header.created
            )
        )

    def _tombstone(self, found: Found, pack: Pack) -> None:
        seq, killed = read_kill(found.data)
        key = found.header.key
        pack.tombs[killed] += found.header.size
        self.kills[key] = max(seq, self.kills.get(key, -1))
        known = self.entries.get(key)
        if known is not None and read_entry(known).pack != FILE and read_entry(known).seq <= seq:
            del self.entries[key]

    def _seal(self, found: Found, pack: int) -> None:
        header = found.header
        seal = read_seal(found.data)
        known = self.seals.get(header.key[:16])
        if known is None or read_sealed(known).seq <= seal.seq:
            sealed = Sealed(seal.seq, pack, header.position, header.size, int(header.created))
            self.seals[header.key[:16]] = pack_sealed(sealed)


class Recovery:
    """One start of one folder: ``run`` fills ``packs`` and ``index``."""

    def __init__(
        self,
        files: Files,
        packs: Packs,
        large: LargeFiles,
        index: Index,
        quarantine: Quarantine,
        pack_size: int,
    ) -> None:
        self._files, self._packs, self._large, self._index = files, packs, large, index
        self._quarantine = quarantine
        self._pack_size = pack_size
        self._lost: list[tuple[bytes, int]] = []

    def run(self, folder: Path, saved: Path) -> Recovered:
        """Read the checkpoint, then what came after it. Raises: Conflict (a newer version's format), OSError."""
        packs = self._open_packs(folder)
        found = self._load(saved, packs)
        covered = {pack.number: found.packs[pack.number][1] for pack in packs if pack.number in found.packs}
        replay = _Replay(
            {k: v for k, v in found.entries.items() if (p := read_entry(v).pack) == FILE or p in covered},
            {k: v for k, v in found.seals.items() if read_sealed(v).pack in covered},
            found.next_seq,
        )
        active = self._newest(packs)
        for pack in packs:
            if pack.number in covered:
                pack.tombs.update(found.packs[pack.number][2])
            self._read_pack(pack, covered.get(pack.number, PACK_HEAD), replay, active=pack is active)
        self._read_files(replay.entries)
        self._index.load(replay.entries, replay.seals)
        usable = active is not None and active.head.salt and active.end < self._pack_size
        return Recovered(active if usable else None, replay.next_seq, self._missing(replay))

    def _missing(self, replay: _Replay) -> list[BlobId]:
        """Blobs whose bytes are damaged, of which there is no other record here and that nobody removed."""
        return [
            blob_of(key)
            for key, seq in self._lost
            if key not in replay.entries and replay.kills.get(key, -1) < seq
        ]

    # ---------------------------------------------------------------- packs

    def _open_packs(self, folder: Path) -> list[Pack]:
        """Every pack in the order of their numbers, without those that a compacted one replaces."""
        paths = {
            int(match[1]): path for path in folder.iterdir() if (match := _PACK_NAME.fullmatch(path.name))
        }
        packs = [self._open_pack(number, path) for number, path in sorted(paths.items())]
        replaced = {number for pack in packs for number in pack.head.replaces}
        for pack in packs:
            if pack.number in replaced:
                # Compaction had published the copy, but did not come to remove the original.
                pack.handle.retire()
                self._files.remove(pack.path)
            else:
                self._packs.adopt(pack)
        return list(self._packs)

    def _open_pack(self, number: int, path: Path) -> Pack:
        fd = self._files.open(path, os.O_RDWR)
        data = bytearray(PACK_HEAD)
        self._files.read(fd, memoryview(data), 0)
        if data[:3] == PACK_MAGIC[:3] and data[:4] != PACK_MAGIC:
            self._files.close(fd)
            raise Conflict(
                f"{path.name} has a format that this version does not know",
                "Start the newer version of discloud.",
            )
        head = read_pack_head(bytes(data))
        if head is None:
            logs.error("pack_head_damaged", pack=number)
            head = PackHead(number, b"", 0.0)
        return Pack(head, path, Handle(self._files, fd))

    def _load(self, saved: Path, packs: list[Pack]) -> Checkpoint:
        """The checkpoint, an empty one where it does not fit the packs that it names and that are still there."""
        found = checkpoint.load(self._files, saved)
        if found is None:
            return Checkpoint(1, {}, {}, {})
        for pack in packs:
            salt, end, _ = found.packs.get(pack.number, (pack.head.salt, 0, {}))
            if salt != pack.head.salt or end > self._files.size(pack.handle.fd):
                # Tombstones before its marks would be missed if only this pack were read anew: read all.
                logs.warn(
                    "checkpoint_unusable",
                    reason=f"{pack.path.name} is not as it was",
                    effect="all packs are read",
                )
                return Checkpoint(1, {}, {}, {})
        return found

    @staticmethod
    def _newest(packs: list[Pack]) -> Pack | None:
        """The pack that was appended to last; rewritten ones never are."""
        return next((pack for pack in reversed(packs) if not pack.head.replaces), None)

    def _read_pack(self, pack: Pack, start: int, replay: _Replay, *, active: bool) -> None:
        """Take in what the pack holds from ``start``, put damage aside and cut the end off behind the last whole record."""
        fd = pack.handle.fd
        size = self._files.size(fd)
        self._packs.extend(pack, start - pack.end)
        gaps: list[Gap] = []
        for found in scan(self._files, fd, size, start, pack.head.salt or None):
            if isinstance(found, Gap):
                gaps.append(found)
                continue
            for gap in gaps:
                self._put_aside(pack, gap, torn=False)
            gaps = []
            replay.apply(found, pack)
            self._packs.extend(pack, found.header.position + found.header.size - pack.end)
        for gap in gaps:
            self._put_aside(pack, gap, torn=active)
        if not active or any(not gap.blank for gap in gaps):
            # What is left of a torn write must not be found again behind later records.
            self._cut(pack, size)
        pack.allocated = max(pack.end, self._files.size(fd))

    def _cut(self, pack: Pack, size: int) -> None:
        if size > pack.end:
            self._files.truncate(pack.handle.fd, pack.end)
            self._files.sync(pack.handle.fd)

    def _put_aside(self, pack: Pack, gap: Gap, *, torn: bool) -> None:
        """Keep a copy of damaged bytes. ``torn``: the end of the last write, which nobody was told to be durable."""
        if gap.blank:
            return
        with_header = gap.header if gap.header is not None and gap.header.kind == Kind.BLOB else None
        if with_header is not None:
            self._lost.append((with_header.key, with_header.seq))
        logs.warn("pack_torn" if torn else "pack_damaged", pack=pack.number, start=gap.start, end=gap.end)
        if not torn:
            metrics.CORRUPT_BLOCKS.add()
        buffer = bytearray(gap.end - gap.start)
        try:
            self._files.read(pack.handle.fd, memoryview(buffer), gap.start)
        except OSError as error:
            logs.warn("quarantine_failed", name=pack.path.name, reason=str(error))
        self._quarantine.keep(f"{pack.path.name}.{gap.start}", bytes(buffer))

    # ---------------------------------------------------------------- large blobs

    def _read_files(self, entries: dict[bytes, bytes]) -> None:
        """Let the folder decide which large blobs there are; only those that the checkpoint does not know are opened."""
        present: set[bytes] = set()
        for path in self._paths():
            match = _BLOB_NAME.fullmatch(path.name)
            key = self._key(match) if match else None
            if key is None:
                self._set_aside(path)
                continue
            known = entries.get(key)
            if (known is not None and read_entry(known).pack == FILE) or self._read_file(path, key, entries):
                present.add(key)
        for key in [
            key for key, each in entries.items() if read_entry(each).pack == FILE and key not in present
        ]:
            del entries[key]

    def _set_aside(self, path: Path) -> None:
        try:
            self._quarantine.take(path)
        except OSError as error:  # it stays where it is; the index does not name it
            logs.warn("quarantine_failed", name=path.name, reason=str(error))

    def _paths(self) -> Iterator[Path]:
        for folder in sorted(self._large.folder.iterdir()):
            yield from (Path(entry) for entry in os.scandir(folder))

    @staticmethod
    def _key(match: re.Match[str]) -> bytes | None:
        try:
            return key_of(BlobId(VersionId(match[1]), SegmentId(int(match[2], 16)), int(match[3])))
        except Invalid:
            return None

    def _read_file(self, path: Path, key: bytes, entries: dict[bytes, bytes]) -> bool:
        fd = self._files.open(path, os.O_RDONLY)
        try:
            size = self._files.size(fd)
            footer = read_file_footer(self._files, fd, size)
        except (OSError, ValueError) as error:
            logs.warn("blob_damaged", blob=str(blob_of(key)), reason=str(error))
            metrics.CORRUPT_BLOCKS.add()
            self._lost.append((key, _ALWAYS))
            self._set_aside(path)
            return False
        finally:
            self._files.close(fd)
        packed = size - footer.length - TRAILER.size
        entries[key] = pack_entry(Entry(FILE, 0, footer.length, packed, 0, 0, footer.created))
        return True
