"""Frames and messages of the node protocol: how a message becomes sealed bytes and back (docs/formats/peer.md).

A frame is length u32, sequence u64, seal (keyed BLAKE3, 16 bytes, over the message and then the first twelve bytes
of the head), message (msgpack). Each direction has its own key and counts from 0, so a frame that is forged, changed,
repeated, left out or moved is found out at once; then the connection is closed, because nothing behind it
can be believed. Not safe for concurrent use: a connection belongs to one loop, or to one thread at a time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hmac import compare_digest
from typing import Any

import msgpack
from blake3 import blake3

from discloud.core.model import MIB
from discloud.errors import BY_CODE, DiscloudError, Invalid, TooLarge, Unavailable

CALL = 1
"""[CALL, id, method, arguments, milliseconds left, request id, traceparent]: please answer within that time."""
ANSWER = 2
"""[ANSWER, id, value]"""
FAILED = 3
"""[FAILED, id, code, detail, hint]: the error of that code (discloud.errors) was raised."""
PAGE = 4
"""[PAGE, id, items]: some results of a call that has many; on stream connections only."""
END = 5
"""[END, id, count]: all pages, or all raw bytes, were sent; on stream connections only."""
COMMIT = 6
"""[COMMIT, id, hash]: keep the body that was just sent if this is its BLAKE3; on stream connections only."""

HEAD = struct.Struct("!IQ16s")
"""length of the message, sequence, seal."""
FRAME_LIMIT = 32 * MIB
"""Longest message that is accepted: a page of versions with many segments is the longest there is."""

_SEALED_HEAD = 12
_NUMBERS = struct.Struct("!IQ")
_SEAL = 16
_TEXT = "surrogatepass"  # text that is no UTF-8 crosses as it is: to refuse it is the port's business, on either node

Message = list[Any]


class Packed(bytes):
    """A value in msgpack already, as ``pack_any`` makes it: the last item of a message crosses as it is."""


class Outgoing:
    """Seals the messages of one direction. A message over FRAME_LIMIT is refused before anything is sent."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sequence = 0
        self._packer = msgpack.Packer(unicode_errors=_TEXT)

    def frame(self, message: Sequence[object]) -> bytes:
        """The next frame. Raises: TooLarge, Invalid (a value that cannot be carried, such as an integer over 64 bits)."""
        try:
            body = self._body(message)
        except (ValueError, TypeError, OverflowError) as error:
            raise Invalid(f"a message cannot be sent: {error}") from error
        if len(body) > FRAME_LIMIT:
            raise TooLarge(
                f"a message of {len(body)} bytes is over the limit of {FRAME_LIMIT}", "ask for less"
            )
        numbers = _NUMBERS.pack(len(body), self._sequence)
        self._sequence += 1
        return b"".join((numbers, _seal(self._key, body, numbers), body))

    def _body(self, message: Sequence[object]) -> bytes:
        if not isinstance(message[-1], Packed):
            whole: bytes = self._packer.pack(message)
            return whole
        first = map(self._packer.pack, message[:-1])
        return b"".join((self._packer.pack_array_header(len(message)), *first, message[-1]))


class Incoming:
    """Opens the frames of one direction, which may arrive in pieces of any size."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._sequence = 0
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Raises: Invalid: close the connection."""
        if self._rest:
            self._rest += data
            with memoryview(self._rest) as view:
                messages, taken = self._take(view)
            del self._rest[:taken]
        else:
            with memoryview(data) as view:
                messages, taken = self._take(view)
                self._rest += view[taken:]
        return messages

    def open(self, head: bytes, body: bytes | bytearray | memoryview) -> Message:
        """The message of one whole frame. Raises: Invalid: close the connection."""
        _, sequence, seal = HEAD.unpack(head)
        if sequence != self._sequence:
            raise Invalid(f"frame {self._sequence} was due and {sequence} came")
        if not compare_digest(seal, _seal(self._key, body, head[:_SEALED_HEAD])):
            raise Invalid(f"the seal of frame {sequence} is wrong")
        self._sequence += 1
        return unpack(body)

    def _take(self, view: memoryview) -> tuple[list[Message], int]:
        """Messages of the whole frames at the beginning of ``view``, and where the rest begins."""
        messages: list[Message] = []
        start, end = 0, len(view)
        while end - start >= HEAD.size:
            head = bytes(view[start : start + HEAD.size])
            stop = start + HEAD.size + body_length(head)
            if stop > end:
                break
            messages.append(self.open(head, view[start + HEAD.size : stop]))
            start = stop
        return messages, start


def body_length(head: bytes | bytearray, limit: int = FRAME_LIMIT) -> int:
    """Bytes that follow this head. Raises: Invalid beyond ``limit``."""
    length = int.from_bytes(head[:4], "big")
    if length > limit:
        raise Invalid(f"a frame of {length} bytes is over the limit of {limit}")
    return length


def pack_any(value: object) -> bytes:
    """The bytes of a value within a message."""
    body: bytes = msgpack.packb(value, unicode_errors=_TEXT)
    return body


def unpack(body: bytes | bytearray | memoryview) -> Message:
    """The list that ``body`` holds. Raises: Invalid where it holds anything else."""
    message = unpack_any(body)
    if not isinstance(message, list) or not message:
        raise Invalid("a message is not a list")
    return message


def unpack_any(body: bytes | bytearray | memoryview) -> Any:
    """The value that ``body`` holds. Raises: Invalid."""
    try:
        return msgpack.unpackb(body, strict_map_key=False, unicode_errors=_TEXT)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise Invalid(f"a message cannot be read: {error}") from error


def failure(number: int, error: DiscloudError) -> Message:
    """The message that lets ``error`` rise again at the other node."""
    return [FAILED, number, error.code, error.detail, error.hint]


def error_of(message: Message) -> DiscloudError:
    """The error that a FAILED message tells; a code that this version does not know says nothing definite."""
    _, _, code, detail, hint, *_ = message
    return BY_CODE.get(code, Unavailable)(detail, hint)


def _seal(key: bytes, body: bytes | bytearray | memoryview, numbers: bytes) -> bytes:
    return blake3(body, key=key).update(numbers).digest(_SEAL)
