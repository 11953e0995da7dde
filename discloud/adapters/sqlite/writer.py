"""The one thread that writes: whatever waits goes into one transaction, so that one fsync makes all of it durable.

Invariant: a call that was answered without an error is on the disk. An operation that raises has written nothing; if
the database fails below one, the whole transaction is undone and its operations are repeated one by one, so that a
single bad one does not take the others with it. Only a commit that failed leaves an outcome unknown.
"""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from pathlib import Path

from discloud import logs
from discloud.adapters.sqlite.lanes import Call
from discloud.adapters.sqlite.recent import RecentHeads
from discloud.adapters.sqlite.rows import WrittenRows
from discloud.adapters.sqlite.schema import failed
from discloud.errors import DiscloudError, OutcomeUnknown, Unavailable


class Writer:
    """Serves a lane of one thread."""

    def __init__(self, connection: sqlite3.Connection, path: Path, recent: RecentHeads) -> None:
        self._connection = connection
        self._path = path
        self._recent = recent
        self._rows = WrittenRows(connection, recent)
        self._undone = False
        self._complained = ""

    def serve(self, calls: list[Call[WrittenRows]]) -> None:
        """Do all calls and give each its result or error."""
        if not calls or self._write(calls) or len(calls) == 1:
            return
        for call in calls:
            call.error = None
            self._write([call])

    def _write(self, calls: list[Call[WrittenRows]]) -> bool:
        """One transaction; False = it was undone and every call has that error."""
        try:
            self._start()
            for call in calls:
                self._apply(call)
            self._rows.finish()
        except Exception as error:  # noqa: BLE001 - a transaction is whole or undone, whatever went wrong
            self._undo(calls, self._told(error))
            return False
        self._commit(calls)
        return True

    def _start(self) -> None:
        if self._undone:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._rows.restart()
            self._undone = False
        self._connection.execute("BEGIN IMMEDIATE")

    def _apply(self, call: Call[WrittenRows]) -> None:
        before = self._connection.total_changes
        try:
            call.result = call.operation(self._rows)
        except DiscloudError as error:
            if self._connection.total_changes != before:
                raise RuntimeError("an operation failed after it had written") from error
            call.error = error

    def _commit(self, calls: list[Call[WrittenRows]]) -> None:
        changed = self._rows.changed
        self._recent.begin(changed)
        try:
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._undo(calls, self._doubt(error))
            self._recent.end(changed, ())
        else:
            self._complained = ""
            self._rows.end()
            self._recent.end(changed, [head for head in changed.values() if head is not None])

    def _doubt(self, error: sqlite3.Error) -> Unavailable:
        """A commit that failed may show after a crash, unless its last page did not fit on the disk."""
        reason = self._told(error)
        if getattr(error, "sqlite_errorname", "") == "SQLITE_FULL":
            return reason
        return OutcomeUnknown(reason.detail, reason.hint or "repeat the request")

    def _told(self, error: Exception) -> Unavailable:
        if isinstance(error, sqlite3.Error):
            return self._complain(failed(error, self._path))
        logs.error("metadata_operation_failed", traceback=True)
        return Unavailable(f"the metadata could not be written: {error}")

    def _complain(self, reason: Unavailable) -> Unavailable:
        """Log a failure of the database, once for all calls that meet it."""
        if reason.detail != self._complained:
            self._complained = reason.detail
            logs.error("metadata_write_failed", reason=reason.detail)
        return reason

    def _undo(self, calls: list[Call[WrittenRows]], error: Unavailable) -> None:
        """Nothing of this transaction may be remembered; what cannot be undone now is undone before the next."""
        self._undone = True
        for call in calls:
            call.error = type(error)(error.detail, error.hint)
        with suppress(sqlite3.Error):
            self._connection.execute("ROLLBACK")
