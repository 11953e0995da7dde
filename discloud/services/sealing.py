"""The seal that tells a holder what a version has become, with the whole row for ``rebuild``."""

from __future__ import annotations

import msgpack

from discloud.core.model import Seal, Version
from discloud.core.records import to_record


def seal_of(version: Version) -> Seal:
    """The seal of a version in the state that its row has."""
    record = msgpack.packb(to_record(version))
    return Seal(version.id, version.bucket, version.key, version.state, version.seq, record)
