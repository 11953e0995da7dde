"""All connections of this node to others: made on demand, kept, replaced when lost.

For each peer a few long-lived connections carry calls, the one with the least to wait for first, and a pool of stream connections
carries transfers, each used by one at a time and kept only while both sides are in step. An address that could not be
reached is left alone for a moment, so that a dead peer costs its callers nothing. Only addresses from
the view or the configuration are ever given to this module.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from discloud import logs, metrics
from discloud.core.model import NodeId
from discloud.errors import DiscloudError, PeerDown, Unavailable
from discloud.peer.calls import CallConnection
from discloud.peer.channel import Channel
from discloud.peer.handshake import ANYBODY, Identity, Kind, Session, greet
from discloud.peer.streams import Stream, expect
from discloud.peer.tls_channel import protected
from discloud.peer.wire import ANSWER, CALL, FAILED, Message, error_of
from discloud.transfer.tls import Certificates

GREETINGS = 16
"""Connections to one peer that are being made at once; the others wait for their turn."""
CONNECT = 3.0
"""Seconds within which a peer must have accepted and greeted."""
BACKOFF = (0.05, 1.0)
"""Seconds for which an unreachable address is left alone: at first, and at most (it doubles)."""
SILENCE = 20
"""Seconds after which a connection for calls ends whose bytes nobody acknowledges."""
KEPT = 8
"""Idle stream connections kept for each peer."""
IDLE = 60.0
"""Seconds after which an idle stream connection is closed."""

_HINT = "see which nodes live: discloud nodes"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to connect to: ``host:port``, and the node that must be found there (ANYBODY = whichever)."""

    address: str
    node: NodeId = ANYBODY

    def __str__(self) -> str:
        return f"node {self.node} at {self.address}" if self.node else self.address


class _Peer:
    """What is open to one target, and when it may be tried again."""

    def __init__(self) -> None:
        self.calls: list[CallConnection] = []
        self.streams: deque[Stream] = deque()
        self.dialing = asyncio.Lock()
        self.greetings = asyncio.Semaphore(GREETINGS)
        self.pruning = False
        self.failed: DiscloudError | None = None
        self.pause = 0.0
        self.again = 0.0


