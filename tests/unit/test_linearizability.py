"""The checker of histories must itself be able to say no: against a naive oracle that tries every order."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.linearizability import UNSURE, Done, Values, apply, explain, with_twins

EMPTY: Values = (None, None)


def naive(history: list[Done]) -> bool:
    """Every subset of the unknown ones, every order that keeps the times."""
    history = with_twins(history)
    sure = [done for done in history if done.outcome != "unknown"]
    unsure = [done for done in history if done.outcome == "unknown"]
    for chosen in range(1 << len(unsure)):
        some = sure + [done for position, done in enumerate(unsure) if chosen >> position & 1]
        if any(_in_time(order) and _fits(order) for order in permutations(some)):
            return True
    return False


def _in_time(order: tuple[Done, ...]) -> bool:
    return all(
        order[early].begin <= order[late].end
        for early in range(len(order))
        for late in range(early, len(order))
    )


def _fits(order: tuple[Done, ...]) -> bool:
    state: Values | None = EMPTY
    for done in order:
        state = apply(state, done) if state is not None else None
    return state is not None


@st.composite
def operations(draw: st.DrawFn) -> Done:
    kind = draw(st.sampled_from(["put", "put", "get", "delete", "rename", "list"]))
    begin = draw(st.integers(0, 6))
    outcomes = {"put": ["ok", "unmet", "unknown"], "get": ["ok"], "list": ["ok"]}
    outcome = draw(st.sampled_from(outcomes.get(kind, ["ok", "absent", "unknown"])))
    key = draw(st.integers(0, 1))
    values = st.none() | st.integers(1, 3)
    conditional = kind == "put" and (outcome == "unmet" or draw(st.booleans()))
    return Done(
        kind,
        key,
        begin,
        float("inf") if outcome == "unknown" else begin + draw(st.integers(0, 4)),
        outcome,
        draw(st.integers(1, 3)) if kind == "put" else draw(values) if kind == "get" else None,
        match=draw(st.integers(1, 3)) if conditional else None,
        target=1 - key,
        seen=(draw(values), draw(values)),
    )


@settings(max_examples=500)
@given(st.lists(operations(), max_size=5))
def test_it_agrees_with_trying_every_order(history: list[Done]) -> None:
    assert (explain(history, EMPTY) is None) == naive(history)


def test_of_two_like_renames_one_may_be_the_other_sent_again() -> None:
    history = [
        Done("put", 0, 1, value=7),
        Done("rename", 0, 2, 5, "ok", 7, target=1),
        Done("rename", 0, 3, 4, "ok", 7, target=1),
        Done("get", 1, 6, 7, "ok", 7),
    ]
    assert explain(history, EMPTY) is None
    assert explain(history[1:], EMPTY) is not None
    assert explain([*history[:2], replace(history[2], begin=5.5, end=5.7), history[3]], EMPTY) is not None


def test_a_lost_write_is_found() -> None:
    written = Done("put", 0, 1, 2, "ok", 7)
    assert explain([written, Done("get", 0, 3, 4, "ok", None)], EMPTY) is not None
    assert explain([written, Done("get", 0, 3, 4, "ok", 7)], EMPTY) is None
    assert explain([written, Done("get", 0, 1.5, 4, "ok", None)], EMPTY) is None


def test_a_stale_read_after_a_new_one_is_found() -> None:
    history = [
        Done("put", 0, 1, 2, "ok", 1),
        Done("put", 0, 3, 9, "ok", 2),
        Done("get", 0, 4, 5, "ok", 2),
        Done("get", 0, 6, 7, "ok", 1),
    ]
    assert explain(history, EMPTY) is not None
    assert explain(history[:3], EMPTY) is None


def test_what_a_listing_is_unsure_of_fits_anything() -> None:
    written = [Done("put", 0, 1, 2, "ok", 7), Done("put", 1, 1, 2, "ok", 8)]
    assert explain([*written, Done("list", 0, 3, 4, "ok", seen=(UNSURE, 8))], EMPTY) is None
    assert explain([*written, Done("list", 0, 3, 4, "ok", seen=(UNSURE, None))], EMPTY) is not None
