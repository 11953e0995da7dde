"""The one thread that writes packs: takes all that waits, one pwritev, one fdatasync, one wake-up for all.

Invariants: the index shows a blob only after the fdatasync that made it durable; a batch that could not be written leaves
nothing behind; after an fdatasync that failed nothing is ever written again (what the kernel did with the pages is unknown).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crc32c import crc32c

from discloud.adapters.disk.files import FULL, Buffer, Files, failure, unknown
from discloud.adapters.disk.group_commit import Request
from discloud.adapters.disk.index import Index
from discloud.adapters.disk.packs import GROWTH, Pack, Packs
from discloud.adapters.disk.quarantine import Quarantine
from discloud.adapters.disk.record import (
    HEADER,
    PACK_HEAD,
    Header,
    Kind,
    PackHead,
    pack_header,
    pack_kill,
    read_kill,
    record_size,
)
from discloud.adapters.disk.space import Space
from discloud.errors import DiscloudError


@dataclass(frozen=True, slots=True)
class Record:
    """Something to be appended; ``sum`` is the CRC32C of ``data``."""

    kind: Kind
    key: bytes
    data: Buffer
    sum: int
    footer: bytes = b""
    created: float = 0.0


@dataclass(slots=True, eq=False)
class PackRequest(Request):
    """Something for the writer thread. Requests with the same ``key`` are done one after another."""

    @property
    def key(self) -> bytes | None:
        """The blob that it is about, if it is about one."""
        return None

    def records(self, writer: PackWriter) -> Sequence[Record]:  # noqa: ARG002 - some ask the writer
        """What has to be written for it, nothing if it is done already. Raises: Unavailable."""
        return ()

    def written(self, writer: PackWriter, record: Record, place: Header, pack: Pack) -> None:
        """One of its records is durable."""

    def finish(self, writer: PackWriter) -> None:
        """All that was written with it is durable and shown. Raises: NoSpace, Unavailable."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Up to where the packs' records are in the index, at one moment: (head, end, tombs) of each. ``active``: 0 = none yet."""

    next_seq: int
    active: int
    packs: tuple[tuple[PackHead, int, dict[int, int]], ...]


