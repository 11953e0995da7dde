"""Gives dead bytes back: copies what still counts of some packs into a new one, with verification, then removes the old.

The new pack is made durable without a name; tombstones are written for what died while it was copied; then the new pack
gets its name, which is the moment from which a start believes it and removes the packs that it replaces.

Invariants: at every moment a start finds each live record and no dead one alive. A tombstone names the pack in which
a start would find what it kills, so it may go when that pack is gone.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from discloud import logs
from discloud.adapters.disk.files import Buffer, Files, failure
from discloud.adapters.disk.index import VERSION, Entry, Index
from discloud.adapters.disk.pack_requests import TakeMark
from discloud.adapters.disk.pack_writer import Mark, PackRequest, PackWriter, Record
from discloud.adapters.disk.packs import Pack, Packs
from discloud.adapters.disk.record import (
    HEADER,
    MERGED,
    PACK_HEAD,
    Header,
    Kind,
    PackHead,
    pack_header,
    read_kill,
)
from discloud.adapters.disk.scan import Found, scan
from discloud.core.model import MIB
from discloud.errors import Corrupt, DiscloudError

_BATCH = 4 * MIB
_SMALL_PACKS = 8
"""Small packs (a quarter of the pack size or less) from which on they are merged, so that their number stays bounded."""
_MOVE = struct.Struct(">26sIQQ")
"""A copied record: key, old pack, old position, new position. Packed, for a pack may hold half a million."""


@dataclass(slots=True, eq=False)
class Watch(PackRequest):
    """From now on take note of the blobs that are killed in these packs."""

    numbers: tuple[int, ...]

    def finish(self, writer: PackWriter) -> None:
        """An earlier watch ends."""
        writer.deaths = {number: [] for number in self.numbers}


@dataclass(slots=True, eq=False)
class Supersede(PackRequest):
    """Let the copy, durable but nameless, take the place of the packs that are watched."""

    head: PackHead
    fd: int
    path: Path

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """A copy that was dead on arrival is killed."""
        writer.killed(record, place, pack)

    def finish(self, writer: PackWriter) -> None:
        """Kill what died meanwhile, give the name, and let later tombstones mean the copy. Raises: NoSpace, Unavailable."""
        died = [each for deaths in writer.deaths.values() for each in deaths]
        writer.deaths = {}
        writer.replaced_by = dict.fromkeys(self.head.replaces, self.head.number)
        try:
            writer.append([writer.tombstone(key, seq, self.head.number) for key, seq in died], self)
            self.result = writer.packs.adopt(writer.packs.name(self.head, self.fd, self.path))
        except DiscloudError:
            writer.replaced_by = {}
            raise
        except OSError as error:
            # Whether the name is durable is unknown: nothing may be written that relies on it or on its absence.
            writer.space.fail(error)
            raise failure(error, "naming a compacted pack") from error


@dataclass(slots=True, eq=False)
class Forget(PackRequest):
    """The packs are removed, and no entry means them any more."""

    packs: list[Pack]

    def finish(self, writer: PackWriter) -> None:
        """Close them when their readers are done."""
        writer.deaths, writer.replaced_by = {}, {}
        for pack in self.packs:
            writer.packs.forget(pack)
            writer.index.live.pop(pack.number, None)


class Compaction:
    """Rewrites packs; one run at a time, in a thread that may wait. ``ask`` has the pack writer do a request."""

    def __init__(
        self,
        files: Files,
        packs: Packs,
        index: Index,
        clock: Callable[[], float],
        ask: Callable[[PackRequest], object],
        condemn: Callable[[bytes, Entry, Exception], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._files, self._packs, self._index, self._clock = files, packs, index, clock
        self._ask, self._condemn, self._stopping = ask, condemn, stopping

    def run(self, dead_share: float, pack_size: int) -> int:
        """Rewrite the packs whose share of dead bytes is at least ``dead_share``, or merge small ones; returns the bytes won.

        Raises: OSError, NoSpace, Unavailable; the old packs stay then.
        """
        olds = self._choose(dead_share, pack_size)
        if not olds:
            return 0
        self._ask(Watch(tuple(pack.number for pack in olds)))
        head = PackHead(
            self._packs.next_number(), secrets.token_bytes(8), self._clock(), tuple(p.number for p in olds)
        )
        fd, path = self._packs.build(head)
        copy = _Copy(self._files, self._packs, self._index, fd, head)
        try:
            whole = copy.fill(olds, self._stopping)
            if whole and copy.end > PACK_HEAD:
                self._files.sync(fd)
        except OSError:
            self._packs.discard(fd, path)
            raise
        if not whole or copy.end == PACK_HEAD:
            self._packs.discard(fd, path)
        if not whole:
            return 0
        if copy.damaged:
            self._condemn_rest(olds, copy)
        if copy.end > PACK_HEAD:
            self._switch(head, fd, path, copy)
        return self._remove(olds, copy.end)

    def _choose(self, dead_share: float, pack_size: int) -> list[Pack]:
        """The packs with many dead bytes, the most dead first, or else small ones; together they fit one pack."""
        mark = self._ask(TakeMark())
        assert isinstance(mark, Mark)
        dead: list[tuple[int, int, int]] = []
        small: list[tuple[int, int, int]] = []
        for head, end, tombs in mark.packs:
            if head.number == mark.active:
                continue
            size = end - PACK_HEAD
            live = self._live(head.number, tombs)
            if size - live >= dead_share * size:
                dead.append((live - size, live, head.number))
            elif end <= pack_size // 4:
                small.append((live - size, live, head.number))
        chosen = dead or (small if len(small) >= _SMALL_PACKS else [])
        return self._fitting(sorted(chosen), pack_size)

    def _fitting(self, chosen: list[tuple[int, int, int]], pack_size: int) -> list[Pack]:
        packs: list[Pack] = []
        total = 0
        for _, live, number in chosen[:MERGED]:
            total += live
            pack = self._packs.get(number)
            if pack is not None and (total <= pack_size or not packs):
                packs.append(pack)
        return packs

    def _live(self, number: int, tombs: dict[int, int]) -> int:
        """Bytes of a pack that a rewriting would have to copy."""
        needed = sum(size for killed, size in tombs.items() if killed != number and self._packs.get(killed))
        return self._index.live[number] + needed

    def _condemn_rest(self, olds: list[Pack], copy: _Copy) -> None:
        """Blobs that should lie in the packs but could not be copied: their bytes are damaged."""
        copied = {_MOVE.unpack(row)[0] for row in copy.blobs}
        for pack in olds:
            for key, entry in self._index.in_pack(pack.number):
                if key not in copied:
                    self._condemn(key, entry, Corrupt(f"{pack.path.name} is damaged at {entry.position}"))

    def _switch(self, head: PackHead, fd: int, path: Path, copy: _Copy) -> None:
        """Publish the copy, then let the index mean it. Raises: NoSpace, Unavailable."""
        supersede = Supersede(head, fd, path)
        try:
            new = self._ask(supersede)
        except DiscloudError:
            if self._packs.get(head.number) is None:
                self._packs.discard(fd, path)
            raise
        assert isinstance(new, Pack)
        new.tombs.update(copy.tombs)
        for row in copy.blobs:
            key, number, position, place = _MOVE.unpack(row)
            entry = self._index.get(key)
            if entry is not None and (entry.pack, entry.position) == (number, position):
                self._index.move(key, entry, entry._replace(pack=head.number, position=place))
        for row in copy.seals:
            key, number, position, place = _MOVE.unpack(row)
            sealed = self._index.seal_of(key[:VERSION])
            if sealed is not None and (sealed.pack, sealed.position) == (number, position):
                self._index.move_seal(
                    key[:VERSION], sealed, sealed._replace(pack=head.number, position=place)
                )

    def _remove(self, olds: list[Pack], end: int) -> int:
        """Remove the packs that were rewritten. Raises: OSError."""
        for pack in olds:
            self._files.remove(pack.path)
        self._packs.sync()
        self._ask(Forget(olds))
        freed = sum(pack.end for pack in olds) - (end if end > PACK_HEAD else 0)
        logs.info("packs_compacted", packs=[pack.number for pack in olds], freed=freed)
        return freed


class _Copy:
    """What still counts of some packs, being appended to the new pack of ``head``."""

    def __init__(self, files: Files, packs: Packs, index: Index, fd: int, head: PackHead) -> None:
        self._files, self._packs, self._index, self._fd, self._head = files, packs, index, fd, head
        self._buffers: list[Buffer] = []
        self._written = PACK_HEAD
        self.end = PACK_HEAD
        self.damaged = False
        self.blobs: list[bytes] = []
        self.seals: list[bytes] = []
        self.tombs: dict[int, int] = {}

    def fill(self, packs: list[Pack], stopping: Callable[[], bool]) -> bool:
        """Copy all of them; False = it was stopped. Raises: OSError."""
        for pack in packs:
            for found in scan(self._files, pack.handle.fd, pack.end, PACK_HEAD, pack.head.salt or None):
                if stopping():
                    return False
                if not isinstance(found, Found):
                    self.damaged = True
                elif self._counts(found, pack.number):
                    self._append(found)
            self._flush()
        return True

    def _counts(self, found: Found, number: int) -> bool:
        """Is this record the one that the index means, or a tombstone of use? Notes where it will lie."""
        header = found.header
        if header.kind == Kind.TOMBSTONE:
            _, killed = read_kill(found.data)
            if killed in self._head.replaces or self._packs.get(killed) is None:
                return False
            self.tombs[killed] = self.tombs.get(killed, 0) + header.size
            return True
        is_blob = header.kind == Kind.BLOB
        place = self._index.get(header.key) if is_blob else self._index.seal_of(header.key[:VERSION])
        if place is None or (place.pack, place.position) != (number, header.position):
            return False
        row = _MOVE.pack(header.key, number, header.position, self.end)
        (self.blobs if is_blob else self.seals).append(row)
        return True

    def _append(self, found: Found) -> None:
        header = found.header._replace(salt=self._head.salt, position=self.end)
        padding = bytes(header.size - HEADER - header.data - header.footer)
        self._buffers += (pack_header(header), found.data, found.footer, padding)
        self.end += header.size
        if self.end - self._written >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        self._files.write(self._fd, self._buffers, self._written)
        self._written = self.end
        self._buffers = []
