"""A thread that reads over a connection of its own; every operation sees one moment of the database."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from discloud import logs
from discloud.adapters.sqlite.lanes import Call
from discloud.adapters.sqlite.rows import StoredRows
from discloud.adapters.sqlite.schema import failed
from discloud.errors import DiscloudError, Unavailable


class Reader:
    """Serves a thread of a lane."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._rows = StoredRows(connection)

    def serve(self, calls: list[Call[StoredRows]]) -> None:
        """Do all calls, each in a transaction of its own that begins now: it sees every commit that was answered."""
        for call in calls:
            try:
                self._connection.execute("BEGIN")
                call.result = call.operation(self._rows)
            except DiscloudError as error:
                call.error = error
            except sqlite3.Error as error:
                call.error = failed(error, self._path)
            except Exception as error:  # noqa: BLE001 - one bad call must not stop the others
                logs.error("metadata_read_failed", traceback=True)
                call.error = Unavailable(f"the metadata could not be read: {error}")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
