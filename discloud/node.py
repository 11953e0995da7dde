"""The composition root: chooses adapters from the configuration, wires them, starts and stops them in order.

Nothing else is decided here. Reading ``_compose`` from top to bottom is reading how a node is built; everything that
starts is a context and stops in the opposite order.
"""

from __future__ import annotations

import asyncio
import random
import resource
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial

from discloud import __version__, logs, metrics
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.identity import (
    Identity,
    load_identity,
    save_identity,
)
from discloud.api.app import App
from discloud.api.call import Surface
from discloud.api.server import Listening, serve
from discloud.api.shortcut import PlainGet
from discloud.api.table import native_router
from discloud.cluster import Cluster
from discloud.config import Config
from discloud.core.model import Node, NodeId, NodeState, Role
from discloud.core.version_ids import RANDOM_BITS, version_id
from discloud.errors import Unavailable
from discloud.joining import (
    check_ports,
    check_roles,
    cluster_secret,
    ensure_admin,
    open_cassandra,
    open_database,
    own_certificates,
    own_node,
    patiently,
)
from discloud.meeting import RootMeeting
from discloud.peer.blobs import PeerBlobs
from discloud.peer.handshake import ClusterSecret
from discloud.peer.handshake import Identity as PeerIdentity
from discloud.peer.known_roots import KnownRoots
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
from discloud.peer.metadata import PeerMetadata
from discloud.peer.server import PeerServer
from discloud.ports import CLAIM, Membership, Metadata
from discloud.services.claim import Claim
from discloud.services.compact import Compact
from discloud.services.cursor import CursorFile
from discloud.services.gc import Collect
from discloud.services.heartbeat import Heartbeat
from discloud.services.lead import Lead
from discloud.services.loop import Periodic, ServiceLoop
from discloud.services.pull import Pull
from discloud.services.repair import Repairs
from discloud.services.sweep import Sweep
from discloud.surface import surface_of
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads
from discloud.transfer.tls import RELOAD, Certificates

DATABASE = "metadata.db"
_random = random.Random(secrets.randbits(256))  # noqa: S311 - ids must be unlike, not secret; a system call each would cost more than they do
draw = _random.randrange


TO_ROOT = 0.2
"""Seconds that a root's answer may be on its way."""
GOODBYE = 2.0
"""Seconds that leaving may take."""
GC_AGAIN = 20
"""Rounds of gc until it comes back to a version whose holder did not answer."""


@dataclass(frozen=True, slots=True)
class Running:
    """A started node, for whoever started it."""

    name: str
    api: str
    peer: str
    cluster: Cluster


