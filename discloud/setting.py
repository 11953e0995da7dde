"""One setting: its unit, bounds and meaning, and how a value that a person wrote is read.

Invariant: whatever ``parse`` returns is of the setting's type and within its bounds. config.py declares the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from discloud.core.layout import layout_name, parse_layout
from discloud.core.units import format_duration, format_size, parse_duration, parse_size
from discloud.errors import DiscloudError, Invalid

PREFIX = "DISCLOUD_"
"""What the environment variable of every setting begins with."""


def option(
    default: object,
    doc: str,
    unit: str = "",
    *,
    least: float = 0,
    most: float | None = None,
    accepts: str = "",
) -> Any:
    """Declare a setting as a dataclass field: ``least`` and ``most`` bound a number, ``accepts`` lists words."""
    metadata = {"doc": doc, "unit": unit, "least": least, "most": most, "accepts": accepts}
    return field(default=default, repr=unit != "secret", metadata=metadata)


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as a person meets it. ``unit`` says how it is read: bytes, seconds, share, name, secret ..."""

    section: str
    field: str
    type: Any
    default: Any
    unit: str
    doc: str
    least: float
    most: float | None
    accepts: str

    @property
    def name(self) -> str:
        """The dotted key, such as ``limits.max_object``; what stands above all tables has no dot."""
        return f"{self.section}.{self.field}" if self.section else self.field

    @property
    def variable(self) -> str:
        """The environment variable; the node's own settings carry no section."""
        section = "" if self.section in {"", "node"} else f"{self.section}_"
        return f"{PREFIX}{section}{self.field}".upper()

    @property
    def accepted(self) -> str:
        """The values that are accepted, for a person."""
        words = self.accepts or _ACCEPTED.get(self.unit) or _ACCEPTED_TYPES.get(self.type, "a text")
        bounds = [f"at least {self.show(self.least)}"] if self.least else []
        bounds += [f"at most {self.show(self.most)}"] if self.most is not None else []
        return ", ".join([words, *bounds])

    def show(self, value: object) -> str:
        """``value`` as a person would write it; the text can be parsed again."""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, int | float) and self.unit in _SHOWN:
            return _SHOWN[self.unit](value)
        return ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)


def parse(setting: Setting, value: object, origin: str) -> object:
    """``value`` (TOML's, a variable's or a flag's) as the setting's type. Raises: Invalid, with what is accepted."""
    try:
        return _PARSERS.get(setting.unit, _by_type)(setting, value)
    except (ValueError, DiscloudError) as error:
        shown = (
            setting.name if setting.unit == "secret" else f"{setting.name} = {value!r}"
        )  # secrets stay unseen
        reason = getattr(error, "detail", str(error))
        raise Invalid(f"{shown} ({origin}): {reason}", f"accepted: {setting.accepted}") from error


def _by_type(setting: Setting, value: object) -> object:
    if setting.type is bool:
        return _boolean(value)
    if setting.type is int:
        return _count(setting, value)
    text = _text(value)
    if setting.accepts and text not in setting.accepts.split(", "):
        raise ValueError("not one of them")
    if setting.type in {Path, Path | None}:
        return _path(setting, text)
    return setting.type(text)


def _path(setting: Setting, text: str) -> Path | None:
    if not text and setting.type is Path:
        raise ValueError("empty")
    return Path(text).expanduser().absolute() if text else None


def _text(value: object) -> str:
    if not isinstance(value, str | Path | StrEnum) or "\0" in str(value):
        raise ValueError("not a text")
    return str(value)


def _boolean(value: object) -> bool:
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if isinstance(value, bool):
        return value
    if (found := words.get(_text(value).lower())) is None:
        raise ValueError("neither yes nor no")
    return found


def _count(setting: Setting, value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"\s*\d{1,20}\s*", str(value), re.ASCII):
        raise ValueError("not a whole number")
    return int(_bounded(setting, int(str(value))))


def _size(setting: Setting, value: object) -> int:
    text = value.removesuffix("/s") if isinstance(value, str) else value
    return _count(setting, parse_size(text) if isinstance(text, str) else text)


def _duration(setting: Setting, value: object) -> float:
    return _share(setting, parse_duration(value) if isinstance(value, str) else value)


def _share(setting: Setting, value: object) -> float:
    if isinstance(value, bool) or not re.fullmatch(r"\s*[\d.]{1,20}(e-?\d{1,2})?\s*", str(value), re.ASCII):
        raise ValueError("not a number")
    return _bounded(setting, float(str(value)))


def _bounded(setting: Setting, number: float) -> float:
    if not setting.least <= number < float("inf") or (setting.most is not None and number > setting.most):
        raise ValueError("out of bounds")
    return number


def _name(_: Setting, value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._-]{0,62})?", text):
        raise ValueError("not a name")
    return text


def _host(_: Setting, value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:%-]*", text):
        raise ValueError("not a host")
    return text


def _layout(_: Setting, value: object) -> str:
    return layout_name(parse_layout(_text(value)))


def _addresses(setting: Setting, value: object) -> tuple[str, ...]:
    texts = (
        value
        if isinstance(value, list | tuple)
        else [each for each in _text(value).split(",") if each.strip()]
    )
    return tuple(_address(_text(each).strip(), _USUAL_PORTS[setting.unit]) for each in texts)


def _address(text: str, usual: int) -> str:
    """``host:port``; a host alone gets the ``usual`` port, an IPv6 address stands in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(?::(\d{1,5}))?", text, re.ASCII)
    if match is None or not 0 < int(match[2] or usual) < 65536:
        raise ValueError(f"{text!r} is not host:port")
    return f"{match[1]}:{match[2] or usual}"


def _keyspace(_: Setting, value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", text):
        raise ValueError("not the name of a keyspace")
    return text


def _replication(_: Setting, value: object) -> str:
    text = _text(str(value) if isinstance(value, int) and not isinstance(value, bool) else value)
    one = r"[A-Za-z0-9][A-Za-z0-9._-]*:[1-9]"
    if not re.fullmatch(rf"[1-9]|{one}(,{one})*", text):
        raise ValueError("not a number of copies")
    return text


_PARSERS: dict[str, Callable[[Setting, object], object]] = {
    "bytes": _size,
    "bytes/s": _size,
    "seconds": _duration,
    "share": _share,
    "name": _name,
    "host": _host,
    "addresses": _addresses,
    "cassandra hosts": _addresses,
    "keyspace": _keyspace,
    "replication": _replication,
    "layout": _layout,
}
_USUAL_PORTS = {"addresses": 7072, "cassandra hosts": 9042}
_SHOWN: dict[str, Callable[[Any], str]] = {
    "bytes": format_size,
    "bytes/s": lambda size: f"{format_size(size)}/s",
    "seconds": format_duration,
}
_ACCEPTED = {
    "bytes": "a size such as 128 KiB",
    "bytes/s": "a rate such as 16 KiB/s",
    "seconds": "a duration such as 500ms, 30s or 15m",
    "share": "a share such as 0.9",
    "name": "letters, digits, dot, dash and underscore, at most 63",
    "host": "a host name or an IP address",
    "addresses": "host:port, several with commas between",
    "cassandra hosts": "a host or host:port, several with commas between",
    "keyspace": "small letters, digits and underscore, at most 48",
    "replication": "a number, or datacentre:number with commas between",
    "layout": "mirror:N, mirror:all, stripe:N, stripe:NxR or ec:K+M",
}
_ACCEPTED_TYPES = {
    bool: "true or false",
    int: "a whole number",
    Path: "a path",
    Path | None: "a path",
}
