"""The digests that a client declared (Content-Digest of RFC 9530, Content-MD5), checked while its bytes pass.

Only algorithms that the client asked for are computed: MD5 and SHA-256 cost more than everything else on the way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

from discloud.errors import BadDigest

NAMES = {"sha-256": "sha256", "sha-512": "sha512", "md5": "md5"}


class DigestCheck:
    """Running digests of one body. ``md5`` is the hex MD5 if it was one of them, else empty."""

    def __init__(self, declared: Sequence[tuple[str, bytes]]) -> None:
        self._declared = [
            (name, wanted, hashlib.new(NAMES[name], usedforsecurity=False)) for name, wanted in declared
        ]
        self.md5 = ""

    def update(self, data: bytes | memoryview) -> None:
        """Take in the next bytes; from any one thread at a time."""
        for _, _, running in self._declared:
            running.update(data)

    def finish(self) -> None:
        """Compare. Raises: BadDigest naming the digest that differs and both values."""
        for name, wanted, running in self._declared:
            if not hmac.compare_digest(running.digest(), wanted):
                raise BadDigest(
                    f"the body's {name} is {_text(running.digest())}, declared was {_text(wanted)}",
                    "nothing was stored; send the file again",
                )
            if name == "md5":
                self.md5 = running.hexdigest()


def _text(digest: bytes) -> str:
    return base64.b64encode(digest).decode()
