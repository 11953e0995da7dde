"""Options that several commands share, each declared once."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click

from discloud.cli.output import told
from discloud.cli.profile import Profile, load_profile
from discloud.core.units import parse_size
from discloud.errors import Invalid

P = ParamSpec("P")

JOBS = 4
"""Files that move at the same time unless -j says otherwise."""


def on_mesh(command: Callable[Concatenate[Profile, P], None]) -> Callable[..., None]:
    """Adds --url, --token and --ca; the command gets the Profile they lead to as its first argument."""

    @click.option("--url", metavar="URL", help="Address of a node  [env: DISCLOUD_URL; else the profile's]")
    @click.option(
        "--token",
        metavar="TOKEN",
        help="Who you are  [env: DISCLOUD_TOKEN, DISCLOUD_TOKEN_FILE; else the profile's]",
    )
    @click.option(
        "--ca", metavar="FILE", help="Authority of an https:// mesh  [env: DISCLOUD_CA; else the profile's]"
    )
    @wraps(command)
    def with_profile(*args: Any, url: str | None, token: str | None, ca: str | None, **options: Any) -> None:
        try:
            profile = load_profile(os.environ, url, token, ca)
        except Invalid as error:
            raise click.UsageError(told(error)) from error
        command(profile, *args, **options)

    return with_profile


class SizeType(click.ParamType[int]):
    """A size as people write it, in bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Bytes; a wrong one ends the command with exit code 2."""
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except Invalid as error:
            self.fail(told(error), param, ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Write JSON, one object per line.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Write nothing but errors.")
jobs = click.option(
    "-j",
    "--jobs",
    type=click.IntRange(1, 64),
    default=JOBS,
    show_default=True,
    help="How many move at the same time.",
)
