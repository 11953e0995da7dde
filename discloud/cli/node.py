"""``discloud node``: one container, in the foreground until it is told to stop."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

import click

from discloud.cli.output import say_warning, told
from discloud.cli.processes import authority
from discloud.config import Config, load
from discloud.core.model import Role
from discloud.errors import Invalid

FLAGS = {
    "role": "node.role",
    "name": "node.name",
    "data": "node.data",
    "roots": "node.roots",
    "secret_file": "node.secret_file",
    "listen": "node.listen",
    "port": "node.port",
    "advertise": "node.advertise",
    "zone": "node.zone",
    "region": "node.region",
    "redis": "redis.url",
    "cassandra": "cassandra.hosts",
}
"""The setting behind each flag; everything else comes from the file and the environment."""


@click.command()
@click.option("--role", metavar="ROLE", help="root or ordinary; the first container of a mesh is a root.")
@click.option("--name", metavar="NAME", help="Name in the mesh; the host's name unless given.")
@click.option("--data", metavar="DIR", help="Folder of its data; $DISCLOUD_HOME/data unless given.")
@click.option("--roots", metavar="HOST:PORT,...", help="Peer addresses of the roots to join by.")
@click.option("--secret-file", metavar="FILE", help="File that holds the mesh's secret.")
@click.option("--listen", metavar="HOST", help="Address to listen on; 127.0.0.1 unless given.")
@click.option("--port", metavar="PORT", help="Port of the HTTP API; peers use PORT + 2. 7070 unless given.")
@click.option("--advertise", metavar="HOST", help="Host that others reach it by (NAT, containers).")
@click.option("--zone", metavar="ZONE", help="Where it stands: copies are spread over zones.")
@click.option("--region", metavar="REGION", help="Where it stands: copies are spread over regions.")
@click.option("--redis", metavar="URL", help="Redis where the roots of a mesh meet.")
@click.option(
    "--cassandra", metavar="HOSTS", help="Cassandra that keeps the metadata; several roots need it."
)
@click.option("--config", "file", metavar="FILE", type=Path, help="TOML file  [env: DISCLOUD_CONFIG]")
def node(file: Path | None, **flags: str | None) -> None:
    """Run one container of a mesh until it is stopped.

    A fresh root makes the mesh's secret and the admin's token and prints the line by which others join. Every setting
    is in "discloud config --example".

    \b
    Examples:
      discloud node --role=root --data /srv/discloud --listen 10.0.0.1
      discloud node --role=ordinary --roots 10.0.0.1:7072 --secret-file ./secret
      discloud node --role=root --redis redis://10.0.0.5 --cassandra 10.0.0.6,10.0.0.7 --secret-file ./secret
    """
    settings = load_or_refuse(file, os.environ, flags)
    if settings.tls.cert is None:
        warn_beyond_loopback(settings.node.listen, settings.node.port)
    elif settings.tls.authority is None:
        warn_of_plain_peers(settings.node.listen, settings.node.peers_at)
    run(settings)


def run(settings: Config) -> None:
    """Serve until SIGTERM or SIGINT; a root says on its first start how to join it. Raises: DiscloudError (cannot start)."""
    import uvloop

    from discloud.adapters.identity import load_identity
    from discloud.joining import SECRET, TOKEN
    from discloud.node import Running, run_node

    def say_how_to_join(running: Running) -> None:
        node = settings.node
        if node.role is not Role.ROOT or load_identity(node.data).starts > 1:
            return
        secret = "FILE" if node.secret and not node.secret_file else node.secret_file or node.data / SECRET
        click.echo(f"join: discloud node --role=ordinary --roots {running.peer} --secret-file {secret}")
        if not node.token:
            click.echo(f"the admin's token is in {node.token_file or node.data / TOKEN}")

    uvloop.run(run_node(settings, say_how_to_join))


def load_or_refuse(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str | None]) -> Config:
    """The settings; a wrong one ends the command with exit code 2. Raises: click.UsageError."""
    named = file or (Path(environ["DISCLOUD_CONFIG"]) if environ.get("DISCLOUD_CONFIG") else None)
    try:
        return load(named, environ, {FLAGS[flag]: value for flag, value in flags.items()})
    except Invalid as error:
        raise click.UsageError(told(error)) from error


def warn_beyond_loopback(host: str, port: int) -> None:
    """Say in one line that tokens and files pass in the clear where other machines can reach ``host``."""
    if not is_loopback(host):
        say_warning(
            f"{authority(host, port)} is open to other machines without TLS: tokens and files pass in the clear. "
            "Give it a certificate ([tls], discloud cert) where the network is not yours"
        )


def warn_of_plain_peers(host: str, port: int) -> None:
    """Say in one line that files pass in the clear between nodes although the API speaks TLS."""
    if not is_loopback(host):
        say_warning(
            f"{authority(host, port)} passes files between nodes in the clear: only the API has TLS. "
            "Give tls.authority too where the network is not yours"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
