"""The first three messages of a connection: both sides prove that they know the cluster's secret.

Hello, welcome, proof (docs/formats/peer.md has the sequence). Nonces of both sides, their node ids, the mesh's id, the
protocol version and the kind of connection all enter the transcript under both proofs and the session keys, so
nothing of it can be changed, reflected or used again. What is refused is refused with the same words on both sides.
There is no key exchange beyond the secret: who learns the secret can read what was recorded before.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from hmac import compare_digest
from typing import Any

import msgpack
from blake3 import blake3

from discloud.core.model import NodeId
from discloud.errors import BY_CODE, Conflict, DiscloudError, Invalid, PeerDown, Unauthenticated, Unavailable
from discloud.peer.channel import Channel
from discloud.peer.wire import unpack

VERSIONS = (1, 1)
"""Oldest and newest protocol version that this code speaks; the newest that both sides know is taken."""
MAGIC = b"discloud"
ANYBODY = NodeId("")
"""As the node that must be found: whichever is there."""

_LIMIT = 4096  # of a greeting's message: it is read before the other side has proved anything
_LENGTH = struct.Struct("!H")
_PURPOSE = "discloud peer protocol v1 "
_KEY_ID = 8
_SHORTEST_SECRET = 16
_NONCE = 32
_TLS = b"\x16\x03"  # how a TLS connection begins
_TLS_HELLO = 4096


class Kind(IntEnum):
    """What a connection is for: many pipelined calls, or one transfer at a time with raw bytes."""

    CALLS = 1
    STREAM = 2


class ClusterSecret:
    """What all nodes of a mesh know and nobody else. The first key is the one to use, the others are still accepted.

    To rotate: add the new key behind the old one on every node, then put it in front everywhere, then drop the
    old one. A key travels only as its id, which is derived from it: keep keys random, 16 bytes at least.
    """

    def __init__(self, *keys: bytes) -> None:
        if not keys or min(map(len, keys)) < _SHORTEST_SECRET:
            raise Invalid(
                f"the cluster secret is shorter than {_SHORTEST_SECRET} bytes",
                "make one: openssl rand -hex 32",
            )
        self.keys = {derive("key id", key)[:_KEY_ID]: key for key in keys}

    @classmethod
    def parse(cls, text: str) -> ClusterSecret:
        """The keys of a secret file: one in each line, the one to use first. Raises: Invalid."""
        return cls(*(line.strip().encode() for line in text.splitlines() if line.strip()))


@dataclass(slots=True)
class Identity:
    """Who this node is towards its peers. ``cluster`` may be empty: then it is learnt from the first peer that proves the secret."""

    secret: ClusterSecret
    node: NodeId
    cluster: str = ""
    versions: tuple[int, int] = VERSIONS


@dataclass(frozen=True, slots=True)
class Session:
    """What a handshake agreed on: the other node and the keys of the two directions."""

    version: int
    node: NodeId
    cluster: str
    kind: Kind
    send_key: bytes
    receive_key: bytes


@dataclass(frozen=True, slots=True)
class _Hello:
    oldest: int
    newest: int
    kind: int
    cluster: str
    node: NodeId
    to: NodeId
    nonce: bytes
    key_ids: list[bytes]


@dataclass(frozen=True, slots=True)
class _Welcome:
    version: int
    cluster: str
    node: NodeId
    nonce: bytes
    key_id: bytes


async def greet(
    channel: Channel,
    me: Identity,
    kind: Kind,
    to: NodeId = ANYBODY,
    random: Callable[[int], bytes] = os.urandom,
) -> Session:
    """Open a connection as the one who called. ``to``: the node it must be.

    Raises: Unauthenticated (another secret), Conflict (another mesh or node), Invalid (no common version, or no
    discloud), PeerDown (it closed the connection). The channel stays the caller's.
    """
    hello = _Hello(*me.versions, kind, me.cluster, me.node, to, random(_NONCE), list(me.secret.keys))
    first = await _send(channel, list(_fields(hello)))
    told, second, proof = _read_welcome(await _receive(channel))
    if told.key_id not in me.secret.keys or not me.versions[0] <= told.version <= me.versions[1]:
        raise Invalid("the peer's welcome names a key or a version that was not offered")
    keys = _Keys(me.secret.keys[told.key_id], first, second)
    if not compare_digest(proof, keys.server_proof):
        raise _other_secret()
    _check_cluster(me.cluster, told.cluster)
    if to not in (ANYBODY, told.node):
        raise _other_node(to, told.node)
    me.cluster = me.cluster or told.cluster
    await _send(channel, [keys.client_proof])
    return Session(told.version, told.node, told.cluster, kind, keys.to_server, keys.to_client)


async def welcome(channel: Channel, me: Identity, random: Callable[[int], bytes] = os.urandom) -> Session:
    """Open a connection as the one who was called. A refusal is told to the other side and raised here.

    Raises: as ``greet``. The channel stays the caller's.
    """
    try:
        first = await _receive(channel)
        hello = _read_hello(first)
        version, key_id = _agree(hello, me)
    except PeerDown:
        raise
    except DiscloudError as refusal:
        await tell_refusal(channel, refusal)
        raise
    second = msgpack.packb([version, me.cluster, me.node, random(_NONCE), key_id])
    keys = _Keys(me.secret.keys[key_id], first, second)
    await _send(channel, [1, second, keys.server_proof])
    proof = unpack(await _receive(channel))[0]
    if not isinstance(proof, bytes) or not compare_digest(proof, keys.client_proof):
        raise _other_secret()
    me.cluster = me.cluster or hello.cluster
    return Session(version, hello.node, hello.cluster, Kind(hello.kind), keys.to_client, keys.to_server)


async def tell_refusal(channel: Channel, refusal: DiscloudError) -> None:
    """Tell the one who called why not, in place of a welcome."""
    with suppress(PeerDown):  # it left without waiting for the answer
        await _send(channel, [0, refusal.code, refusal.detail, refusal.hint])


def not_alike() -> Invalid:
    """The refusal of a connection that only one side protects."""
    return Invalid(
        "one of the two nodes speaks TLS and the other does not",
        "give every node of the mesh tls.cert, tls.key and tls.authority, or none of them",
    )


class _Keys:
    """Proofs and session keys of one handshake; all differ by role and by what was said."""

    def __init__(self, secret: bytes, first: bytes, second: bytes) -> None:
        said = struct.pack("!I", len(first)) + first + struct.pack("!I", len(second)) + second
        self.server_proof = derive("server proof", secret, said)
        self.client_proof = derive("client proof", secret, said)
        self.to_server = derive("client to server", secret, said)
        self.to_client = derive("server to client", secret, said)


def derive(purpose: str, secret: bytes, said: bytes = b"") -> bytes:
    """32 bytes for one purpose: BLAKE3's key derivation of the secret, then keyed BLAKE3 over what was said."""
    key = blake3(secret, derive_key_context=_PURPOSE + purpose).digest()
    return blake3(said, key=key).digest()


