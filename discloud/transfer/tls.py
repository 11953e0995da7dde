"""The certificate of this node, out of its files into contexts, and looked at again while the node runs.

Contexts are never changed, only replaced as a whole: a connection that is open goes on with what it was opened with,
the next one shows the new certificate. Invariant: what was loaded once stays until something whole takes its place, so
files that are half written, missing or wrong cost one log line and no connection.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discloud import logs
from discloud.errors import Invalid

SOON = 14 * 86400.0
"""Seconds before its end from which a certificate is warned about."""
RELOAD = 5.0
"""Seconds between two looks at the files."""
_ANY_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: Python has no name for it
_MAKE = 'make one with "discloud cert node NAME --host HOST --authority DIR"'

Stamp = tuple[tuple[int, int, int] | None, ...]
"""What tells that a file is another one: its time, its inode and its size; None = it is not there."""


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files: the certificate with its chain, its key, and the authority of the mesh (None = peers are in the clear)."""

    cert: Path
    key: Path
    authority: Path | None = None

    def stamp(self) -> Stamp:
        """What the files are now."""
        return tuple(_stamp_of(path) for path in (self.cert, self.key, self.authority) if path)


@dataclass(frozen=True, slots=True)
class Loaded:
    """One generation: contexts for the API, for peers that call and for peers that are called, and what they show.

    ``serial`` is hexadecimal as openssl prints it, ``until`` epoch seconds.
    """

    api: ssl.SSLContext
    accepting: ssl.SSLContext | None
    calling: ssl.SSLContext | None
    serial: str
    until: float


class Certificates:
    """The contexts of a node. Made from files that must be right; ``run_once`` looks at them again.

    Lives on one event loop. Raises when made: Invalid, which names the file.
    """

    def __init__(self, files: Files, clock: Callable[[], float] = time.time) -> None:
        self._files = files
        self._clock = clock
        self._stamp = files.stamp()
        self._wrong: Stamp | None = None
        self._told: Stamp | None = None
        self._warned = ""
        self._now = load(files)
        self.api = _api_context(files)
        """For the listener of the API: every new connection gets what is loaded when it comes."""
        self.api.sni_callback = self._show_current
        self._warn_of_end()

    @property
    def serial(self) -> str:
        """The serial number of the certificate that new connections show."""
        return self._now.serial

    @property
    def between_nodes(self) -> bool:
        """Whether nodes speak TLS with each other: an authority is configured."""
        return self._now.accepting is not None

    def for_peer(self, *, accepting: bool) -> ssl.SSLContext:
        """The context of a connection with another node that begins now; only where ``between_nodes``."""
        context = self._now.accepting if accepting else self._now.calling
        assert context is not None, "no authority is configured"
        return context

    async def run_once(self) -> bool:
        """Look at the files; True when they are new and were taken. What is wrong with them is logged once."""
        stamp = await asyncio.to_thread(self._files.stamp)
        taken = stamp not in (self._stamp, self._told) and await self._take(stamp)
        self._warn_of_end()
        return taken

    async def _take(self, stamp: Stamp) -> bool:
        try:
            loaded = await asyncio.to_thread(load, self._files)
        except Invalid as error:
            # A certificate and its key are two files: between the two writes they do not fit each other.
            if stamp == self._wrong:
                logs.warn("certificate_refused", reason=str(error), kept=self._now.serial)
                self._told = stamp
            self._wrong = stamp
            return False
        if stamp != await asyncio.to_thread(self._files.stamp):
            return False  # it is being written: the next look will find all of it
        self._stamp, self._now, self._told, self._wrong = stamp, loaded, None, None
        logs.info("certificate_loaded", file=str(self._files.cert), serial=loaded.serial)
        return True

    def _show_current(
        self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context: ssl.SSLContext
    ) -> None:
        """OpenSSL asks after each client's hello, whether or not that names a server."""
        connection.context = self._now.api

    def _warn_of_end(self) -> None:
        now = self._now
        if now.until - self._clock() < SOON and self._warned != now.serial:
            self._warned = now.serial
            until = time.strftime("%Y-%m-%d %H:%M", time.gmtime(now.until))
            logs.warn("certificate_ends", file=str(self._files.cert), serial=now.serial, until=until)


