"""What the short path answers: a whole GET of a small object, for an account that is known.

Requests of one client carry the same header block again and again, so what a block means is remembered by its bytes.
"""

from __future__ import annotations

import itertools
import re
import secrets
from typing import TypeVar

from discloud import metrics
from discloud.api import headers
from discloud.api.call import Surface
from discloud.api.fast import Later
from discloud.api.send import UNHELD, source_of
from discloud.core.keys import decode_key
from discloud.core.model import Account, Key
from discloud.core.preconditions import http_date
from discloud.core.ranges import Span
from discloud.errors import DiscloudError
from discloud.gateway.heads import Freshness
from discloud.gateway.read import Found
from discloud.logs import REQUEST

REMEMBERED = 4096
"""Header blocks, targets and answer heads remembered at the most, each."""
PLAIN = frozenset(
    {b"host", b"user-agent", b"accept", b"accept-encoding", b"accept-language", b"authorization"}
)
"""Headers that change nothing about the answer; a block with any other goes to aiohttp."""
FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\x20-\x7e]*)")


K = TypeVar("K")
V = TypeVar("V")


class PlainGet:
    """The ``ShortCut`` of api/fast.py: at once where everything is known here, else by a coroutine."""

    def __init__(self, surface: Surface) -> None:
        self._surface = surface
        self._tokens: dict[bytes, bytes] = {}
        self._targets: dict[bytes, tuple[str, Key]] = {}
        self._heads: dict[tuple[str, int, str, str, bool], bytes] = {}
        self._date = (0, b"")
        self._run = secrets.token_hex(4)
        self._count = itertools.count()

    def __call__(self, target: bytes, block: bytes) -> bytes | Later | None:
        """The whole answer, or what will give it, or None = not plain."""
        token = self._tokens.get(block) or self._token(block)
        account = self._surface.accounts.peek(token) if token else None
        place = self._targets.get(target) or self._place(target)
        if account is None or place is None:
            return None
        return self._answer(account, *place)

    def _answer(self, account: Account, bucket: str, key: Key) -> bytes | Later | None:
        quick = self._surface.reader.quick(account, bucket, key)
        if quick is not None:
            return self._whole(*quick, "local", self._request_id())
        if self._surface.buckets.peek(bucket) is None or self._surface.reader.degraded:
            return None
        return self._ask(account, bucket, key)

    async def _ask(self, account: Account, bucket: str, key: Key) -> bytes | None:
        """The answer with the help of other nodes. Raises: DiscloudError, which aiohttp's path tells."""
        request_id = self._request_id()
        REQUEST.set(request_id)
        found = await self._surface.reader.find(account, bucket, key, freshness=Freshness.ANY)
        if not 0 < found.version.size <= UNHELD:
            return None
        async with self._surface.reader.gather(found, Span(0, found.version.size)) as gather:
            data = await gather.fetch()
            return self._whole(found, data, source_of(self._surface.cluster, gather), request_id)

    def _whole(self, found: Found, data: bytes, source: str, request_id: str) -> bytes:
        metrics.REQUESTS.add(1, "GET", "200")
        metrics.BYTES_OUT.add(len(data), source[:5])
        return b"%bDiscloud-Request-Id: %b\r\nDate: %b\r\n\r\n%b" % (
            self._head(found, source),
            request_id.encode(),
            self._now(),
            data,
        )

    def _request_id(self) -> str:
        return f"{self._run}{next(self._count):08x}"

    def _head(self, found: Found, source: str) -> bytes:
        """The answer's headers but for those that change with every request, remembered by version and bucket."""
        name = (found.version.id, found.version.rev, found.bucket.cache_control, source, found.stale)
        head = self._heads.get(name)
        if head is None:
            fields = headers.describe(found, download=False)
            fields["Discloud-Node"] = self._surface.cluster.own.name
            fields["Discloud-Source"] = source
            fields["Content-Length"] = str(found.version.size)
            fields["Server"] = headers.SERVER
            lines = "".join(f"{field}: {value}\r\n" for field, value in fields.items())
            assert lines.count("\n") == len(fields), "a header value with a line end would split the answer"
            head = f"HTTP/1.1 200 OK\r\n{lines}".encode()
            _remember(self._heads, name, head)
        return head

    def _now(self) -> bytes:
        second = int(self._surface.clock())
        if second != self._date[0]:
            self._date = (second, http_date(second).encode())
        return self._date[1]

    def _token(self, block: bytes) -> bytes | None:
        """The bearer token of a plain header block, None where the block is not plain."""
        token = None
        seen = set()
        for line in block.split(b"\r\n"):
            field = FIELD.fullmatch(line)
            if field is None:
                return None
            name = field[1].lower()
            if name not in PLAIN or name in seen:
                return None
            seen.add(name)
            if name == b"authorization":
                scheme, _, token = field[2].partition(b" ")
                if scheme.lower() != b"bearer":
                    return None
        if token is None or b"host" not in seen or not token.strip():
            return None
        _remember(self._tokens, block, token.strip())
        return token.strip()

    def _place(self, target: bytes) -> tuple[str, Key] | None:
        """Bucket and key of a target without a query."""
        if not target.isascii() or b"?" in target or b"#" in target:
            return None
        bucket, slash, raw = target.decode().partition("/")
        if not slash or not raw:
            return None
        try:
            place = (decode_key(bucket), decode_key(raw))
        except DiscloudError:
            return None
        _remember(self._targets, target, place)
        return place


def _remember(known: dict[K, V], name: K, value: V) -> None:
    if len(known) >= REMEMBERED:
        known.clear()
    known[name] = value
