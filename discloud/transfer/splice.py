"""Socket to socket inside the kernel, through a pipe: how bytes of another node reach a client.

Pitfalls (measured, research notes): a splice INTO a pipe hangs on a full one without SPLICE_F_NONBLOCK even if the
socket does not block; bytes that are left in a pipe after an error must never reach another receiver.
"""

from __future__ import annotations

import fcntl
import os
from collections import deque
from collections.abc import Callable
from enum import Enum

from discloud.core.model import MIB
from discloud.errors import ClientGone, PeerDown, Unavailable
from discloud.ports import SocketSource
from discloud.transfer.sendfile import QUANTUM

PIPE = MIB
"""Bytes a pipe holds at most: what a slow receiver of a fast source keeps in the kernel."""
_KEPT = 16
_idle: deque[Pipe] = deque()


class Side(Enum):
    """Who a transfer waits for."""

    SOURCE = "the sending node"
    RECEIVER = "the receiver"


class Pipe:
    """A pipe of the kernel; ``held`` are the bytes in it. One transfer at a time. Raises: Unavailable (no descriptor)."""

    def __init__(self) -> None:
        try:
            self.output, self.input = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as full:
            raise Unavailable(
                f"no pipe for a transfer: {full}", "Raise this process's limit of open files"
            ) from full
        self.held = 0
        try:
            fcntl.fcntl(self.input, fcntl.F_SETPIPE_SZ, PIPE)
        except OSError:  # over the user's quota of pipe pages: a small pipe is slower and just as right
            return

    def close(self) -> None:
        """Drop the pipe and what it holds."""
        os.close(self.output)
        os.close(self.input)


def take_pipe() -> Pipe:
    """An empty pipe; give it back with ``release``."""
    return _idle.pop() if _idle else Pipe()


def release(pipe: Pipe) -> None:
    """Keep the pipe for the next transfer if it is empty, else drop it."""
    if pipe.held or len(_idle) >= _KEPT:
        pipe.close()
    else:
        _idle.append(pipe)


class SocketMove:
    """The next ``length`` bytes of ``source`` to the non-blocking socket ``receiver``.

    ``quantum`` is called from a worker thread, one call at a time; ``count`` is told of all bytes that left. What was
    taken from the source is sent before more is taken: when the source fails the pipe is empty.
    """

    def __init__(
        self, receiver: int, source: SocketSource, length: int, pipe: Pipe, count: Callable[[int], None]
    ) -> None:
        self._receiver = receiver
        self._source = source
        self._pipe = pipe
        self._count = count
        self._left = length

    @property
    def done(self) -> bool:
        """Whether all bytes have left."""
        return not self._left and not self._pipe.held

    @property
    def taken(self) -> int:
        """Bytes still to be taken from the source, negated: grows with every byte it gave."""
        return -self._left

    def quantum(self) -> Side | None:
        """Move until QUANTUM bytes have left, all is done, or the returned side is not ready.

        Raises: ClientGone; PeerDown (the source failed or ended too early).
        """
        budget = QUANTUM
        while budget > 0 and not self.done:
            if self._pipe.held:
                count = self._push()
                if not count:
                    return Side.RECEIVER
                budget -= count
            elif not self._pull():
                return Side.SOURCE
        return None

    def _pull(self) -> bool:
        try:
            count = os.splice(
                self._source.fd,
                self._pipe.input,
                min(self._left, PIPE),
                flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK,
            )
        except BlockingIOError:
            return False
        except OSError as lost:
            raise PeerDown(f"the connection to a holder was lost: {lost}") from lost
        if not count:
            raise PeerDown(f"a holder ended the connection with {self._left} bytes to come")
        self._left -= count
        self._pipe.held += count
        return True

    def _push(self) -> int:
        try:
            count = os.splice(
                self._pipe.output,
                self._receiver,
                self._pipe.held,
                flags=os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK,
            )
        except BlockingIOError:
            return 0
        except OSError as lost:
            raise ClientGone(f"the receiver left: {lost}") from lost
        self._pipe.held -= count
        self._count(count)
        return count
