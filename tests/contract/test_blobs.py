"""Runs the contract of ``Blobs`` for every adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from discloud.ports import Blobs
from tests.contract.blob_adapters import ADAPTERS
from tests.contract.blobs_contract import BlobsContract, Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=sorted(ADAPTERS))
async def blobs(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Blobs]:
    async with ADAPTERS[request.param](tmp_path, clock) as adapter:
        yield adapter


class TestBlobs(BlobsContract):
    pass
