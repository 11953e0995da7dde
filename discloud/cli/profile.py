"""Which mesh a command talks to, and as whom: flags, then the environment, then the profile file.

The profile ($DISCLOUD_HOME/profile.toml, default ~/.discloud; mode 0600) is written by ``discloud up``. Invariant: the
profile's token is never sent to an address that the profile does not name, nor its authority believed for one.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from discloud.errors import Invalid

START = 'start a mesh with "discloud up", or name one with --url or DISCLOUD_URL'
"""What to do when there is no mesh to talk to."""

_TOKEN = re.compile(r"[\x21-\x7e]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Profile:
    """Addresses in the order in which they are tried (``http://host:port``), and the token ("" = none).

    ``ca``: the file of the authority that is believed, "" = those of this machine.
    """

    addresses: tuple[str, ...]
    token: str
    ca: str = ""


def home(environ: Mapping[str, str]) -> Path:
    """The folder that the program keeps its own things in."""
    return Path(environ.get("DISCLOUD_HOME") or Path.home() / ".discloud")


def load_profile(
    environ: Mapping[str, str], url: str | None = None, token: str | None = None, ca: str | None = None
) -> Profile:
    """The mesh to talk to; ``url``, ``token`` and ``ca`` are flags. Reads files. Raises: Invalid."""
    stored = _read(home(environ) / "profile.toml")
    known = _addresses(stored)
    asked = url or environ.get("DISCLOUD_URL")
    addresses = (_address(asked, "the URL"),) if asked else known
    if not addresses:
        raise Invalid("no mesh is known here", START)
    token = token or environ.get("DISCLOUD_TOKEN") or _token_file(environ.get("DISCLOUD_TOKEN_FILE"))
    ca = ca or environ.get("DISCLOUD_CA")
    if set(addresses) <= set(known):
        token = token or _text(stored, "token")
        ca = ca or _text(stored, "ca")
    return Profile(addresses, _check_token((token or "").strip()), ca or "")


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise Invalid(
            f"cannot read the profile {path}: {error.strerror}", "check its owner and mode"
        ) from error
    except ValueError as error:
        raise Invalid(
            f"the profile {path} is not TOML: {error}", 'mend or delete it; "discloud up" writes it anew'
        ) from error


def _addresses(stored: Mapping[str, Any]) -> tuple[str, ...]:
    """The profile's ``url`` and then its other ``nodes``, each once."""
    url, nodes = _text(stored, "url"), stored.get("nodes", [])
    if not isinstance(nodes, list) or not all(isinstance(node, str) for node in nodes):
        raise Invalid("nodes in the profile is not a list of addresses", "write it like ['127.0.0.1:7070']")
    scheme = "https" if url.startswith("https:") else "http"
    full = [url] if url else []
    full += [node if "://" in node else f"{scheme}://{node}" for node in nodes]
    return tuple(dict.fromkeys(_address(each, "an address of the profile") for each in full))


def _text(stored: Mapping[str, Any], key: str) -> str:
    value = stored.get(key, "")
    if not isinstance(value, str):
        raise Invalid(f"{key} in the profile is not a text", "mend the profile, or delete it")
    return value


def _address(url: str, what: str) -> str:
    """``url`` without anything behind host and port. Raises: Invalid."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise Invalid(
            f"{what} {url!r} cannot be read: {error}", "write it like http://127.0.0.1:7070"
        ) from error
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise Invalid(f"{what} {url!r} is not an address", "write it like http://127.0.0.1:7070")
    if parts.username or parts.password:
        raise Invalid(f"{what} holds a password", "give the token with DISCLOUD_TOKEN instead")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")


def _token_file(path: str | None) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise Invalid(
            f"cannot read DISCLOUD_TOKEN_FILE {path}", "name a file that holds the token"
        ) from error


def _check_token(token: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise Invalid("the token holds characters that no token has", "copy it again, without spaces")
    return token
