"""Runs the background services: each by its period with jitter, never twice at once, and none can stop another.

Invariant: a failing service is logged and tried again after its period; only leaving the ``async with`` ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from discloud import logs
from discloud.errors import Unavailable

STOP = 1.0
"""Seconds that a service has for ending when the loop stops."""
SPREAD = 0.2
"""Share of a period by which runs vary (plus and minus half of it), so that nodes do not act in step."""
STEPS = 1000


class Service(Protocol):
    """Work that is done in runs; each run ends by itself and returns counts of what it did."""

    async def run_once(self) -> object:
        """Do what is due now. Raises: DiscloudError; ``Unavailable`` leaves the rest for the next run."""


def _always() -> bool:
    return True


@dataclass(slots=True)
class _Wait:
    """Why a service cannot work, and since when: the codes of the errors it met, in order; none = it can."""

    reasons: list[str] = field(default_factory=list)
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Periodic:
    """A service, the name it is logged by, and the seconds from the begin of one run to the begin of the next.

    A run for which ``due`` says False is left out.
    """

    name: str
    service: Service
    period: float
    due: Callable[[], bool] = _always


class ServiceLoop:
    """Owns one task per service. Use as ``async with``; leaving it stops all within ``STOP`` seconds.

    ``clock`` counts seconds and never goes back; ``draw(n)`` gives a random 0..n-1. The first run comes within the
    first period, at a random moment. A run that takes longer than its period delays its own next run only.
    """

    def __init__(
        self, services: Sequence[Periodic], clock: Callable[[], float], draw: Callable[[int], int]
    ) -> None:
        self._services = tuple(services)
        self._clock = clock
        self._draw = draw
        self._tasks: tuple[asyncio.Task[None], ...] = ()

    async def __aenter__(self) -> Self:
        self._tasks = tuple(
            asyncio.create_task(self._run(each), name=f"service {each.name}") for each in self._services
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        tasks, self._tasks = self._tasks, ()
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        # A copy that is blocked in a thread ends by its own deadline; nobody waits longer for it than this.
        _, late = await asyncio.wait(tasks, timeout=STOP)
        for task in late:
            logs.warn("service_stops_late", service=task.get_name())

    async def _run(self, each: Periodic) -> None:
        await asyncio.sleep(each.period * self._draw(STEPS) / STEPS)
        wait = _Wait()
        while True:
            began = self._clock()
            if each.due():
                await self._run_logged(each, wait)
            period = each.period * (1 - SPREAD / 2 + SPREAD * self._draw(STEPS) / STEPS)
            await asyncio.sleep(max(0.0, period - (self._clock() - began)))

    async def _run_logged(self, each: Periodic, wait: _Wait) -> None:
        try:
            report = await each.service.run_once()
        except Unavailable as error:
            self._note_wait(each, wait, error)
        except Exception:  # noqa: BLE001 - whatever a service does wrong, the others and its next run go on
            logs.error("service_failed", traceback=True, service=each.name)
        else:
            if wait.reasons:
                waited = round(self._clock() - wait.since, 1)
                logs.info("service_goes_on", service=each.name, reasons=wait.reasons.copy(), waited=waited)
                wait.reasons.clear()
            logs.debug("service_ran", service=each.name, report=report)

    def _note_wait(self, each: Periodic, wait: _Wait, error: Unavailable) -> None:
        """Log that a wait began or has a further reason, not every run of it, nor reasons that take turns."""
        if error.code in wait.reasons:
            return
        logs.warn("service_waits", service=each.name, reason=error.code, detail=str(error))
        if not wait.reasons:
            wait.since = self._clock()
        wait.reasons.append(error.code)
