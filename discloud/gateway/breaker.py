"""Whether it is worth waiting for the metadata: after a failure those who have another answer do not wait.

While the metadata fails (``failing``), whoever has another answer takes that, and has one question at a time find out beside it, a
second after the last one failed. A definite answer, an absence included, ends it. Who has no other answer asks all the same,
and waits ``patience`` at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

from discloud.errors import DiscloudError, Unavailable

T = TypeVar("T")
PATIENCE = 1.5
"""Seconds that a read's question to the metadata may take, where nothing else is set: with 503 as the answer, a request ends within two."""
HURRY = 0.5
"""The same for whoever has another answer."""
PAUSE = 1.0
"""Seconds after a failure until the next question finds out."""


class Breaker:
    """The state of one source. ``clock``: seconds, of any clock; ``patience``: seconds that a question may take. Lives on one event loop."""

    def __init__(self, clock: Callable[[], float], patience: float = PATIENCE) -> None:
        self.patience = patience
        self._clock = clock
        self.failing = False
        self._failed = 0.0
        self._asking = 0
        self._finding_out: asyncio.Task[None] | None = None

    @property
    def hopeless(self) -> bool:
        """Whether it failed a moment ago, or somebody is finding out right now: nobody else need ask."""
        return self.failing and (
            self._asking > 0 or self._finding_out is not None or self._clock() - self._failed < PAUSE
        )

    def find_out(self, question: Callable[[], Awaitable[object]]) -> None:
        """Ask ``question``, which goes through ``ask``, beside the caller, if nobody does; it ends within the patience."""
        if self.failing and not self.hopeless:
            self._finding_out = asyncio.get_running_loop().create_task(self._find_out(question))

    async def _find_out(self, question: Callable[[], Awaitable[object]]) -> None:
        try:
            with suppress(DiscloudError):
                await question()
        finally:
            self._finding_out = None

    async def ask(self, question: Awaitable[T], patience: float | None = None) -> T:
        """The answer. Raises: what the question does; Unavailable after ``patience`` seconds (None: the breaker's own)."""
        patience = self.patience if patience is None else patience
        self._asking += 1
        try:
            async with asyncio.timeout(patience):
                answer = await question
        except TimeoutError as error:
            self._fail()
            raise Unavailable(
                f"the metadata did not answer within {patience:g} s", "repeat the request in a moment"
            ) from error
        except Unavailable:
            self._fail()
            raise
        except Exception:
            self.failing = False
            raise
        finally:
            self._asking -= 1
        self.failing = False
        return answer

    def _fail(self) -> None:
        self.failing = True
        self._failed = self._clock()
