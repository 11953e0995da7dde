"""Every adapter of ``Metadata`` keeps the same contract."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from discloud.ports import Metadata
from tests.contract.metadata_adapters import ADAPTERS, Clock
from tests.contract.metadata_contract import VersionsContract
from tests.contract.metadata_machine import MetadataMachine
from tests.contract.metadata_objects import BUCKET
from tests.contract.metadata_parts_contract import (
    BucketsContract,
    LeasesContract,
    ListingContract,
    QueuesContract,
    RegistryContract,
)
from tests.support.cassandra_tables import drop_keyspace


@pytest.fixture(scope="module", autouse=True)
def shared_keyspace() -> Iterator[None]:
    """What the adapters on Cassandra made is dropped at the end."""
    yield
    drop_keyspace()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(ADAPTERS))
async def metadata(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Metadata]:
    async with ADAPTERS[request.param](tmp_path, clock) as opened:
        await opened.buckets.create(BUCKET)
        yield opened


class TestVersions(VersionsContract):
    pass


class TestListing(ListingContract):
    pass


class TestBuckets(BucketsContract):
    pass


class TestQueues(QueuesContract):
    pass


class TestRegistry(RegistryContract):
    pass


class TestLeases(LeasesContract):
    pass


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_random_histories(adapter: str) -> None:
    machine = type(f"{adapter.title()}Machine", (MetadataMachine,), {"adapter": adapter})
    examples = {"cassandra": 5, "peer of cassandra": 2}.get(adapter, 30)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))
