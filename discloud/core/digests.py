"""The digests that clients send (RFC 9530, RFC 1864) and those that discloud gives out.

An object of one segment has the BLAKE3 of its bytes as its digest and native ETag; one of several has ``b3s-N:``
and the BLAKE3 over the N segments' lengths (8 bytes, big-endian) and hashes (32 bytes), in order. Joining segments so
needs no byte read again, and the same segments always give the same digest.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Sequence

from blake3 import blake3

from discloud.core.model import Segment
from discloud.errors import BadDigest

_LENGTHS = {"sha-256": 32, "sha-512": 64, "md5": 16}
_MEMBER = re.compile(
    r"(?P<name>[a-z*][a-z0-9_.*-]*)=:(?P<value>[A-Za-z0-9+/=]*):"
    r"""(?:;[ ]*[a-z*][a-z0-9_.*-]*(?:=(?:"[^"\\]*"|[^";, \t]+))?)*"""
)


def parse_content_digest(text: str) -> dict[str, bytes]:
    """The digests of a Content-Digest (or Repr-Digest) header that we know: sha-256, sha-512, md5.

    A dictionary of byte sequences (RFC 8941 section 3.2); other algorithms are ignored, of a repeated one the last
    counts. Raises: BadDigest where the header is malformed or a value has the wrong length.
    """
    found: dict[str, bytes] = {}
    for part in text.strip(" ").split(",") if text.strip(" ") else ():
        member = _MEMBER.fullmatch(part.strip(" \t"))
        if member is None:
            raise BadDigest(f"Content-Digest is malformed at {part.strip()[:80]!r}", "write sha-256=:BASE64:")
        if member["name"] in _LENGTHS:
            found[member["name"]] = _decode(
                member["value"], _LENGTHS[member["name"]], f"Content-Digest {member['name']}"
            )
    return found


def parse_content_md5(text: str) -> bytes:
    """The 16 bytes of a Content-MD5 header. Raises: BadDigest."""
    return _decode(text.strip(" \t"), _LENGTHS["md5"], "Content-MD5")


def _decode(value: str, length: int, what: str) -> bytes:
    try:
        digest = b64decode(value, validate=True)
    except (Base64Error, ValueError) as error:
        raise BadDigest(
            f"{what} is not base64", f"send the {length} bytes of the digest in base64"
        ) from error
    if len(digest) != length:
        raise BadDigest(f"{what} has {len(digest)} bytes", f"send the {length} bytes of the digest in base64")
    return digest


def etag_of(hash: bytes) -> str:
    """The native ETag (without quotes) of an object of one segment with that BLAKE3."""
    return hash.hex()


def combined_digest(segments: Sequence[Segment]) -> str:
    """The digest and native ETag of an object of these segments, whose hashes are known."""
    if len(segments) == 1:
        return etag_of(segments[0].hash)
    if not segments:
        return etag_of(blake3().digest())
    joined = blake3()
    for segment in segments:
        joined.update(segment.length.to_bytes(8, "big") + segment.hash)
    return f"b3s-{len(segments)}:{joined.hexdigest()}"
