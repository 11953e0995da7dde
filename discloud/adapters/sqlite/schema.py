"""The tables and how a connection is set up (docs/formats/metadata.md tells them column by column).

Invariant: a file is either whole, of this format and of this program, or it is refused before anything is written.
Keys are BLOBs of their UTF-8 bytes, so SQLite's order is the byte order. Buckets are known by a small number that is
never reused; a body is the msgpack record of a model type.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from discloud.errors import Conflict, Unavailable

SCHEMA_VERSION = 1
"""Format of the file that this program writes."""
APPLICATION = 0x64697363
"""``PRAGMA application_id`` of our files."""
_PAGE = 8192
_WAL_PAGES = 2048
"""Pages of the log after which a commit moves them into the file: 16 MiB."""
_WAL_LIMIT = 64 << 20

_TABLES = (
    "CREATE TABLE mesh(name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE buckets(number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT UNIQUE, body BLOB)
       STRICT""",
    """CREATE TABLE heads(number INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, key BLOB NOT NULL,
       version TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, UNIQUE(bucket, key)) STRICT""",
    """CREATE TABLE versions(number INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, key BLOB NOT NULL,
       version TEXT NOT NULL, state INTEGER NOT NULL, due REAL NOT NULL, body BLOB NOT NULL,
       UNIQUE(bucket, key, version)) STRICT""",
    "CREATE INDEX versions_leased ON versions(due) WHERE state = 1",
    "CREATE INDEX versions_dead ON versions(due) WHERE state IN (3, 6, 8)",
    "CREATE INDEX versions_moved ON versions(version) WHERE state = 7",
    """CREATE TABLE all_log(number INTEGER PRIMARY KEY, bucket INTEGER NOT NULL, key BLOB NOT NULL,
       version TEXT NOT NULL, removed INTEGER NOT NULL) STRICT""",
    """CREATE TABLE repairs(blob TEXT PRIMARY KEY, since REAL NOT NULL, not_before REAL NOT NULL, body BLOB NOT NULL)
       STRICT, WITHOUT ROWID""",
    "CREATE INDEX repairs_since ON repairs(since)",
    "CREATE TABLE accounts(id TEXT PRIMARY KEY, digest BLOB NOT NULL, body BLOB NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE INDEX accounts_digest ON accounts(digest)",
    """CREATE TABLE nodes(id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, nonce TEXT NOT NULL, at REAL NOT NULL,
       body BLOB NOT NULL) STRICT, WITHOUT ROWID""",
)


def failed(error: sqlite3.Error, path: Path) -> Unavailable:
    """What SQLite could not do, as an answer that says nothing of what is stored."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    hints = {
        "SQLITE_FULL": "free some space on its disk",
        "SQLITE_CORRUPT": "stop the node and put a copy of the database in its place",
        "SQLITE_IOERR": "look at its disk",
    }
    hint = next((text for prefix, text in hints.items() if name.startswith(prefix)), "")
    return Unavailable(f"the database {path.name} failed: {error} ({name})", hint)


def connect_writer(path: Path, draw_cluster: Callable[[], str]) -> sqlite3.Connection:
    """The one connection that writes; makes the tables in an empty file. Raises: Conflict (not a file of ours), Unavailable."""
    connection = _connect(path, "rwc")
    try:
        _check(connection, path)
        connection.execute(f"PRAGMA page_size = {_PAGE}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
        connection.execute("PRAGMA cache_size = -65536")
        _create(connection, draw_cluster)
    except sqlite3.Error as error:
        connection.close()
        raise failed(error, path) from error
    except Conflict:
        connection.close()
        raise
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write. Raises: Unavailable."""
    connection = _connect(path, "ro")
    connection.execute("PRAGMA cache_size = -16384")
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    try:
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=64,
        )
    except sqlite3.Error as error:
        raise failed(error, path) from error


def _check(connection: sqlite3.Connection, path: Path) -> None:
    try:
        application = _number(connection, "PRAGMA application_id")
        empty = not _number(connection, "SELECT count(*) FROM sqlite_schema")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorname == "SQLITE_NOTADB":
            raise Conflict(
                f"{path.name} is not a database", "name another file, or restore this one"
            ) from error
        raise
    if empty:
        return
    if application != APPLICATION:
        raise Conflict(f"{path.name} is a database of another program", "name another file")
    version = _number(connection, "SELECT value FROM mesh WHERE name = 'schema_version'")
    if version > SCHEMA_VERSION:
        raise Conflict(
            f"{path.name} has schema {version}, this program knows {SCHEMA_VERSION}",
            "start it with a newer discloud",
        )


def _number(connection: sqlite3.Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _create(connection: sqlite3.Connection, draw_cluster: Callable[[], str]) -> None:
    """All tables in one transaction, so that a crash leaves an empty file or a whole one."""
    connection.execute("BEGIN IMMEDIATE")
    if not _number(connection, "SELECT count(*) FROM sqlite_schema"):
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        for table in _TABLES:
            connection.execute(table)
        facts = {"schema_version": SCHEMA_VERSION, "cluster": draw_cluster(), "floor": 0}
        for fact in facts.items():
            connection.execute("INSERT INTO mesh VALUES (?, ?)", fact)
    connection.execute("COMMIT")
