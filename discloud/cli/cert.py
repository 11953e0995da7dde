"""``discloud cert``: a private authority for a mesh, and the certificates of its nodes."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import click

from discloud.cli.options import as_json
from discloud.cli.output import emit
from discloud.errors import Invalid

if TYPE_CHECKING:
    from discloud.cli.certificates import Made

_out = click.option(
    "--out", metavar="DIR", type=Path, required=True, help="Folder for the two files; made if need be."
)
_force = click.option("--force", is_flag=True, help="Replace files that are there, the key too.")


@click.group()
def cert() -> None:
    """Make the certificates of a mesh: a private authority, and one certificate for each node.

    A node serves HTTPS with [tls] cert and key, and speaks TLS with the other nodes with [tls] authority too. What
    is replaced under a running node is taken within seconds, without a restart.

    \b
    Examples:
      discloud cert authority --out ./authority
      discloud cert node node1 --host 10.0.0.1 --host files.example.org --authority ./authority --out ./node1
      discloud ls --url https://files.example.org:7070 --ca ./authority/ca.pem
    """


@cert.command()
@_out
@click.option("--name", metavar="NAME", default="discloud", show_default=True, help="What it calls itself.")
@_force
@as_json
def authority(out: Path, name: str, force: bool, as_json: bool) -> None:
    """Make an authority: ca.pem, which every node and client gets, and ca.key, which stays in a safe place.

    It holds for ten years. Whoever has ca.key can make a node's certificate: no node needs it.

    \b
    Examples:
      discloud cert authority --out ./authority
      discloud cert authority --out ./authority --name "files of example.org" --json
    """
    made = _certificates().make_authority(out, name, datetime.now(UTC), force=force)
    _show(made, as_json=as_json)
    if not as_json:
        click.echo(f"next: discloud cert node NAME --host HOST --authority {out} --out DIR")


@cert.command()
@click.argument("name")
@click.option(
    "--host",
    "hosts",
    metavar="HOST",
    required=True,
    multiple=True,
    help="Address or name that clients use for this node; may be repeated.",
)
@click.option(
    "--authority", metavar="DIR", type=Path, required=True, help="Folder of ca.pem and ca.key of the mesh."
)
@_out
@_force
@as_json
def node(name: str, hosts: tuple[str, ...], authority: Path, out: Path, force: bool, as_json: bool) -> None:
    """Make the certificate of the node NAME: node.pem and node.key, for 397 days.

    To renew it run the same again with --force: the running node takes the new files by itself.

    \b
    Examples:
      discloud cert node node1 --host 10.0.0.1 --authority ./authority --out ./node1
      discloud cert node node1 --host 10.0.0.1 --authority ./authority --out ./node1 --force
    """
    made = _certificates().make_node(out, name, hosts, authority, datetime.now(UTC), force=force)
    _show(made, as_json=as_json)
    if not as_json:
        click.echo("for the node's configuration:\n[tls]")
        for setting, path in (("cert", made.cert), ("key", made.key), ("authority", authority / "ca.pem")):
            click.echo(f'{setting} = "{path.absolute()}"')


def _certificates() -> ModuleType:
    """The module that makes them. Raises: Invalid where its library is not installed."""
    try:
        from discloud.cli import certificates
    except ImportError as error:
        raise Invalid(
            "certificates need the library cryptography, which is not installed",
            "install it: pip install 'discloud[cert]'",
        ) from error
    return certificates


def _show(made: Made, *, as_json: bool) -> None:
    if as_json:
        emit(
            {
                "cert": str(made.cert),
                "key": str(made.key),
                "serial": made.serial,
                "until": made.until.isoformat(),
            }
        )
    else:
        click.echo(f"{made.cert} and {made.key}, until {made.until:%Y-%m-%d}")
