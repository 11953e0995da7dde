"""Looking into a disk adapter's folder from outside, and damaging it."""

from __future__ import annotations

import os
from pathlib import Path

from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.core.model import BlobId
from discloud.errors import NoSuchBlob
from tests.contract.blobs_contract import digest, new_blob, new_label


async def put(blobs: DiskBlobs, size: int) -> tuple[BlobId, bytes]:
    """Store a new blob of random bytes."""
    blob, data = new_blob(), os.urandom(size)
    await blobs.put(blob, new_label(), data, digest(data))
    return blob, data


async def again(blobs: DiskBlobs, folder: Path, settings: DiskSettings | None = None) -> DiskBlobs:
    """The folder after a clean stop, on a disk that is well."""
    await blobs.close()
    return await DiskBlobs.start(folder, settings or DiskSettings())


async def missing(blobs: DiskBlobs, held: dict[BlobId, bytes]) -> list[BlobId]:
    """Which of these blobs are not there; the others have the right bytes."""
    gone = []
    for blob, data in held.items():
        try:
            assert await blobs.fetch(blob) == data
        except NoSuchBlob:
            gone.append(blob)
    return gone


def flip(path: Path, offset: int) -> None:
    """Flip one bit of a file."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def place_of(folder: Path, data: bytes) -> tuple[Path, int]:
    """Where bytes lie on the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.parent.name != "quarantine" and (at := path.read_bytes().find(data)) >= 0:
            return path, at
    raise AssertionError("these bytes are nowhere")


def packs(folder: Path) -> list[Path]:
    """The packs in the order of their numbers."""
    return sorted((folder / "packs").iterdir())


def quarantined(folder: Path) -> list[str]:
    """Names of what was put aside."""
    return sorted(path.name for path in (folder / "quarantine").iterdir())


def open_files() -> int:
    """Descriptors that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
