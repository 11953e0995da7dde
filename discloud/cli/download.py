"""An object's bytes into a landing: resumed where they were cut, from another node if need be, and verified."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

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


class Watch(Protocol):
    """Who hears how a fetch goes on."""

    def sized(self, size: int) -> None:
        """The object has ``size`` bytes; told with every answer."""

    def skipped(self, count: int) -> None:
        """``count`` bytes were there before."""

    def moved(self, count: int) -> None:
        """``count`` more bytes landed; negative: they have to come again."""


class Fetch:
    """One object on its way."""

    def __init__(
        self,
        client: Client,
        remote: Remote,
        landing: Landing,
        watch: Watch,
        query: Mapping[str, str],
    ) -> None:
        self._client = client
        self._remote = remote
        self._landing = landing
        self._watch = watch
        self._query = query
        self._have = 0
        self._kept = 0  # of these, what an earlier command left
        self._size = 0
        self._etag = ""
        self._digest = ""

    async def run(self) -> Fetched:
        """Fetch it. Raises: DiscloudError."""
        self._have, self._etag = await asyncio.to_thread(self._landing.resume)
        self._kept = self._have
        self._watch.skipped(self._kept)
        failures = 0
        while True:
            before = self._have
            try:
                await self._once()
                break
            except PreconditionFailed:
                if not self._etag:
                    raise
                self._etag = ""  # another version is there now
            except MeshDown:
                raise
            except Unavailable:
                failures = 0 if self._etag and self._have > before else failures + 1
                if failures == len(PAUSES):
                    raise
                await asyncio.sleep(PAUSES[failures])
        verified = await asyncio.to_thread(self._landing.finish, self._digest)
        return Fetched(self._size, self._etag, self._kept, verified)

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
                self._watch.moved(len(chunk))
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
            self._watch.sized(self._size)
            return
        self._size = int(answer.headers.get("Content-Length", 0))
        etag = answer.headers.get("ETag", "")
        self._etag = "" if etag.startswith("W/") else etag  # a weak tag does not prove equal bytes
        self._watch.sized(self._size)
        await asyncio.to_thread(self._landing.begin, self._etag, self._size)
        self._watch.moved(self._kept - self._have)
        self._watch.skipped(-self._kept)
        self._have = self._kept = 0
