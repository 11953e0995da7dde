"""The one thread that gives large blobs their names and takes them away, with one sync of a folder for all that wait.

Invariant: the index shows a large blob only after its name is durable; a removal is answered only when it is durable.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from discloud.adapters.disk.files import BROKEN, Files, failure, unknown
from discloud.adapters.disk.group_commit import Request
from discloud.adapters.disk.index import Entry, Index
from discloud.adapters.disk.large import LargeFiles
from discloud.adapters.disk.quarantine import Quarantine
from discloud.adapters.disk.space import Space
from discloud.errors import DiscloudError


@dataclass(slots=True, eq=False)
class FileRequest(Request):
    """Something about one large blob."""

    key: bytes
    entry: Entry


@dataclass(slots=True, eq=False)
class Publish(FileRequest):
    """Give a durable temporary file its name; the result says whether the blob is new."""

    temp: Path


@dataclass(slots=True, eq=False)
class Remove(FileRequest):
    """Remove a large blob."""


@dataclass(slots=True, eq=False)
class SetAside(FileRequest):
    """Put a rotten large blob aside; the index has dropped it already."""


class Publisher:
    """Names of large blobs; ``apply`` is the entrance of the publisher's thread."""

    def __init__(
        self, files: Files, large: LargeFiles, index: Index, quarantine: Quarantine, space: Space
    ) -> None:
        self._files, self._large, self._index = files, large, index
        self._quarantine, self._space = quarantine, space

    def apply(self, batch: list[FileRequest]) -> None:
        """Do a batch: every change of a name, then the folders, then the index."""
        changed = [request for request in batch if self._change(request)]
        broken = self._sync({self._large.path(request.key).parent for request in changed})
        self._space.measure()
        for request in changed:
            if broken is not None:
                request.error = broken
            elif isinstance(request, Publish):
                request.result = self._index.add(request.key, request.entry)
            elif isinstance(request, SetAside):
                self._index.condemned.discard(request.key)

    def _change(self, request: FileRequest) -> bool:
        """Change a name; False = there is nothing to make durable."""
        path = self._large.path(request.key)
        try:
            self._space.require_writable()
            match request:
                case Publish(temp=temp):
                    if self._index.get(request.key) is not None:
                        request.result = False
                        return False
                    self._files.rename(temp, path)
                case Remove():
                    self._index.remove(request.key, request.entry)
                    self._large.forget(request.key)
                    self._files.remove(path)
                case _:  # SetAside
                    self._large.forget(request.key)
                    with suppress(
                        FileNotFoundError
                    ):  # it may have been removed by hand: then that was the damage
                        self._quarantine.take(path)
        except OSError as error:
            if error.errno in BROKEN:
                self._space.fail(error)
            if isinstance(request, Remove):
                self._index.add(request.key, request.entry)
            request.error = failure(error, f"naming {path.name}")
        except DiscloudError as error:
            request.error = error
        return request.error is None

    def _sync(self, folders: set[Path]) -> DiscloudError | None:
        try:
            for folder in folders:
                self._files.sync_folder(folder)
        except OSError as error:
            self._space.fail(error)
            return unknown(error)
        return None