def _agree(hello: _Hello, me: Identity) -> tuple[int, bytes]:
    """Version and key id to use. Raises: Invalid, Unauthenticated, Conflict."""
    version = min(hello.newest, me.versions[1])
    if version < max(hello.oldest, me.versions[0]):
        theirs, ours = f"{hello.oldest}..{hello.newest}", f"{me.versions[0]}..{me.versions[1]}"
        raise Invalid(
            f"the peer speaks protocol versions {theirs}, this node {ours}",
            "upgrade the older one; neighbouring releases understand each other",
        )
    key_id = next((each for each in me.secret.keys if each in hello.key_ids), None)
    if key_id is None:
        raise _other_secret()
    _check_cluster(me.cluster, hello.cluster)
    if hello.to not in (ANYBODY, me.node):
        raise _other_node(hello.to, me.node)
    return version, key_id


def _check_cluster(one: str, other: str) -> None:
    if one and other and one != other:
        raise Conflict(
            f"the two nodes belong to different meshes ({min(one, other)} and {max(one, other)})",
            "give the node an empty data folder, or the roots of its own mesh",
        )


def _other_secret() -> Unauthenticated:
    return Unauthenticated("the two nodes have different cluster secrets", "give both the same --secret-file")


def _other_node(asked: NodeId, found: NodeId) -> Conflict:
    return Conflict(
        f"node {asked} was called and node {found} is there",
        "the address has another node now: the next view will tell",
    )


def _fields(hello: _Hello) -> tuple[Any, ...]:
    return tuple(getattr(hello, name) for name in hello.__slots__)


def _read_hello(body: bytes) -> _Hello:
    try:
        hello = _Hello(*unpack(body)[:8])
        kind = Kind(hello.kind)
    except (TypeError, ValueError) as error:
        raise Invalid(f"the greeting cannot be read: {error}") from error
    match (hello.oldest, hello.newest, kind, hello.cluster, hello.node, hello.to, hello.nonce, hello.key_ids):
        case (int(), int(), Kind(), str(), str(), str(), bytes(nonce), list()) if len(nonce) >= _NONCE:
            return hello
        case _:
            raise Invalid("the greeting cannot be read")


def _read_welcome(body: bytes) -> tuple[_Welcome, bytes, bytes]:
    """The welcome, its bytes and its proof. Raises: the refusal if it is one; Invalid."""
    match unpack(body):
        case [0, str(code), str(detail), str(hint), *_]:
            raise BY_CODE.get(code, Unavailable)(detail, hint)
        case [1, bytes(second), bytes(proof), *_]:
            try:
                return _Welcome(*unpack(second)[:5]), second, proof
            except TypeError as error:
                raise Invalid(f"the peer's welcome cannot be read: {error}") from error
        case _:
            raise Invalid("the peer's welcome cannot be read")


async def _send(channel: Channel, message: list[Any]) -> bytes:
    body: bytes = msgpack.packb(message)
    try:
        await channel.send(MAGIC + _LENGTH.pack(len(body)) + body)
    except OSError as error:
        raise PeerDown(f"the connection broke during the greeting: {error}") from error
    return body


async def _receive(channel: Channel) -> bytes:
    head = await _exactly(channel, len(MAGIC) + _LENGTH.size)
    (length,) = _LENGTH.unpack_from(head, len(MAGIC))
    if head.startswith(_TLS):
        await channel.receive(
            _TLS_HELLO
        )  # closing with bytes unread would reset the connection before the refusal is read
        raise not_alike()
    if not head.startswith(MAGIC) or length > _LIMIT:
        raise Invalid("this is not the peer port of a discloud node", "it is 7072 unless it was moved")
    return await _exactly(channel, length)


async def _exactly(channel: Channel, count: int) -> bytes:
    """Exactly ``count`` bytes: what follows the greeting is not ours to read."""
    data = b""
    try:
        while len(data) < count:
            more = await channel.receive(count - len(data))
            if not more:
                raise PeerDown("the connection was closed during the greeting")
            data += more
    except OSError as error:
        raise PeerDown(f"the connection broke during the greeting: {error}") from error
    return data
