"""Round trips: smoothed, forgotten, and a node that lets several questions down is asked last for a while."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from discloud.core.model import NodeId
from discloud.core.round_trips import (
    AVOIDED,
    FORGOTTEN,
    LONGEST,
    MISSES,
    SHORTEST,
    UNKNOWN,
    RoundTrips,
)

A, B = NodeId("a"), NodeId("b")
SECONDS = st.floats(0, 10)


@given(st.lists(SECONDS, min_size=1, max_size=50))
def test_the_mean_lies_between_the_answers(answers: list[float]) -> None:
    rtt = RoundTrips()
    for seconds in answers:
        rtt.answered(A, seconds, 0.0)
    assert min(answers) - 1e-9 <= rtt.seconds[A] <= max(answers) + 1e-9
    assert SHORTEST <= rtt.patience(A) <= LONGEST


def test_the_first_answer_may_have_included_a_connection() -> None:
    rtt = RoundTrips()
    for seconds in (0.4, 0.1, 0.11):
        rtt.answered(A, seconds, 0.0)
    assert rtt.seconds[A] == 0.1


def test_it_follows_a_node_that_became_slower() -> None:
    rtt = RoundTrips()
    for seconds in [0.01] * 20 + [0.2] * 40:
        rtt.answered(A, seconds, 0.0)
    assert 0.19 < rtt.seconds[A] <= 0.2


def test_a_transfer_only_bounds_the_round_trip() -> None:
    rtt = RoundTrips()
    rtt.took_at_most(A, 0.3, 0.0)
    assert rtt.seconds[A] == 0.3
    rtt.answered(A, 0.01, 0.0)
    rtt.took_at_most(A, 5.0, 0.0)
    assert rtt.seconds[A] == 0.01


def test_nearly_all_answers_come_within_the_patience() -> None:
    rtt, random = RoundTrips(), Random(1)
    late = 0
    for turn in range(4000):
        seconds = random.lognormvariate(-3.5, 0.6)
        late += turn >= 1000 and seconds > rtt.patience(A)
        rtt.answered(A, seconds, 0.0)
    assert late / 3000 < 0.08


def test_a_node_never_measured_has_its_own_patience() -> None:
    rtt = RoundTrips()
    assert rtt.patience(A) == UNKNOWN
    rtt.missed(A, 0.0)
    assert rtt.patience(A) == UNKNOWN


def test_silent_after_some_misses_in_a_row_until_it_answers_or_time_has_passed() -> None:
    rtt = RoundTrips()
    for _ in range(MISSES - 1):
        rtt.missed(A, 0.0)
    rtt.answered(A, 0.01, 0.0)
    rtt.missed(A, 0.0)
    assert not rtt.silent, "an answer between the misses"
    for _ in range(MISSES):
        rtt.missed(A, 0.0)
        rtt.missed(B, 1.0)
    assert set(rtt.silent) == {A, B}
    rtt.answered(B, 0.01, 1.0)
    assert set(rtt.silent) == {A}
    rtt.refresh(AVOIDED - 0.1)
    assert set(rtt.silent) == {A}
    rtt.refresh(AVOIDED + 1)
    assert not rtt.silent
    rtt.missed(A, AVOIDED + 1)
    assert not rtt.silent, "it begins anew"


def test_what_is_old_is_forgotten() -> None:
    rtt = RoundTrips()
    rtt.answered(A, 0.5, 0.0)
    rtt.answered(B, 0.5, 30.0)
    rtt.refresh(FORGOTTEN + 1)
    assert set(rtt.seconds) == {B}
    assert rtt.patience(A) == UNKNOWN
