"""The ``Metadata`` port on Cassandra: for a mesh with several roots (DESIGN section 5)."""

from __future__ import annotations

from discloud.adapters.cassandra.driver import Settings
from discloud.adapters.cassandra.metadata import CassandraMetadata

__all__ = ["CassandraMetadata", "Settings"]
