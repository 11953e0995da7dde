"""Records carry every model type unchanged, also between an older and a newer version of it."""

from dataclasses import dataclass

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.core.model import Account, Bucket, Change, Page, Repair, Stored, Version, View
from discloud.core.records import from_record, to_record

st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))
st.register_type_strategy(float, st.floats(allow_nan=False))
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs"])))


@pytest.mark.parametrize("kind", [Account, Bucket, Change, Page, Repair, Stored, Version, View])
@given(data=st.data())
def test_every_model_type_survives_the_wire(kind: type, data: st.DataObject) -> None:
    value = data.draw(st.from_type(kind))
    wire = msgpack.unpackb(msgpack.packb(to_record(value)), strict_map_key=False)
    assert from_record(kind, wire) == value


@dataclass(frozen=True, slots=True)
class Old:
    name: str


@dataclass(frozen=True, slots=True)
class New:
    name: str
    size: int = 7


def test_a_shorter_record_takes_defaults_and_a_longer_one_loses_the_rest() -> None:
    assert from_record(New, to_record(Old("a"))) == New("a", 7)
    assert from_record(Old, to_record(New("a", 8))) == Old("a")


def test_a_record_of_something_else_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="not a record of Version"):
        from_record(Version, [1])
