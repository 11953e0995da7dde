"""The client's end of the HTTP contract: one mesh, several addresses, every failure an error of discloud.

Only this module knows aiohttp, and imports it when a connection is made. An address that does not answer is passed
over for the next; the one that answered is asked first from then on. Safe for concurrent use within one loop.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, urlencode

from discloud import __version__
from discloud.cli.profile import Profile
from discloud.cli.remote import Remote
from discloud.core.model import MIB
from discloud.errors import (
    BY_CODE,
    Conflict,
    DiscloudError,
    Forbidden,
    Gone,
    InsufficientStorage,
    Invalid,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    TooLarge,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    import aiohttp

_BUFFER = 256 * 1024  # bytes read ahead: that much is lost when a connection breaks off
_CONNECT = 5.0  # seconds for an address to accept a connection
_SILENCE = 120.0  # seconds without a byte after which an answer is given up: an ack may take its time
_BY_STATUS: dict[int, type[DiscloudError]] = {
    400: Invalid,
    401: Unauthenticated,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    412: PreconditionFailed,
    413: TooLarge,
    416: RangeNotSatisfiable,
    429: Unavailable,
    502: Unavailable,
    503: Unavailable,
    504: Unavailable,
    507: InsufficientStorage,
}
_BY_CODE = {
    "no-such-bucket": 'see "discloud ls" for those there are, or make it with "discloud mb"',
    "no-such-key": 'see "discloud ls BUCKET"',
}
_OWN_HINTS = {401: "give the token with DISCLOUD_TOKEN or --token"}  # the server's speaks of headers
_CERTIFICATE_HINTS = {
    10: "renew it: discloud cert node ... --force; the node takes it by itself",
    62: "use a name that stands in it, or make it anew with --host",
    64: "use an address that stands in it, or make it anew with --host",
}  # by OpenSSL's X509_V_ERR: expired, another name, another address
_LOGGED = {500, 503}  # answers whose request is worth looking for in the logs of the nodes
_HINTS = {
    403: "ask whoever runs the mesh for the right",
    503: "try again in a moment",
    507: 'see "discloud nodes" for what is full or down',
}

Body = bytes | AsyncIterable[bytes]
"""What is sent: whole, or a source that begins anew each time it is iterated."""


class MeshDown(Unavailable):
    """No address of the mesh accepts a connection; nothing was sent."""


HOPELESS = (MeshDown, Unauthenticated)
"""What would happen to every other file too: the whole command ends."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; ``what`` names its object in messages. ``body`` is called once per attempt."""

    method: str
    path: str
    what: str
    query: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None
    body: Callable[[], Body] | None = None
    ask_first: bool = False  # Expect: 100-continue, so that a refusal comes before the body is sent

    @property
    def repeatable(self) -> bool:
        """True when it may go to another node although this one may have acted on it."""
        return self.method in {"GET", "HEAD"}


