"""The gateway of one node, wired: everything that a surface needs to serve requests. Used by node.py only."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack

from discloud.adapters.disk import DiskBlobs
from discloud.api.call import Surface
from discloud.cluster import Cluster
from discloud.config import Config
from discloud.gateway.accounts import Accounts
from discloud.gateway.breaker import Breaker
from discloud.gateway.buckets import Buckets
from discloud.gateway.change import Changer
from discloud.gateway.heads import Heads
from discloud.gateway.memory import BodyMemory
from discloud.gateway.read import Reader
from discloud.gateway.seals import Seals
from discloud.gateway.write import WritePolicy, Writer
from discloud.ports import Metadata
from discloud.services.heartbeat import Heartbeat
from discloud.transfer.pace import Pace
from discloud.transfer.threads import Threads

FIRST_ANSWER = 5 / 6
"""Share of the patience with the metadata that a read's question may take; the rest is for an answer that may be old."""
STALE = 10.0
"""Seconds without an answer from a root after which a node is not ready."""


async def surface_of(
    config: Config,
    cluster: Cluster,
    metadata: Metadata,
    local: DiskBlobs,
    threads: Threads,
    pace: Pace,
    heartbeat: Heartbeat,
    stack: AsyncExitStack,
    draw: Callable[[int], int],
    new_version: Callable[[], str],
) -> Surface:
    """The gateway, and everything a surface needs of it."""
    seals = await stack.enter_async_context(Seals(cluster))
    breaker = Breaker(time.monotonic, config.cassandra.patience * FIRST_ANSWER)
    heads = Heads(metadata.versions, breaker, time.monotonic)
    buckets = Buckets(metadata, cluster, time.time, lambda: str(uuid.uuid4()), breaker)
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
        heads=heads,
    )
    reader = Reader(
        cluster, metadata, buckets, clock=time.time, draw=draw, peek_blob=local.peek_small, heads=heads
    )
    return Surface(
        cluster=cluster,
        reader=reader,
        writer=writer,
        changer=Changer(metadata.versions, buckets, seals, policy.keep, heads),
        buckets=buckets,
        accounts=Accounts(metadata.accounts, time.time, breaker),
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
