"""The border between the regions of a test mesh: TCP that crosses it arrives late, and can be cut off.

Everything that stands in a region is reached through an *entry* here, also by its neighbours, because a node has one
advertised address. Who comes in is told by the process that owns the other end of the connection (``/proc``, so Linux
only): a process of the same region passes at once, one of another region has its bytes delivered ``delay`` seconds later,
in order, both ways; whoever stands in no region (a person with curl, a test) passes at once too. What this is not: the
kernel of this machine acknowledges at once, so connecting costs no round trip and a cut looks like a machine
that took the bytes and keeps silent, not like lost packets; what was held is delivered when the cut is healed.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import uvloop

DELAY = 0.05
"""Seconds that a byte takes from one region to another."""
CHUNK = 256 * 1024
WINDOW = 32 * 1024 * 1024
"""Bytes under way in one direction of a connection; beyond, the sender waits."""

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """A door into ``region``: what comes in at ``listen`` goes on to ``target``."""

    listen: Address
    target: Address
    region: str


class Border:
    """All entries, and who stands where. One thread of its own carries the bytes; every method may be called from any thread."""

    def __init__(self, delay: float = DELAY) -> None:
        self.delay = delay
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="border", daemon=True)
        self._places: dict[int, str] = {}
        self._cuts: set[frozenset[str]] = set()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def open(self, entry: Entry) -> None:
        """Listen at an entry from now on. Raises: OSError (its address is taken)."""
        self._do(self._listen(entry))

    def stands(self, process: int, region: str) -> None:
        """The process of that id is in ``region``: what it connects to elsewhere is far away."""
        self._places[process] = region

    def cut(self, *regions: str) -> None:
        """Hold back what passes between the two ``regions``, or between the one named and everything else."""
        self._cuts.add(frozenset(regions))

    def heal(self) -> None:
        """Deliver what was held back, and everything after it."""
        self._cuts.clear()
        self._loop.call_soon_threadsafe(self._tell)

    # ------------------------------------------------------------ on the border's own loop

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self, entry: Entry) -> None:
        listening = socket.socket()
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind(entry.listen)
            listening.listen(512)
        except BaseException:
            listening.close()
            raise
        self._begin(self._accept(listening, entry))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        ending = [*self._tasks]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _accept(self, listening: socket.socket, entry: Entry) -> None:
        with closing(listening):
            while True:
                came, _ = await self._loop.sock_accept(listening)
                self._begin(self._carry(came, entry))

    async def _carry(self, came: socket.socket, entry: Entry) -> None:
        """One connection until both of its directions have ended, or one of them broke."""
        pair = frozenset({owner_of(came, self._places), entry.region})
        with closing(came), closing(socket.socket()) as goes:
            try:
                for each in (came, goes):
                    each.setblocking(False)
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self.passable(pair)
                await self._loop.sock_connect(goes, entry.target)
                async with asyncio.TaskGroup() as both:
                    both.create_task(Direction(self, pair, came, goes).run())
                    both.create_task(Direction(self, pair, goes, came).run())
            except* OSError:
                reset(came)
                reset(goes)

    async def passable(self, pair: frozenset[str]) -> None:
        """Wait while the border between those two is cut."""
        while crosses(pair) and any(cut <= pair for cut in tuple(self._cuts)):
            await self._changed.wait()


class Direction:
    """Bytes of one connection on their way from ``source`` to ``sink``: what is read is held until it is due."""

    def __init__(
        self, border: Border, pair: frozenset[str], source: socket.socket, sink: socket.socket
    ) -> None:
        self._border = border
        self._pair = pair
        self._source, self._sink = source, sink
        self._held: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Until the source has ended and everything was delivered. Raises: OSError (a side broke)."""
        if not crosses(self._pair):
            await self._straight()
            return
        async with asyncio.TaskGroup() as both:
            both.create_task(self._read())
            both.create_task(self._deliver())

    async def _straight(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._source, CHUNK):
            await loop.sock_sendall(self._sink, data)
        self._sink.shutdown(socket.SHUT_WR)

    async def _read(self) -> None:
        """Take what comes, with the time at which it is due; an empty piece is the end."""
        loop, data = asyncio.get_running_loop(), b"-"
        while data:
            data = await loop.sock_recv(self._source, CHUNK)
            self._held.append((time.monotonic() + self._border.delay, data))
            self._bytes += len(data)
            self._moved.set()
            while self._bytes > WINDOW:
                self._moved.clear()
                await self._moved.wait()

    async def _deliver(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._held:
                self._moved.clear()
                await self._moved.wait()
            due, data = self._held.popleft()
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._border.passable(self._pair)
            if not data:
                self._sink.shutdown(socket.SHUT_WR)
                return
            await loop.sock_sendall(self._sink, data)
            self._bytes -= len(data)
            self._moved.set()


def crosses(pair: frozenset[str]) -> bool:
    """Whether those two stand in different regions: whoever stands in none is near to all."""
    return len(pair) > 1 and "" not in pair


def reset(sock: socket.socket) -> None:
    """Have the connection end as broken, not as finished, when it is closed."""
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def owner_of(came: socket.socket, places: dict[int, str]) -> str:
    """The region of the process at the other end of ``came``, empty when it is none of ``places``."""
    inode = _inode(came.getpeername(), came.getsockname())
    wanted = f"socket:[{inode}]"
    for process, region in tuple(places.items()):
        with suppress(OSError):  # it has ended meanwhile
            for opened in Path(f"/proc/{process}/fd").iterdir():
                with suppress(OSError):
                    if inode and str(opened.readlink()) == wanted:
                        return region
    return ""


def _inode(local: Address, remote: Address) -> str:
    """The kernel's number of the socket that connects ``local`` to ``remote``; empty when it is gone.

    A program may have made it as one for both versions of IP, as Java does: then it stands in the other table.
    """
    ends = (_hexed(local), _hexed(remote))
    for table, mapped in (("tcp", ""), ("tcp6", "0000000000000000FFFF0000")):
        wanted = " ".join(mapped + end for end in ends)
        for line in Path("/proc/net", table).read_text("ascii").splitlines():
            if f" {wanted} " in line:
                return line.split()[9]
    return ""


def _hexed(address: Address) -> str:
    """``host:port`` as /proc/net/tcp writes it: the address in the machine's byte order."""
    (number,) = struct.unpack("=I", socket.inet_aton(address[0]))
    return f"{number:08X}:{address[1]:04X}"
