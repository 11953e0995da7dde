"""Reads a pack from one end to the other and finds every record that is whole, whatever lies between them.

Invariant: a record is reported only if its header, its data and its footer have the checksums they were written with.
What cannot be read counts as zeros, so that one bad sector costs the records on it and no others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crc32c import crc32c

from discloud.adapters.disk.files import Files
from discloud.adapters.disk.record import ALIGN, HEADER, MAGIC, Header, read_header
from discloud.core.model import KIB, MIB

_WINDOW = 4 * MIB
_PIECE = 4 * KIB


@dataclass(frozen=True, slots=True)
class Found:
    """A whole record. ``data`` and ``footer`` are valid until the next one is asked for."""

    header: Header
    data: memoryview
    footer: memoryview


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes that are no record. ``header`` tells which it was, where at least that can be read. ``blank``: only zeros."""

    start: int
    end: int
    header: Header | None = None
    blank: bool = False


class _Window:
    """A moving stretch of a file in memory."""

    def __init__(self, files: Files, fd: int, size: int) -> None:
        self._files, self._fd, self._size = files, fd, size
        self._start = 0
        self._data = bytearray()

    def view(self, position: int, length: int) -> memoryview:
        """Bytes of the file, fewer at its end."""
        if not self._start <= position <= position + length <= self._start + len(self._data):
            self._load(position, length)
        first = position - self._start
        return memoryview(self._data)[first : first + length]

    def find(self, position: int) -> int:
        """Where the next record may begin, from ``position``; the end of the file if nowhere."""
        while position < self._size:
            self.view(position, ALIGN)
            first = self._data.find(MAGIC, position - self._start)
            while first >= 0 and (self._start + first) % ALIGN:
                first = self._data.find(MAGIC, first + 1)
            if first >= 0:
                return self._start + first
            # The magic begins a sector, and a stretch ends with a sector or with the file: none is cut in two.
            position = self._start + len(self._data)
        return self._size

    def blank(self, start: int, end: int) -> bool:
        """Are there only zeros?"""
        while start < end:
            view = self.view(start, min(_WINDOW, end - start))
            if bytes(view) != bytes(view.nbytes):
                return False
            start += view.nbytes
        return True

    def _load(self, position: int, length: int) -> None:
        wanted = min(max(length, _WINDOW), self._size - position)
        # A new buffer each time: views of the old one may still be looked at.
        self._start, self._data = position, bytearray(max(0, wanted))
        view = memoryview(self._data)
        try:
            self._files.read(self._fd, view, position)
        except OSError:
            self._load_pieces(view, position)

    def _load_pieces(self, view: memoryview, position: int) -> None:
        for first in range(0, view.nbytes, _PIECE):
            piece = view[first : first + _PIECE]
            try:
                self._files.read(self._fd, piece, position + first)
            except OSError:
                piece[:] = bytes(piece.nbytes)


def scan(files: Files, fd: int, size: int, start: int, salt: bytes | None) -> Iterator[Found | Gap]:
    """Records and gaps of a pack of ``size`` bytes from ``start`` on, in order, without holes between them.

    Raises: OSError only where the file cannot be read at all.
    """
    window = _Window(files, fd, size)
    position = start
    while position < size:
        header = read_header(window.view(position, HEADER), salt, position)
        if header is None or position + header.size > size:
            end = window.find(position + ALIGN)
            yield Gap(position, end, header, window.blank(position, end))
            position = end
            continue
        yield _record(window, header)
        position += header.size


def _record(window: _Window, header: Header) -> Found | Gap:
    body = window.view(header.position + HEADER, header.data + header.footer)
    data, footer = body[: header.data], body[header.data :]
    if crc32c(data) == header.data_sum and crc32c(footer) == header.footer_sum:
        return Found(header, data, footer)
    return Gap(header.position, header.position + header.size, header)
