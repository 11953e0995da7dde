"""The same bytes as channel.py behind TLS 1.3 with certificates on both sides: copied, never moved by the kernel.

TLS runs in memory and its records go over the same raw socket as everything else, so that one connection may be
driven by the loop, by a worker thread or by a transport in turn. Records are decrypted as far as they have come whole; what is left of one waits in
memory (at most 16 KiB).
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NoReturn, TypeVar, cast

from discloud import logs
from discloud.core.model import KIB
from discloud.errors import PeerDown, Unauthenticated
from discloud.peer.channel import Channel
from discloud.peer.handshake import MAGIC, not_alike, tell_refusal
from discloud.ports import SocketSource
from discloud.transfer.outlet import Outlet, outlet_of_socket
from discloud.transfer.pace import Pace
from discloud.transfer.sockets import await_event, send_all
from discloud.transfer.threads import Threads
from discloud.transfer.tls import Certificates, why

LINGER = 2.0
"""Seconds in which a node whose certificate was refused may still read why."""
_RECEIVED = 128 * KIB  # ciphertext taken from the socket at once
_RECORD = 32 * KIB  # more than one record: what may have been taken from the socket already
_HINT = 'every node of a mesh needs a certificate of its authority: "discloud cert node", [tls] cert, key and authority'

P = TypeVar("P", bound=asyncio.Protocol)


class TlsChannel(Channel):
    """A connected socket behind TLS. ``handshake`` comes first."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, accepting: bool) -> None:
        super().__init__(sock)
        self._accepting = accepting
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=accepting)
        self._front = b""
        self._proved = False

    async def handshake(self) -> None:
        """Agree on keys and look at each other's certificates.

        Raises: Unauthenticated (a certificate is refused, here or there), Invalid (the other side speaks no TLS), OSError.
        """
        first = True
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
            except ssl.SSLError as error:
                await self._refuse()
                raise _refusal(error) from error
            else:
                await self._flush()
                return
            data = await asyncio.get_running_loop().sock_recv(self.sock, _RECEIVED)
            if not data:
                raise ConnectionResetError("closed during the TLS handshake")
            if first and MAGIC.startswith(data[: len(MAGIC)]):
                await self._refuse_plain()
            first = False
            self._arrived.write(data)

    # ---- on the loop

    async def send(self, data: bytes) -> None:
        """As Channel."""
        await super().send(self.seal(data))

    async def receive(self, limit: int) -> bytes:
        """As Channel."""
        buffer = memoryview(bytearray(limit))
        return bytes(buffer[: await self.receive_into(buffer)])

    async def receive_into(self, buffer: memoryview) -> int:
        """As Channel; several records at once where they have come."""
        while (count := self._decrypt_all(buffer)) is None:
            data = await asyncio.get_running_loop().sock_recv(self.sock, _RECEIVED)
            if not data:
                return 0
            self._arrived.write(data)
        return count

    async def attach(self, make: Callable[[], P]) -> P:
        """As Channel: the protocol gets a transport that encrypts."""
        between = await super().attach(lambda: _Between(self, make()))
        return cast("P", between.inner)

    # ---- in a worker thread

    def take_into(self, buffer: memoryview) -> int:
        """As Channel."""
        while (count := self._decrypt_all(buffer)) is None:
            data = self.sock.recv(_RECEIVED)
            if not data:
                return 0
            self._arrived.write(data)
        return count

    def fill(self, buffer: bytearray, seconds: float) -> None:
        """As Channel."""
        end = time.monotonic() + seconds
        rest = memoryview(buffer)
        while rest:
            try:
                count = self.take_into(rest)
            except BlockingIOError:
                await_event(self.sock.fileno(), select.POLLIN, end, time.monotonic, "to send a message")
                continue
            except OSError as lost:
                raise PeerDown(f"the connection was lost with {len(rest)} bytes to come: {lost}") from lost
            if not count:
                raise PeerDown(f"the connection ended with {len(rest)} bytes to come")
            rest = rest[count:]

    def give(self, head: bytes, body: memoryview, seconds: float) -> None:
        """As Channel."""
        self._encrypt(head)
        self._encrypt(body)
        send_all(self.sock.fileno(), self._leaving.read(), seconds)

    def wake_at(self, count: int) -> None:
        """As Channel. What has come of the next record is not in the socket any more."""
        super().wake_at(max(1, count - _RECORD))

    # ---- anywhere

    def pending(self) -> bytes | None:
        """As Channel."""
        byte = bytearray(1)
        try:
            if not self._front and self.take_into(memoryview(byte)):
                self._front = bytes(byte)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        return self._front

    def source(self, length: int) -> SocketSource | None:  # noqa: ARG002
        """None: the kernel cannot decrypt."""
        return None

    def outlet(self, threads: Threads, pace: Pace) -> Outlet:
        """As Channel: encrypted in a worker thread."""
        return outlet_of_socket(self.sock, threads, pace, self.seal)

    # ---- inside

    def seal(self, data: bytes | memoryview) -> bytes:
        """The records of ``data``, to be sent in this order."""
        self._encrypt(data)
        return self._leaving.read()

    def unseal(self, data: bytes) -> tuple[bytes, bool]:
        """What ``data`` completes of what was received, and whether it is the end. Raises: OSError."""
        self._arrived.write(data)
        parts: list[bytes] = []
        with suppress(ssl.SSLWantReadError):
            while part := self._tls.read(_RECORD):
                parts.append(part)
            return b"".join(parts), True
        return b"".join(parts), False

    def _encrypt(self, data: bytes | memoryview) -> None:
        rest = memoryview(data).cast("B")
        while rest:  # a record each time
            rest = rest[self._tls.write(rest) :]

    def _decrypt_all(self, buffer: memoryview) -> int | None:
        """Bytes put into the buffer, as many as there are; 0 at the end; None = nothing has come whole. Raises: OSError."""
        count = len(self._front)
        buffer[:count] = self._front
        self._front = b""
        try:
            while count < len(buffer):
                part = cast("int", self._tls.read(len(buffer) - count, buffer[count:]))
                if not part:
                    break
                self._proved = True
                count += part
        except ssl.SSLWantReadError:
            return count or None
        except ssl.SSLError as error:
            if count:
                return count  # it fails again when more is asked for
            if self._proved:
                raise ConnectionResetError(f"TLS failed: {why(error)}") from error
            raise _refusal(error) from error
        return count

    async def _flush(self) -> None:
        if self._leaving.pending:
            await super().send(self._leaving.read())

    async def _refuse(self) -> None:
        """Send the alert, and read on until it was read: closing with bytes unread would reset the connection before."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(LINGER):
                await self._flush()
                self.sock.shutdown(socket.SHUT_WR)
                while await asyncio.get_running_loop().sock_recv(self.sock, _RECEIVED):
                    pass

    async def _refuse_plain(self) -> NoReturn:
        """The other side greets in the clear, or refuses so. Raises: Invalid."""
        refusal = not_alike()
        if self._accepting:
            await tell_refusal(Channel(self.sock), refusal)
        raise refusal


class _Between(asyncio.Protocol):
    """Decrypts for the protocol of a connection for calls."""

    def __init__(self, channel: TlsChannel, inner: asyncio.Protocol) -> None:
        self.inner = inner
        self._channel = channel
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are of no class of asyncio
        self.inner.connection_made(_Encrypting(self._channel, self._transport))
        self.data_received(b"")  # what came with the end of the greeting

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        try:
            plain, ended = self._channel.unseal(data)
        except OSError as error:
            logs.warn("peer_connection_broken", reason=f"TLS failed: {error}")
            self._transport.abort()
            return
        if plain:
            self.inner.data_received(plain)
        if ended:
            self._transport.close()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.inner.connection_lost(exc)


class _Encrypting(asyncio.Transport):
    """What a protocol of calls asks of its transport."""

    def __init__(self, channel: TlsChannel, transport: asyncio.Transport) -> None:
        super().__init__()
        self._channel = channel
        self._transport = transport

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(self._channel.seal(memoryview(data)))

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        self._transport.abort()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()


def _refusal(error: ssl.SSLError) -> Unauthenticated:
    """Before anything else was received a failure is about certificates."""
    said = why(error)
    if said.startswith("alert "):
        reason = said.removeprefix("alert ")
        return Unauthenticated(f"the other node refuses this node's certificate: {reason}", _HINT)
    return Unauthenticated(f"the other node's certificate is refused: {said}", _HINT)


async def protected(sock: socket.socket, certificates: Certificates | None, *, accepting: bool) -> Channel:
    """The channel over a connected socket: TLS where there are certificates. The socket stays the caller's.

    Raises: Unauthenticated, Invalid (only one side speaks TLS), PeerDown.
    """
    if certificates is None:
        return Channel(sock)
    channel = TlsChannel(sock, certificates.for_peer(accepting=accepting), accepting=accepting)
    try:
        await channel.handshake()
    except OSError as error:
        raise PeerDown(f"the connection broke during the TLS handshake: {error}") from error
    return channel
