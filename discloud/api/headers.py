"""HTTP headers to and from what the gateway speaks: conditions, digests, user metadata, and an object's description.

User content never runs as the app's origin: whatever a browser could execute leaves as an attachment in a sandbox.
"""

from __future__ import annotations

from urllib.parse import quote

from aiohttp import web
from multidict import CIMultiDict

from discloud.core.digests import parse_content_digest, parse_content_md5
from discloud.core.layout import layout_name
from discloud.core.model import Precondition, Version
from discloud.core.preconditions import ReadVerdict, check_read, http_date, parse_http_date, parse_tags
from discloud.errors import Invalid
from discloud.gateway.heads import Freshness
from discloud.gateway.read import Found

SERVER = "discloud"
"""The Server header: what it is, not which version (that helps nobody but an attacker)."""
META = "Discloud-Meta-"
"""Prefix of headers that carry user metadata."""
META_LIMIT = 8 * 1024
"""Bytes of user metadata of one object, names and values together."""
ACTIVE = ("text/html", "application/xhtml", "image/svg", "text/xml", "application/xml", "+xml")
"""Content types (or parts of them) that a browser would run."""
FORM = "application/x-www-form-urlencoded"
"""What curl and old clients declare for any body they know nothing of."""
CONSISTENCY = "Discloud-Consistency"
"""Whether an answer is as of now, or may be older than what others have been told."""
FILENAME = "filename"
"""The metadata entry that holds an uploaded file's own name."""


def tags(request: web.BaseRequest, name: str) -> tuple[str, ...] | None:
    """The entity tags of a header, None where absent. Raises: Invalid."""
    values = request.headers.getall(name, [])
    return parse_tags(", ".join(values)) if values else None


def write_condition(request: web.BaseRequest) -> Precondition:
    """What must hold of the head for this write (RFC 9110 section 13.1). Raises: Invalid."""
    since = request.headers.get("If-Unmodified-Since")
    return Precondition(
        tags(request, "If-Match"),
        tags(request, "If-None-Match"),
        parse_http_date(since) if since else None,
    )


def freshness(request: web.BaseRequest) -> Freshness:
    """How old an answer to this read may be: a condition guards something; a validator only saves bytes, as a cache does."""
    given = request.headers
    if "If-Match" in given or "If-Unmodified-Since" in given:
        return Freshness.STRICT
    if "If-None-Match" in given or "If-Modified-Since" in given:
        return Freshness.LAGGING
    return Freshness.ANY


def consistency(*, stale: bool) -> str:
    """The value of ``Discloud-Consistency``."""
    return "stale-possible" if stale else "strong"


def read_verdict(request: web.BaseRequest, version: Version) -> ReadVerdict:
    """Whether this read is to be answered, is answered by 304, or fails (RFC 9110 section 13.2.2). Raises: Invalid."""
    modified = request.headers.get("If-Modified-Since")
    unmodified = request.headers.get("If-Unmodified-Since")
    return check_read(
        tags(request, "If-Match"),
        tags(request, "If-None-Match"),
        parse_http_date(modified) if modified else None,
        parse_http_date(unmodified) if unmodified else None,
        version.etag,
        version.md5,
        version.created,
    )


def declared_digests(request: web.BaseRequest) -> tuple[tuple[str, bytes], ...]:
    """The digests that the client declared for the body. Raises: BadDigest."""
    found: dict[str, bytes] = {}
    if text := request.headers.get("Content-Digest"):
        found |= parse_content_digest(text)
    if text := request.headers.get("Content-MD5"):
        found["md5"] = parse_content_md5(text)
    return tuple(found.items())


def user_metadata(request: web.BaseRequest) -> tuple[tuple[str, str], ...]:
    """The ``Discloud-Meta-*`` headers, names in lower case. Raises: Invalid when they are too long."""
    found = {
        name[len(META) :].lower(): value
        for name, value in request.headers.items()
        if name.lower().startswith(META.lower()) and len(name) > len(META)
    }
    return checked_metadata(found) if found else ()


def checked_metadata(found: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Metadata in one order, within its limit, fit for headers. Raises: Invalid."""
    for name, value in found.items():
        if not name.isascii() or not all(letter.isalnum() or letter in "-_." for letter in name) or not name:
            raise Invalid(f"{name!r} is no name for metadata", "letters, digits, '-', '_' and '.' only")
        if any(ord(letter) < 32 or ord(letter) == 127 for letter in value):
            raise Invalid(f"metadata {name!r} has control characters", "remove them")
    size = sum(len(name) + len(value.encode()) for name, value in found.items())
    if size > META_LIMIT:
        raise Invalid(
            f"the metadata has {size} bytes, {META_LIMIT} are allowed", "keep large values in a file"
        )
    return tuple(sorted((name.lower(), value) for name, value in found.items()))


def content_type(request: web.BaseRequest) -> str:
    """The declared type of the body, as it was sent; browsers' form types do not count."""
    declared = request.headers.get("Content-Type", "").strip()
    if not declared or not declared.isprintable() or declared.startswith(FORM):
        return "application/octet-stream"
    return declared[:255]


def digest_header(version: Version) -> str:
    """``Discloud-Digest``: the native digest in the form ``blake3=HEX`` (one segment) or ``b3s-N:HEX`` (several)."""
    return version.etag if version.etag.startswith("b3s-") else f"blake3={version.etag}"


def describe(found: Found, *, download: bool) -> CIMultiDict[str]:
    """The headers of an object's representation, without its length and source."""
    version = found.version
    headers: CIMultiDict[str] = CIMultiDict()
    headers["Content-Type"] = version.content_type
    headers["ETag"] = f'"{version.etag}"'
    headers["Last-Modified"] = http_date(version.created)
    headers["Accept-Ranges"] = "bytes"
    headers["Discloud-Digest"] = digest_header(version)
    headers["Discloud-Version"] = version.id
    headers[CONSISTENCY] = consistency(stale=found.stale)
    headers["X-Content-Type-Options"] = "nosniff"
    if found.bucket.cache_control:
        headers["Cache-Control"] = found.bucket.cache_control
    if version.segments:
        headers["Discloud-Layout"] = layout_name(version.segments[0].layout)
    for name, value in version.metadata:
        headers[META + name.title()] = quote(value, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~\"\\")
    lowered = version.content_type.lower()
    active = any(mark in lowered for mark in ACTIVE)
    if active:
        headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
    if download or active:
        headers["Content-Disposition"] = _attachment(version)
    elif filename := dict(version.metadata).get(FILENAME):
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{quote(filename, safe='')}"
    return headers


def _attachment(version: Version) -> str:
    name = dict(version.metadata).get(FILENAME) or version.key.rstrip("/").rpartition("/")[2] or "download"
    return f"attachment; filename*=UTF-8''{quote(name, safe='')}"
