"""The loop runs services by their period, survives their failures and stops at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time

import pytest

from discloud.errors import PeerDown, Unavailable
from discloud.services.loop import Periodic, ServiceLoop


class Counting:
    """A service that counts its runs and whether two ever overlapped."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.runs = 0
        self.active = 0
        self.overlapped = False
        self.reached = asyncio.Event()
        self.goal = 3

    async def run_once(self) -> int:
        self.overlapped |= self.active > 0
        self.active += 1
        await asyncio.sleep(0)
        self.active -= 1
        self.runs += 1
        if self.runs >= self.goal:
            self.reached.set()
        if self.failure:
            raise self.failure
        return self.runs


class Hanging:
    """A service that never ends a run by itself."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.ended = False

    async def run_once(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True


def draw(below: int) -> int:
    return below // 2


async def test_every_service_runs_again_and_again() -> None:
    services = [Counting(), Counting()]
    async with ServiceLoop(
        [Periodic(str(n), each, 0.001) for n, each in enumerate(services)], time.monotonic, draw
    ):
        async with asyncio.timeout(10):
            await asyncio.gather(*(each.reached.wait() for each in services))
    assert not any(each.overlapped for each in services)
    runs = [each.runs for each in services]
    await asyncio.sleep(0.01)
    assert runs == [each.runs for each in services], "nothing runs after the loop was left"


@pytest.mark.parametrize(("failure", "event"), [(RuntimeError("a bug"), "service_failed")])
async def test_a_failing_service_is_logged_with_its_traceback_and_runs_again(
    failure: Exception, event: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing, sound = Counting(failure), Counting()
    services = [Periodic("failing", failing, 0.001), Periodic("sound", sound, 0.001)]
    async with ServiceLoop(services, time.monotonic, draw), asyncio.timeout(10):
        await failing.reached.wait()
        await sound.reached.wait()
    lines = [record for record in caplog.records if record.getMessage() == event]
    assert len(lines) >= 3
    assert lines[0].exc_info is not None


class Scripted:
    """A service whose runs end as listed; ``reached`` when the list is through."""

    def __init__(self, *outcomes: Exception | None) -> None:
        self._outcomes = list(outcomes)
        self.reached = asyncio.Event()

    async def run_once(self) -> None:
        if not self._outcomes:
            self.reached.set()
            return
        if failure := self._outcomes.pop(0):
            raise failure


async def test_a_wait_is_told_when_it_begins_when_its_reason_changes_and_when_it_ends(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="discloud")
    silent, lost, again = Unavailable("no root answers"), PeerDown("it left"), Unavailable("another message")
    service = Scripted(silent, again, lost, RuntimeError("a bug"), silent, lost, None, None, silent, None)
    ticks = itertools.count()
    async with (
        ServiceLoop([Periodic("waiting", service, 0.001)], lambda: float(next(ticks)), draw),
        asyncio.timeout(10),
    ):
        await service.reached.wait()
    told = [
        record for record in caplog.records if record.getMessage() in ("service_waits", "service_goes_on")
    ]
    fields = [each.__dict__["fields"] for each in told]
    assert [each.get("reason") or each["reasons"] for each in fields] == [
        "unavailable",
        "peer-down",
        ["unavailable", "peer-down"],
        "unavailable",
        ["unavailable"],
    ]
    waits = [each["waited"] for each in fields if "waited" in each]
    assert waits[0] > waits[1] > 0, "a wait is as long as all its reasons"
    assert {each.levelno for each in told if each.getMessage() == "service_waits"} == {logging.WARNING}
    assert not any(each.exc_info for each in told)


async def test_a_hanging_service_is_stopped_and_does_not_keep_the_others_from_running() -> None:
    hanging, sound = Hanging(), Counting()
    services = [Periodic("hanging", hanging, 0.001), Periodic("sound", sound, 0.001)]
    async with asyncio.timeout(10), ServiceLoop(services, time.monotonic, draw):
        await hanging.started.wait()
        await sound.reached.wait()
    assert hanging.ended


async def test_a_service_that_does_not_stop_in_time_is_named_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("discloud.services.loop.STOP", 0.01)
    started, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Stubborn:
        async def run_once(self) -> None:
            started.set()
            try:
                await release.wait()
            finally:
                # As a copy does whose thread is still writing: it ends when the write has ended.
                await release.wait()
                ended.set()

    async with (
        asyncio.timeout(10),
        ServiceLoop([Periodic("stubborn", Stubborn(), 0.001)], time.monotonic, draw),
    ):
        await started.wait()
    assert not ended.is_set()
    assert "service_stops_late" in [record.getMessage() for record in caplog.records]
    release.set()
    await ended.wait()


async def test_a_run_that_is_not_due_is_left_out() -> None:
    often, never = Counting(), Counting()
    services = [Periodic("often", often, 0.01), Periodic("never", never, 0.01, lambda: False)]
    async with ServiceLoop(services, time.monotonic, lambda _: 0):
        await asyncio.wait_for(often.reached.wait(), 10)
    assert never.runs == 0
