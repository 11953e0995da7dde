"""``discloud stat`` and ``discloud map``: what is known of an object, and where its bytes lie."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

import click

from discloud.cli.batch import run
from discloud.cli.client import Client, Request
from discloud.cli.options import as_json, on_mesh
from discloud.cli.output import emit, human, moment, name, paint, table
from discloud.cli.profile import Profile
from discloud.cli.remote import ANY, OBJECT, Remote

_META = "discloud-meta-"
_HEADERS = {
    "content-type": "content_type",
    "etag": "etag",
    "discloud-digest": "digest",
    "discloud-version": "version",
    "discloud-layout": "layout",
    "cache-control": "cache_control",
    "discloud-node": "node",
    "discloud-source": "source",
    "discloud-consistency": "consistency",
}
_BOXES = {"present": "[#]", "missing": "[ ]"}
_COLOURS = {"present": "green", "missing": "red", "unknown": "yellow"}


@click.command(short_help="Show what is known of an object or a bucket.")
@click.argument("target", metavar="BUCKET[/KEY]", type=ANY)
@as_json
@on_mesh
def stat(profile: Profile, target: Remote, as_json: bool) -> None:
    """Show size, times, tags, digest and metadata of an object, or the settings of a bucket.

    \b
    Examples:
      discloud stat files/photo.jpg
      discloud stat files --json
    """
    facts = run(_stat(profile, target))
    if as_json:
        emit(facts)
        return
    table([(label, _fact(label, value)) for label, value in facts.items() if value not in (None, "", [], {})])


def _fact(label: str, value: Any) -> str:
    if label == "size":
        return f"{human(value)} ({value} bytes)" if value >= 1000 else f"{value} bytes"
    if label in {"modified", "created"}:
        return moment(value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={text}" for key, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else name(str(value))


async def _stat(profile: Profile, target: Remote) -> dict[str, Any]:
    async with Client(profile) as client:
        if not target.key:
            return await client.call("GET", f"/v1/buckets/{target.bucket}", f"bucket {target.bucket}")
        async with client.send(Request("HEAD", target.path, str(target))) as answer:
            return _facts(target, answer.headers)


def _facts(target: Remote, headers: Mapping[str, str]) -> dict[str, Any]:
    """What the headers of an object say, by the names that listings use."""
    lower = {header.lower(): value for header, value in headers.items()}
    facts: dict[str, Any] = {
        "bucket": target.bucket,
        "key": target.key,
        "size": int(lower.get("content-length", 0)),
        "modified": _epoch(lower.get("last-modified")),
    }
    facts |= {fact: lower[header] for header, fact in _HEADERS.items() if header in lower}
    facts["etag"] = lower.get("etag", "").strip('"')
    facts["metadata"] = {
        header[len(_META) :]: unquote(value) for header, value in lower.items() if header.startswith(_META)
    }
    return facts


def _epoch(date: str | None) -> float | None:
    """Seconds of an HTTP date, None when there is none that can be read."""
    try:
        return parsedate_to_datetime(date).timestamp() if date else None
    except ValueError:
        return None


@click.command("map", short_help="Show where every fragment and copy of an object lies.")
@click.argument("target", metavar="BUCKET/KEY", type=OBJECT)
@as_json
@on_mesh
def map_(profile: Profile, target: Remote, as_json: bool) -> None:
    """Draw the fragments of an object and the nodes that hold them now.

    \b
    Examples:
      discloud map files/photo.jpg
      discloud map files/backup.tar --json
    """
    drawn = run(_map(profile, target))
    if as_json:
        emit(drawn)
        return
    click.echo(f"{name(str(target))}  {human(drawn['size'])}  {drawn['layout']}  version {drawn['version']}")
    for number, segment in enumerate(drawn["segments"]):
        if len(drawn["segments"]) > 1:
            begin, length = segment["offset"], segment["length"]
            click.echo(f"segment {number}  {human(length)} from byte {begin}")
        table([row for fragment in segment["fragments"] for row in _fragment_rows(fragment)])
    copies = [
        copy for segment in drawn["segments"] for part in segment["fragments"] for copy in part["copies"]
    ]
    present = sum(copy["state"] == "present" for copy in copies)
    click.echo(f"{present} of {len(copies)} copies present")


async def _map(profile: Profile, target: Remote) -> dict[str, Any]:
    async with Client(profile) as client:
        return await client.call("GET", target.path.replace("/v1/files/", "/v1/map/", 1), str(target))


def _fragment_rows(fragment: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row per copy; the fragment is named in its first one."""
    rows: list[tuple[str, ...]] = []
    copies = fragment["copies"] or [{"name": "(nowhere)", "state": "missing"}]
    for at, copy in enumerate(copies):
        branch = "`-" if at == len(copies) - 1 else "|-"
        first = (f"fragment {fragment['fragment']}", human(fragment["length"])) if at == 0 else ("", "")
        place = "/".join(part for part in (copy.get("region"), copy.get("zone")) if part)
        state = paint(copy["state"], _COLOURS.get(copy["state"], "yellow"))
        seen = f"verified {moment(copy['verified'])}" if copy.get("verified") else ""
        rows.append(
            ("", *first, f"{branch} {_BOXES.get(copy['state'], '[?]')} {copy['name']}", place, state, seen)
        )
    return rows
