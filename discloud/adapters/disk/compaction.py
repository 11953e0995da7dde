"""Gives dead bytes back: copies what still counts of one pack into a new one, with verification, then removes the old.

Invariants: at every moment a start finds each live record and no dead one alive. The new pack is durable before it has
its name; the old one is gone, durably, before any tombstone can refer to the new one. A start that finds both keeps the old.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from discloud import logs
from discloud.adapters.disk.files import Buffer, Files, failure
from discloud.adapters.disk.index import VERSION, Entry, Index, Sealed
from discloud.adapters.disk.pack_writer import Mark, PackRequest, PackWriter, Record, TakeMark, tombstone
from discloud.adapters.disk.packs import Pack, Packs
from discloud.adapters.disk.record import HEADER, PACK_HEAD, Header, Kind, PackHead, pack_header, read_kill
from discloud.adapters.disk.scan import Found, scan
from discloud.core.model import MIB
from discloud.errors import Corrupt, DiscloudError

_BATCH = 4 * MIB


@dataclass(slots=True, eq=False)
class Replace(PackRequest):
    """Let the rewritten pack take the old one's place; ``new`` None = nothing was left of it."""

    old: Pack
    new: Pack | None
    blobs: list[tuple[bytes, Entry, Entry]]
    seals: list[tuple[bytes, Sealed, Sealed]]

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """A copy that was dead on arrival is killed."""
        writer.count_tombstone(pack, record, place)

    def finish(self, writer: PackWriter) -> None:
        """Kill what died, switch the index, remove the old pack."""
        now = writer.clock()
        died = [tombstone(key, new, now) for key, old, new in self.blobs if writer.index.get(key) != old]
        writer.append(died, self)
        if self.new is not None:
            writer.packs.adopt(self.new)
        for key, old, new in self.blobs:
            writer.index.move(key, old, new)
        for version, was, now_at in self.seals:
            writer.index.move_seal(version, was, now_at)
        try:
            writer.packs.drop(self.old)
        except OSError as error:
            writer.fail(error)
            raise failure(error, f"removing {self.old.path.name}") from error
        writer.index.live.pop(self.old.number, None)


class Compaction:
    """Rewrites packs; one at a time, in a thread that may wait. ``ask`` has the pack writer do a request."""

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

    def run(self, dead_share: float) -> int:
        """Rewrite the pack with the most dead bytes, if their share is at least ``dead_share``; returns the bytes won.

        Raises: OSError, NoSpace, Unavailable; the old pack stays then.
        """
        pack = self._choose(dead_share)
        if pack is None:
            return 0
        head = PackHead(self._packs.next_number(), secrets.token_bytes(8), self._clock(), pack.number)
        fd, path = self._packs.build(head)
        copy = _Copy(self._files, self._packs, self._index, fd, head, pack)
        try:
            if not copy.fill(self._stopping):
                self._packs.discard(fd, path)
                return 0
        except OSError:
            self._packs.discard(fd, path)
            raise
        if copy.damaged:
            self._condemn_rest(pack, copy)
        if copy.end == PACK_HEAD:
            self._packs.discard(fd, path)
            self._ask(Replace(pack, None, [], []))
        else:
            self._switch(pack, self._packs.name(head, fd, path), copy)
        logs.info("pack_compacted", pack=pack.number, into=head.number, freed=pack.end - copy.end)
        return pack.end - copy.end

    def _choose(self, dead_share: float) -> Pack | None:
        mark = self._ask(TakeMark())
        assert isinstance(mark, Mark)
        best, most = None, 0.0
        for head, end, tombs in mark.packs:
            dead = end - PACK_HEAD - self._live(head.number, tombs)
            worth = head.number != mark.active and dead >= dead_share * (end - PACK_HEAD)
            if worth and dead >= most:
                best, most = head.number, dead
        return None if best is None else self._packs.get(best)

    def _live(self, number: int, tombs: dict[int, int]) -> int:
        """Bytes of a pack that a rewriting would have to copy."""
        needed = sum(size for killed, size in tombs.items() if killed != number and self._packs.get(killed))
        return self._index.live[number] + needed

    def _condemn_rest(self, pack: Pack, copy: _Copy) -> None:
        """Blobs that should lie in the pack but could not be copied: their bytes are damaged."""
        copied = {key for key, _, _ in copy.blobs}
        for key, entry in self._index.in_pack(pack.number):
            if key not in copied:
                self._condemn(key, entry, Corrupt(f"{pack.path.name} is damaged at {entry.position}"))

    def _switch(self, old: Pack, new: Pack, copy: _Copy) -> None:
        new.tombs.update(copy.tombs)
        try:
            self._ask(Replace(old, new, copy.blobs, copy.seals))
        except DiscloudError:
            if self._packs.get(new.number) is None:
                new.handle.retire()
                self._files.remove(new.path)
            raise


class _Copy:
    """What still counts of ``source``, being appended to the new pack of ``head``."""

    def __init__(
        self, files: Files, packs: Packs, index: Index, fd: int, head: PackHead, source: Pack
    ) -> None:
        self._files, self._packs, self._index, self._fd, self._head = files, packs, index, fd, head
        self._source = source
        self._buffers: list[Buffer] = []
        self._written = PACK_HEAD
        self.end = PACK_HEAD
        self.damaged = False
        self.blobs: list[tuple[bytes, Entry, Entry]] = []
        self.seals: list[tuple[bytes, Sealed, Sealed]] = []
        self.tombs: dict[int, int] = {}

    def fill(self, stopping: Callable[[], bool]) -> bool:
        """Copy all of it; False = it was stopped. Raises: OSError."""
        pack = self._source
        for found in scan(self._files, pack.handle.fd, pack.end, PACK_HEAD, pack.head.salt or None):
            if stopping():
                return False
            if not isinstance(found, Found):
                self.damaged = True
            elif self._counts(found):
                self._append(found)
        self._flush()
        return True

    def _counts(self, found: Found) -> bool:
        """Is this record the one that the index means? Notes where it will lie."""
        header, number = found.header, self._source.number
        if header.kind == Kind.BLOB:
            entry = self._index.get(header.key)
            if entry is None or (entry.pack, entry.position) != (number, header.position):
                return False
            self.blobs.append((header.key, entry, entry._replace(pack=self._head.number, position=self.end)))
            return True
        if header.kind == Kind.SEAL:
            version = header.key[:VERSION]
            sealed = self._index.seal_of(version)
            if sealed is None or (sealed.pack, sealed.position) != (number, header.position):
                return False
            self.seals.append((version, sealed, sealed._replace(pack=self._head.number, position=self.end)))
            return True
        _, killed = read_kill(found.data)
        if killed == number or self._packs.get(killed) is None:
            return False
        self.tombs[killed] = self.tombs.get(killed, 0) + header.size
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
