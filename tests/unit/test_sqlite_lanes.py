"""Every call to a lane is answered: done in order, in batches, or refused."""

from __future__ import annotations

import asyncio
import threading

import pytest

from discloud.adapters.sqlite.lanes import Call, Lane
from discloud.errors import DiscloudError, NotFound, OutcomeUnknown, Unavailable


class Bench:
    """Runs operations on itself; ``hold`` keeps the thread in its first batch until it is released."""

    def __init__(self, hold: bool = False) -> None:
        self.batches: list[int] = []
        self.started = threading.Event()
        self.go = threading.Event()
        if not hold:
            self.go.set()

    def serve(self, calls: list[Call[Bench]]) -> None:
        self.batches.append(len(calls))
        self.started.set()
        assert self.go.wait(30)
        for call in calls:
            try:
                call.result = call.operation(self)
            except DiscloudError as error:
                call.error = error


def fail(error: Exception) -> object:
    raise error


async def test_what_waits_is_served_together_and_in_order() -> None:
    bench, done = Bench(hold=True), []
    lane = Lane("test", [bench.serve], 4)
    first = asyncio.create_task(lane.run(lambda _: done.append(0)))
    await asyncio.to_thread(bench.started.wait, 30)
    others = [asyncio.create_task(lane.run(lambda _, n=n: done.append(n))) for n in range(1, 8)]  # type: ignore[misc]
    await asyncio.sleep(0)
    bench.go.set()
    await asyncio.gather(first, *others)
    assert done == list(range(8))
    assert bench.batches == [1, 4, 3]
    await lane.close()


async def test_a_result_and_an_error_reach_their_callers() -> None:
    lane = Lane("test", [Bench().serve], 4)
    good, bad = await asyncio.gather(
        lane.run(lambda _: 7), lane.run(lambda _: fail(NotFound("no"))), return_exceptions=True
    )
    assert good == 7
    assert isinstance(bad, NotFound)
    await lane.close()


async def test_a_close_does_what_was_accepted_and_refuses_the_rest() -> None:
    bench = Bench(hold=True)
    lane = Lane("test", [bench.serve, bench.serve], 1)
    calls = [asyncio.create_task(lane.run(lambda _: threading.current_thread().name)) for _ in range(5)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(lane.close())
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await lane.run(lambda _: 1)
    bench.go.set()
    await closing
    await lane.close()
    assert {await call for call in calls} <= {"test-0", "test-1"}


async def test_a_broken_thread_fails_all_who_wait_and_all_who_come() -> None:
    bench = Bench(hold=True)
    lane = Lane("test", [bench.serve], 1)
    calls = [asyncio.create_task(lane.run(lambda _: fail(KeyError("a bug")))) for _ in range(3)]
    await asyncio.sleep(0)
    bench.go.set()
    with pytest.raises(OutcomeUnknown):
        await calls[0]
    for call in calls[1:]:
        with pytest.raises(Unavailable):
            await call
    with pytest.raises(Unavailable):
        await lane.run(lambda _: 1)
    await lane.close()


async def test_a_cancelled_caller_does_not_stop_the_work() -> None:
    bench, done = Bench(hold=True), []
    lane = Lane("test", [bench.serve], 4)
    call = asyncio.create_task(lane.run(lambda _: done.append(1)))
    await asyncio.to_thread(bench.started.wait, 30)
    call.cancel()
    bench.go.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    await lane.close()
    assert done == [1]
