"""Every adapter of ``Membership`` keeps the same contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.contract.membership_adapters import ADAPTERS
from tests.contract.membership_contract import Beats, Clock, MembershipContract


@pytest.fixture(params=sorted(ADAPTERS))
async def beats(request: pytest.FixtureRequest) -> AsyncIterator[Beats]:
    clock = Clock()
    async with ADAPTERS[request.param](clock) as membership:
        yield Beats(membership, clock)


class TestMembership(MembershipContract):
    pass
