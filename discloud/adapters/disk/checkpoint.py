"""The saved index: what a start reads so that it need not read every pack.

Only a help: a checkpoint that is missing or damaged costs a scan of all packs, never a blob. It may hold changes that
are newer than its mark: replaying the packs from the mark on comes to the same result.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
from crc32c import crc32c

from discloud import logs
from discloud.adapters.disk.files import Buffer, Files
from discloud.adapters.disk.index import ENTRY, SEALED, VERSION, Index
from discloud.adapters.disk.pack_writer import Mark
from discloud.adapters.disk.record import KEY
from discloud.core.model import MIB

MAGIC = b"dcC1"
_HEAD = struct.Struct(">4sQQI")
_SUM = struct.Struct(">I")
_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A saved index. ``packs``: salt, end and tombs by number; entries and seals as ``Index`` keeps them."""

    next_seq: int
    packs: dict[int, tuple[bytes, int, dict[int, int]]]
    entries: dict[bytes, bytes]
    seals: dict[bytes, bytes]


def save(files: Files, temp: Path, path: Path, mark: Mark, index: Index) -> None:
    """Write the index beside the old one and put it in its place. Blocks. Raises: OSError (the old one stays)."""
    target = temp / path.name
    fd = files.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        position = checksum = 0
        for piece in _pieces(mark, index):
            files.write(fd, [piece], position)
            checksum = crc32c(piece, checksum)
            position += len(piece)
        files.write(fd, [_SUM.pack(checksum)], position)
        files.sync(fd)
    finally:
        files.close(fd)
    files.rename(target, path)
    files.sync_folder(path.parent)


def load(files: Files, path: Path) -> Checkpoint | None:
    """The saved index, None where there is none that is whole."""
    try:
        fd = files.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        return _Loader(files, fd).load()
    except (OSError, ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
        logs.warn("checkpoint_unusable", reason=str(error), effect="all packs are read")
        return None
    finally:
        files.close(fd)


def _pieces(mark: Mark, index: Index) -> Iterator[bytes]:
    entries, seals = index.packed()
    packs = msgpack.packb([[head.number, head.salt, end, tombs] for head, end, tombs in mark.packs])
    yield _HEAD.pack(MAGIC, mark.next_seq, len(entries), len(packs)) + packs
    yield from _rows(entries)
    yield struct.pack(">Q", len(seals))
    yield from _rows(seals)


def _rows(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    piece = bytearray()
    for key, value in rows:
        piece += key
        piece += value
        if len(piece) >= MIB:
            yield bytes(piece)
            piece.clear()
    yield bytes(piece)


class _Loader:
    """Reads a checkpoint from its beginning, summing what it reads."""

    def __init__(self, files: Files, fd: int) -> None:
        self._files, self._fd = files, fd
        self._position = self._sum = 0

    def load(self) -> Checkpoint:
        magic, next_seq, count, length = _HEAD.unpack(self._take(_HEAD.size))
        if magic != MAGIC:
            raise ValueError("not a checkpoint of this version")
        packs: list[Any] = msgpack.unpackb(self._take(length), strict_map_key=False)
        entries = self._table(count, KEY, ENTRY)
        seals = self._table(struct.unpack(">Q", self._take(8))[0], VERSION, SEALED)
        expected = self._sum
        if _SUM.unpack(self._take(_SUM.size))[0] != expected:
            raise ValueError("the checksum is wrong")
        places = {number: (salt, end, tombs) for number, salt, end, tombs in packs}
        return Checkpoint(next_seq, places, entries, seals)

    def _table(self, count: int, key: int, value: int) -> dict[bytes, bytes]:
        table: dict[bytes, bytes] = {}
        row = key + value
        while count:
            rows = min(count, _ROWS)
            data = self._take(rows * row)
            for first in range(0, len(data), row):
                middle = first + key
                table[data[first:middle]] = data[middle : first + row]
            count -= rows
        return table

    def _take(self, length: int) -> bytes:
        buffer: Buffer = bytearray(length)
        if self._files.read(self._fd, memoryview(buffer), self._position) != length:
            raise ValueError("it ends too early")
        self._position += length
        self._sum = crc32c(buffer, self._sum)
        return bytes(buffer)
