"""The note of a migration in a keyspace, and the roots' question whether they may use it.

A row of ``schema_version`` that only a migration writes, by plain writes.
"""

from __future__ import annotations

from discloud.adapters.cassandra.session import Session
from discloud.adapters.portable import Note, Progress
from discloud.errors import Conflict

_READ = "SELECT value FROM schema_version WHERE name = 'migration'"
_WRITE = "INSERT INTO schema_version (name, value) VALUES ('migration', ?)"
_REMOVE = "DELETE FROM schema_version WHERE name = 'migration'"


async def read_note(session: Session) -> Note | None:
    """The note, if a migration ever came here or left. Raises: Corrupt, Unavailable."""
    rows = await session.read(_READ)
    return Note.from_text(rows[0].value) if rows else None


async def write_note(session: Session, note: Note) -> None:
    """Replace the note. Raises: Unavailable."""
    await session.write(_WRITE, note.to_text())


async def remove_note(session: Session) -> None:
    """No migration ever came here. Raises: Unavailable."""
    await session.write(_REMOVE)


async def refuse_unfinished(session: Session) -> None:
    """To be asked by every node before it uses a keyspace. Raises: Conflict (half a copy, or stale), Corrupt, Unavailable."""
    note = await read_note(session)
    if note is None or note.progress is Progress.FINISHED:
        return
    if note.progress is Progress.LEFT:
        raise Conflict(
            f"the metadata of mesh {session.mesh} moved to {note.other}: this keyspace is stale",
            "start the root with those, or use another keyspace",
        )
    raise Conflict(
        f"the migration from {note.other} into this keyspace is not finished",
        "repeat the same discloud migrate: it goes on where it stopped",
    )
