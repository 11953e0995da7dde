"""What a storm must leave: one sequential history, the same on every node, nothing shown that was refused, every copy there."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import pytest

from tests.faults.storm import LABEL, STALE, Pair, Storm, Wrong
from tests.support.linearizability import UNSURE, Done, Undecided, Values, explain, with_twins
from tests.support.processes import NodeProcess, until

STEPS = int(os.environ.get("STORM_STEPS", "20000"))
"""Steps of the search for an order of one pair's history; longer storms want more."""
WORKS_ON = 10.0
"""Seconds within which a node is done with a request whose client has left."""
ENTRIES = 90.0
"""Seconds within which the sweeper has made the entry of a change that nobody was told of: its intent is due after 60."""


async def judge(storm: Storm, *, in_one_step: bool = True) -> None:
    """Fail unless all that the clients saw, and what lies there now, is right. The mesh is healed and nobody writes.

    ``in_one_step``: a change and its entry in the listing are one. In Cassandra the entry comes later: before the answer, or
    by the sweeper where the outcome was not told.
    """
    assert not storm.odd, storm.odd
    check_labelled(storm)
    for pair in storm.pairs:
        if not in_one_step:
            pair.history = [unsure_of_entries(done, pair.history) for done in pair.history]
    await read_everything_everywhere(storm)
    for pair in storm.pairs:
        check(pair)


def unsure_of_entries(listed: Done, history: Sequence[Done]) -> Done:
    """The listing, without what it says of keys whose last change is perhaps under way, or one that nobody was told of.

    What was acknowledged after that change had ended, told or not, has its entry.
    """

    def unsure(key: int) -> bool:
        changes = [done for done in history if key in touched(done) and done.begin < listed.end]
        told = [done.begin for done in changes if done.outcome == "ok" and done.end < listed.begin]
        surely = max(told, default=-math.inf) - WORKS_ON
        under_way = any(done.end > listed.begin for done in changes if done.outcome == "ok")
        return under_way or any(done.outcome == "unknown" and done.begin > surely for done in changes)

    if listed.kind != "list":
        return listed
    return replace(
        listed, seen=tuple(UNSURE if unsure(key) else value for key, value in enumerate(listed.seen))
    )


def touched(done: Done) -> tuple[int, ...]:
    """The keys that a change is about."""
    return {"put": (done.key,), "delete": (done.key,), "rename": (done.key, done.target)}.get(done.kind, ())


def check_labelled(storm: Storm) -> None:
    """What was shown as possibly stale was written to that pair of keys, and its writer was never told that it was refused."""
    for pair, value, note in storm.labelled:
        if storm.homes[value] is not pair:
            raise Wrong(f"{note}: a write to {storm.homes[value].name}")
        if value in storm.refused:
            raise Wrong(f"{note}: a write that was refused, {storm.refused[value]}")


async def read_everything_everywhere(storm: Storm) -> None:
    """Every node lists the same, and serves what it lists: acknowledged, whole, also what has one copy only."""
    for pair in storm.pairs:
        seen = {
            await until(partial(shown_by, storm, pair, node), ENTRIES, f"{pair.name} at {node.name}")
            for node in storm.mesh.nodes
        }
        assert len(seen) == 1, f"{pair.name}: nodes show different things: {seen}"


async def shown_by(storm: Storm, pair: Pair, node: NodeProcess) -> Values:
    """What one node lists, after all of it was read there; both are part of the history."""
    begin = time.monotonic()
    async with storm.mesh.session.get(f"{node.url}{pair.folder}?prefix={pair.name}/") as answer:
        assert answer.status == 200, await answer.text()
        assert answer.headers[LABEL] != STALE, f"{node.name} is not sure yet"
        found = await answer.json()
    end, state = time.monotonic(), storm.listed(pair, found["objects"])
    for key, value in enumerate(state):
        if value is None:
            assert await storm.mesh.status("GET", node, pair.path(key)) == 404, "its entry is missing still"
        else:
            assert await storm.mesh.get(node, pair.path(key)) == storm.body(value), "its entry is an old one"
    pair.history.append(Done("list", 0, begin, end, "ok", seen=state, note=f"final list of {node.name}"))
    return state


def check(pair: Pair) -> None:
    """Fail with what comes around the point where no further operation fits."""
    try:
        order = explain(pair.history, (None, None), STEPS)
    except Undecided as error:
        # Too many unknown outcomes to search: says nothing for or against the mesh, so it is told, not failed.
        print(f"{pair.name} undecided: {error}")
        return
    if order is None:
        return
    began = min(done.begin for done in pair.history)
    left = sorted(set(with_twins(pair.history)) - set(order), key=lambda done: done.end)
    shown = [*order[-12:], *left[:12]]
    lines = [
        f"{'done' if done in order else 'left'} {done.begin - began:8.3f} {done.end - began:8.3f} "
        f"{done.outcome:8} {done.value} match={done.match} none={done.none_match} {done.seen} {done.note}"
        for done in shown
    ]
    pytest.fail(
        f"{pair.name}: {len(order)} of {len(pair.history)} in order, then nothing fits:\n" + "\n".join(lines)
    )


async def every_copy_is_there(storm: Storm) -> None:
    """All holders that the metadata name have their bytes, or get them by repair."""
    for pair in storm.pairs:
        await until(partial(_copies_of, storm, pair), 40, f"every copy of {pair.name}")


async def _copies_of(storm: Storm, pair: Pair) -> bool:
    mesh = storm.mesh
    found = await mesh.json("GET", mesh.root, f"{pair.folder}?prefix={pair.name}/")
    for each in found["objects"]:
        told = await mesh.json("GET", mesh.root, f"/v1/map/{pair.bucket}/{each['key']}")
        for segment in told["segments"]:
            copies = [copy for fragment in segment["fragments"] for copy in fragment["copies"]]
            assert {copy["state"] for copy in copies} == {"present"}, told
    return True
