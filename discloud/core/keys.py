"""The grammar of names: keys, bucket names, node names (DESIGN section 8).

Invariant: whatever is a ``Key`` has 1..1024 bytes of valid UTF-8 without C0 controls, and
``decode_key(encode_key(key)) == key`` for every one of them. ``.``, ``..``, empty segments and a
trailing slash are ordinary bytes: the disk never sees names.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from discloud.core.model import Key
from discloud.errors import BadBucketName, BadKey, Invalid

MAX_KEY = 1024
"""Bytes of UTF-8 in the longest key (S3's limit too)."""

_CONTROL = re.compile(r"[\x00-\x1f]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_DOTTED_NUMBERS = re.compile(r"[0-9]+(\.[0-9]+){3}")
_NODE = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_RESERVED_NODE_NAMES = frozenset({"self", "all"})


def check_key(text: str) -> Key:
    """The text as a key. Raises: BadKey."""
    if not text:
        raise BadKey("the key is empty", "a key has 1 to 1024 bytes of UTF-8")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadKey("the key is not valid UTF-8", "send the name percent-encoded as UTF-8") from error
    if size > MAX_KEY:
        raise BadKey(f"the key has {size} bytes, more than {MAX_KEY}", "shorten the name")
    if found := _CONTROL.search(text):
        raise BadKey(f"the key holds the control character U+{ord(found[0]):04X}", "remove it from the name")
    return Key(text)


def decode_key(raw: str) -> Key:
    """The key in a raw (still percent-encoded) URL path, decoded once and strictly; ``+`` is a plus.

    Bytes beyond ASCII may stand unescaped, also as the surrogate escapes by which servers hand on bytes
    that are not UTF-8. Raises: BadKey.
    """
    if found := _BAD_ESCAPE.search(raw):
        escape = raw[found.start() : found.start() + 3]
        raise BadKey(f"the key has a broken escape {escape!r}", "write a percent sign as %25")
    try:
        text = unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError as error:
        raise BadKey("the key is not valid UTF-8", "send the name percent-encoded as UTF-8") from error
    return check_key(text)


def encode_key(key: Key) -> str:
    """The key for a URL path: slashes stay, all but unreserved characters are escaped.

    The dots of a segment ``.`` or ``..`` are escaped, so that clients do not resolve them away.
    """
    return "/".join(_encode_segment(segment) for segment in key.split("/"))


def _encode_segment(segment: str) -> str:
    return segment.replace(".", "%2E") if segment in {".", ".."} else quote(segment, safe="")


def check_bucket_name(text: str) -> str:
    """The text as a bucket name: 3..63 of a-z 0-9 . -, as S3 and DNS want it. Raises: BadBucketName."""
    if not _BUCKET.fullmatch(text) or ".." in text:
        raise BadBucketName(
            f"{text[:80]!r} is not a bucket name",
            "use 3 to 63 of a-z, 0-9, dot and hyphen, with a letter or digit at both ends and no two dots together",
        )
    if _DOTTED_NUMBERS.fullmatch(text):
        raise BadBucketName(f"{text!r} looks like an IP address", "put a letter into the name")
    return text


def check_node_name(text: str) -> str:
    """The text as a node name: 1..63 of letters, digits, dot, underscore, hyphen. Raises: Invalid.

    ``self`` and ``all`` have a meaning of their own where nodes are named.
    """
    if not _NODE.fullmatch(text):
        raise Invalid(
            f"{text[:80]!r} is not a node name",
            "use 1 to 63 letters, digits, dots, underscores and hyphens, with a letter or digit at both ends",
        )
    if text.lower() in _RESERVED_NODE_NAMES:
        raise Invalid(
            f"a node cannot be named {text!r}", "the word has a meaning in nodes=; choose another name"
        )
    return text
