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
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace

from discloud import __version__, logs, metrics
from discloud.adapters.disk import DiskBlobs, DiskSettings
from discloud.adapters.identity import (
    Identity,
    load_identity,
    save_identity,
)
from discloud.adapters.memory_membership import MemoryMembership
from discloud.api.app import App
from discloud.api.call import Surface
from discloud.api.server import Listening, serve
from discloud.api.shortcut import PlainGet
from discloud.api.table import native_router
from discloud.cluster import Cluster
from discloud.config import Config
from discloud.core.liveness import Thresholds
from discloud.core.model import Node, NodeId, NodeState, Role
from discloud.core.version_ids import RANDOM_BITS, version_id
from discloud.errors import Unavailable
from discloud.gateway.accounts import Accounts
from discloud.gateway.buckets import Buckets
from discloud.gateway.change import Changer
from discloud.gateway.memory import BodyMemory
from discloud.gateway.read import Reader
from discloud.gateway.seals import Seals
from discloud.gateway.write import WritePolicy, Writer
from discloud.joining import (
    check_ports,
    cluster_secret,
    ensure_admin,
    open_database,
    own_node,
    refuse_second_root,
    wait_for_root,
)
from discloud.peer.blobs import PeerBlobs
from discloud.peer.handshake import ClusterSecret
from discloud.peer.handshake import Identity as PeerIdentity
from discloud.peer.links import Links
from discloud.peer.membership import PeerMembership
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
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

DATABASE = "metadata.db"
_random = random.Random(secrets.randbits(256))  # noqa: S311 - ids must be unlike, not secret; a system call each would cost more than they do
draw = _random.randrange


GOODBYE = 2.0
"""Seconds that leaving may take."""
GC_AGAIN = 20
"""Rounds of gc until it comes back to a version whose holder did not answer."""
STALE = 10.0
"""Seconds without an answer from a root after which a node is not ready."""


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
    refuse_second_root(config)
    _raise_open_files()
    identity = load_identity(folder)
    check_ports(config)
    local = await _start_disk(config, stack)
    secret = ClusterSecret.parse(cluster_secret(config, identity))
    me = PeerIdentity(secret, identity.node, identity.cluster)
    links = Links(me)
    stack.push_async_callback(links.close)
    metadata, membership = await _start_metadata(config, identity, links, stack)
    identity = replace(identity, cluster=metadata.cluster, starts=identity.starts + 1)
    save_identity(folder, identity)
    me.cluster = metadata.cluster

    own = own_node(config, identity)
    claim = Claim(metadata.nodes, own, secrets.token_hex(16), folder, time.time)
    await claim.take()
    stack.push_async_callback(claim.give_up)
    stack.push_async_callback(_leave, membership, own.id)

    pace = Pace(config.limits.grace, config.limits.min_rate)
    cluster = Cluster(own, metadata.cluster, local, lambda node: PeerBlobs(links, node.peer, pace, node.id))
    gateway_threads = _threads("gateway", config.transfer.threads * 2, stack)
    holder_threads = _threads("holder", config.transfer.threads, stack)
    root = config.node.role is Role.ROOT
    peers = PeerServer(
        me, local, holder_threads, pace, metadata if root else None, membership if root else None
    )
    await peers.start(config.node.listen, config.node.peers_at)
    stack.push_async_callback(peers.close)

    heartbeat = Heartbeat(cluster, membership, _describer(own), time.time)
    await heartbeat.run_once()
    surface = await _surface(config, cluster, metadata, local, gateway_threads, pace, heartbeat, stack)
    await ensure_admin(config, metadata)
    lead = Lead(metadata.leases, own.id, config.periods.leader, time.monotonic)
    if root:
        await lead.run_once()
        stack.push_async_callback(lead.give_up)
    await stack.enter_async_context(
        _services(config, cluster, metadata, local, heartbeat, claim, lead, gateway_threads, holder_threads)
    )
    short_cut = PlainGet(surface) if config.transfer.fast else None
    app = App(surface, native_router())
    port = await stack.enter_async_context(serve(app, short_cut, _listening(config)))
    _show_gauges(cluster)
    return Running(own.name, f"{config.node.listen}:{port}", own.peer, cluster)


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


