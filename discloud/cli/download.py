"""An object's bytes into a landing: resumed where they were cut, from another node if need be, and verified."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from discloud.cli.client import Answer, Client, MeshDown, Request
from discloud.cli.landing import Landing, parse_digest
from discloud.cli.remote import Remote
from discloud.errors import PreconditionFailed, Unavailable

PAUSES = (0.1, 0.5, 1.0, 2.0)
"""Seconds before each repetition; the count begins anew whenever bytes arrived."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch did: ``resumed`` bytes were there before, ``verified`` = the digest was compared."""

    size: int
    etag: str
    resumed: int
    verified: bool


class Fetch:
    """One object on its way. ``watch`` hears of every piece that landed (negative: it has to come again)."""

    def __init__(
        self,
        client: Client,
        remote: Remote,
        landing: Landing,
        watch: Callable[[int], None],
        query: Mapping[str, str],
    ) -> None:
        self._client = client
        self._remote = remote
        self._landing = landing
        self._watch = watch
        self._query = query
        self._have = 0
        self._size = 0
        self._etag = ""
        self._digest = ""

    async def run(self, resumed: Callable[[int], None]) -> Fetched:
        """Fetch it; ``resumed`` hears what was there already. Raises: DiscloudError."""
        self._have, self._etag = await asyncio.to_thread(self._landing.resume)
        first = self._have
        if first:
            resumed(first)
        failures = 0
        while True:
            before = self._have
            try:
                await self._once()
                break
            except PreconditionFailed:
                if not self._have:
                    raise
                self._etag = ""  # another version is there now
            except MeshDown:
                raise
            except Unavailable:
                failures = 0 if self._have > before else failures + 1
                if failures == len(PAUSES):
                    raise
                await asyncio.sleep(PAUSES[failures])
        verified = await asyncio.to_thread(self._landing.finish, self._digest)
        return Fetched(self._size, self._etag, min(first, self._have), verified)

    async def _once(self) -> None:
        """One request, for what is missing. Raises: Unavailable when it was cut."""
        headers = {}
        if self._have and self._etag:
            headers = {"Range": f"bytes={self._have}-", "If-Match": self._etag}
        request = Request("GET", self._remote.path, str(self._remote), self._query, headers)
        async with self._client.send(request) as answer:
            await self._take_head(answer)
            async for chunk in answer.chunks():
                await asyncio.to_thread(self._landing.write, chunk)
                self._have += len(chunk)
                self._watch(len(chunk))
        if self._have != self._size:
            raise Unavailable(f"{self._remote}: {self._have} of {self._size} bytes came", "try again")

    async def _take_head(self, answer: Answer) -> None:
        """What the answer is a part of; a whole object begins at its first byte."""
        self._digest = parse_digest(answer.headers.get("Discloud-Digest", ""))
        if answer.status == 206:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != self._have:
                raise Unavailable(f"{self._remote}: the server sent another range than it was asked for")
            self._size = int(match[2])
            return
        self._size = int(answer.headers.get("Content-Length", 0))
        etag = answer.headers.get("ETag", "")
        self._etag = "" if etag.startswith("W/") else etag  # a weak tag does not prove equal bytes
        await asyncio.to_thread(self._landing.begin, self._etag, self._size)
        self._watch(-self._have)
        self._have = 0
