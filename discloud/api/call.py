"""One HTTP request on its way through a surface: who asks, for what, and the parts of the program that answer.

Paths are taken from the raw request target and decoded once (core/keys.py): a router that decodes by itself maps
different keys to one name.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import web

from discloud import __version__
from discloud.cluster import Cluster
from discloud.core.access import may_admin
from discloud.core.keys import decode_key
from discloud.core.model import Account, Key
from discloud.errors import Invalid, TooLarge, Unauthenticated
from discloud.gateway.accounts import NO_TOKEN, Accounts
from discloud.gateway.buckets import Buckets
from discloud.gateway.change import Changer
from discloud.gateway.memory import BodyMemory
from discloud.gateway.read import Reader
from discloud.gateway.write import Writer
from discloud.transfer.intake import Intake, intake_of
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

JSON_LIMIT = 64 * 1024
"""Bytes of a JSON body at the most."""
TRUE = frozenset({"1", "true", "yes"})


@dataclass(frozen=True, slots=True)
class Surface:
    """What a surface is made of; one for the life of a node. ``ready`` returns the reasons why the node is not."""

    cluster: Cluster
    reader: Reader
    writer: Writer
    changer: Changer
    buckets: Buckets
    accounts: Accounts
    threads: Threads
    memory: BodyMemory
    pace: Pace
    max_object: int
    max_list: int
    default_layout: str
    kernel: bool
    ready: Callable[[], list[str]]
    clock: Callable[[], float]
    new_id: Callable[[], str]
    version: str = __version__


@dataclass(slots=True)
class Call:
    """A request, the raw parts of its path by name, and the account that makes it (None = nobody known)."""

    request: web.BaseRequest
    surface: Surface
    path: dict[str, str]
    account: Account | None = None
    _query: dict[str, str] | None = None

    @property
    def bucket(self) -> str:
        """The bucket's name as the path has it (unchecked: looking it up checks it)."""
        return decode_key(self.path["bucket"])

    @property
    def key(self) -> Key:
        """The object's key. Raises: BadKey."""
        return decode_key(self.path["key"])

    def query(self, name: str) -> str | None:
        """A query parameter (the last of its name), None where absent."""
        return self._parameters().get(name)

    def check_query(self, known: frozenset[str]) -> None:
        """Refuse names that nobody knows: a typo must not be taken for a wish fulfilled. Raises: Invalid."""
        if unknown := sorted(set(self._parameters()) - known):
            takes = f"known: {', '.join(sorted(known))}" if known else "this path takes none"
            raise Invalid(f"unknown query parameter {unknown[0]!r}", takes)

    def _parameters(self) -> dict[str, str]:
        if self._query is None:
            self._query = dict(parse_qsl(self.request.raw_path.partition("?")[2], keep_blank_values=True))
        return self._query

    def flag(self, name: str) -> bool:
        """Whether a query parameter says yes."""
        return (self.query(name) or "").lower() in TRUE

    def number(self, name: str, default: int | None = None) -> int | None:
        """A query parameter that is a whole number from 0. Raises: Invalid."""
        text = self.query(name)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 20):
            raise Invalid(f"{name}={text!r} is not a whole number", f"example: {name}=1000")
        return int(text)

    def signed_in(self) -> Account:
        """The account. Raises: Unauthenticated when there is none."""
        if self.account is None:
            raise NO_TOKEN
        return self.account

    def admin(self) -> Account:
        """The account, which must be an administrator's. Raises: Unauthenticated, Forbidden."""
        account = self.signed_in()
        may_admin(account)
        return account

    def intake(self) -> Intake:
        """The request's body as the gateway takes it."""
        surface = self.surface
        return intake_of(
            self.request, surface.threads, surface.pace, limit=surface.max_object, kernel=surface.kernel
        )

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object. Raises: Invalid, TooLarge."""
        data = await self.intake().small(JSON_LIMIT)
        if data is None:
            raise TooLarge(
                f"the JSON body has more than {JSON_LIMIT} bytes", "send only the fields to change"
            )
        try:
            body = json.loads(data) if data else {}
        except ValueError as error:
            raise Invalid(f"the body is not JSON: {error}", "send a JSON object") from error
        if not isinstance(body, dict):
            raise Invalid("the body is not a JSON object", 'example: {"layout": "mirror:3"}')
        return body


def known_fields(body: dict[str, Any], *names: str) -> None:
    """Refuse fields that nobody knows: a typo must not be taken for a wish fulfilled. Raises: Invalid."""
    if unknown := sorted(set(body) - set(names)):
        raise Invalid(f"unknown field {unknown[0]!r}", f"known fields: {', '.join(names)}")


def text_field(body: dict[str, Any], name: str) -> str | None:
    """A field that is a string where present. Raises: Invalid."""
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"field {name!r} is not a string", f'example: {{"{name}": "text"}}')
    return value


def bearer(request: web.BaseRequest) -> bytes | None:
    """The token of an ``Authorization: Bearer`` header, None where there is no such header. Raises: Unauthenticated."""
    header = request.headers.get("Authorization")
    if header is None:
        return None
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise Unauthenticated(NO_TOKEN.detail, NO_TOKEN.hint)
    return token.strip().encode("utf-8", "surrogateescape")
