"""This process's claim to be its node: taken at the start, renewed while it lives, given up at the end.

Invariant: two live processes never speak for one node. The mark beside the data folder's identity says which
claim this very folder held last, on which boot of which machine: a process that was killed takes its own claim back at once, while
a copied folder (another inode, machine or boot) has to wait until nobody renews it, and is refused if somebody does.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from discloud import logs
from discloud.core.model import Node
from discloud.errors import Conflict, Unavailable
from discloud.ports import CLAIM, Nodes

MARK = "claim.json"
BOOT = Path("/proc/sys/kernel/random/boot_id")
PAUSE = 0.5
"""Seconds between two tries to take a claim that another process may still hold."""
GOODBYE = 2.0
"""Seconds that giving up may take: a root that is gone cannot be told."""


class Claim:
    """``nonce`` names this process; ``clock`` gives epoch seconds."""

    def __init__(
        self, nodes: Nodes, node: Node, nonce: str, folder: Path, clock: Callable[[], float]
    ) -> None:
        self._nodes = nodes
        self._node = node
        self._nonce = nonce
        self._folder = folder
        self._clock = clock

    async def take(self) -> None:
        """Become the node. Waits as long as a dead process's claim may last. Raises: Conflict when a live one holds it."""
        if former := self._former():
            await self._nodes.release(self._node.id, former)
        end = self._clock() + CLAIM * 1.2
        while True:
            try:
                await self._nodes.register(self._node, self._nonce, self._clock())
            except Conflict as error:
                if self._clock() > end:
                    raise
                logs.debug("claim_waits", detail=error.detail)
                await asyncio.sleep(PAUSE)
            else:
                break
        self._mark(self._nonce)

    async def run_once(self) -> bool:
        """Renew; False when the claim was lost to another process, which a person must look at."""
        try:
            await self._nodes.register(self._node, self._nonce, self._clock())
        except Conflict as error:
            logs.error("node_id_taken", detail=error.detail)
            return False
        return True

    async def give_up(self) -> None:
        """Let a restart begin at once."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(GOODBYE):
                await self._nodes.release(self._node.id, self._nonce)

    def _former(self) -> str | None:
        """The nonce that this folder held last, if no other process can hold it since."""
        try:
            found = json.loads((self._folder / MARK).read_text())
        except (OSError, ValueError):
            return None
        here = found.get("place") == self._place() if isinstance(found, dict) else False
        return str(found["nonce"]) if here else None

    def _mark(self, nonce: str) -> None:
        """Best effort: without the mark a restart after a crash waits a little."""
        with suppress(OSError):
            (self._folder / MARK).write_text(json.dumps({"nonce": nonce, "place": self._place()}))

    def _place(self) -> list[str | int]:
        """What tells this folder on this boot from any copy of it."""
        about = self._folder.stat()
        try:
            boot = BOOT.read_text().strip()
        except OSError:
            boot = ""
        return [socket.gethostname(), boot, about.st_dev, about.st_ino]
