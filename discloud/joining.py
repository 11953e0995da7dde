"""How a node gets in: its ports, its secret, its place in the mesh, and the database or the root that it needs.

Everything here happens before a node serves, and refuses with one clear line what would end badly later. Used by node.py only.
"""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

from discloud import __version__, logs
from discloud.adapters.identity import Identity, read_or_make_secret, read_secret
from discloud.adapters.sqlite import SqliteMetadata
from discloud.config import Config
from discloud.core.model import Account, Node, Role
from discloud.errors import Conflict, Invalid, Unavailable
from discloud.gateway.accounts import token_digest
from discloud.peer.links import Links
from discloud.peer.metadata import PeerMetadata
from discloud.ports import Metadata

SECRET = "secret"  # noqa: S105 - the file's name
TOKEN = "token"  # noqa: S105 - the file's name


async def open_database(path: Path, identity: Identity) -> SqliteMetadata:
    """The names of the mesh. Raises: Conflict when the folder belongs to a mesh whose database is not here."""
    if identity.cluster and not path.exists():
        raise Conflict(
            f"this folder belongs to mesh {identity.cluster}, but {path} is missing",
            "a root keeps the mesh's names there: move the file here from the old root's folder, or from a backup",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = await SqliteMetadata.open(path)
    if identity.cluster not in ("", metadata.cluster):
        await metadata.close()
        raise Conflict(
            f"{path} is of mesh {metadata.cluster}, this folder belongs to {identity.cluster}",
            "put the database of the right mesh there",
        )
    return metadata


async def wait_for_root(config: Config, links: Links) -> PeerMetadata:
    """The metadata of a root, waited for as long as none answers; a refusal is final."""
    if not config.node.roots:
        raise Invalid("an ordinary node needs --roots", "give the peer address of a root: --roots HOST:7072")
    said = False
    while True:
        try:
            return await PeerMetadata.connect(links, config.node.roots)
        except Unavailable as error:
            if not said:
                logs.warn("waiting_for_root", roots=list(config.node.roots), reason=error.detail)
                said = True
            await asyncio.sleep(config.periods.heartbeat)


def refuse_second_root(config: Config) -> None:
    """One root keeps the names in its SQLite; a second would start a mesh of its own. Raises: Invalid."""
    if config.node.role is Role.ROOT and config.node.roots:
        raise Invalid(
            f"a root was told to join {', '.join(config.node.roots)}: two roots need Cassandra, "
            "which this version does not have",
            "start it with --role=ordinary, or without --roots for a mesh of its own",
        )


def own_node(config: Config, identity: Identity) -> Node:
    """This node as it announces itself: under ``advertise`` where that is set."""
    node = config.node
    host = node.advertise or node.listen
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = socket.gethostname()
    name = host if ":" not in host else f"[{host}]"
    return Node(
        id=identity.node,
        name=node.name or socket.gethostname(),
        role=node.role,
        api=f"{name}:{node.port}",
        peer=f"{name}:{node.peers_at}",
        host=socket.gethostname(),
        zone=node.zone,
        region=node.region,
        incarnation=identity.starts,
        version=__version__,
    )


async def ensure_admin(config: Config, metadata: Metadata) -> None:
    """A root makes the admin's token on its first start (or takes the configured one) and records its digest."""
    if config.node.role is not Role.ROOT:
        return
    token = config.node.token
    if not token:
        token = read_or_make_secret(config.node.token_file or config.node.data / TOKEN)
    account = Account("admin", "admin", token_digest(token.encode()), admin=True, created=time.time())
    await metadata.accounts.add(account)


def cluster_secret(config: Config, identity: Identity) -> str:
    """The cluster secret: configured, or from a file; only a fresh root may make one."""
    node = config.node
    if node.secret:
        return node.secret
    path = node.secret_file or node.data / SECRET
    if node.role is Role.ROOT and not identity.cluster:
        return read_or_make_secret(path)
    return read_secret(path)


def check_ports(config: Config) -> None:
    """Refuse a taken port before anything is written. Raises: Conflict."""
    for port in (config.node.port, config.node.peers_at):
        with socket.socket(socket.AF_INET6 if ":" in config.node.listen else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.node.listen, port))
            except OSError as error:
                raise Conflict(
                    f"{config.node.listen}:{port} cannot be listened on: {error.strerror}",
                    "choose another with --port",
                ) from error