class PackWriter:
    """Appends to the active pack; everything here runs in the one writer thread, ``apply`` being its entrance.

    ``due`` is called when so many records were written that the index should be saved again. For compaction: ``deaths`` are
    the blobs that were killed in packs being copied, ``replaced_by`` names the copy of packs that are about to go.
    """

    def __init__(
        self,
        files: Files,
        packs: Packs,
        index: Index,
        quarantine: Quarantine,
        space: Space,
        clock: Callable[[], float],
        new_head: Callable[[], PackHead],
        pack_size: int,
        next_seq: int,
        active: Pack | None,
        due: Callable[[], None],
        due_every: int,
    ) -> None:
        self.files, self.packs, self.index = files, packs, index
        self.quarantine, self.space, self.clock = quarantine, space, clock
        self.deaths: dict[int, list[tuple[bytes, int]]] = {}
        self.replaced_by: dict[int, int] = {}
        self._new_head = new_head
        self._pack_size = pack_size
        self._next_seq = next_seq
        self._active = active
        self._due, self._due_every, self._since = due, due_every, 0

    def apply(self, batch: list[PackRequest]) -> None:
        """Do a batch."""
        for part in rounds(batch):
            self._round(part)
        self.space.measure()
        if self._since >= self._due_every:
            self._since = 0
            self._due()

    def tombstone(self, key: bytes, seq: int, number: int) -> Record:
        """The record that kills the blob's record ``seq`` in a pack, wherever compaction has copied it by now."""
        data = pack_kill(seq, self.replaced_by.get(number, number))
        return Record(Kind.TOMBSTONE, key, data, crc32c(data), created=self.clock())

    def killed(self, record: Record, place: Header, pack: Pack) -> None:
        """A tombstone is durable: it counts as long as the pack that it names is there."""
        seq, number = read_kill(record.data)
        pack.tombs[number] += place.size
        if number in self.deaths:
            self.deaths[number].append((record.key, seq))

    def mark(self) -> Mark:
        """Where every pack ends now."""
        packs = tuple((pack.head, pack.end, dict(pack.tombs)) for pack in self.packs)
        return Mark(self._next_seq, self._active.number if self._active else 0, packs)

    def _round(self, requests: list[PackRequest]) -> None:
        """Requests of which no two are about the same blob, in as many writes as packs are needed."""
        staged: list[tuple[PackRequest, Record]] = []
        size = 0
        for request in requests:
            for record in self._records(request):
                more = record_size(len(record.data), len(record.footer))
                if staged and not self._fits(size + more):
                    self._write(staged, size)
                    staged, size = [], 0
                staged.append((request, record))
                size += more
        if staged:
            self._write(staged, size)
        for request in requests:
            if request.error is None:
                try:
                    request.finish(self)
                except DiscloudError as error:
                    request.error = error

    def _records(self, request: PackRequest) -> Sequence[Record]:
        try:
            return request.records(self)
        except DiscloudError as error:
            request.error = error
            return ()

    def append(self, records: Sequence[Record], request: PackRequest) -> None:
        """Write records that a request finds necessary while it finishes. Raises: NoSpace, Unavailable."""
        if records:
            size = sum(record_size(len(each.data), len(each.footer)) for each in records)
            self._commit([(request, record) for record in records], size)

    def _fits(self, size: int) -> bool:
        return self._active is not None and self._active.end + size <= self._pack_size

    def _write(self, staged: list[tuple[PackRequest, Record]], size: int) -> None:
        try:
            self._commit(staged, size)
        except DiscloudError as error:
            for request, _ in staged:
                request.error = error

    def _commit(self, staged: list[tuple[PackRequest, Record]], size: int) -> None:
        """One write and one sync; then the index. Raises: NoSpace, Unavailable."""
        self.space.require_writable()
        pack = self._room(size)
        headers, buffers = self._lay_out(staged, pack)
        try:
            self.files.write(pack.handle.fd, buffers, pack.end)
        except OSError as error:
            self._undo(pack, error)
            raise failure(error, "writing small blobs") from error
        self._sync(pack)
        self.packs.extend(pack, size)
        self._since += len(staged)
        for (request, record), header in zip(staged, headers, strict=True):
            request.written(self, record, header, pack)

    def _lay_out(
        self, staged: list[tuple[PackRequest, Record]], pack: Pack
    ) -> tuple[list[Header], list[Buffer]]:
        headers: list[Header] = []
        buffers: list[Buffer] = []
        position = pack.end
        for _, record in staged:
            data, footer = len(record.data), len(record.footer)
            header = Header(
                record.kind, record.key, pack.head.salt, position, self._next_seq, record.created,
                data, footer, record.sum, crc32c(record.footer),
            )  # fmt: skip
            self._next_seq += 1
            size = header.size
            headers.append(header)
            buffers += (pack_header(header), record.data, record.footer, bytes(size - HEADER - data - footer))
            position += size
        return headers, buffers

    def _room(self, size: int) -> Pack:
        """The active pack with room for ``size`` bytes taken from the disk. Raises: NoSpace, Unavailable."""
        try:
            if not self._fits(size) and (self._active is None or self._active.end > PACK_HEAD):
                self._begin_pack()
            pack = self._active
            assert pack is not None
            if pack.end + size > pack.allocated:
                target = max(pack.end + size, min(pack.allocated + GROWTH, self._pack_size))
                self.files.allocate(pack.handle.fd, pack.allocated, target - pack.allocated)
                pack.allocated = target
        except OSError as error:
            if error.errno not in FULL:
                self.space.fail(error)
            raise failure(error, "making room for small blobs") from error
        return pack

    def _begin_pack(self) -> None:
        """Close the active pack, giving its unused room back, and open the next."""
        head = self._new_head()
        fd, path = self.packs.build(head)
        try:
            self.files.sync(fd)
            pack = self.packs.name(head, fd, path)
        except OSError:
            self.packs.discard(fd, path)
            raise
        closed, self._active = self._active, self.packs.adopt(pack)
        if closed is not None:
            self.files.truncate(closed.handle.fd, closed.end)

    def _sync(self, pack: Pack) -> None:
        try:
            self.files.sync(pack.handle.fd)
        except OSError as error:
            self.space.fail(error)
            raise unknown(error) from error

    def _undo(self, pack: Pack, error: OSError) -> None:
        """Let nothing of a write that failed be found by a later start."""
        if error.errno not in FULL:
            self.space.fail(error)
            return
        try:
            self.files.truncate(pack.handle.fd, pack.end)
            pack.allocated = pack.end
        except OSError as second:
            self.space.fail(second)


R = TypeVar("R", bound=PackRequest)


def rounds(batch: list[R]) -> Iterator[list[R]]:
    """The batch in rounds in which each blob occurs once, so that each request sees what the one before it did."""
    while batch:
        now: list[R] = []
        later: list[R] = []
        seen: set[bytes] = set()
        for request in batch:
            if request.key is None or request.key not in seen:
                now.append(request)
            else:
                later.append(request)
            if request.key is not None:
                seen.add(request.key)
        yield now
        batch = later
