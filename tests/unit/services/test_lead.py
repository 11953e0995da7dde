"""One root leads at a time; another one takes over when it is gone."""

from __future__ import annotations

from discloud.adapters.leases import LocalLeases
from discloud.core.model import NodeId
from discloud.errors import Unavailable
from discloud.services.lead import Lead


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Silent(LocalLeases):
    """Leases that nobody can reach while ``silent``."""

    silent = False

    async def hold(self, name: str, owner: NodeId, seconds: float) -> int | None:
        if self.silent:
            raise Unavailable("no quorum")
        return await super().hold(name, owner, seconds)

    async def release(self, name: str, owner: NodeId) -> None:
        if self.silent:
            raise Unavailable("no quorum")
        await super().release(name, owner)


def roots() -> tuple[Clock, Silent, Lead, Lead]:
    clock = Clock()
    leases = Silent(clock)
    return clock, leases, Lead(leases, NodeId("a"), 15, clock), Lead(leases, NodeId("b"), 15, clock)


async def test_the_first_leads_as_long_as_it_renews() -> None:
    clock, _, first, second = roots()
    assert not first.leads()
    for _ in range(10):
        assert (await first.run_once()).epoch == 1
        assert (await second.run_once()).epoch is None
        assert (first.leads(), second.leads()) == (True, False)
        clock.now += 5


async def test_another_takes_over_when_the_lease_is_over_and_never_before() -> None:
    clock, _, first, second = roots()
    await first.run_once()
    clock.now += 14.9
    assert (await second.run_once()).epoch is None
    assert first.leads()
    clock.now += 0.2
    assert not first.leads(), "a paused leader does not take itself for one when it wakes"
    assert (await second.run_once()).epoch == 2
    assert (await first.run_once()).epoch is None


async def test_who_stops_lets_go_at_once() -> None:
    _, _, first, second = roots()
    await first.run_once()
    await first.give_up()
    assert not first.leads()
    assert (await second.run_once()).epoch == 2
    await first.give_up()
    assert second.leads()


async def test_without_an_answer_what_is_left_of_the_lease_holds() -> None:
    clock, leases, first, _ = roots()
    await first.run_once()
    leases.silent = True
    clock.now += 10
    try:
        await first.run_once()
    except Unavailable:
        assert first.leads()
    clock.now += 5
    assert not first.leads()
    await first.give_up()
