"""``discloud mb`` and ``discloud rb``: buckets."""

from __future__ import annotations

from typing import Any

import click

from discloud.cli.batch import run
from discloud.cli.client import Client
from discloud.cli.options import as_json, on_mesh
from discloud.cli.output import emit
from discloud.cli.profile import Profile
from discloud.cli.remote import ANY, Remote
from discloud.core.model import Verify


def _only_bucket(ctx: click.Context, param: click.Parameter, value: Remote) -> str:
    if value.key:
        raise click.BadParameter(f"{str(value)!r} names an object; a bucket has no slash", ctx, param)
    return value.bucket


bucket_argument = click.argument("bucket", metavar="BUCKET", type=ANY, callback=_only_bucket)


@click.command(short_help="Make a bucket.")
@bucket_argument
@click.option("--layout", metavar="LAYOUT", help="Layout of its objects; the mesh's otherwise.")
@click.option("--regions", metavar="NAME,...", help="Regions that get a copy of each object.")
@click.option("--cache-control", metavar="TEXT", help="Cache-Control header of its objects.")
@click.option("--verify", type=click.Choice([each.value for each in Verify]), help="When bytes are checked.")
@click.option(
    "--max-stale",
    type=float,
    metavar="SECONDS",
    help="How far reads may be behind, for local answers everywhere.",
)
@as_json
@on_mesh
def mb(
    profile: Profile,
    /,
    bucket: str,
    as_json: bool,
    regions: str | None,
    max_stale: float | None,
    **settings: str | None,
) -> None:
    """Make a bucket; its settings hold for the objects stored in it from then on.

    \b
    Examples:
      discloud mb photos
      discloud mb cdn --layout mirror:all --cache-control "public, max-age=3600" --verify window --max-stale 60
    """
    content: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
    if max_stale is not None:
        content["max_stale"] = max_stale
    if regions:
        content["regions"] = [region.strip() for region in regions.split(",")]
    made = run(_call(profile, "PUT", bucket, content))
    if as_json:
        emit(made)
    else:
        click.echo(f"made bucket {bucket}", err=True)


@click.command(short_help="Remove an empty bucket.")
@bucket_argument
@as_json
@on_mesh
def rb(profile: Profile, bucket: str, as_json: bool) -> None:
    """Remove a bucket; it has to be empty.

    \b
    Examples:
      discloud rb photos
      discloud rm -r photos && discloud rb photos
    """
    run(_call(profile, "DELETE", bucket, None))
    if as_json:
        emit({"bucket": bucket, "removed": True})
    else:
        click.echo(f"removed bucket {bucket}", err=True)


async def _call(profile: Profile, method: str, bucket: str, content: object) -> dict[str, Any]:
    async with Client(profile) as client:
        return await client.call(method, f"/v1/buckets/{bucket}", f"bucket {bucket}", content=content)
