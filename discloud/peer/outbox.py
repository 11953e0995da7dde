"""Frames of one connection on their way out: those of one turn of the event loop leave in one write.

A write is a system call of its own, dearer than everything else a small call costs; many calls are answered in the same
turn when the nodes are busy, which is when it matters. Order is kept; nothing waits longer than one turn.
"""

from __future__ import annotations

import asyncio

PROMPT = 64 * 1024
"""Bytes beyond which frames leave at once, so that the transport's flow control sees them."""


class Outbox:
    """Collects frames for ``transport``. Runs on the event loop; frames for a closing transport are dropped."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._frames: list[bytes] = []
        self._size = 0

    def send(self, frame: bytes) -> None:
        """Let ``frame`` leave, with others where there are some."""
        if not self._frames:
            self._loop.call_soon(self.flush)
        self._frames.append(frame)
        self._size += len(frame)
        if self._size > PROMPT:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        frames, self._frames, self._size = self._frames, [], 0
        # is_closing() before each write: uvloop raises on a closing transport, into whoever writes
        if frames and not self._transport.is_closing():
            self._transport.write(frames[0] if len(frames) == 1 else b"".join(frames))