async def run_node(config: Config, on_ready: Callable[[Running], None] | None = None) -> None:
    """Run a node until SIGTERM or SIGINT. Raises: DiscloudError when it cannot start."""
    logs.configure(config.node.name or socket.gethostname(), config.log.level)
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    starting = asyncio.create_task(stopped.wait())
    async with AsyncExitStack() as stack:
        entering = asyncio.create_task(stack.enter_async_context(started(config)))
        # A node that still waits for its root must stop at once when it is told to.
        await asyncio.wait({entering, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not entering.done():
            entering.cancel()
            with suppress(asyncio.CancelledError):
                await entering
            return
        running = entering.result()
        logs.info("node_started", api=running.api, peer=running.peer, version=__version__)
        if on_ready is not None:
            on_ready(running)
        await starting
        logs.info("node_stopping")


@asynccontextmanager
async def started(config: Config) -> AsyncIterator[Running]:
    """A node that serves while the context lasts; everything is stopped in order at its end."""
    async with AsyncExitStack() as stack:
        yield await _compose(config, stack)


async def _compose(config: Config, stack: AsyncExitStack) -> Running:
    folder = config.node.data
    check_roles(config)
    _raise_open_files()
    identity = load_identity(folder)
    certificates = own_certificates(config)
    between_nodes = certificates if certificates and certificates.between_nodes else None
    check_ports(config)
    local = await _start_disk(config, stack)
    kept_here = await _own_metadata(config, identity, stack)
    secret = ClusterSecret.parse(cluster_secret(config, identity))
    me = PeerIdentity(secret, identity.node, identity.cluster)
    links = Links(me, certificates=between_nodes)
    between_roots = links.alone()
    stack.push_async_callback(links.close)
    stack.push_async_callback(between_roots.close)
    roots = _known_roots(config)
    metadata = kept_here or await _remote_metadata(config, links, roots, stack)
    identity = replace(identity, cluster=metadata.cluster, starts=identity.starts + 1)
    save_identity(folder, identity)
    me.cluster = metadata.cluster

    own = own_node(config, identity)
    meeting = RootMeeting(config, metadata.cluster, own, secret) if roots is None else None
    membership = await _membership(meeting, links, roots, stack)
    claim = Claim(metadata.nodes, own, secrets.token_hex(16), folder, time.time)
    await patiently("metadata", config.periods.heartbeat, claim.take)
    stack.push_async_callback(claim.give_up)
    stack.push_async_callback(_leave, membership, own.id, meeting)

    pace = Pace(config.limits.grace, config.limits.min_rate)
    cluster = Cluster(own, metadata.cluster, local, lambda node: PeerBlobs(links, node.peer, pace, node.id))
    gateway_threads = _threads("gateway", config.transfer.threads * 2, stack)
    holder_threads = _threads("holder", config.transfer.threads, stack)
    services = await meeting.begin(cluster, metadata, between_roots, draw) if meeting else []
    heard = meeting.membership if meeting else None
    served = metadata if meeting else None
    peers = PeerServer(me, local, holder_threads, pace, served, heard, heard, certificates=between_nodes)
    await peers.start(config.node.listen, config.node.peers_at)
    stack.push_async_callback(peers.close)

    heartbeat = Heartbeat(cluster, membership, _describer(own), time.time)
    await heartbeat.run_once()
    surface = await surface_of(
        config, cluster, metadata, local, gateway_threads, pace, heartbeat, stack, draw, new_version
    )
    await patiently("metadata", config.periods.heartbeat, partial(ensure_admin, config, metadata))
    lead = await _lead(config, metadata, own.id, stack)
    services += _services(
        config, cluster, metadata, local, heartbeat, claim, lead, gateway_threads, holder_threads
    )
    if certificates:
        services.append(Periodic("certificates", certificates, RELOAD))
    await stack.enter_async_context(ServiceLoop(services, time.monotonic, draw))
    port = await _serve_clients(config, surface, certificates, stack)
    _show_gauges(cluster)
    return Running(own.name, f"{config.node.listen}:{port}", own.peer, cluster)


async def _lead(config: Config, metadata: Metadata, me: NodeId, stack: AsyncExitStack) -> Lead:
    """This node's part in the election; an ordinary node has none and never leads."""
    lead = Lead(metadata.leases, me, config.periods.leader, time.monotonic)
    if config.node.role is Role.ROOT:
        await patiently("metadata", config.periods.heartbeat, lead.run_once)
        stack.push_async_callback(lead.give_up)
    return lead


async def _serve_clients(
    config: Config, surface: Surface, certificates: Certificates | None, stack: AsyncExitStack
) -> int:
    """Listen for clients; gives the port."""
    short_cut = PlainGet(surface) if config.transfer.fast else None
    app = App(surface, native_router())
    return await stack.enter_async_context(serve(app, short_cut, _listening(config, certificates)))


def _raise_open_files() -> None:
    """As many open files as the system allows: every client, pack and peer is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with suppress(ValueError, OSError):  # macOS has a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _show_gauges(cluster: Cluster) -> None:
    """What /metrics shows of this node: as its last heartbeat told it."""
    metrics.NODES_ALIVE.read = lambda: sum(node.state is NodeState.ALIVE for node in cluster.view.nodes)
    metrics.BLOBS.read = lambda: cluster.own.blobs
    metrics.USED.read = lambda: cluster.own.used
    metrics.FREE.read = lambda: cluster.own.free


async def _start_disk(config: Config, stack: AsyncExitStack) -> DiskBlobs:
    disk = config.disk
    settings = DiskSettings(
        capacity=disk.capacity, full=disk.full, small=disk.small, pack_size=disk.pack_size
    )
    local = await DiskBlobs.start(config.node.data / "blobs", settings)
    stack.push_async_callback(local.close)
    return local


async def _own_metadata(config: Config, identity: Identity, stack: AsyncExitStack) -> Metadata | None:
    """The metadata where this node reaches them itself: Cassandra where it is configured, else a root's SQLite."""
    if config.cassandra.hosts:
        metadata = await open_cassandra(config, identity)
    elif config.node.role is Role.ROOT:
        metadata = await open_database(config.node.data / DATABASE, identity)
    else:
        return None
    stack.push_async_callback(metadata.close)
    return metadata


def _known_roots(config: Config) -> KnownRoots | None:
    """The roots that an ordinary node asks; None for a root."""
    if config.node.role is Role.ROOT:
        return None
    return KnownRoots(config.node.roots, time.monotonic, draw, config.node.region)


async def _remote_metadata(
    config: Config, links: Links, roots: KnownRoots | None, stack: AsyncExitStack
) -> Metadata:
    """The metadata behind the roots, waited for until one answers."""
    assert roots is not None, "a root has metadata of its own"
    connect = partial(PeerMetadata.connect, links, roots, config.cassandra.patience + TO_ROOT)
    metadata = await patiently("root", config.periods.heartbeat, connect)
    stack.push_async_callback(metadata.close)
    return metadata


async def _membership(
    meeting: RootMeeting | None, links: Links, roots: KnownRoots | None, stack: AsyncExitStack
) -> Membership:
    """A root judges by itself; an ordinary node asks the roots."""
    if meeting is not None:
        stack.push_async_callback(meeting.close)
        return meeting.membership
    assert roots is not None, "a node without a meeting of its own asks roots"
    membership = PeerMembership(links, roots)
    stack.push_async_callback(membership.close)
    return membership


def _describer(own: Node) -> Callable[[], Awaitable[Node]]:
    async def describe() -> Node:
        return own

    return describe


async def _leave(membership: Membership, node: NodeId, meeting: RootMeeting | None) -> None:
    """Say goodbye, so that nobody waits for this node; a root that is gone cannot be told."""
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(GOODBYE):
            await membership.leave(node)
            if meeting is not None:
                await meeting.tell()


def _services(
    config: Config,
    cluster: Cluster,
    metadata: Metadata,
    local: DiskBlobs,
    heartbeat: Heartbeat,
    claim: Claim,
    lead: Lead,
    gateway_threads: Threads,
    holder_threads: Threads,
) -> list[Periodic]:
    """What runs where: every node beats, sweeps its own disk and pulls; the leading root also ends drafts, collects and repairs."""
    periods = config.periods
    cursor = CursorFile(config.node.data / "pull.cursor", holder_threads)
    services = [
        Periodic("heartbeat", heartbeat, periods.heartbeat),
        Periodic("claim", claim, CLAIM / 3),
        Periodic("compact", Compact(local.run_compaction_once), periods.compact),
        Periodic(
            "sweep", Sweep(cluster, metadata, time.time, periods.orphan, leads=lead.leads), periods.sweep
        ),
        Periodic("pull", Pull(cluster, metadata, cursor, holder_threads, draw, time.time), periods.pull),
    ]
    if config.node.role is Role.ROOT:
        collect = Collect(cluster, metadata, time.time, GC_AGAIN * periods.gc)
        repairs = Repairs(cluster, metadata, gateway_threads, time.time, draw, config.disk.soft)
        services += [
            Periodic("lead", lead, periods.leader / 3),
            Periodic("gc", collect, periods.gc, lead.leads),
            Periodic("repair", repairs, periods.repair, lead.leads),
        ]
    return services


def _threads(name: str, count: int, stack: AsyncExitStack) -> Threads:
    threads = Threads(name, count)
    stack.callback(threads.close)
    return threads


def _listening(config: Config, certificates: Certificates | None) -> Listening:
    limits = config.limits
    return Listening(
        config.node.listen,
        config.node.port,
        limits.connections,
        limits.idle,
        limits.header_timeout,
        certificates.api if certificates else None,
    )


def new_version() -> str:
    """A version id, unlike any other."""
    return version_id(time.time_ns() // 1_000_000, _random.getrandbits(RANDOM_BITS))
