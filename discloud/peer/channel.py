"""The bytes of one connection between nodes, in the clear; tls_channel.py has the same behind TLS.

Owns the non-blocking socket. Used by one at a time, from the loop or from one worker thread: whatever goes over a
channel (the greeting, messages, raw bodies) goes through here, so that nothing else knows how it is protected.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from discloud.ports import SocketSource
from discloud.transfer.outlet import Outlet, outlet_of_socket
from discloud.transfer.pace import Pace
from discloud.transfer.sockets import receive_exactly, send_all
from discloud.transfer.threads import Threads

P = TypeVar("P", bound=asyncio.Protocol)


class Channel:
    """A connected socket. The kernel may move its bodies. OSError = the connection is lost."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    # ---- on the loop

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises: OSError."""
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def receive(self, limit: int) -> bytes:
        """What comes next, at most ``limit`` bytes; ``b""`` at the end. Raises: OSError."""
        return await asyncio.get_running_loop().sock_recv(self.sock, limit)

    async def receive_into(self, buffer: memoryview) -> int:
        """As ``receive``, into a buffer; how many bytes came. Raises: OSError."""
        return await asyncio.get_running_loop().sock_recv_into(self.sock, buffer)

    async def attach(self, make: Callable[[], P]) -> P:
        """Give the connection to a protocol of the loop, for good. Raises: OSError."""
        _, protocol = await asyncio.get_running_loop().create_connection(make, sock=self.sock)
        return protocol

    # ---- in a worker thread

    def take_into(self, buffer: memoryview) -> int:
        """What is there now; 0 at the end. Raises: BlockingIOError (nothing), OSError."""
        return self.sock.recv_into(buffer)

    def fill(self, buffer: bytearray, seconds: float) -> None:
        """Fill the buffer, waiting for at most ``seconds``. Raises: PeerDown, TooSlow."""
        receive_exactly(self.sock.fileno(), buffer, seconds)

    def give(self, head: bytes, body: memoryview, seconds: float) -> None:
        """Send both: in one call where the socket has room, so that four bytes are no packet of their own and nothing is copied.

        Raises: OSError, PeerDown (both: the connection is lost), TooSlow.
        """
        try:
            sent = self.sock.sendmsg([head, body])
        except BlockingIOError:
            sent = 0
        if sent < len(head):
            send_all(self.sock.fileno(), head[sent:], seconds)
        send_all(self.sock.fileno(), body[max(0, sent - len(head)) :], seconds)

    def wake_at(self, count: int) -> None:
        """Let the selector report the socket only when ``count`` bytes have come, or its end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)

    # ---- anywhere

    def pending(self) -> bytes | None:
        """What lies unread at the front: a byte, ``b""`` when the other side left, None when nothing came."""
        try:
            return self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def source(self, length: int) -> SocketSource | None:
        """The next ``length`` bytes for the kernel to move; None = they must be received."""
        return SocketSource(self.sock.fileno(), length)

    def outlet(self, threads: Threads, pace: Pace) -> Outlet:
        """The way out for a body."""
        return outlet_of_socket(self.sock, threads, pace)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()
