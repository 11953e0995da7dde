"""The API's tests run twice: all in memory, and on the Cassandra and Redis that tests share (``kept``)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.cassandra_tables import drop_keyspace
from tests.support.grid import Keeping, in_cassandra, in_memory


@pytest.fixture(scope="module", params=["memory", "cluster"])
def kept(request: pytest.FixtureRequest) -> Keeping:
    """Where a grid's metadata are and its nodes meet."""
    if request.param == "memory":
        return in_memory
    request.getfixturevalue("shared_keyspace")
    return in_cassandra


@pytest.fixture(scope="package")
def shared_keyspace(cassandra_cluster: object) -> Iterator[None]:
    """Tests of a process use one keyspace in turn, which is dropped at the end; left out where there is no Cassandra."""
    yield
    drop_keyspace()
