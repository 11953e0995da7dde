"""How silence becomes a state, whose silence it was, and how a node wins its trust back."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.liveness import Heard, Thresholds, hear, judge
from discloud.core.model import Node, NodeId, NodeState, Role

LIMITS = Thresholds()
NODE = Node(NodeId("n"), "n", Role.ORDINARY, "a:1", "a:2", "h")


def state(heard: Heard, now: float, stalled: float = 0.0, running: float = 1e6) -> NodeState:
    return judge([heard], now, stalled, running, LIMITS)[0].state


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (0, NodeState.ALIVE),
        (2.9, NodeState.ALIVE),
        (3, NodeState.SUSPECT),
        (9.9, NodeState.SUSPECT),
        (10, NodeState.DOWN),
        (899, NodeState.DOWN),
        (900, NodeState.LOST),
    ],
)
def test_silence(age: float, expected: NodeState) -> None:
    heard = Heard(NODE, 100.0)
    assert state(heard, 100.0 + age) is expected
    assert state(heard, 100.0 + age + 5, stalled=5.0) is expected, (
        "the root's own stall is not the node's silence"
    )


def test_nothing_is_lost_before_the_root_ran_that_long() -> None:
    assert state(Heard(NODE, 0.0), 5000.0, running=899.0) is NodeState.DOWN
    assert state(Heard(NODE, 0.0), 5000.0, running=901.0, stalled=2.0) is NodeState.DOWN
    assert state(Heard(NODE, 0.0), 5000.0, running=900.0) is NodeState.LOST


@pytest.mark.parametrize("wish", [NodeState.DRAINING, NodeState.REMOVED])
@pytest.mark.parametrize("age", [0.0, 5.0, 1e5])
def test_the_states_of_people_stay(wish: NodeState, age: float) -> None:
    assert state(Heard(replace(NODE, state=wish), 0.0), age) is wish


def test_what_a_node_says_of_itself_does_not_count() -> None:
    assert state(Heard(replace(NODE, state=NodeState.DOWN), 0.0), 1.0) is NodeState.ALIVE
    assert state(Heard(replace(NODE, state=NodeState.ALIVE), 0.0), 11.0) is NodeState.DOWN


def test_the_order_stays_and_the_rest_of_the_node_too() -> None:
    nodes = [replace(NODE, id=NodeId(str(i)), used=i) for i in range(5)]
    judged = judge([Heard(node, 20.0 - i * 4) for i, node in enumerate(nodes)], 20.0, 0.0, 1e6, LIMITS)
    assert [replace(node, state=NodeState.ALIVE) for node in judged] == nodes


def beats(heard: Heard | None, start: float, count: int) -> Heard:
    assert count
    for i in range(count):
        heard = hear(heard, NODE, start + i, 0.0, LIMITS)
    assert heard is not None
    return heard


def test_a_new_node_is_believed_at_once() -> None:
    assert state(beats(None, 5.0, 1), 5.0) is NodeState.ALIVE


def test_one_that_came_back_shows_three_beats() -> None:
    known = beats(None, 0.0, 10)
    assert state(beats(known, 30.0, 1), 30.0) is NodeState.SUSPECT
    assert state(beats(known, 30.0, 2), 31.0) is NodeState.SUSPECT
    assert state(beats(known, 30.0, 3), 32.0) is NodeState.ALIVE


def needed(heard: Heard, back: float) -> int:
    """Beats from ``back`` on until the node is alive."""
    return next(n for n in range(1, 200) if state(beats(heard, back, n), back + n - 1) is NodeState.ALIVE)


def test_a_flapping_node_shows_twice_as_many_each_time_up_to_a_limit() -> None:
    heard, now, seen = beats(None, 0.0, 5), 0.0, []
    for _ in range(7):
        now += 100.0
        seen.append(needed(heard, now))
        heard = beats(heard, now, 60)
    assert seen == [3, 6, 12, 24, 48, 48, 48]


def test_silence_as_long_as_suspect_breaks_the_run() -> None:
    known = beats(None, 0.0, 10)
    assert hear(known, NODE, 11.99, 0.0, LIMITS).beats == 11
    assert hear(known, NODE, 12.0, 0.0, LIMITS).beats == 1


def test_a_calm_run_lets_flaps_be_forgotten() -> None:
    heard = beats(None, 0.0, 5)
    for back in (100.0, 200.0):
        heard = beats(heard, back, 60)
    assert needed(beats(heard, 260.0, 841), 2000.0) == 3, "from 200 to 1100"
    assert needed(beats(heard, 260.0, 840), 2000.0) == 12
    assert needed(heard, 2000.0) == 12


def test_the_roots_own_stall_is_no_flap() -> None:
    known = beats(None, 0.0, 10)
    assert state(hear(known, NODE, 30.0, 25.0, LIMITS), 30.0) is NodeState.ALIVE


RANK = [NodeState.ALIVE, NodeState.SUSPECT, NodeState.DOWN, NodeState.LOST]


@given(
    st.floats(0, 2000),
    st.floats(0, 2000),
    st.floats(0, 100),
    st.floats(0, 5000),
    st.integers(0, 5),
    st.integers(0, 60),
)
def test_more_silence_is_never_better(
    one: float, more: float, stalled: float, running: float, flaps: int, run: int
) -> None:
    heard = Heard(NODE, 0.0, beats=run, flaps=flaps)
    sooner, later = (RANK.index(state(heard, now, stalled, running)) for now in (one, one + more))
    assert sooner <= later
