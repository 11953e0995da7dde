"""``discloud config``: what a node would run with here, and every setting there is."""

from __future__ import annotations

import os
from pathlib import Path

import click

from discloud.cli.output import table, told
from discloud.config import resolve, settings
from discloud.config_text import render_example, render_reference
from discloud.errors import Invalid


@click.command()
@click.option(
    "--example", "wish", flag_value="example", help="A TOML file with every setting, commented out."
)
@click.option(
    "--reference", "wish", flag_value="reference", help="Every setting as a page (docs/configuration.md)."
)
@click.option(
    "--show",
    "wish",
    flag_value="show",
    default="show",
    help="What holds here; secrets stay unseen (default).",
)
@click.option("--origin", is_flag=True, help="With --show: where each value came from.")
@click.option("--config", "file", metavar="FILE", type=Path, help="TOML file  [env: DISCLOUD_CONFIG]")
def config(wish: str, origin: bool, file: Path | None) -> None:
    """Show the settings of a node: file < DISCLOUD_* < flags.

    \b
    Examples:
      discloud config --example > discloud.toml
      discloud config --show --origin --config discloud.toml
    """
    if wish == "example":
        click.echo(render_example(), nl=False)
    elif wish == "reference":
        click.echo(render_reference(), nl=False)
    else:
        _show(file, with_origin=origin)


def _show(file: Path | None, *, with_origin: bool) -> None:
    named = file or (Path(os.environ["DISCLOUD_CONFIG"]) if os.environ.get("DISCLOUD_CONFIG") else None)
    try:
        given = resolve(named, os.environ, {})
    except Invalid as error:
        raise click.UsageError(told(error)) from error
    rows = []
    for name, setting in settings().items():
        value = given[name].value
        shown = "(given)" if setting.unit == "secret" and value else setting.show(value)
        rows.append([name, "=", shown, *([f"# {given[name].origin}"] if with_origin else [])])
    table(rows)
