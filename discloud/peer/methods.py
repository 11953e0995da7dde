"""Which calls the protocol has: derived from the ports, so that a port and its wire form cannot drift apart.

Every coroutine of a port is a call, every asynchronous iterator a call with pages; what else a port has (``peek``,
``create``, ``open``) is not carried by this table. Arguments and results cross as records of their annotated types
(core/records.py): a parameter that is appended with a default is understood by N-1 and N.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields, make_dataclass, replace
from functools import cache
from operator import attrgetter
from types import GenericAlias
from typing import Any, cast

import msgpack

from discloud.core.model import Node, View
from discloud.core.records import from_record, to_record
from discloud.errors import Invalid, Unavailable
from discloud.peer.wire import Packed, pack_any
from discloud.ports import Accounts, Blobs, Buckets, Gossip, Leases, Membership, Nodes, Queues, Versions

_NODES = [each.name for each in fields(View)].index("nodes")
_OUTDATED = 4
"""Nodes whose bytes are kept, as a multiple of those of a view, before they are made anew."""
PORTS: dict[str, type] = {
    "blobs": Blobs,
    "versions": Versions,
    "buckets": Buckets,
    "queues": Queues,
    "accounts": Accounts,
    "nodes": Nodes,
    "leases": Leases,
    "membership": Membership,
    "gossip": Gossip,
}
"""The parts of a node that its peers may call, by the first word of a method's name."""


class Method:
    """One call: how its arguments and its result (``pages``: each of its results) become records and back."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.pages = not inspect.iscoroutinefunction(call)
        hints = {key: _carried(hint) for key, hint in typing.get_type_hints(call).items()}
        result = hints.pop("return")
        self.name = name
        self._read = attrgetter(*hints) if hints else None
        self._single = len(hints) == 1
        self._arguments: Any = make_dataclass("Arguments", _fields(call, hints), slots=True)
        self._result: Any = make_dataclass("Result", [("value", result)], slots=True)

    def bind(self, *arguments: object, **named: object) -> Sequence[Any]:
        """A call's arguments in order, defaults filled in. Raises: TypeError, as the call itself would."""
        return self._values(self._arguments(*arguments, **named))

    def pack(self, *arguments: object) -> list[Any]:
        """The record of a call's arguments."""
        return to_record(self._arguments(*arguments)) if self._read else []

    def unpack(self, record: list[Any]) -> Sequence[Any]:
        """The arguments of a call. Raises: Invalid."""
        try:
            return self._values(from_record(self._arguments, record))
        except ValueError as error:
            raise Invalid(f"the arguments of {self.name} cannot be read: {error}") from error

    def pack_result(self, value: object) -> Any:
        """A result as it crosses the wire."""
        return to_record(self._result(value))[0]

    def unpack_result(self, record: Any) -> Any:
        """The result. Raises: Unavailable: an answer that cannot be read says nothing."""
        try:
            return from_record(self._result, [record]).value
        except ValueError as error:
            raise Unavailable(f"the answer to {self.name} cannot be read: {error}") from error

    def _values(self, arguments: Any) -> Sequence[Any]:
        if self._read is None:
            return ()
        values: Any = self._read(arguments)
        return (values,) if self._single else values


class _Views(Method):
    """A call that answers with views. From one to the next nearly all nodes are the same objects: their bytes are kept.

    A root answers every node's heartbeat with all nodes, so that packing them was most of its work.
    """

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        super().__init__(name, call)
        self._packer = msgpack.Packer()
        self._kept: dict[int, bytes] = {}
        self._nodes: list[Node] = []  # those of ``_kept``: while they are here, nothing else has their ids

    def pack_result(self, value: object) -> Packed:
        """As Method, in msgpack already."""
        assert isinstance(value, View)
        if len(self._nodes) > _OUTDATED * (len(value.nodes) + 1):
            self._kept, self._nodes = {}, []
        ids = list(map(id, value.nodes))
        nodes = list(map(self._kept.get, ids))
        while None in nodes:
            at = nodes.index(None)
            nodes[at] = self._kept[ids[at]] = pack_any(to_record(value.nodes[at]))
            self._nodes.append(value.nodes[at])
        record: list[Any] = super().pack_result(replace(value, nodes=()))
        parts = [self._packer.pack_array_header(len(record)), *map(self._packer.pack, record)]
        parts[_NODES + 1] = self._packer.pack_array_header(len(nodes))
        parts[_NODES + 2 : _NODES + 2] = cast("list[bytes]", nodes)
        return Packed(b"".join(parts))


@cache
def methods_of(part: str) -> dict[str, Method]:
    """The calls of one part of PORTS by the port's own names for them."""
    return {
        name: (_Views if typing.get_type_hints(call)["return"] is View else Method)(f"{part}.{name}", call)
        for name, call in vars(PORTS[part]).items()
        if inspect.isfunction(call) and not name.startswith("_") and _is_carried(call)
    }


def _is_carried(call: Callable[..., Any]) -> bool:
    answer = typing.get_type_hints(call)["return"]
    return inspect.iscoroutinefunction(call) or typing.get_origin(answer) is AsyncIterator


def _carried(hint: Any) -> Any:
    """The type that crosses: an iterator's item, and a tuple for every sequence."""
    if typing.get_origin(hint) is AsyncIterator:
        return typing.get_args(hint)[0]
    if typing.get_origin(hint) is Sequence:
        return GenericAlias(tuple, (typing.get_args(hint)[0], ...))
    return hint


def _fields(call: Callable[..., Any], hints: dict[str, Any]) -> list[Any]:
    defaults = {name: each.default for name, each in inspect.signature(call).parameters.items()}
    return [
        (name, hint) if defaults[name] is inspect.Parameter.empty else (name, hint, defaults[name])
        for name, hint in hints.items()
    ]


CREATE = Method("blobs.create", Blobs.create)
"""Begins a streamed body; its answer holds nothing."""
OPEN = Method("blobs.open", Blobs.open)
"""Asks for a streamed body; its answer holds the length."""