class Links:
    """Connections as one identity. Lives on one loop; closed by whoever made it.

    ``certificates``: what both sides show each other (TLS); None = in the clear.
    """

    def __init__(
        self,
        me: Identity,
        connections: int = 2,
        clock: Callable[[], float] = time.monotonic,
        certificates: Certificates | None = None,
    ) -> None:
        self.me = me
        self._certificates = certificates
        self._connections = connections
        self._clock = clock
        self._peers: defaultdict[Target, _Peer] = defaultdict(_Peer)
        self._closed = False

    async def call(self, target: Target, method: str, arguments: list[Any], seconds: float) -> Any:
        """Make one call within ``seconds``, the time to connect included.

        Raises: the error that the other node raised; PeerDown (nothing was sent); AnswerLost (it may have happened).
        """
        end = self._clock() + seconds
        try:
            connection = await self._calls(target, seconds)
            value = await connection.call(method, arguments, end - self._clock())
        except DiscloudError as error:
            metrics.PEER_CALLS.add(1, method, error.code)
            raise
        metrics.PEER_CALLS.add(1, method, "ok")
        return value

    @asynccontextmanager
    async def exchange(
        self, target: Target, method: str, arguments: list[Any], seconds: float
    ) -> AsyncIterator[tuple[Stream, Any]]:
        """Begin a transfer on a stream connection of its own: the call is sent, its first answer is given out.

        The caller sets ``stream.in_step`` when the transfer ended as agreed; otherwise the connection is closed.
        Raises: as ``call``.
        """
        try:
            stream, value = await self._begin(target, method, arguments, seconds)
        except DiscloudError as error:
            metrics.PEER_CALLS.add(1, method, error.code)
            raise
        metrics.PEER_CALLS.add(1, method, "ok")
        try:
            yield stream, value
        finally:
            self._release(target, stream)

    async def greet(self, target: Target) -> Session:
        """Make sure that the peer can be called, and tell who it is.

        Raises: PeerDown; a refusal as it is: Unauthenticated, Conflict, Invalid (waiting will not help then).
        """
        try:
            return (await self._calls(target, CONNECT)).session
        except PeerDown as error:
            if isinstance(error.__cause__, DiscloudError):
                raise error.__cause__ from None
            raise

    def alone(self) -> Links:
        """Links of the same identity with one connection for each peer, which no other call can hold up."""
        return Links(self.me, 1, self._clock, self._certificates)

    async def close(self) -> None:
        """Close every connection; calls that wait fail, later ones are refused."""
        self._closed = True
        for peer in self._peers.values():
            while peer.streams:
                peer.streams.pop().close()
            for connection in peer.calls:
                connection.close()
        self._peers.clear()
        await asyncio.sleep(0)  # the loop reports the lost connections to their protocols

    # ---- calls

    async def _calls(self, target: Target, seconds: float) -> CallConnection:
        """The least loaded connection; another one is made while there are fewer than allowed and all are busy."""
        peer = self._peers[target]
        if best := self._least(peer):
            return best
        try:
            async with asyncio.timeout(seconds), peer.dialing:
                return self._least(peer) or await self._dial_calls(target, peer, seconds)
        except (PeerDown, TimeoutError) as error:
            if usable := [each for each in peer.calls if each.usable]:
                return min(usable, key=lambda each: each.load)
            if isinstance(error, PeerDown):
                raise
            raise PeerDown(f"{target} was not reached within {seconds:.1f} s", _HINT) from error

    def _least(self, peer: _Peer) -> CallConnection | None:
        usable = [each for each in peer.calls if each.usable]
        if not usable:
            return None
        best = min(usable, key=lambda each: each.load)
        return best if best.load == 0 or len(usable) >= self._connections else None

    async def _dial_calls(self, target: Target, peer: _Peer, seconds: float) -> CallConnection:
        channel, session = await self._dial(target, Kind.CALLS, peer, seconds)
        expect_life(channel.sock)
        try:
            connection = await channel.attach(lambda: CallConnection(session, str(target)))
        except BaseException:
            channel.close()
            raise
        if self._closed:
            connection.close()
            raise _closed()
        for silent in peer.calls:
            if not silent.usable and not silent.load:
                silent.close()
        peer.calls = [each for each in peer.calls if not each.closed] + [connection]
        return connection

    # ---- streams

    async def _begin(
        self, target: Target, method: str, arguments: list[Any], seconds: float
    ) -> tuple[Stream, Any]:
        message = [CALL, 0, method, arguments, int(seconds * 1000), logs.REQUEST.get(), logs.TRACE.get()]
        asked = await self._ask_idle(target, message, seconds)
        if asked is None:
            channel, session = await self._dial(target, Kind.STREAM, self._peers[target], seconds)
            stream = Stream(channel, session, str(target))
            asked = stream, await self._ask(stream, message, seconds)
        stream, answer = asked
        if answer[0] == ANSWER:
            stream.in_step = False
            return stream, answer[2]
        self._release(target, stream)
        raise error_of(answer)

    async def _ask_idle(
        self, target: Target, message: Message, seconds: float
    ) -> tuple[Stream, Message] | None:
        """The answer on a connection that was idle; None if the peer has closed them all."""
        while (stream := self._idle_stream(target)) is not None:
            with suppress(PeerDown):  # it was closed while it was idle: the next one
                return stream, await self._ask(stream, message, seconds)
        return None

    async def _ask(self, stream: Stream, message: Message, seconds: float) -> Message:
        """Send the call and receive the first answer to it. Closes the stream unless that is an answer or a failure."""
        try:
            await stream.send(message, seconds)
            return expect(stream, await stream.receive(seconds), ANSWER, FAILED)
        except BaseException:
            stream.close()
            raise

    def _idle_stream(self, target: Target) -> Stream | None:
        streams = self._peers[target].streams
        while streams:
            stream = streams.pop()
            if stream.pending() is None:
                return stream
            stream.close()
        return None

    def _release(self, target: Target, stream: Stream) -> None:
        peer = self._peers[target]
        if self._closed or not stream.in_step or len(peer.streams) >= KEPT:
            stream.close()
            return
        stream.since = self._clock()
        peer.streams.append(stream)
        self._plan_pruning(peer)

    def _plan_pruning(self, peer: _Peer) -> None:
        if peer.streams and not peer.pruning:
            peer.pruning = True
            asyncio.get_running_loop().call_later(IDLE, self._prune, peer)

    def _prune(self, peer: _Peer) -> None:
        while peer.streams and peer.streams[0].since <= self._clock() - IDLE:
            peer.streams.popleft().close()
        peer.pruning = False
        self._plan_pruning(peer)

    # ---- dialing

    async def _dial(self, target: Target, kind: Kind, peer: _Peer, seconds: float) -> tuple[Channel, Session]:
        """A greeted channel, when it is its turn: many at once would all be late (a handshake of TLS costs milliseconds of CPU)."""
        end = self._clock() + seconds
        try:
            async with asyncio.timeout(seconds):
                await peer.greetings.acquire()
        except TimeoutError as error:
            raise PeerDown(f"{target} greets others still, after {seconds:.1f} s", _HINT) from error
        try:
            return await self._greeted(target, kind, peer, end - self._clock())
        finally:
            peer.greetings.release()

    async def _greeted(
        self, target: Target, kind: Kind, peer: _Peer, seconds: float
    ) -> tuple[Channel, Session]:
        """See ``_dial``. A failure is remembered for a moment and logged once until the peer answers again."""
        if self._closed:
            raise _closed()
        if peer.failed is not None and self._clock() < peer.again:
            raise PeerDown(
                f"{target} could not be reached a moment ago: {peer.failed}", _HINT
            ) from peer.failed
        try:
            dialed = await self._reach(target, kind, min(seconds, CONNECT))
        except DiscloudError as error:
            self._note_failure(target, peer, error)
            raise PeerDown(f"{target} cannot be used: {error}", _HINT) from error
        if peer.failed is not None:
            logs.info("peer_reached", peer=str(target))
        peer.failed, peer.pause = None, 0.0
        return dialed

    async def _reach(self, target: Target, kind: Kind, seconds: float) -> tuple[Channel, Session]:
        """A connected and greeted channel. Raises: PeerDown, or the refusal as it is."""
        try:
            async with asyncio.timeout(seconds):
                sock = await _connect(target.address)
                try:
                    channel = await protected(sock, self._certificates, accepting=False)
                    return channel, await greet(channel, self.me, kind, target.node)
                except BaseException:
                    sock.close()
                    raise
        except TimeoutError as error:
            raise PeerDown(f"it did not greet within {seconds:.1f} s") from error

    def _note_failure(self, target: Target, peer: _Peer, error: DiscloudError) -> None:
        if peer.failed is None or peer.failed.code != error.code:
            logs.warn("peer_unreachable", peer=str(target), code=error.code, reason=str(error))
        peer.failed = error
        peer.pause = min(peer.pause * 2 or BACKOFF[0], BACKOFF[1])
        peer.again = self._clock() + peer.pause


