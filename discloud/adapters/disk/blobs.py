"""The ``Blobs`` port on a folder of this machine: small blobs in packs, large ones a file each (docs/formats/disk.md).

    folder/lock          held while a process uses the folder
    folder/index         the saved index
    folder/packs/        0000000001.pack ...
    folder/large/ab/     <version>.<segment>.<fragment>, one of 256 folders by the version's first byte
    folder/temp/         files being written; emptied at a start
    folder/quarantine/   bytes that are not what was written

Invariant: what was acknowledged is durable, what is served was verified. Nothing here waits for the disk on the event loop: writes
go to two threads that commit in groups, reads that are not in memory to a small pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from crc32c import crc32c

from discloud.adapters.disk.files import Files
from discloud.adapters.disk.folder import DiskFolder
from discloud.adapters.disk.index import FILE, Entry
from discloud.adapters.disk.large import LargeFile
from discloud.adapters.disk.pack_requests import AppendSeals, Delete
from discloud.adapters.disk.pack_writer import Record
from discloud.adapters.disk.publisher import Remove
from discloud.adapters.disk.readers import LargeReader, SmallReader
from discloud.adapters.disk.record import Kind, key_of, pack_seal, seal_key
from discloud.adapters.disk.settings import DiskSettings
from discloud.adapters.disk.writer import DiskWriter, keep_small
from discloud.core.model import BlobId, Label, Seal, Stored
from discloud.errors import Corrupt, Invalid, TooLarge, Unavailable
from discloud.ports import SMALL, BlobReader, BlobWriter, Usage

_PAGE = 128
"""Blobs that one trip to the disk describes during a walk."""
_SCANNED = 4096
"""Entries that one look for unsealed blobs passes by."""


def _nobody(_: BlobId) -> None:
    """Nobody wants to hear of rotten blobs."""


class DiskBlobs:
    """See ``discloud.ports.Blobs``. Made by ``start``, ended by ``close``."""

    def __init__(self, folder: DiskFolder) -> None:
        self._folder = folder

    @classmethod
    async def start(
        cls,
        folder: Path,
        settings: DiskSettings,
        clock: Callable[[], float] = time.time,
        on_corrupt: Callable[[BlobId], None] = _nobody,
        files: Files | None = None,
    ) -> DiskBlobs:
        """Open the folder, created if need be, and bring it to a known state. ``on_corrupt`` is called on the loop.

        Raises: Conflict (another process uses it, or a newer version wrote it), Unavailable (the disk fails).
        """
        loop = asyncio.get_running_loop()
        opened = await loop.run_in_executor(
            None, partial(DiskFolder.open, folder, settings, clock, on_corrupt, files or Files())
        )
        opened.begin()
        return cls(opened)

    async def close(self) -> None:
        """Finish what was accepted and let go of the folder; later calls raise Unavailable. May be called again."""
        await self._folder.close()

    # ---------------------------------------------------------------- writing

    @asynccontextmanager
    async def create(
        self, blob: BlobId, label: Label, length: int | None = None
    ) -> AsyncIterator[BlobWriter]:
        """See ``Blobs.create``."""
        self._folder.require_open()
        writer = DiskWriter(self._folder, blob, key_of(blob), label, length)
        try:
            yield writer
        finally:
            await self._close(writer)

    async def put(self, blob: BlobId, label: Label, data: bytes, hash: bytes) -> Stored:
        """See ``Blobs.put``."""
        if len(data) > SMALL:
            raise TooLarge(f"{len(data)} bytes for blob {blob} are more than a put carries", "Use create().")
        key = key_of(blob)
        self._folder.require_open()
        if len(data) > self._folder.settings.small:
            async with self.create(blob, label, len(data)) as writer:
                await self._folder.run(lambda: writer.write(memoryview(data)))
                return await writer.commit(hash)
        self._folder.space.reserve(len(data))
        try:
            return await keep_small(self._folder, blob, key, label, data, hash)
        finally:
            self._folder.space.release(len(data))

    async def delete(self, blob: BlobId) -> None:
        """See ``Blobs.delete``."""
        folder, key = self._folder, key_of(blob)
        folder.require_open()
        # On a disk that broke, a blob that is not in the index may rise at the next start: it is not certainly gone.
        folder.space.require_writable()
        if key in folder.index.condemned:
            raise Unavailable(f"blob {blob} is damaged and being put aside", "Delete it again in a moment.")
        entry = folder.index.get(key)
        if entry is None:
            return
        if entry.pack == FILE:
            await folder.publisher.do(Remove(key, entry))
        else:
            await folder.pack_writer.do(Delete(key))

    async def seal(self, seals: Sequence[Seal]) -> None:
        """See ``Blobs.seal``. Durable after ``DiskSettings.seal_delay`` seconds at the latest, or with the next small blob."""
        self._folder.space.require_writable()
        now = self._folder.clock()
        records = [(_seal_record(seal, now), seal.seq) for seal in seals]
        if records:
            self._folder.pack_writer.leave(AppendSeals(records))

    # ---------------------------------------------------------------- reading

    @asynccontextmanager
    async def open(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> AsyncIterator[BlobReader]:
        """See ``Blobs.open``."""
        key = key_of(blob)
        _require_stretch(blob, offset, length)
        found = await self._find(key)
        if isinstance(found, bytes):
            yield SmallReader(_cut(found, offset, length))
            return
        entry, file = found
        try:
            yield self._reader(key, entry, file, offset, length, trust)
        finally:
            file.handle.drop()

    async def fetch(
        self, blob: BlobId, offset: int = 0, length: int | None = None, trust: float = 0.0
    ) -> bytes:
        """See ``Blobs.fetch``."""
        found = self.peek_small(blob, offset, length)
        if found is not None:
            return found
        async with self.open(blob, offset, length, trust) as reader:
            if reader.length > SMALL:
                raise TooLarge(
                    f"{reader.length} bytes of blob {blob} are more than a fetch carries", "Use open()."
                )
            parts = []
            while part := await reader.read(SMALL):
                parts.append(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def peek_small(self, blob: BlobId, offset: int = 0, length: int | None = None) -> bytes | None:
        """A stretch of a small blob, verified, if that needs no waiting; None = use ``fetch``, which tells why."""
        folder, key = self._folder, key_of(blob)
        entry = folder.index.get(key)
        if entry is None or entry.pack == FILE or offset < 0 or (length is not None and length < 0):
            return None
        data = folder.packs.read_cached(entry)
        if data is None:
            return None
        folder.recency.touch(key, folder.clock())
        return (
            data
            if offset == 0 and (length is None or length >= len(data))
            else bytes(_cut(data, offset, length))
        )

    async def stat(self, blob: BlobId) -> Stored:
        """See ``Blobs.stat``."""
        return await self._folder.stored(key_of(blob))

    async def walk(self, after: BlobId | None = None) -> AsyncIterator[Stored]:
        """See ``Blobs.walk``."""
        last = b"" if after is None else key_of(after)
        while page := self._folder.index.after(last, _PAGE):
            last = page[-1][0]
            for stored in await self._describe([key for key, _ in page]):
                yield stored

    async def unsealed(self, before: float) -> AsyncIterator[Stored]:
        """See ``Blobs.unsealed``."""
        last = b""
        while page := await self._folder.run(partial(self._folder.index.after, last, _SCANNED)):
            last = page[-1][0]
            keys = [
                key for key, entry in page if entry.created < before and not self._folder.index.sealed(key)
            ]
            for first in range(0, len(keys), _PAGE):
                for stored in await self._describe(keys[first : first + _PAGE]):
                    if not stored.sealed:
                        yield stored

    async def usage(self) -> Usage:
        """See ``Blobs.usage``. ``used`` counts what the blobs take on the disk, footers and padding included."""
        folder = self._folder
        space = folder.space
        await folder.run(space.measure)
        return Usage(
            space.capacity, folder.index.used, space.reserved, space.free, len(folder.index), space.read_only
        )

    # ---------------------------------------------------------------- tending

    async def run_compaction_once(self) -> int:
        """Rewrite the pack with the most dead bytes, if that is worth it; returns the bytes given back, 0 = nothing to do.

        Raises: NoSpace, Unavailable; nothing is lost then.
        """
        return await self._folder.compact()

    # ---------------------------------------------------------------- inside

    async def _find(self, key: bytes) -> bytes | tuple[Entry, LargeFile]:
        """A small blob's bytes, or a large one's file, taken. Raises: NoSuchBlob, Corrupt, Unavailable."""
        folder = self._folder
        while True:
            entry = folder.entry(key)
            try:
                if entry.pack == FILE:
                    file = folder.large.cached(key, entry)
                    if file is not None:
                        folder.recency.touch(key)
                        return entry, file
                    await folder.run(partial(folder.large.open, key, entry))
                    continue
                data = folder.packs.read_cached(entry)
                if data is None:
                    data = await folder.run(partial(folder.packs.read, entry))
            except FileNotFoundError as error:
                folder.condemn(key, entry, error)
                continue
            except Corrupt as error:
                folder.condemn(key, entry, error)
                raise
            if data is not None:
                folder.recency.touch(key, folder.clock())
                return data
            # Compaction moved it meanwhile: look again.

    def _reader(
        self, key: bytes, entry: Entry, file: LargeFile, offset: int, length: int | None, trust: float
    ) -> LargeReader:
        whole = file.footer.length
        end = whole if length is None else min(whole, offset + length)
        folder = self._folder
        return LargeReader(
            file,
            offset,
            max(0, end - offset),
            trust,
            folder.clock,
            folder.run,
            partial(folder.condemn, key, entry),
        )

    async def _describe(self, keys: list[bytes]) -> list[Stored]:
        found = await self._folder.run(lambda: [self._folder.describe(key) for key in keys])
        return [stored for stored in found if stored is not None]

    async def _close(self, writer: DiskWriter) -> None:
        if writer.spilled:
            # Not the folder's pool: it may be closed by now.
            await asyncio.get_running_loop().run_in_executor(None, writer.close)
        else:
            writer.close()


def _cut(data: bytes, offset: int, length: int | None) -> memoryview:
    end = len(data) if length is None else offset + length
    return memoryview(data)[offset:end]


def _require_stretch(blob: BlobId, offset: int, length: int | None) -> None:
    if offset < 0 or (length is not None and length < 0):
        raise Invalid(f"no stretch of blob {blob} begins at {offset} and has {length} bytes")


def _seal_record(seal: Seal, now: float) -> Record:
    data = pack_seal(seal)
    return Record(Kind.SEAL, seal_key(seal.version), data, crc32c(data), created=now)
