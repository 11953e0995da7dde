"""How a node gets in: its ports, its secret, its place in the mesh, and the database or the root that it needs.

Everything here happens before a node serves, and refuses with one clear line what would end badly later. Used by node.py only.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from discloud import __version__, logs
from discloud.adapters.identity import Identity, read_or_make_secret, read_secret
from discloud.adapters.sqlite import SqliteMetadata
from discloud.adapters.sqlite.moved import refuse_moved
from discloud.config import Config
from discloud.core.model import Account, Node, Role
from discloud.errors import Conflict, Invalid, Unavailable
from discloud.gateway.accounts import token_digest
from discloud.ports import Metadata
from discloud.transfer.tls import Certificates, Files

T = TypeVar("T")
SECRET = "secret"  # noqa: S105 - the file's name
TOKEN = "token"  # noqa: S105 - the file's name


async def open_database(path: Path, identity: Identity) -> SqliteMetadata:
    """The names of the mesh. Raises: Conflict when the folder belongs to a mesh whose database is not here, or moved away."""
    refuse_moved(path)
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


async def patiently(waits_for: str, pause: float, call: Callable[[], Awaitable[T]]) -> T:
    """What ``call`` gives, tried each ``pause`` seconds while it is Unavailable (said once); a refusal is final."""
    said = False
    while True:
        try:
            return await call()
        except Unavailable as error:
            if not said:
                logs.warn(f"waiting_for_{waits_for}", reason=error.detail)
                said = True
            await asyncio.sleep(pause)


async def open_cassandra(config: Config, identity: Identity) -> Metadata:
    """The names of a mesh with several roots, waited for while Cassandra does not answer; a refusal is final.

    Raises: Conflict when the folder belongs to another mesh than the keyspace, or when a new root of a mesh that exists
    was not given its secret.
    """
    # The driver takes a moment to load: only who needs it pays.
    from discloud.adapters.cassandra.driver import Settings
    from discloud.adapters.cassandra.metadata import CassandraMetadata

    given = config.cassandra
    settings = Settings(
        hosts=given.hosts,
        keyspace=given.keyspace,
        replication=given.replication,
        datacenter=given.datacenter,
        username=given.username,
        password=given.password,
        patience=given.patience,
        in_flight=given.in_flight,
    )
    connect = partial(CassandraMetadata.open, settings)
    metadata: Metadata = await patiently("cassandra", config.periods.heartbeat, connect)
    try:
        check = partial(_check_mesh, config, identity, metadata)
        await patiently("cassandra", config.periods.heartbeat, check)
    except BaseException:
        await metadata.close()
        raise
    return metadata


async def _check_mesh(config: Config, identity: Identity, metadata: Metadata) -> None:
    keyspace = config.cassandra.keyspace
    if identity.cluster not in ("", metadata.cluster):
        raise Conflict(
            f"keyspace {keyspace} is of mesh {metadata.cluster}, this folder belongs to {identity.cluster}",
            "name the keyspace of this folder's mesh: cassandra.keyspace",
        )
    node = config.node
    if (
        not identity.cluster
        and not (node.secret or (node.data / SECRET).exists())
        and await metadata.nodes.all()
    ):
        raise Conflict(
            f"keyspace {keyspace} belongs to a mesh that exists already ({metadata.cluster})",
            "give this root the secret of that mesh: --secret-file FILE",
        )


def check_roles(config: Config) -> None:
    """One root keeps the names in its SQLite; several need Cassandra. Raises: Invalid."""
    if config.node.role is not Role.ROOT or config.cassandra.hosts:
        return
    if config.node.roots:
        raise Invalid(
            f"a root was told to join {', '.join(config.node.roots)}: two roots need Cassandra",
            "give all of them --cassandra HOSTS, or start this one with --role=ordinary",
        )
    if config.redis.url:
        raise Invalid(
            "a root that keeps its names in SQLite is alone: it has nobody to meet at Redis",
            "add --cassandra HOSTS for a mesh of several roots, or leave --redis out",
        )


def own_certificates(config: Config) -> Certificates | None:
    """What this node shows over TLS; None = everything in the clear. Raises: Invalid, naming the file that is wrong."""
    tls = config.tls
    if tls.cert is None or tls.key is None:
        return None
    return Certificates(Files(tls.cert, tls.key, tls.authority))


def own_node(config: Config, identity: Identity) -> Node:
    """This node as it announces itself: under ``advertise`` where that is set."""
    node = config.node
    host = node.advertise or node.listen
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        host = socket.gethostname()
    name = host if ":" not in host else f"[{host}]"
    return Node(
        id=identity.node,
        name=own_name(config),
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
    """The first root makes the admin's token (or takes the configured one) and records its digest.

    A further root of a mesh that exists makes none: the mesh has its admin's token.
    """
    if config.node.role is not Role.ROOT:
        return
    token, path = config.node.token, config.node.token_file or config.node.data / TOKEN
    if not token:
        others = any(each.name != own_name(config) for each in await metadata.nodes.all())
        if others and not path.exists():
            return
        token = read_or_make_secret(path)
    account = Account("admin", "admin", token_digest(token.encode()), admin=True, created=time.time())
    await metadata.accounts.add(account)


def own_name(config: Config) -> str:
    """The node's name: configured, or its host's."""
    return config.node.name or socket.gethostname()


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