async def _start_metadata(
    config: Config, identity: Identity, links: Links, stack: AsyncExitStack
) -> tuple[Metadata, Membership]:
    """The port matrix of DESIGN section 5: a root owns SQLite and hears heartbeats, an ordinary node asks a root."""
    if config.node.role is Role.ROOT:
        metadata = await open_database(config.node.data / DATABASE, identity)
        stack.push_async_callback(metadata.close)
        periods = config.periods
        thresholds = Thresholds(periods.suspect, periods.down, periods.lost)
        return metadata, MemoryMembership(time.monotonic, thresholds)
    remote = await wait_for_root(config, links)
    stack.push_async_callback(remote.close)
    return remote, PeerMembership(links, config.node.roots)


def _describer(own: Node) -> Callable[[], Awaitable[Node]]:
    async def describe() -> Node:
        return own

    return describe


async def _leave(membership: Membership, node: NodeId) -> None:
    """Say goodbye, so that nobody waits for this node; a root that is gone cannot be told."""
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(GOODBYE):
            await membership.leave(node)


async def _surface(
    config: Config,
    cluster: Cluster,
    metadata: Metadata,
    local: DiskBlobs,
    threads: Threads,
    pace: Pace,
    heartbeat: Heartbeat,
    stack: AsyncExitStack,
) -> Surface:
    """The gateway, and everything a surface needs of it."""
    seals = await stack.enter_async_context(Seals(cluster))
    buckets = Buckets(metadata, cluster, time.time, lambda: str(uuid.uuid4()))
    policy = WritePolicy(
        max_object=config.limits.max_object,
        lease=config.periods.lease,
        keep=config.periods.gc_delay,
        layout=config.layout,
        soft=config.disk.soft,
        full=config.disk.full,
    )
    memory = BodyMemory(config.limits.body_memory)
    writer = Writer(
        cluster,
        metadata,
        buckets,
        seals,
        policy,
        threads,
        memory,
        clock=time.time,
        draw=draw,
        new_version=new_version,
    )
    reader = Reader(cluster, metadata, buckets, clock=time.time, draw=draw, peek_blob=local.peek_small)
    return Surface(
        cluster=cluster,
        reader=reader,
        writer=writer,
        changer=Changer(metadata.versions, buckets, seals, policy.keep),
        buckets=buckets,
        accounts=Accounts(metadata.accounts, time.time),
        threads=threads,
        memory=memory,
        pace=pace,
        max_object=config.limits.max_object,
        max_list=config.limits.list,
        default_layout=config.layout,
        kernel=config.transfer.kernel,
        ready=lambda: _reasons(cluster, heartbeat),
        clock=time.time,
        new_id=lambda: str(uuid.uuid4()),
    )


def _reasons(cluster: Cluster, heartbeat: Heartbeat) -> list[str]:
    """Why this node is not ready, empty when it is."""
    reasons = []
    heard = heartbeat.last_success
    if heard is None or time.time() - heard > STALE:
        reasons.append("no root answers")
    if cluster.own.read_only:
        reasons.append("the disk is read-only")
    return reasons


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
) -> ServiceLoop:
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
        Periodic("pull", Pull(cluster, metadata, cursor, holder_threads, draw), periods.pull),
    ]
    if config.node.role is Role.ROOT:
        collect = Collect(cluster, metadata, time.time, GC_AGAIN * periods.gc)
        repairs = Repairs(cluster, metadata, gateway_threads, time.time, draw, config.disk.soft)
        services += [
            Periodic("lead", lead, periods.leader / 3),
            Periodic("gc", collect, periods.gc, lead.leads),
            Periodic("repair", repairs, periods.repair, lead.leads),
        ]
    return ServiceLoop(services, time.monotonic, draw)


def _threads(name: str, count: int, stack: AsyncExitStack) -> Threads:
    threads = Threads(name, count)
    stack.callback(threads.close)
    return threads


def _listening(config: Config) -> Listening:
    limits = config.limits
    return Listening(
        config.node.listen, config.node.port, limits.connections, limits.idle, limits.header_timeout
    )


def new_version() -> str:
    """A version id, unlike any other."""
    return version_id(time.time_ns() // 1_000_000, _random.getrandbits(RANDOM_BITS))
