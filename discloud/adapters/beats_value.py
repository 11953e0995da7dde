"""What a root keeps in Redis: its beats under a MAC, so that nobody without the cluster's secret is believed.

A byte for the version of the form, 32 bytes of keyed BLAKE3, then msgpack of ``Told``'s record. Other people may write
whatever they like under the same name: everything that is not exactly this is refused with ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hmac import compare_digest

import msgpack
from blake3 import blake3

from discloud.core.model import MIB, Beat, NodeId
from discloud.core.records import from_record, to_record

LIMIT = MIB
"""Bytes of the longest value that is read: some five thousand nodes."""
_FORM = b"\x01"
_HEAD = len(_FORM) + 32


@dataclass(frozen=True, slots=True)
class Told:
    """The beats that ``root`` of ``mesh`` heard itself, with their ages when it wrote them for ``ttl`` seconds."""

    mesh: str
    root: NodeId
    ttl: float
    beats: tuple[Beat, ...]

    def aged(self, age: float) -> tuple[Beat, ...]:
        """The beats with their ages now, ``age`` seconds after they were written."""
        return tuple(replace(beat, age=beat.age + age) for beat in self.beats)


def seal_beats(told: Told, key: bytes) -> bytes:
    """The value to keep, under the MAC of ``key``."""
    body: bytes = msgpack.packb(to_record(told))
    return _FORM + blake3(body, key=key).digest() + body


def open_beats(value: bytes, keys: Sequence[bytes]) -> Told:
    """What a value says. Raises: ValueError (too long, none of these keys' MAC, or not of this form)."""
    body = value[_HEAD:]
    if len(value) > LIMIT:
        raise ValueError("it is too long")
    if value[: len(_FORM)] != _FORM or not any(
        _is_under(key, value[len(_FORM) : _HEAD], body) for key in keys
    ):
        raise ValueError("it has not the MAC of this mesh")
    try:
        return from_record(Told, msgpack.unpackb(body))
    except (msgpack.UnpackException, UnicodeDecodeError) as error:
        raise ValueError(f"it cannot be unpacked: {error}") from error


def _is_under(key: bytes, mac: bytes, body: bytes) -> bool:
    return compare_digest(mac, blake3(body, key=key).digest())
