"""Where bytes go that are not what was written: aside, for a person to look at; nothing reads them again.

Copies are best effort: a disk that rots may refuse them too, and nothing depends on them. Files are named after the
blob or the pack.
"""

from __future__ import annotations

import os
from pathlib import Path

from discloud import logs
from discloud.adapters.disk.files import Files


class Quarantine:
    """A folder of suspect files. Blocking; safe from any thread that uses distinct names."""

    def __init__(self, folder: Path, files: Files) -> None:
        self._folder = folder
        self._files = files

    def keep(self, name: str, data: bytes) -> None:
        """Keep a copy of bytes that lie in a file with others."""
        try:
            fd = self._files.open(self._free(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            try:
                self._files.write(fd, [data], 0)
            finally:
                self._files.close(fd)
        except OSError as error:
            logs.warn("quarantine_failed", name=name, reason=str(error))

    def take(self, path: Path) -> None:
        """Move a whole file here. Raises: OSError."""
        self._files.rename(path, self._free(path.name))

    def _free(self, name: str) -> Path:
        """A path of that name which nothing has yet: the same blob may rot again after its repair."""
        path = self._folder / name
        count = 1
        while path.exists():
            count += 1
            path = self._folder / f"{name}.{count}"
        return path
