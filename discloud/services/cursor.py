"""A number in a small file: where a node is in the ``all`` log."""

from __future__ import annotations

import os
from pathlib import Path

from discloud import logs
from discloud.errors import Unavailable
from discloud.transfer.threads import Threads


class CursorFile:
    """One position, replaced as a whole. An unreadable file counts as 0: the log is then followed from its start."""

    def __init__(self, path: Path, threads: Threads) -> None:
        self._path = path
        self._threads = threads

    async def load(self) -> int:
        """The saved position, 0 where none is. Raises: Unavailable (the disk fails)."""
        return await self._threads.run(self._read)

    async def save(self, number: int) -> None:
        """Replace the position, durably. Raises: Unavailable (the disk fails)."""
        await self._threads.run(lambda: self._write(number))

    def _read(self) -> int:
        try:
            return int(self._path.read_text())
        except FileNotFoundError:
            return 0
        except ValueError:
            logs.warn("cursor_unreadable", file=self._path.name)
            return 0
        except OSError as error:
            raise Unavailable(f"{self._path} cannot be read: {error.strerror}", "check the disk") from error

    def _write(self, number: int) -> None:
        new = self._path.with_suffix(".new")
        try:
            with new.open("w") as file:
                file.write(str(number))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            raise Unavailable(
                f"{self._path} cannot be written: {error.strerror}", "check the disk"
            ) from error
