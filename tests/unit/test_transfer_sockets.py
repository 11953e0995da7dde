"""Whole messages through non-blocking sockets, from worker threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from discloud.core.model import MIB
from discloud.errors import PeerDown, TooSlow
from discloud.transfer.sockets import receive_exactly, send_all
from tests.support.transfer import noise, pair


def test_all_of_it_arrives() -> None:
    data = noise(20 * MIB)
    near, far = pair()
    with near, far, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_all, near.fileno(), data, 30)
        buffer = bytearray(len(data))
        receive_exactly(far.fileno(), memoryview(buffer)[: 3 * MIB], 30)
        receive_exactly(far.fileno(), memoryview(buffer)[3 * MIB :], 30)
        sending.result()
        assert buffer == data
        receive_exactly(far.fileno(), bytearray(), 0)


def test_nobody_takes() -> None:
    near, far = pair()
    with near, far, pytest.raises(TooSlow):
        send_all(near.fileno(), bytes(64 * MIB), 0.1)


def test_nobody_sends() -> None:
    near, far = pair()
    with near, far, pytest.raises(TooSlow):
        receive_exactly(near.fileno(), bytearray(1), 0.1)


def test_deadline_is_of_the_whole() -> None:
    """A sender that trickles does not gain time with each byte."""
    near, far = pair()
    ticks = iter(range(1000))

    def clock() -> float:
        far.send(b"x")
        return next(ticks)

    with near, far, pytest.raises(TooSlow):
        receive_exactly(near.fileno(), bytearray(1000), 5, clock)
    assert next(ticks) < 10


def test_end_in_the_middle() -> None:
    near, far = pair()
    with near, far:
        far.send(b"half")
        far.close()
        with pytest.raises(PeerDown, match="4 bytes to come"):
            receive_exactly(near.fileno(), bytearray(8), 5)
        with pytest.raises(PeerDown):
            send_all(near.fileno(), bytes(64 * MIB), 5)
