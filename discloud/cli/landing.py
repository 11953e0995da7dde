"""Where the bytes of a get land: a file that is resumed, or a stream.

A file grows as ``NAME.part`` beside ``NAME.part.json`` (entity tag and size of what is being fetched) and gets its name
only when it is whole and its digest is right. Methods block: they are called in a thread, one at a time.
"""

from __future__ import annotations

import json
import os
import re
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from blake3 import blake3

from discloud.cli.telling import telling
from discloud.core.model import MIB
from discloud.errors import Conflict, Corrupt

_DIGEST = re.compile(r"(?:blake3=|b3[-:])?([0-9a-f]{64})", re.ASCII)


def parse_digest(text: str) -> str:
    """The hex BLAKE3 of a ``Discloud-Digest`` (``blake3=HEX``), "" for the forms of several segments."""
    match = _DIGEST.fullmatch(text.strip())
    return match[1] if match else ""


class Landing(Protocol):
    """What a fetch needs of the place where its bytes land. Raises: DiscloudError."""

    def resume(self) -> tuple[int, str]:
        """Bytes that are there already and the entity tag they belong to; (0, "") = begin at the beginning."""

    def begin(self, etag: str, size: int) -> None:
        """Forget what is there; ``size`` bytes of ``etag`` follow."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def finish(self, digest: str) -> bool:
        """All bytes came; True when they were compared with ``digest`` (hex, "" = none). Raises: Corrupt."""


class PartFile:
    """A file under a temporary name until it is whole. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part, self._note = part_names(path)
        self._hash = blake3()

    def __enter__(self) -> Self:
        with telling("write", self._part):
            self._file = _open_locked(self._part)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._file.closed:
            if not os.fstat(self._file.fileno()).st_size:  # nothing came: nothing to resume
                self._part.unlink(missing_ok=True)
                self._note.unlink(missing_ok=True)
            self._file.close()

    def resume(self) -> tuple[int, str]:
        """What an earlier get left, when its note can be read and fits."""
        with telling("write", self._part):
            etag, size = self._read_note()
            # at least one byte is left to ask for: its answer proves that the tag still holds
            have = min(os.fstat(self._file.fileno()).st_size, size - 1)
            if not etag or have <= 0:
                return 0, ""
            self._file.truncate(have)
            self._file.seek(0)
            while data := self._file.read(MIB):
                self._hash.update(data)
            return have, etag

    def begin(self, etag: str, size: int) -> None:
        """Truncate, and note what will come."""
        with telling("write", self._part):
            self._note.unlink(missing_ok=True)
            self._file.seek(0)
            self._file.truncate()
            self._hash.reset()
            if etag and size:
                self._note.write_text(json.dumps({"etag": etag, "size": size}), encoding="utf-8")

    def write(self, data: bytes) -> None:
        """Append and hash."""
        with telling("write", self._part):
            rest = memoryview(data)
            while rest:  # a raw file may take less than all
                rest = rest[self._file.write(rest) :]
        self._hash.update(data)

    def finish(self, digest: str) -> bool:
        """Give the file its name."""
        if digest and self._hash.hexdigest() != digest:
            self._part.unlink(missing_ok=True)
            self._note.unlink(missing_ok=True)
            raise _corrupt(str(self._path))
        with telling("write", self._path):
            self._file.close()
            self._part.replace(self._path)
            self._note.unlink(missing_ok=True)
        return bool(digest)

    def _read_note(self) -> tuple[str, int]:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
            return str(note["etag"]), int(note["size"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0


class Stream:
    """A landing that cannot go back: standard output, a pipe or a device."""

    def __init__(self, stream: BinaryIO, shown: str) -> None:
        self._stream = stream
        self._shown = shown
        self._hash = blake3()
        self._written = 0

    def resume(self) -> tuple[int, str]:
        """Nothing is there."""
        return 0, ""

    def begin(self, etag: str, size: int) -> None:
        """Possible only while nothing was written."""
        del etag, size
        if self._written:
            raise Conflict(f"{self._shown}: the object changed while it was read", "read it again")

    def write(self, data: bytes) -> None:
        """Pass on and hash."""
        with telling("write", self._shown):
            self._stream.write(data)
        self._hash.update(data)
        self._written += len(data)

    def finish(self, digest: str) -> bool:
        """The bytes are gone already: a wrong digest can only be told."""
        with telling("write", self._shown):
            self._stream.flush()
        if digest and self._hash.hexdigest() != digest:
            raise _corrupt(self._shown)
        return bool(digest)


def _open_locked(path: Path) -> FileIO:
    """The file, made if need be and locked: two gets of one file must not mix their bytes. Raises: Conflict, OSError."""
    import fcntl

    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "r+")
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise Conflict(f"another get is writing {path}", "wait for it, or choose another name") from error
    return file


def part_names(path: Path) -> tuple[Path, Path]:
    """The temporary name of ``path`` and the name of its note."""
    return path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.part.json")


def _corrupt(shown: str) -> Corrupt:
    return Corrupt(f"{shown}: the bytes received do not have the object's digest", "get it again")
