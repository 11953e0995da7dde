"""Every port of discloud: the file to read first.

A port is what the middle of the program needs from the outside world. Each has several adapters
(memory, disk, sqlite, cassandra, redis, peer) and ONE contract suite in tests/contract that
all of them pass; whoever uses a port cannot tell which adapter is behind it.

    Blobs       bytes on ONE node                  memory, disk, peer
    Metadata    what the mesh knows of objects     memory, sqlite, cassandra, peer
      Versions  objects: drafts, heads, listings
      Buckets   namespaces
      Queues    work that must not be forgotten: expired drafts, dead versions, repairs, the ``all`` log
      Accounts  whose token is this
      Nodes     which data folders belong to the mesh
      Leases    which root does the work that one does for all
    Membership  which nodes live                   memory, redis, peer

Rules that hold for all of them:
- Answers are found / absent / unknown. Absent is a subclass of ``NotFound`` and is definite; a timeout,
  a lost connection or a closed adapter is ``Unavailable`` and says nothing. Nothing is deleted on unknown.
- Every coroutine may be called concurrently and may be cancelled; a cancelled call has either happened
  or not, never half.
- Only errors of ``discloud.errors`` are raised.
"""

from __future__ import annotations

from discloud.ports.blobs import (
    SMALL,
    BlobReader,
    Blobs,
    BlobWriter,
    Breakable,
    FileSource,
    SocketSource,
    Usage,
)
from discloud.ports.membership import (
    Gossip,
    Membership,
)
from discloud.ports.metadata import (
    CLAIM,
    LATE,
    Accounts,
    Buckets,
    Leases,
    LogEntry,
    Metadata,
    Nodes,
    Queues,
    Versions,
)

__all__ = [
    "CLAIM",
    "LATE",
    "SMALL",
    "Accounts",
    "BlobReader",
    "BlobWriter",
    "Blobs",
    "Breakable",
    "Buckets",
    "FileSource",
    "Gossip",
    "Leases",
    "LogEntry",
    "Membership",
    "Metadata",
    "Nodes",
    "Queues",
    "SocketSource",
    "Usage",
    "Versions",
]
