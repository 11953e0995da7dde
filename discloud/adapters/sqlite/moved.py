"""The mark beside a database whose mesh keeps its metadata elsewhere now: no root starts with the stale file by accident.

Invariant: a marked file is not opened by a root; only a migration back into a file of that name takes the mark away.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from discloud.errors import Conflict, Unavailable

MARK = "migrated.json"
"""The mark's file, in the folder of the database."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Where the metadata of mesh ``cluster`` went from the file ``database``, at a moment in epoch seconds."""

    database: str
    cluster: str
    to: str
    at: float


def read_mark(path: Path) -> Mark | None:
    """The mark of the database at ``path``. Blocks. Raises: Unavailable (it cannot be read: it may well be marked)."""
    file = path.with_name(MARK)
    try:
        mark = Mark(**json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise Unavailable(
            f"{file} cannot be read: {error}",
            "it says where this mesh's metadata is now: repair or remove it",
        ) from error
    return mark if mark.database == path.name else None


def refuse_moved(path: Path) -> None:
    """Blocks. Raises: Conflict (the database at ``path`` is stale), Unavailable."""
    mark = read_mark(path)
    if mark is not None:
        raise Conflict(
            f"the metadata of mesh {mark.cluster} moved to {mark.to}: {path.name} is stale",
            f"start the root with {_flag(mark.to)}; the way back is: discloud migrate --from {mark.to} --to sqlite:FILE",
        )


def _flag(to: str) -> str:
    """How a root is told to use what ``to`` names."""
    place = to.removeprefix("cassandra://")
    hosts, _, keyspace = place.partition("/")
    if place == to:
        return f"the database {to}"
    return f"--cassandra {hosts}" + (
        f" and DISCLOUD_CASSANDRA_KEYSPACE={keyspace}" if keyspace != "discloud" else ""
    )


def write_mark(path: Path, cluster: str, to: str, at: float) -> None:
    """Mark the database at ``path``, durably. Blocks. Raises: Unavailable."""
    file = path.with_name(MARK)
    new = file.with_suffix(".new")
    try:
        with new.open("w", encoding="utf-8") as opened:
            opened.write(json.dumps(asdict(Mark(path.name, cluster, to, at)), indent=1) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(file)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror}", "check the disk") from error


def remove_mark(path: Path) -> None:
    """Take the mark of the database at ``path`` away. Blocks. Raises: Unavailable."""
    if read_mark(path) is None:
        return
    try:
        path.with_name(MARK).unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise Unavailable(
            f"{path.with_name(MARK)} cannot be removed: {error.strerror}", "check the disk"
        ) from error


def sync_folder(folder: Path) -> None:
    """Make new and removed names in ``folder`` durable. Blocks. Raises: OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
