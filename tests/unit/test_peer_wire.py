"""Frames: whatever is changed, repeated, left out or moved is refused; pieces of any size are put together."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.errors import BY_CODE, Invalid, NoSuchKey, TooLarge, Unavailable
from discloud.peer.wire import (
    FRAME_LIMIT,
    HEAD,
    Incoming,
    Outgoing,
    body_length,
    error_of,
    failure,
    unpack,
)

KEY = bytes(range(32))
MESSAGES = st.lists(
    st.lists(st.one_of(st.integers(0, 2**64 - 1), st.binary(max_size=200), st.text(max_size=50)), min_size=1),
    min_size=1,
    max_size=8,
)


@given(MESSAGES, st.lists(st.integers(1, 60), min_size=1))
def test_messages_arrive_as_sent_in_pieces_of_any_size(
    messages: list[list[object]], sizes: list[int]
) -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    data = b"".join(map(outgoing.frame, messages))
    found: list[object] = []
    turn = 0
    while data:
        size = sizes[turn % len(sizes)]
        found += incoming.feed(data[:size])
        data = data[size:]
        turn += 1
    assert found == messages


@given(MESSAGES, st.data())
def test_a_flipped_bit_is_never_believed(messages: list[list[object]], data: st.DataObject) -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    frames = bytearray(b"".join(map(outgoing.frame, messages)))
    position = data.draw(st.integers(0, len(frames) - 1))
    frames[position] ^= 1 << data.draw(st.integers(0, 7))
    found: list[object] = []
    try:
        found += incoming.feed(bytes(frames))
    except Invalid:
        return
    # not refused yet: then it waits for bytes that a longer length announced, and gave out nothing wrong
    assert found == messages[: len(found)]
    assert len(found) < len(messages)


@given(st.permutations(range(4)).filter(lambda order: order != [0, 1, 2, 3]))
def test_reordered_frames_are_refused(order: list[int]) -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    frames = [outgoing.frame([number]) for number in range(4)]
    with pytest.raises(Invalid, match="was due"):
        incoming.feed(b"".join(frames[number] for number in order))


def test_a_repeated_frame_is_refused() -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    frame = outgoing.frame([1])
    assert incoming.feed(frame) == [[1]]
    with pytest.raises(Invalid):
        incoming.feed(frame)


def test_an_old_frame_under_a_new_sequence_is_refused() -> None:
    incoming = Incoming(KEY)
    frame = Outgoing(KEY).frame(["pay"])
    assert incoming.feed(frame) == [["pay"]]
    with pytest.raises(Invalid, match="seal"):
        incoming.feed(frame[:4] + (1).to_bytes(8, "big") + frame[12:])


def test_the_other_directions_key_opens_nothing() -> None:
    with pytest.raises(Invalid, match="seal"):
        Incoming(bytes(32)).feed(Outgoing(KEY).frame([1]))


def test_a_length_over_the_limit_is_refused_before_its_bytes_come() -> None:
    head = HEAD.pack(FRAME_LIMIT + 1, 0, bytes(16))
    with pytest.raises(Invalid, match="limit"):
        Incoming(KEY).feed(head)
    assert body_length(HEAD.pack(FRAME_LIMIT, 0, bytes(16))) == FRAME_LIMIT


def test_a_message_over_the_limit_is_not_sent_and_the_next_one_is() -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    with pytest.raises(TooLarge):
        outgoing.frame([bytes(FRAME_LIMIT)])
    assert incoming.feed(outgoing.frame(["next"])) == [["next"]]


def test_text_without_utf8_crosses_and_other_values_do_not() -> None:
    outgoing, incoming = Outgoing(KEY), Incoming(KEY)
    assert incoming.feed(outgoing.frame(["\udfff"])) == [["\udfff"]]
    for value in (1 << 64, object(), {1, 2}):
        with pytest.raises(Invalid, match="cannot be sent"):
            outgoing.frame([value])
    assert incoming.feed(outgoing.frame(["next"])) == [["next"]]


@given(st.binary(max_size=300))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    try:
        message = unpack(data)
    except Invalid:
        return
    assert isinstance(message, list)
    assert message


@given(st.sampled_from(sorted(BY_CODE)), st.text(), st.text())
def test_errors_rise_again_as_what_they_were(code: str, detail: str, hint: str) -> None:
    error = BY_CODE[code](detail, hint)
    again = error_of(msgpack.unpackb(msgpack.packb(failure(7, error))))
    assert (type(again), again.detail, again.hint) == (type(error), detail, hint)


def test_an_unknown_code_says_nothing_definite() -> None:
    error = error_of([3, 1, "from-the-future", "something", "wait"])
    assert type(error) is Unavailable
    assert str(error) == "something. wait"
    assert isinstance(error_of(failure(1, NoSuchKey("x"))), NoSuchKey)
