"""The peer port of this node: accepts, greets, and serves both kinds of connection until it is closed.

One broken or hostile connection never touches another: its errors end it and nothing else. What a stranger can
cost is bounded before it proved the secret: so many greetings at once, so many seconds, so many bytes each.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from contextlib import suppress

from discloud import logs
from discloud.errors import Conflict, DiscloudError, PeerDown
from discloud.peer.channel import Channel
from discloud.peer.dispatch import Dispatch, parts
from discloud.peer.handshake import Identity, Kind, Session, welcome
from discloud.peer.links import expect_life, tune
from discloud.peer.served_calls import ServedCalls
from discloud.peer.served_streams import ServedStream
from discloud.peer.streams import Stream
from discloud.peer.tls_channel import protected
from discloud.ports import Blobs, Gossip, Membership, Metadata
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from discloud.transfer.tls import Certificates

GREETING = 5.0
"""Seconds that a greeting may take."""
GREETINGS = 256
"""Greetings at once; what comes beyond is closed."""
_REMEMBERED = 1024  # hosts whose refusals are not logged again


class PeerServer:
    """What the other nodes may ask of this one. ``threads`` are the holder's own: they never wait for another node."""

    def __init__(
        self,
        me: Identity,
        blobs: Blobs,
        threads: Threads,
        pace: Pace,
        metadata: Metadata | None = None,
        membership: Membership | None = None,
        gossip: Gossip | None = None,
        *,
        certificates: Certificates | None = None,
    ) -> None:
        self._me = me
        self._certificates = certificates
        self._blobs = blobs
        self._threads = threads
        self._pace = pace
        self._dispatch = Dispatch(parts(blobs, metadata, membership, gossip))
        self._serving: set[ServedCalls | ServedStream] = set()
        self._greeting: set[asyncio.Task[None]] = set()
        self._refused: defaultdict[str, set[str]] = defaultdict(set)
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._runner: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._listener is not None, "start() comes first"
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listen; ``port`` 0 = any. Raises: Conflict (the port is taken or not ours to take)."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            raise Conflict(
                f"the peer port {host}:{port} cannot be opened: {error.strerror}",
                "choose another with --port",
            ) from error
        self._listener.setblocking(False)
        self._runner = asyncio.create_task(self._run(self._listener))

    async def close(self, grace: float = 5.0) -> None:
        """Accept nothing more, let what is under way finish within ``grace`` seconds, then cut it."""
        if self._runner is None or self._listener is None:
            return
        if self._accepting is None:  # closed before it ran at all
            self._runner.cancel()
        else:
            self._accepting.cancel()
        for task in self._greeting:
            task.cancel()
        for connection in tuple(self._serving):
            connection.stop()
        await asyncio.wait([self._runner], timeout=grace)
        self._runner.cancel()
        with suppress(asyncio.CancelledError):
            await self._runner
        self._listener.close()

    async def _run(self, listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as connections:
            self._accepting = connections.create_task(self._accept(listener, connections))

    async def _accept(self, listener: socket.socket, connections: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors: whoever waits is accepted when some are free again
                logs.warn("peer_accept_failed", reason=str(error))
                await asyncio.sleep(0.1)
                continue
            if len(self._greeting) >= GREETINGS:
                sock.close()
                continue
            connections.create_task(self._serve(sock, str(address[0])))

    async def _serve(self, sock: socket.socket, host: str) -> None:
        """One connection from its greeting to its end, whatever happens on it."""
        try:
            tune(sock)
            greeted = await self._greet(sock, host)
            if greeted is None:
                sock.close()
            elif greeted[1].kind is Kind.CALLS:
                await self._serve_calls(*greeted)
            else:
                await self._serve_stream(*greeted)
        except DiscloudError as error:
            logs.warn("peer_connection_broken", peer=host, reason=str(error))
        except Exception:  # noqa: BLE001  a fault in serving one connection must not end the others
            logs.error("peer_connection_failed", traceback=True, peer=host)
        finally:
            sock.close()

    async def _greet(self, sock: socket.socket, host: str) -> tuple[Channel, Session] | None:
        task = asyncio.current_task()
        assert task is not None
        self._greeting.add(task)
        try:
            async with asyncio.timeout(GREETING):
                channel = await protected(sock, self._certificates, accepting=True)
                session = await welcome(channel, self._me)
        except (PeerDown, TimeoutError):
            return None  # a port scan, a health check, or a node that died just now
        except DiscloudError as refusal:
            self._note_refusal(host, refusal)
            return None
        else:
            self._refused.pop(host, None)
            return channel, session
        finally:
            self._greeting.discard(task)

    def _note_refusal(self, host: str, refusal: DiscloudError) -> None:
        """Log it once for each host and code until it is welcome: whoever is refused tries again and again."""
        if refusal.code in self._refused[host]:
            return
        if len(self._refused) > _REMEMBERED:
            self._refused.clear()
        self._refused[host].add(refusal.code)
        logs.warn("peer_refused", peer=host, code=refusal.code, reason=str(refusal))

    async def _serve_calls(self, channel: Channel, session: Session) -> None:
        expect_life(channel.sock)
        async with asyncio.TaskGroup() as calls:
            connection = await channel.attach(lambda: ServedCalls(session, self._dispatch, calls))
            self._serving.add(connection)
            try:
                await connection.gone.wait()
            finally:
                self._serving.discard(connection)
                connection.close()

    async def _serve_stream(self, channel: Channel, session: Session) -> None:
        stream = Stream(channel, session, f"node {session.node}")
        connection = ServedStream(stream, self._blobs, self._dispatch, self._threads, self._pace)
        self._serving.add(connection)
        try:
            await connection.run()
        finally:
            self._serving.discard(connection)
