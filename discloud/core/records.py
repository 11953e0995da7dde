"""Model types as plain records (lists) and back: the form in which they are stored and cross the wire.

A record is the positional list of a dataclass's fields; msgpack or JSON carry it. Fields are only ever
appended with a default, so a record that is shorter than its type takes the defaults (written by an older
version) and one that is longer loses the rest (written by a newer one): N-1 and N understand each other.
Converters are compiled once per type; fields that msgpack carries as they are cost nothing.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from operator import attrgetter
from typing import Any, TypeVar

T = TypeVar("T")
Convert = Callable[[Any], Any] | None
"""A converter, or None where the value is carried as it is."""


def to_record(value: object) -> list[Any]:
    """The record of a dataclass instance: lists, strings, numbers, bytes and None only."""
    return _encoder(typing.cast("Any", type(value)))(value)


def from_record(kind: type[T], record: list[Any]) -> T:
    """The instance of ``kind`` that ``record`` describes. Raises: ValueError where it does not."""
    try:
        return typing.cast("T", _decoder(typing.cast("Any", kind))(record))
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"not a record of {kind.__name__}: {error}") from error


@cache
def _encoder(kind: Any) -> Callable[[Any], list[Any]]:
    names = [field.name for field in fields(kind)]
    read = attrgetter(*names)
    hints = typing.get_type_hints(kind)
    converters = [(i, c) for i, name in enumerate(names) if (c := _encode(hints[name])) is not None]
    if len(names) == 1:
        return lambda value: [converters[0][1](read(value)) if converters else read(value)]

    def encode(value: Any) -> list[Any]:
        record = list(read(value))
        for position, convert in converters:
            record[position] = convert(record[position])
        return record

    return encode


@cache
def _decoder(kind: Any) -> Callable[[list[Any]], Any]:
    known = fields(kind)
    hints = typing.get_type_hints(kind)
    converters = [(i, c) for i, field in enumerate(known) if (c := _decode(hints[field.name])) is not None]
    count = len(known)

    def decode(record: list[Any]) -> Any:
        values = list(record[:count])
        for position, convert in converters:
            if position < len(values):
                values[position] = convert(values[position])
        return kind(*values)

    return decode


def _encode(hint: Any) -> Convert:
    hint = _plain(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return _encoder(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return attrgetter("_value_")  # the descriptor of ``value`` costs as much as all other fields
    return _through(hint, _encode, list)


def _decode(hint: Any) -> Convert:
    hint = _plain(hint)
    if is_dataclass(hint) and isinstance(hint, type):
        return _decoder(hint)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint
    return _through(hint, _decode, tuple)


def _through(hint: Any, inner: Callable[[Any], Convert], sequence: type) -> Convert:
    """Converters of tuples, mappings and optionals, built from those of their contents."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if arguments[-1] is not Ellipsis:
            parts = [inner(each) or _same for each in arguments]
            return lambda value: sequence(part(each) for part, each in zip(parts, value, strict=True))
        item = inner(arguments[0])
        return sequence if item is None else _each(item, sequence)
    if origin is not None and isinstance(origin, type) and issubclass(origin, Mapping):
        item = inner(arguments[1])
        return dict if item is None else _each_value(item)
    if origin in (types.UnionType, typing.Union):
        item = inner(next(each for each in arguments if each is not type(None)))
        return None if item is None else _optional(item)
    return None


def _each(item: Callable[[Any], Any], sequence: type) -> Callable[[Any], Any]:
    return lambda value: sequence(map(item, value))


def _each_value(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: {key: item(each) for key, each in value.items()}


def _optional(item: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else item(value)


def _plain(hint: Any) -> Any:
    """The type beneath a NewType."""
    while hasattr(hint, "__supertype__"):
        hint = hint.__supertype__
    return hint


def _same(value: Any) -> Any:
    return value
