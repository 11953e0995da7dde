"""Authorities and certificates for tests, made as ``discloud cert`` makes them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from discloud.cli.certificates import Made, make_authority, make_node
from discloud.transfer import tls
from discloud.transfer.tls import Certificates, Files

HOSTS = ("127.0.0.1", "localhost")


def authority(folder: Path, name: str = "authority") -> Path:
    """The folder of a new authority."""
    made = make_authority(folder / name, name, datetime.now(UTC), force=False)
    return made.cert.parent


def sign(signer: Path, out: Path, name: str = "node", days_ago: float = 0) -> Made:
    """A node's pair of files in ``out``, replaced if need be; made so many days ago it may have ended."""
    when = datetime.now(UTC) - timedelta(days=days_ago)
    return make_node(out, name, HOSTS, signer, when, force=True)


def files(signer: Path, out: Path, name: str = "node", days_ago: float = 0) -> Files:
    """The same as a node is told them."""
    made = sign(signer, out, name, days_ago)
    return Files(made.cert, made.key, signer / "ca.pem")


class Unchecked(Certificates):
    """Shows what a right-minded node would have refused to show: an ended certificate."""

    def __init__(self, shown: Files) -> None:
        assert shown.authority is not None
        self._contexts = tls._peer_contexts(shown, shown.authority)

    def for_peer(self, *, accepting: bool) -> ssl.SSLContext:
        return self._contexts[0 if accepting else 1]