def _closed() -> Unavailable:
    return Unavailable("the links of this node are closed", "it is stopping: use another one")


async def _connect(address: str) -> socket.socket:
    """A connected non-blocking socket, to the first of the host's addresses that takes it. Raises: PeerDown."""
    host, _, port = address.rpartition(":")
    reasons: list[str] = []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise PeerDown(f"no connection to {address}: {error}") from error
    for family, kind, protocol, _, place in found:
        try:
            return await _connect_to(socket.socket(family, kind, protocol), place)
        except OSError as error:
            reasons.append(os.strerror(error.errno) if error.errno else str(error))
    raise PeerDown(f"no connection to {address}: {', '.join(sorted(set(reasons)))}")


async def _connect_to(sock: socket.socket, place: Any) -> socket.socket:
    try:
        tune(sock)
        await asyncio.get_running_loop().sock_connect(sock, place)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """What every connection between nodes has: no blocking, no delay, and an end when the other machine vanished while it is idle."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
        _set_if_known(sock, name, value)


def expect_life(sock: socket.socket) -> None:
    """For calls: end also when what was sent stays unacknowledged. Not for streams: their reader may rest for longer than that."""
    _set_if_known(sock, "TCP_USER_TIMEOUT", SILENCE * 1000)


def _set_if_known(sock: socket.socket, name: str, value: int) -> None:
    if (option := getattr(socket, name, None)) is not None:  # Linux knows them all
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
