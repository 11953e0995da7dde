"""Calls derived from the ports: every method of a port is carried, defaults fill what an older node does not send."""

import inspect
from dataclasses import replace

import msgpack
import pytest

from discloud.core.model import (
    BlobId,
    BucketId,
    Change,
    ChangeKind,
    Committed,
    Key,
    Node,
    NodeId,
    NodeState,
    Precondition,
    Repair,
    Role,
    SegmentId,
    State,
    Stored,
    Version,
    VersionId,
    View,
)
from discloud.errors import Invalid, Unavailable
from discloud.peer.methods import PORTS, Method, methods_of
from discloud.peer.wire import ANSWER, Incoming, Outgoing

BLOB = BlobId(VersionId("v"), SegmentId(2**64 - 1), 3)
VERSION = Version(BucketId("b"), Key("k"), VersionId("v"), State.DRAFT, 5, ())


def crossed(record: object) -> list[object]:
    """What the other node reads."""
    return list(msgpack.unpackb(msgpack.packb(record)))


def test_every_call_of_every_port_is_carried() -> None:
    local = {"versions": {"peek", "expect"}, "blobs": {"create", "open"}}  # sync, or streams
    for part, port in PORTS.items():
        public = {name for name, each in vars(port).items() if inspect.isfunction(each) and name[0] != "_"}
        assert set(methods_of(part)) == public - local.get(part, set())


def test_arguments_and_results_come_back_as_their_types() -> None:
    commit = methods_of("versions")["commit"]
    change = Change(
        ChangeKind.PUT,
        BucketId("b"),
        Key("k"),
        VERSION,
        repairs=(Repair(BucketId("b"), Key("k"), BLOB, (NodeId("n"),), 1.0),),
    )
    only = Precondition(if_none_match=("*",))
    assert commit.unpack(crossed(commit.pack(change, only))) == (change, only)
    done = Committed(VERSION, None)
    assert commit.unpack_result(crossed([commit.pack_result(done)])[0]) == done
    begin = methods_of("versions")["begin"]
    assert begin.unpack_result(crossed([begin.pack_result(None)])[0]) is None


def test_views_cross_as_they_are_while_their_nodes_change() -> None:
    announce = methods_of("membership")["announce"]
    outgoing, incoming = Outgoing(bytes(32)), Incoming(bytes(32))
    nodes = [
        Node(NodeId(f"n{number}"), f"name\udfff{number}", Role.ROOT, "a", "p", "h") for number in range(20)
    ]
    for beat in range(300):
        nodes[beat % len(nodes)] = replace(nodes[beat % len(nodes)], beat=beat, state=NodeState.SUSPECT)
        view = View(beat, tuple(nodes[: 20 if beat % 3 else beat % 7]), 0.5 + beat)
        ((_, _, value),) = incoming.feed(outgoing.frame([ANSWER, beat, announce.pack_result(view)]))
        assert announce.unpack_result(value) == view


def test_sequences_of_records_and_pages_cross() -> None:
    seal = methods_of("queues")["add_repairs"]
    repairs = (Repair(BucketId("b"), Key("k"), BLOB, (), 1.0),)
    assert seal.unpack(crossed(seal.pack(list(repairs)))) == (repairs,)
    walk = methods_of("blobs")["walk"]
    stored = Stored(BLOB, 1, b"h", 2.0)
    assert walk.pages
    assert walk.unpack(crossed(walk.pack(None))) == (None,)
    assert walk.unpack_result(crossed(walk.pack_result(stored))) == stored


def test_a_shorter_record_takes_the_defaults_and_a_longer_one_loses_the_rest() -> None:
    fetch = methods_of("blobs")["fetch"]
    record = fetch.pack(BLOB, 5, 6, 7.0)
    assert fetch.unpack(record[:1]) == (BLOB, 0, None, 0.0)
    assert fetch.unpack([*record, "from the future"]) == (BLOB, 5, 6, 7.0)


@pytest.mark.parametrize("record", [[], [1], ["x", {}], [["v"]]])
def test_arguments_that_are_none_are_refused(record: list[object]) -> None:
    with pytest.raises(Invalid, match=r"versions\.put"):
        methods_of("versions")["put"].unpack(record)


def test_an_answer_that_is_none_says_nothing() -> None:
    with pytest.raises(Unavailable):
        methods_of("blobs")["stat"].unpack_result(["x", 1])


def test_defaults_are_filled_in_as_the_call_itself_would() -> None:
    class Part:
        async def call(self, key: str, limit: int = 5) -> None: ...

    method = Method("part.call", Part.call)
    assert method.bind("k") == ("k", 5)
    assert method.bind("k", limit=7) == ("k", 7)
    with pytest.raises(TypeError):
        method.bind()
