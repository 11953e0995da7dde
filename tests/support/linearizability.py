"""Is a history of reads and writes one that a single, sequential store could have given?

The algorithm of Wing and Gong (1993) with the memory of Lowe (2017): operations are put in an order one by one, each
between its call and its answer. No set of done operations with the same state is tried twice, nor one that differs only
in having fewer uncertain ones left. An operation that changes nothing and fits is taken at once, which is sound and
keeps the search short.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from math import inf

Values = tuple[int | None, ...]
"""The value of each key, None = absent. Every write has a value of its own."""
ANYTHING = -1
"""In ``match``: any value, but not absence."""
UNSURE = -2
"""In ``seen``: any value or absence."""


class Undecided(AssertionError):
    """The search took more steps than it may: neither right nor wrong is shown."""


@dataclass(frozen=True, slots=True)
class Done:
    """One operation on a few keys that belong together; keys are positions in the state.

    ``outcome``: ``ok``, ``unmet`` (a condition did not hold), ``absent`` or ``unknown``, which may have happened at any
    time since ``begin``, or never. ``match`` / ``none_match``: the If-Match value and whether If-None-Match: * was sent.
    ``twin``: another client made the same rename at that time. A store that knows changes by the version they were made
    for takes the second for the first, sent again.
    """

    kind: str
    key: int
    begin: float
    end: float = inf
    outcome: str = "unknown"
    value: int | None = None
    match: int | None = None
    none_match: bool = False
    target: int = 0
    seen: Values = ()
    twin: bool = False
    note: str = ""


def apply(state: Values, done: Done) -> Values | None:
    """The state after ``done``, or None where a store in ``state`` would have answered otherwise."""
    if done.kind == "list":
        fits = all(seen in (UNSURE, found) for seen, found in zip(done.seen, state, strict=True))
        return state if fits else None
    found = state[done.key]
    if done.kind == "get":
        return state if found == done.value else None
    if done.outcome == "absent":
        return state if found is None else None
    holds = _holds(done, found)
    if done.outcome == "unmet":
        return None if holds else state
    if not holds:
        return None
    if done.kind == "put":
        return _with(state, done.key, done.value)
    if done.kind == "delete":
        return None if found is None else _with(state, done.key, None)
    if found is None or done.value not in (None, found):
        return state if done.twin and done.outcome == "ok" else None
    return _with(_with(state, done.key, None), done.target, found)


def _holds(done: Done, found: int | None) -> bool:
    if done.none_match and found is not None:
        return False
    return done.match is None or (found is not None and done.match in (ANYTHING, found))


def _with(state: Values, key: int, value: int | None) -> Values:
    return (*state[:key], value, *state[key + 1 :])


def explain(history: Sequence[Done], start: Values, limit: int = 400_000) -> list[Done] | None:
    """None if the history is linearizable, else the longest order found, behind which nothing fits.

    Most writes without an answer did not happen or were never seen. So an order without the unseen ones is looked for first:
    if there is one, they just did not happen. Only where there is none they make the search wide. Raises: Undecided.
    """
    seen = {value for done in history for value in (done.value, done.match, *done.seen) if done.kind != "put"}
    likely = [done for done in history if done.outcome != "unknown" or done.value in seen]
    if len(likely) < len(history):
        with suppress(Undecided):
            if _search(likely, start, limit) is None:
                return None
    return _search(history, start, limit)


def _search(history: Sequence[Done], start: Values, limit: int) -> list[Done] | None:
    """As ``explain``, with every operation."""
    operations = sorted(with_twins(history), key=lambda done: done.begin)
    every = sum(1 << position for position, done in enumerate(operations) if done.outcome != "unknown")
    tried: dict[tuple[int, Values], list[int]] = {}
    steps = 0
    open_: list[tuple[int, Values, tuple[int, ...]]] = [(0, start, ())]
    longest: tuple[int, ...] = ()
    while open_:
        mask, state, order = open_.pop()
        mask, order = _take_fitting(operations, mask, state, order)
        if mask & every == every:
            return None
        unsure = tried.setdefault((mask & every, state), [])
        if any(before & mask == before for before in unsure):
            continue  # with the same done, and more left that may still happen, nothing was found
        unsure.append(mask & ~every)
        steps += 1
        if steps > limit:
            raise Undecided(f"{len(history)} operations, {steps} steps")
        longest = max(longest, order, key=len)
        for position in _candidates(operations, mask):
            after = apply(state, operations[position])
            if after is not None:
                open_.append((mask | 1 << position, after, (*order, position)))
    return [operations[position] for position in longest]


def with_twins(history: Sequence[Done]) -> list[Done]:
    """The history with every rename marked that another client made at the same time."""
    renames = [done for done in history if done.kind == "rename" and done.outcome != "absent"]
    return [
        replace(done, twin=any(map(partial(_is_twin, done), renames))) if done.kind == "rename" else done
        for done in history
    ]


def _is_twin(one: Done, other: Done) -> bool:
    alike = one.value == other.value or None in (one.value, other.value)
    same = alike and (one.key, one.target) == (other.key, other.target)
    return one is not other and same and one.begin <= other.end and other.begin <= one.end


def _candidates(operations: Sequence[Done], mask: int) -> list[int]:
    """What may come next: all that began before the first answer that is still due. Surest last: it is tried first."""
    due = min(
        (done.end for position, done in enumerate(operations) if not mask >> position & 1),
        default=inf,
    )
    found = []
    for position, done in enumerate(operations):
        if done.begin > due:
            break
        if not mask >> position & 1:
            found.append(position)
    return sorted(found, key=lambda position: -operations[position].end)


def _take_fitting(
    operations: Sequence[Done], mask: int, state: Values, order: tuple[int, ...]
) -> tuple[int, tuple[int, ...]]:
    """Take what fits now and changes nothing: whoever takes it later may as well take it now. A twin may change something later."""
    while True:
        fitting = [
            position
            for position in _candidates(operations, mask)
            if _changes_nothing(operations[position]) and apply(state, operations[position]) == state
        ]
        if not fitting:
            return mask, order
        for position in fitting:
            mask |= 1 << position
        order = (*order, *fitting)


def _changes_nothing(done: Done) -> bool:
    return done.kind in {"get", "list"} or done.outcome in {"unmet", "absent"}
