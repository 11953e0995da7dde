"""The bytes of a pack's records and of blobs' footers (docs/formats/disk.md shows them as drawings).

Invariant: a record is only taken for one at the place it was written to. Its header holds the pack's random salt and its
own position, so the bytes of a pack that somebody uploads as an object never pass for records of ours. Pure: no I/O.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack
from crc32c import crc32c

from discloud.core.model import KIB, BlobId, Label, Seal, SegmentId, VersionId
from discloud.core.records import from_record, to_record
from discloud.errors import Invalid

ALIGN = 512
"""Records begin at multiples of this: a sector, the unit that a disk writes whole."""
BLOCK = 256 * KIB
"""Bytes that one checksum of a large blob covers."""
MAGIC = b"dcR1"
PACK_MAGIC = b"dcP1"
FILE_MAGIC = b"dcF1\r\n\x1a\n"
FOOTER_VERSION = 1
_HEADER = struct.Struct(">4sBx26s8sQQdIIII")
_SUM = struct.Struct(">I")
HEADER = _HEADER.size + _SUM.size
_PACK = struct.Struct(">4sI8sdI")
PACK_HEAD = ALIGN
MERGED = 100
"""Packs that compaction may merge into one: their numbers fit the pack's head."""
TRAILER = struct.Struct(">II8s")
_ID = struct.Struct(">16sQH")
KEY = _ID.size
_KILL = struct.Struct(">QI")


class Kind(IntEnum):
    """What a record says."""

    BLOB = 1
    TOMBSTONE = 2
    SEAL = 3


class Header(NamedTuple):
    """A record's header. ``seq`` grows with each record of a node; ``data`` and ``footer`` are lengths."""

    kind: int
    key: bytes
    salt: bytes
    position: int
    seq: int
    created: float
    data: int
    footer: int
    data_sum: int
    footer_sum: int

    @property
    def size(self) -> int:
        """Bytes of the whole record, up to the next."""
        return record_size(self.data, self.footer)


@dataclass(frozen=True, slots=True)
class Footer:
    """What a blob tells of itself: enough to rebuild its name from the disk alone. ``sums``: CRC32C of each block, 4 bytes each."""

    blob: BlobId
    length: int
    hash: bytes
    created: float
    sums: bytes
    label: Label


@dataclass(frozen=True, slots=True)
class PackHead:
    """The first sector of a pack. ``replaces``: the packs that compaction rewrote as this one."""

    number: int
    salt: bytes
    created: float
    replaces: tuple[int, ...] = ()


def key_of(blob: BlobId) -> bytes:
    """A blob's id as 26 bytes that sort as ids do. Raises: Invalid (no UUID, or a number out of range)."""
    version = blob.version
    try:
        raw = bytes.fromhex(version.replace("-", ""))
        key = _ID.pack(raw, blob.segment, blob.fragment)
    except (ValueError, struct.error) as error:
        raise Invalid(f"{blob} is not the id of a blob") from error
    if len(raw) != 16 or version != _uuid(raw):
        raise Invalid(f"{blob} is not the id of a blob: the version is not a UUID in lower case")
    return key


def blob_of(key: bytes) -> BlobId:
    """The id that ``key_of`` packed."""
    raw, segment, fragment = _ID.unpack(key)
    return BlobId(VersionId(_uuid(raw)), SegmentId(segment), fragment)


def _uuid(raw: bytes) -> str:
    """The text of a UUID, five times faster than ``uuid.UUID`` gives it."""
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def record_size(data: int, footer: int) -> int:
    """Bytes that a record takes with its padding."""
    return -(-(HEADER + data + footer) // ALIGN) * ALIGN


def pack_header(header: Header) -> bytes:
    """The header with its checksum."""
    packed = _HEADER.pack(MAGIC, *header)
    return packed + _SUM.pack(crc32c(packed))


def read_header(data: memoryview, salt: bytes | None, position: int) -> Header | None:
    """The header at the beginning of ``data``, None where there is none of this pack for this ``position``.

    ``salt`` None = the pack's salt is not known (its first sector is damaged): any passes.
    """
    if len(data) < HEADER or data[:4] != MAGIC:
        return None
    if crc32c(data[: _HEADER.size]) != _SUM.unpack_from(data, _HEADER.size)[0]:
        return None
    header = Header._make(_HEADER.unpack_from(data)[1:])
    known = salt is None or header.salt == salt
    return header if known and header.position == position else None


def pack_head(head: PackHead) -> bytes:
    """The first sector of a pack."""
    packed = _PACK.pack(PACK_MAGIC, head.number, head.salt, head.created, len(head.replaces))
    packed += struct.pack(f">{len(head.replaces)}I", *head.replaces)
    packed = packed.ljust(PACK_HEAD - _SUM.size, b"\0")
    return packed + _SUM.pack(crc32c(packed))


def read_pack_head(data: bytes) -> PackHead | None:
    """The head of a pack, None where it is damaged."""
    if len(data) != PACK_HEAD or data[:4] != PACK_MAGIC:
        return None
    if crc32c(data[: -_SUM.size]) != _SUM.unpack_from(data, PACK_HEAD - _SUM.size)[0]:
        return None
    _, number, salt, created, count = _PACK.unpack_from(data)
    return PackHead(number, salt, created, struct.unpack_from(f">{count}I", data, _PACK.size))


def pack_footer(footer: Footer) -> bytes:
    """The footer as msgpack."""
    blob = footer.blob
    packed: bytes = msgpack.packb([
        FOOTER_VERSION, blob.version, blob.segment, blob.fragment, footer.length, footer.hash,
        footer.created, BLOCK, footer.sums, to_record(footer.label),
    ])  # fmt: skip
    return packed


def read_footer(data: bytes | memoryview) -> Footer:
    """The footer that ``data`` holds. Raises: ValueError (not one that this version can read)."""
    try:
        fields: list[Any] = msgpack.unpackb(data)
        found, version, segment, fragment, length, digest, created, block, sums, label = fields[:10]
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"not a footer: {error}") from error
    if found != FOOTER_VERSION or block != BLOCK:
        raise ValueError(f"a footer of format {found} with blocks of {block} bytes")
    return Footer(
        BlobId(VersionId(version), SegmentId(segment), fragment), length, digest, created,
        sums, from_record(Label, label),
    )  # fmt: skip


def pack_trailer(footer: bytes) -> bytes:
    """The last bytes of a large blob's file: how to find its footer."""
    return TRAILER.pack(len(footer), crc32c(footer), FILE_MAGIC)


def pack_kill(seq: int, pack: int) -> bytes:
    """A tombstone's data: it kills the blob's records up to ``seq``, the last of which lay in ``pack``."""
    return _KILL.pack(seq, pack)


def read_kill(data: bytes | bytearray | memoryview) -> tuple[int, int]:
    """``seq`` and ``pack`` of a tombstone."""
    seq, pack = _KILL.unpack(data)
    return seq, pack


def seal_key(version: VersionId) -> bytes:
    """The key under which a version's seals are kept: its id, then zeros."""
    return key_of(BlobId(version, SegmentId(0), 0))


def pack_seal(seal: Seal) -> bytes:
    """A seal as msgpack."""
    packed: bytes = msgpack.packb(to_record(seal))
    return packed


def read_seal(data: bytes | memoryview) -> Seal:
    """The seal that ``data`` holds. Raises: ValueError."""
    try:
        return from_record(Seal, msgpack.unpackb(data))
    except (TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"not a seal: {error}") from error
