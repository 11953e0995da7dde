"""One data folder in use by this process: its parts, its threads, its lock; how it is opened, tended and closed.

Invariant: one process at a time. What the parts share (what to do with a failing disk, with rotten bytes, with a full
journal) is decided here and nowhere else.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event
from typing import TypeVar

from discloud import logs, metrics
from discloud.adapters.disk import checkpoint
from discloud.adapters.disk.compaction import Compaction
from discloud.adapters.disk.files import BROKEN, FULL, Files, failure
from discloud.adapters.disk.group_commit import GroupCommit
from discloud.adapters.disk.index import FILE, Entry, Index
from discloud.adapters.disk.large import LargeFiles
from discloud.adapters.disk.pack_requests import Condemn, TakeMark
from discloud.adapters.disk.pack_writer import Mark, PackRequest, PackWriter
from discloud.adapters.disk.packs import Packs
from discloud.adapters.disk.publisher import FileRequest, Publisher, SetAside
from discloud.adapters.disk.quarantine import Quarantine
from discloud.adapters.disk.recency import Recency
from discloud.adapters.disk.record import Footer, PackHead, blob_of
from discloud.adapters.disk.recovery import Recovered, Recovery
from discloud.adapters.disk.settings import DiskSettings
from discloud.adapters.disk.space import Space
from discloud.core.model import BlobId, Stored
from discloud.errors import Conflict, Corrupt, DiscloudError, NoSuchBlob, Unavailable

T = TypeVar("T")
_UNNAMED = 24 * 3600
"""Seconds for which a seal is kept of a version that has no blob here (yet)."""


class DiskFolder:
    """Everything that belongs to one folder. Built in a thread (recovery waits for the disk), then ``begin`` on the loop."""

    def __init__(
        self,
        path: Path,
        settings: DiskSettings,
        clock: Callable[[], float],
        on_corrupt: Callable[[BlobId], None],
        files: Files,
    ) -> None:
        self.settings, self.clock, self.files = settings, clock, files
        self._path, self._on_corrupt = path, on_corrupt
        self._temp = path / "temp"
        self._numbers = count()
        self._stopping = Event()
        self._temp.mkdir(parents=True, exist_ok=True)
        self.index = Index()
        self.recency = Recency()
        self.quarantine = Quarantine(path / "quarantine", files)
        self.packs = Packs(path / "packs", self._temp, files)
        self.large = LargeFiles(path / "large", files, settings.open_files)
        self.space = Space(path, files, settings.capacity, settings.full, self._taken)
        self._lock = self._take_lock()
        try:
            self._empty_temp()
            self._make_folders()
            self._found = self._recover()
        except BaseException:
            self._let_go()
            raise

    @classmethod
    def open(
        cls,
        path: Path,
        settings: DiskSettings,
        clock: Callable[[], float],
        on_corrupt: Callable[[BlobId], None],
        files: Files,
    ) -> DiskFolder:
        """Open a folder. Raises: Conflict (in use, or written by a newer version), Unavailable (the disk fails)."""
        try:
            return cls(path, settings, clock, on_corrupt, files)
        except OSError as error:
            raise failure(error, f"opening data folder {path}") from error

    def begin(self) -> None:
        """Start the threads; from here on the folder belongs to the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._pool = ThreadPoolExecutor(self.settings.threads, "disk-read")
        self._tending = ThreadPoolExecutor(1, "disk-tend")
        writer = PackWriter(
            self.files, self.packs, self.index, self.quarantine, self.space, self.clock, self.new_head,
            self.settings.pack_size, self._found.next_seq, self._found.active,
            self._save_soon, self.settings.checkpoint_every,
        )  # fmt: skip
        publisher = Publisher(self.files, self.large, self.index, self.quarantine, self.space)
        self.pack_writer: GroupCommit[PackRequest] = GroupCommit(
            "disk-packs", writer.apply, self.loop, self.settings.seal_delay
        )
        self.publisher: GroupCommit[FileRequest] = GroupCommit("disk-names", publisher.apply, self.loop)
        for blob in self._found.lost:
            self.loop.call_soon(self._on_corrupt, blob)

    async def close(self) -> None:
        """Finish what was accepted, save the index, let go of everything. May be called again."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        await self.loop.run_in_executor(None, self._tending.shutdown)
        mark: Mark = await self.pack_writer.do(TakeMark())
        await self.pack_writer.close()
        await self.publisher.close()
        await self.loop.run_in_executor(None, self._finish, mark)

    # ---------------------------------------------------------------- what the parts share

    async def run(self, action: Callable[[], T]) -> T:
        """Have a thread do what may wait for the disk. Raises: Unavailable (closed)."""
        self.require_open()
        return await self.loop.run_in_executor(self._pool, action)

    def require_open(self) -> None:
        """Raises: Unavailable (closed)."""
        if self._stopping.is_set():
            raise Unavailable("the disk is closed", "The node is stopping.")

    def entry(self, key: bytes) -> Entry:
        """Where a blob lies. Raises: NoSuchBlob, Unavailable (closed)."""
        self.require_open()
        entry = self.index.get(key)
        if entry is None:
            raise NoSuchBlob(f"blob {blob_of(key)} is not on this node")
        return entry

    async def stored(self, key: bytes) -> Stored:
        """What the folder knows of a blob. Raises: NoSuchBlob, Unavailable."""
        self.entry(key)
        found = await self.run(lambda: self.describe(key))
        if found is None:
            raise NoSuchBlob(f"blob {blob_of(key)} is not on this node")
        return found

    def describe(self, key: bytes) -> Stored | None:
        """The same for a thread that may wait; None = gone, or so rotten that it was put aside."""
        while (entry := self.index.get(key)) is not None:
            checked = self.recency.checked(key)
            try:
                if entry.pack == FILE:
                    file = self.large.load(key, entry)
                    footer: Footer | None = file.footer
                    file.handle.retire()
                    opened = self.large.cached(key, entry)
                    if opened is not None:
                        checked = opened.checked
                        opened.handle.drop()
                else:
                    footer = self.packs.read_footer(entry)
            except (Corrupt, FileNotFoundError, ValueError) as error:
                self.condemn(key, entry, error)
                continue
            if footer is not None:
                return self.shown(footer, key, checked)
        return None

    def shown(self, footer: Footer, key: bytes, checked: float = 0.0) -> Stored:
        """A blob as the port shows it."""
        return Stored(
            footer.blob, footer.length, footer.hash, footer.created, checked, self.recency.touched(key),
            self.index.sealed(key), footer.label.bucket, footer.label.key,
        )  # fmt: skip

    def condemn(self, key: bytes, entry: Entry, error: Exception) -> None:
        """Let a blob vanish whose bytes are not what was written, and tell about it. Safe from any thread."""
        self.index.condemned.add(key)
        if not self.index.remove(key, entry):
            self.index.condemned.discard(key)
            return
        blob = blob_of(key)
        metrics.CORRUPT_BLOCKS.add()
        logs.error("blob_corrupt", blob=str(blob), reason=str(error))
        try:
            if entry.pack == FILE:
                self.publisher.leave(SetAside(key, entry))
            else:
                self.pack_writer.leave(Condemn(key, entry))
        except Unavailable:
            logs.warn("quarantine_failed", name=str(blob), reason="the disk is being closed")
        self.loop.call_soon_threadsafe(self._on_corrupt, blob)

    @contextmanager
    def writing(self, what: str, *, sync: bool = False) -> Iterator[None]:
        """Around a write by any thread: a full disk is NoSpace, a failing one turns read-only. ``sync``: it makes durable."""
        self.space.require_writable()
        try:
            yield
        except OSError as error:
            if error.errno in BROKEN or (sync and error.errno not in FULL):
                self.space.fail(error)
            raise failure(error, what) from error

    def new_head(self) -> PackHead:
        """The head of the next pack to append to."""
        return PackHead(self.packs.next_number(), secrets.token_bytes(8), self.clock())

    def temp_path(self, blob: BlobId) -> Path:
        """A path for a file being written; two writers of one blob get two."""
        return self._temp / f"{blob}.{next(self._numbers)}"

    def remove_temp(self, path: Path) -> None:
        """Remove a temporary file; one that stays is removed at the next start."""
        try:
            self.files.remove(path)
        except OSError as error:
            logs.warn("temp_file_stays", name=path.name, reason=str(error))

    # ---------------------------------------------------------------- tending

    async def compact(self) -> int:
        """Rewrite the pack that is worth it most; returns the bytes that it gave back, 0 = none is worth it."""
        self.require_open()
        return await self.loop.run_in_executor(self._tending, self._compact)

    def _ask(self, request: PackRequest) -> object:
        """Have the pack writer do something; for a tending thread, which may wait."""
        return asyncio.run_coroutine_threadsafe(self.pack_writer.do(request), self.loop).result()

    def _compact(self) -> int:
        with self.writing("compaction"):
            self.index.prune(int(self.clock()) - _UNNAMED)
            return Compaction(
                self.files, self.packs, self.index, self.clock, self._ask, self.condemn, self._stopping.is_set
            ).run(self.settings.compact_at, self.settings.pack_size)

    def _save_soon(self) -> None:
        """Called by the pack writer when the packs have grown long since the last checkpoint."""
        if not self._stopping.is_set():
            self._tending.submit(self._save_now)

    def _save_now(self) -> None:
        try:
            mark = self._ask(TakeMark())
            assert isinstance(mark, Mark)
            self._save(mark)
        except DiscloudError as error:
            logs.warn("checkpoint_failed", reason=str(error))

    def _save(self, mark: Mark) -> None:
        try:
            self.index.prune(int(self.clock()) - _UNNAMED)
            checkpoint.save(self.files, self._temp, self._path / "index", mark, self.index)
        except OSError as error:
            # The next start reads more; nothing is lost.
            logs.warn("checkpoint_failed", reason=str(error))

    # ---------------------------------------------------------------- opening and closing

    def _take_lock(self) -> int:
        lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise Conflict(
                f"data folder {self._path} is in use by another process",
                "Stop that process, or give this node a folder of its own.",
            ) from error
        return lock

    def _make_folders(self) -> None:
        """All folders, durably, where they are not there yet."""
        large = self._path / "large"
        wanted = [self._path / "packs", self._path / "quarantine", large]
        wanted += [large / f"{byte:02x}" for byte in range(256)]
        missing = [folder for folder in wanted if not folder.exists()]
        for folder in missing:
            folder.mkdir()
        if missing:
            for folder in (large, self._path, self._path.parent):
                self.files.sync_folder(folder)

    def _empty_temp(self) -> None:
        for path in self._temp.iterdir():
            self.files.remove(path)

    def _recover(self) -> Recovered:
        recovery = Recovery(
            self.files, self.packs, self.large, self.index, self.quarantine, self.settings.pack_size
        )
        return recovery.run(self._path / "packs", self._path / "index")

    def _taken(self) -> int:
        return self.index.used_by_files + self.packs.length

    def _finish(self, mark: Mark) -> None:
        if not self.space.read_only:
            self._save(mark)
        self._pool.shutdown()
        self._let_go()

    def _let_go(self) -> None:
        self.large.close()
        self.packs.close()
        os.close(self._lock)
