"""The answering end of a stream connection: one transfer after the other until the peer leaves.

blobs.create   answer, body in chunks, COMMIT -> answer with what is stored now, or the failure
               given up: answer with nothing, once nothing of it is left
blobs.open     answer with the length, that many raw bytes, END
with pages     answer, PAGE ..., END
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from discloud import logs
from discloud.core.model import KIB, BlobId, Stored
from discloud.core.records import to_record
from discloud.errors import BadDigest, ClientGone, DiscloudError, Invalid, PeerDown, TooSlow
from discloud.peer.body import Body
from discloud.peer.dispatch import Dispatch, Request, told
from discloud.peer.methods import CREATE, OPEN
from discloud.peer.streams import Stream, expect
from discloud.peer.wire import ANSWER, COMMIT, END, PAGE, failure, pack_any
from discloud.ports import Blobs, BlobWriter
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

IDLE = 120.0
"""Seconds after which a stream connection without a transfer is closed; longer than the caller keeps it."""
PAGE_PATIENCE = 600.0
"""Seconds for which a reader of pages may work on one before it takes the next."""

_PAGE_BYTES = 256 * KIB
_LINGER = 2.0  # seconds in which a failed sender may still read why


class ServedStream:
    """One connection after its handshake."""

    def __init__(
        self, stream: Stream, blobs: Blobs, dispatch: Dispatch, threads: Threads, pace: Pace
    ) -> None:
        self._stream = stream
        self._blobs = blobs
        self._dispatch = dispatch
        self._threads = threads
        self._pace = pace
        self._idle = False
        self._stopping = False

    def stop(self) -> None:
        """Finish the transfer under way, then close."""
        self._stopping = True
        if self._idle:
            with suppress(OSError):  # it is gone already
                self._stream.channel.sock.shutdown(socket.SHUT_RD)

    async def run(self) -> None:
        """Serve until the peer leaves, is idle for too long, breaks the protocol, or ``stop``. Closes the stream."""
        with self._stream:
            while not self._stopping:
                self._idle = True
                try:
                    request = Request.of(await self._stream.receive(IDLE))
                except (PeerDown, TooSlow) as error:
                    self._note_end(error)
                    return
                finally:
                    self._idle = False
                request.enter()
                await self._serve(request)
                if not self._stream.in_step:
                    return

    def _note_end(self, error: DiscloudError) -> None:
        """A peer that leaves or is idle is no event; one that cannot be believed is."""
        if isinstance(error.__cause__, Invalid):
            logs.warn("peer_connection_broken", peer=self._stream.name, reason=str(error))

    async def _serve(self, request: Request) -> None:
        """One transfer. Its failure is told if the peer still listens; out of step the connection ends."""
        try:
            match request.method:
                case CREATE.name:
                    await self._create(request)
                case OPEN.name:
                    await self._open(request)
                case _:
                    await self._pages(request)
        except (ClientGone, PeerDown) as error:
            self._stream.in_step = False
            logs.info("peer_transfer_cut", peer=self._stream.name, method=request.method, reason=str(error))
        except Exception as error:  # noqa: BLE001  whatever fails in a transfer concerns its caller only
            await self._refuse(request, told(request, error))

    async def _refuse(self, request: Request, error: DiscloudError) -> None:
        if not self._stream.in_step and request.method != CREATE.name:
            return  # in the middle of raw bytes nothing can be told: what is missing tells it
        with suppress(PeerDown, TooSlow):
            await self._send(failure(request.number, error))
            if not self._stream.in_step:
                await self._linger()

    async def _linger(self) -> None:
        """Drop the rest of a body: closing with bytes unread resets the connection, and a reset may overtake the failure just sent."""
        loop = asyncio.get_running_loop()
        with suppress(TimeoutError, OSError):
            self._stream.channel.sock.shutdown(socket.SHUT_WR)
            async with asyncio.timeout(_LINGER):
                while await loop.sock_recv(self._stream.channel.sock, 64 * KIB):
                    pass

    async def _create(self, request: Request) -> None:
        blob, label, length = CREATE.unpack(request.arguments)
        async with self._blobs.create(blob, label, length) as writer:
            await self._send([ANSWER, request.number, None])
            self._stream.in_step = False
            body = Body(self._stream.channel, writer, self._pace, self._stream.name)
            found = await body.receive(self._threads)
            stored = None if found is None else await self._commit(writer, blob, found)
        self._stream.in_step = True
        await self._send([ANSWER, request.number, stored and to_record(stored)])

    async def _commit(self, writer: BlobWriter, blob: BlobId, found: bytes) -> Stored:
        hash = await self._commit_hash()
        self._stream.in_step = True
        if hash != found:
            raise BadDigest(f"blob {blob} arrived as {found.hex()} and not as {hash.hex()}")
        return await writer.commit(hash)

    async def _commit_hash(self) -> bytes:
        message = expect(self._stream, await self._stream.receive(self._pace.deadline(0), limit=KIB), COMMIT)
        hash = message[2]
        if not isinstance(hash, bytes):
            raise PeerDown(f"{self._stream.name} committed without a hash")
        return hash

    async def _open(self, request: Request) -> None:
        async with self._blobs.open(*OPEN.unpack(request.arguments)) as reader:
            await self._send([ANSWER, request.number, reader.length])
            self._stream.in_step = False
            outlet = self._stream.channel.outlet(self._threads, self._pace)
            await outlet.move(reader, 0, reader.length)
            self._stream.in_step = True
            await self._send([END, request.number, reader.length])

    async def _pages(self, request: Request) -> None:
        method, items = self._dispatch.pages(request)
        await self._send([ANSWER, request.number, None])
        page: list[bytes] = []
        size = count = 0
        async for item in items:
            page.append(pack_any(method.pack_result(item)))
            size += len(page[-1])
            count += 1
            if size >= _PAGE_BYTES:
                await self._send([PAGE, request.number, page], PAGE_PATIENCE)
                page, size = [], 0
        await self._send([PAGE, request.number, page], PAGE_PATIENCE)
        await self._send([END, request.number, count], PAGE_PATIENCE)

    async def _send(self, message: list[Any], seconds: float | None = None) -> None:
        await self._stream.send(message, self._pace.deadline(0) if seconds is None else seconds)
