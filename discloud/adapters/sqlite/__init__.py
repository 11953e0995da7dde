"""Metadata in SQLite: one writer thread with group commit, a pool of readers, a cache of heads in front."""

from discloud.adapters.sqlite.metadata import SqliteMetadata

__all__ = ["SqliteMetadata"]
