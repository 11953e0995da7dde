"""The calling end of a call with many results: they come in pages, as fast as they are taken."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from discloud.peer.links import Links, Target
from discloud.peer.methods import Method
from discloud.peer.streams import expect
from discloud.peer.wire import END, FAILED, PAGE, error_of, unpack_any


async def pages(
    links: Links, target: Target, method: Method, seconds: float, *arguments: object
) -> AsyncIterator[Any]:
    """Each result; ``seconds`` is how long the peer may take for each page. Left early, the connection is closed.

    Raises: as ``Links.call``; also in the middle.
    """
    async with links.exchange(target, method.name, method.pack(*arguments), seconds) as (stream, _):
        while True:
            message = expect(stream, await stream.receive(seconds), PAGE, END, FAILED)
            if message[0] == PAGE:
                for item in message[2]:
                    yield method.unpack_result(unpack_any(item))
                continue
            stream.in_step = True
            if message[0] == FAILED:
                raise error_of(message)
            return