class Answer:
    """A successful answer whose body has not been read."""

    def __init__(self, response: aiohttp.ClientResponse, lost: Callable[[Exception], DiscloudError]) -> None:
        self._response = response
        self._lost = lost
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def content(self) -> dict[str, Any]:
        """The body as a JSON object, ``{}`` when there is none. Raises: Unavailable."""
        data = b"".join([chunk async for chunk in self.chunks()])
        if not data:
            return {}
        try:
            value = json.loads(data)
        except ValueError as error:
            raise _not_discloud(str(self._response.url.origin())) from error
        if not isinstance(value, dict):
            raise _not_discloud(str(self._response.url.origin()))
        return value

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body in pieces. Raises: Unavailable when it ends before its end."""
        import aiohttp

        try:
            async for chunk in self._response.content.iter_chunked(MIB):
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._lost(error) from error


class Client:
    """A mesh, spoken to as one account. Use as an async context manager."""

    def __init__(self, profile: Profile, connections: int = 4) -> None:
        self._addresses = profile.addresses
        self._token = profile.token
        self._ca = profile.ca
        self._connections = connections
        self._first = 0

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {"User-Agent": f"discloud/{__version__}", "Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=_trust(self._ca)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            auto_decompress=False,  # what is stored is what is written
            read_bufsize=_BUFFER,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Answer]:
        """The answer to ``request``. Raises: MeshDown, Unavailable, and the answer's own error."""
        at, response = await self._response(request)
        try:
            if response.status >= 300:
                if response.status == 503:
                    self._pass_over(at)
                raise await self._problem(request, response)
            yield Answer(response, lambda error: self._lost(at, request.what, error))
        finally:
            response.release()

    async def call(
        self,
        method: str,
        path: str,
        what: str,
        query: Mapping[str, str] | None = None,
        content: object = None,
    ) -> dict[str, Any]:
        """The JSON answer to a small request; ``content`` is sent as JSON. Raises: as ``send``."""
        data = None if content is None else json.dumps(content).encode()
        request = Request(
            method,
            path,
            what,
            query,
            headers=None if data is None else {"Content-Type": "application/json"},
            body=None if data is None else lambda: data,
        )
        async with self.send(request) as answer:
            return await answer.content()

    async def pages(self, folder: Remote, delimiter: str = "") -> AsyncIterator[dict[str, Any]]:
        """The listing of what begins with the key of ``folder``, page by page as it is consumed. Raises: as ``send``."""
        query = {"prefix": folder.key} | ({"delimiter": delimiter} if delimiter else {})
        while True:
            page = await self.call("GET", f"/v1/files/{folder.bucket}", f"bucket {folder.bucket}", query)
            yield page
            if (after := page.get("after")) is None:
                return
            if after == query.get("after"):
                raise Unavailable(f"the listing of {folder} does not advance", "try another node with --url")
            query["after"] = after

    async def objects(self, folder: Remote) -> AsyncIterator[dict[str, Any]]:
        """Every object whose key begins with the key of ``folder``. Raises: as ``send``."""
        async for page in self.pages(folder):
            for item in page["objects"]:
                yield item

    async def _response(self, request: Request) -> tuple[int, aiohttp.ClientResponse]:
        """The answer of the first address that gives one, and which address that is. Raises: MeshDown, Unavailable."""
        import aiohttp

        count = len(self._addresses)
        untrusted: DiscloudError | None = None
        for turn in range(count):
            at = (self._first + turn) % count
            try:
                response = await self._attempt(self._addresses[at], request)
            except aiohttp.ClientSSLError as error:
                untrusted = untrusted or _not_trusted(self._addresses[at], error)
                continue  # nothing was sent
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                continue  # nothing was sent
            except aiohttp.ClientResponseError as error:  # no HTTP: another program, or the peer port
                raise _not_discloud(self._addresses[at]) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if request.repeatable and turn < count - 1:
                    continue
                raise self._lost(at, request.what, error) from error
            self._first = at
            return at, response
        if untrusted is not None:
            raise untrusted
        raise MeshDown(
            f"no node answers at {', '.join(self._addresses)}",
            'is the mesh up? start it with "discloud up", or name a node with --url',
        )

    async def _attempt(self, address: str, request: Request) -> aiohttp.ClientResponse:
        from yarl import URL

        query = f"?{urlencode(request.query, quote_via=quote)}" if request.query else ""
        return await self._session.request(
            request.method,
            URL(f"{address}{request.path}{query}", encoded=True),  # keys are sent as they were encoded
            headers=request.headers,
            data=request.body() if request.body else None,
            expect100=request.ask_first,
            allow_redirects=False,
        )

    def _pass_over(self, at: int) -> None:
        """The next request begins with another node, unless one of the same time has seen to that already."""
        if self._first == at:
            self._first = (at + 1) % len(self._addresses)

    def _lost(self, at: int, what: str, error: Exception) -> DiscloudError:
        """The error for a connection that broke off."""
        self._pass_over(at)
        address = self._addresses[at]
        reason = str(error) or type(error).__name__
        hint = "try again" if address.startswith("https:") else "try again; has the mesh TLS? then https://"
        return Unavailable(f"{what}: the connection to {address} was lost ({reason})", hint)

    async def _problem(self, request: Request, response: aiohttp.ClientResponse) -> DiscloudError:
        """The answer's error: its problem document where it has one, else what its status says."""
        import aiohttp

        try:
            document = json.loads(await response.content.read(64 * 1024))
        except (ValueError, aiohttp.ClientError, TimeoutError, OSError):
            document = {}
        problem = document if isinstance(document, dict) else {}
        kind = BY_CODE.get(str(problem.get("code"))) or _BY_STATUS.get(response.status, DiscloudError)
        detail = str(problem.get("detail") or _by_status(request.what, response))
        if response.status in _LOGGED and (request_id := problem.get("request_id")):
            detail = f"{detail.rstrip('.')} (request {request_id})"
        usual = _BY_CODE.get(str(problem.get("code"))) or _HINTS.get(response.status, "")
        hint = _OWN_HINTS.get(response.status) or str(problem.get("hint") or usual)
        return kind(detail.rstrip("."), hint)


def _trust(ca: str) -> ssl.SSLContext | bool:
    """Whom to believe: the authority of the mesh and nobody else, or whom this machine believes. Raises: Invalid."""
    if not ca:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise Invalid(
            f"the authority {ca} cannot be read: {getattr(error, 'reason', None) or error.strerror}",
            'name the ca.pem that "discloud cert authority" made',
        ) from error


def _not_trusted(address: str, error: aiohttp.ClientSSLError) -> DiscloudError:
    """What is wrong with the certificate, as OpenSSL says it; or there is none: the port does not speak TLS."""
    found = getattr(error, "certificate_error", None) or error.__cause__ or error
    if not isinstance(found, ssl.SSLCertVerificationError):
        return Unavailable(
            f"{address} does not speak HTTPS ({getattr(found, 'reason', None) or found})",
            "try http:// instead",
        )
    hint = _CERTIFICATE_HINTS.get(
        found.verify_code, "give the authority of the mesh with --ca, DISCLOUD_CA or ca in the profile"
    )
    return Unauthenticated(f"{address} cannot be trusted: {found.verify_message.rstrip('.')}", hint)


def _by_status(what: str, response: aiohttp.ClientResponse) -> str:
    if response.status == 404:
        return f"there is no {what}"
    if 300 <= response.status < 400:
        return (
            f"{what}: the server sends us to {response.headers.get('Location', 'nowhere')}; use that as --url"
        )
    return f"{what}: the server answered {response.status} {response.reason or ''}".rstrip()


def _not_discloud(address: str) -> DiscloudError:
    return Unavailable(
        f"{address} does not answer like a node of discloud",
        "check the address: it is that of the HTTP API, port 7070 unless moved",
    )
