"""Version ids are UUIDs of version 7 in the order of time."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from discloud.core.version_ids import RANDOM_BITS, version_id

bits = st.integers(0, (1 << RANDOM_BITS) - 1)
times = st.integers(0, (1 << 48) - 1)


@given(times, bits, times, bits)
def test_order_follows_time_and_all_bits_count(one: int, low: int, other: int, high: int) -> None:
    first, second = version_id(one, low), version_id(other, high)
    assert (first == second) == ((one, low) == (other, high))
    if one < other:
        assert first < second
    assert UUID(first).version == 7
    assert UUID(first).variant == "specified in RFC 4122"
