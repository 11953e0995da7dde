"""Names of versions: UUID version 7 (RFC 9562 section 5.7), so that rows of one time lie together."""

from __future__ import annotations

from uuid import UUID

from discloud.core.model import VersionId

RANDOM_BITS = 74
_VERSION = 7
_VARIANT = 2
_LOW_BITS = 62


def version_id(milliseconds: int, random: int) -> VersionId:
    """The id of a write at ``milliseconds`` since the epoch; ``random`` has ``RANDOM_BITS`` bits."""
    high, low = random >> _LOW_BITS, random & ((1 << _LOW_BITS) - 1)
    value = (milliseconds << 80) | (_VERSION << 76) | (high << 64) | (_VARIANT << _LOW_BITS) | low
    return VersionId(str(UUID(int=value)))