def load(files: Files) -> Loaded:
    """One generation of contexts, tried against each other. Reads files. Raises: Invalid, naming the file."""
    api = _api_context(files)
    shown = _shown(files, api)
    accepting = calling = None
    if files.authority is not None:
        accepting, calling = _peer_contexts(files, files.authority)
        _try_as_a_peer(files, accepting, calling)
    return Loaded(api, accepting, calling, shown["serialNumber"], ssl.cert_time_to_seconds(shown["notAfter"]))


def _api_context(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _load_pair(context, files)
    return context


def _peer_contexts(files: Files, authority: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a node that is called and for one that calls: both show a certificate of the authority, whatever host it names."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.num_tickets = 0  # each connection proves the certificate anew
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.check_hostname = (
        False  # nodes move; that it is a node of this mesh is proved by the greeting inside
    )
    for context in (accepting, calling):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        _load_pair(context, files)
        _load_authority(context, authority)
    return accepting, calling


def _load_pair(context: ssl.SSLContext, files: Files) -> None:
    _check_readable("tls.cert", files.cert)
    _check_readable("tls.key", files.key)
    try:
        context.load_cert_chain(files.cert, files.key, password=_no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise Invalid(
                f"tls.key = {files.key} is not the key of tls.cert = {files.cert}", "give the two of one pair"
            ) from error
        raise Invalid(
            f"tls.cert = {files.cert} and tls.key = {files.key} are not PEM files of a certificate and its key",
            _MAKE,
        ) from error
    except OSError as error:
        raise Invalid(f"tls.cert = {files.cert} cannot be read: {error.strerror}", _MAKE) from error


def _load_authority(context: ssl.SSLContext, authority: Path) -> None:
    _check_readable("tls.authority", authority)
    try:
        context.load_verify_locations(authority)
    except OSError as error:
        raise Invalid(
            f"tls.authority = {authority} is not a PEM file of a certificate",
            'it is the ca.pem that "discloud cert authority" made',
        ) from error


def _check_readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise Invalid(f"{name} = {path} cannot be read: {error.strerror}", _MAKE) from error


def _no_password() -> str:
    raise Invalid("tls.key is encrypted and nobody is there to ask", "give the key without a passphrase")


def _trusting(cert: Path) -> ssl.SSLContext:
    """A client that believes exactly this certificate, so that what it says of itself can be read."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _ANY_TIME
    _load_authority(context, cert)
    return context


def _shown(files: Files, api: ssl.SSLContext) -> Any:
    """What the certificate says of itself. Raises: Invalid when no client could believe it at any time."""
    try:
        return _handshake(api, _trusting(files.cert))
    except ssl.SSLError as error:
        raise Invalid(f"clients would refuse tls.cert = {files.cert}: {why(error)}", _MAKE) from error


def _try_as_a_peer(files: Files, accepting: ssl.SSLContext, calling: ssl.SSLContext) -> None:
    """Let the node call itself: what it would refuse, the others would refuse too. Raises: Invalid."""
    try:
        _handshake(accepting, calling)
    except ssl.SSLError as error:
        raise Invalid(
            f"the other nodes would refuse tls.cert = {files.cert}: {why(error)}",
            f"it must be signed by tls.authority = {files.authority}, for servers and clients: {_MAKE[9:]}",
        ) from error


def why(error: ssl.SSLError) -> str:
    """What OpenSSL says, without its numbers and files: ``certificate has expired``, ``alert unknown ca``."""
    said = getattr(error, "verify_message", "") or (error.reason or str(error)).replace("_", " ").lower()
    return str(said).removeprefix("tlsv1 ").removeprefix("sslv3 ").removeprefix("tlsv13 ")


def _handshake(accepting: ssl.SSLContext, calling: ssl.SSLContext) -> Any:
    """One handshake in memory; what the caller learnt of the other's certificate. Raises: ssl.SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        calling.wrap_bio(back, there),
        accepting.wrap_bio(there, back, server_side=True),
    ]
    for end in ends * 2:  # hello, its answer with the certificate, the caller's, the end
        with suppress(ssl.SSLWantReadError):
            end.do_handshake()
    return ends[0].getpeercert()


def _stamp_of(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
