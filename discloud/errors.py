"""The one error tree: what went wrong, to what, and what to do next.

    DiscloudError
    +-- Invalid              400  the request contradicts itself or is malformed
    |   +-- BadKey  BadBucketName  BadLayout  BadDigest  UnknownNode  UnknownRegion
    +-- Unauthenticated      401  who are you
    +-- Forbidden            403  you may not
    +-- NotFound             404  definitely absent (never "could not find out")
    |   +-- NoSuchBucket  NoSuchKey  NoSuchVersion  NoSuchBlob  NoSuchNode
    +-- Conflict             409  the state of the thing does not allow it
    |   +-- BucketExists  BucketNotEmpty  BucketClosed  NodeUnavailable  Aborted
    +-- Gone                 410  it was here and was removed
    +-- PreconditionFailed   412  an If-* header did not hold
    +-- TooLarge             413  over a limit
    +-- RangeNotSatisfiable  416
    +-- Unavailable          503  unknown or for now impossible: repeat later
    |   +-- PeerDown  OutcomeUnknown  TooSlow
    +-- InsufficientStorage  507
    |   +-- NotEnoughNodes  NoSpace
    +-- Corrupt              500  stored bytes are not the written bytes
    +-- ClientGone           499  the client left; nobody reads the answer

core, gateway and the adapters raise only these; adapters translate foreign errors at their edge
with ``raise ... from``. ``code`` is stable and crosses every surface (HTTP problem, peer wire, CLI).
Invariant: ``NotFound`` is a definite answer; whatever is not known is ``Unavailable``.
"""

from __future__ import annotations

from typing import ClassVar


class DiscloudError(Exception):
    """What happened (``detail``), and what to do next (``hint``, may be empty)."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.detail}. {self.hint}" if self.hint else self.detail


class Invalid(DiscloudError):
    """The request contradicts itself or cannot be read."""

    code = "invalid"


class BadKey(Invalid):
    """A key outside the grammar: 1..1024 bytes of UTF-8 without NUL and C0 controls."""

    code = "bad-key"


class BadBucketName(Invalid):
    """A bucket name outside the grammar."""

    code = "bad-bucket-name"


class BadLayout(Invalid):
    """A layout that cannot be read or contradicts the named nodes."""

    code = "bad-layout"


class BadDigest(Invalid):
    """The bytes received do not have the digest that the client declared."""

    code = "bad-digest"


class UnknownNode(Invalid):
    """The request names a node that the mesh does not have."""

    code = "unknown-node"


class UnknownRegion(Invalid):
    """The request names a region in which the mesh has no node."""

    code = "unknown-region"


class Unauthenticated(DiscloudError):
    """No or wrong credentials."""

    code = "unauthenticated"


class Forbidden(DiscloudError):
    """Known, but not allowed."""

    code = "forbidden"


class NotFound(DiscloudError):
    """A definite absence."""

    code = "not-found"


class NoSuchBucket(NotFound):
    """The bucket does not exist."""

    code = "no-such-bucket"


class NoSuchKey(NotFound):
    """The bucket has no object of that key."""

    code = "no-such-key"


class NoSuchVersion(NotFound):
    """The object has no such version."""

    code = "no-such-version"


class NoSuchBlob(NotFound):
    """The node does not hold the blob."""

    code = "no-such-blob"


class NoSuchNode(NotFound):
    """The mesh has no such node."""

    code = "no-such-node"


class Conflict(DiscloudError):
    """The state of the thing does not allow the operation."""

    code = "conflict"


class BucketExists(Conflict):
    """A bucket of that name exists."""

    code = "bucket-exists"


class BucketNotEmpty(Conflict):
    """The bucket still holds objects."""

    code = "bucket-not-empty"


class BucketClosed(Conflict):
    """The bucket is read-only, disabled or being deleted."""

    code = "bucket-closed"


class NodeUnavailable(Conflict):
    """A node that the request names is down or draining."""

    code = "node-unavailable"


class Aborted(Conflict):
    """The draft was aborted (its lease ran out), so it can never be committed."""

    code = "aborted"


class Gone(DiscloudError):
    """It existed and was removed."""

    code = "gone"


class PreconditionFailed(DiscloudError):
    """If-Match, If-None-Match or If-Unmodified-Since did not hold."""

    code = "precondition-failed"


class TooLarge(DiscloudError):
    """Over a limit of this mesh or of the request."""

    code = "too-large"


class RangeNotSatisfiable(DiscloudError):
    """No byte of the requested ranges exists."""

    code = "range-not-satisfiable"


class Unavailable(DiscloudError):
    """Unknown, or impossible for now; repeating later is right."""

    code = "unavailable"


class PeerDown(Unavailable):
    """A node could not be reached or went away in the middle."""

    code = "peer-down"


class TooSlow(Unavailable):
    """A transfer stayed below ``limits.min_rate`` beyond its grace."""

    code = "too-slow"


class OutcomeUnknown(Unavailable):
    """The commit was sent and its answer was lost; repeating the request is safe."""

    code = "outcome-unknown"


class InsufficientStorage(DiscloudError):
    """The mesh cannot hold it as wished."""

    code = "insufficient-storage"


class NotEnoughNodes(InsufficientStorage):
    """Fewer living nodes than the layout needs."""

    code = "not-enough-nodes"


class NoSpace(InsufficientStorage):
    """The disks are full."""

    code = "no-space"


class Corrupt(DiscloudError):
    """Stored bytes are not the bytes that were written."""

    code = "corrupt"


class ClientGone(DiscloudError):
    """The client closed its connection; there is nobody to answer."""

    code = "client-gone"


def _tree(root: type[DiscloudError]) -> dict[str, type[DiscloudError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= _tree(child)
    return found


BY_CODE: dict[str, type[DiscloudError]] = _tree(DiscloudError)
"""Every error by its ``code``: errors cross the wire by name and rise again as the same class."""
