"""What a node is told from outside: every setting with its unit, its default and its meaning.

``load`` builds a ``Config`` from three layers, the later one wins: a TOML file < ``DISCLOUD_*`` < flags. Invariant: a
``Config`` that ``load`` returned is valid as a whole; whoever starts a node need not check again. Sizes are bytes,
times are seconds. Only node.py and the cli read a Config: every other module gets plain values.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from discloud.core.model import GIB, KIB, MIB, Role
from discloud.errors import Invalid
from discloud.setting import PREFIX, Setting, option, parse

TIB = 1024 * GIB
FOREIGN = frozenset({"HOME", "CONFIG", "URL", "CA", "REQUIRE_SERVERS"})
"""Variables behind the prefix that belong to the client and to the tests, not to a node."""


MADE = frozenset({"node.secret", "node.token"})
"""Secrets whose files a fresh root makes."""
SECRETS = ("node.secret", "node.token", "redis.url", "cassandra.password")
"""Settings that may come from a file beside: ``secret_file`` and so on."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Who this node is, where its data lie and how it is reached."""

    role: Role = option(
        Role.ROOT, "A root also gives service discovery to the others", accepts="root, ordinary"
    )
    name: str = option("", "Name in the mesh, unique; empty = the host's name", "name")
    data: Path = option(Path(), "Folder of the identity, the blobs and (root) the database")
    roots: tuple[str, ...] = option(
        (), "Peer addresses of the roots; what an ordinary node joins by", "addresses"
    )
    secret: str = option("", "The cluster's secret, the same on every node; a fresh root makes one", "secret")
    secret_file: Path | None = option(None, "File that holds the secret")
    token: str = option("", "The admin's token; a fresh root makes one", "secret")
    token_file: Path | None = option(None, "File that holds the admin's token")
    listen: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 = every interface", "host")
    port: int = option(7070, "Port of the HTTP API", most=65535)
    peer_port: int = option(0, "Port for other nodes; 0 = the API's port + 2", most=65535)
    advertise: str = option(
        "", "Host that others reach this node by (NAT, containers); empty = `listen`", "host"
    )
    zone: str = option("", "Where it stands (rack, building): copies are spread over zones", "name")
    region: str = option("", "Where it stands (country, data centre): copies are spread over regions", "name")

    @property
    def peers_at(self) -> int:
        """The port for other nodes; with API port 0 (any free one) it is 0 too."""
        return self.peer_port or (self.port + 2 if self.port else 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may ask for."""

    max_object: int = option(5 * TIB, "Largest object", "bytes", least=1)
    body_memory: int = option(
        256 * MIB, "Memory for bodies under way, all requests together", "bytes", least=MIB
    )
    min_rate: int = option(
        16 * KIB, "Slowest transfer that is waited for, after the grace", "bytes/s", least=1
    )
    grace: float = option(
        30.0, "Time a transfer may stand still before `min_rate` counts", "seconds", least=0.1
    )
    connections: int = option(10000, "Client connections at once", least=1)
    list: int = option(1000, "Entries in one page of a listing", least=1, most=10000)
    header_timeout: float = option(10.0, "Time for a request's head to arrive", "seconds", least=0.1)
    idle: float = option(75.0, "Time a connection is kept without a request", "seconds", least=0.1)


@dataclass(frozen=True, slots=True)
class Periods:
    """When what is done. Tests run a tenth of them."""

    heartbeat: float = option(1.0, "Between two heartbeats", "seconds", least=0.01)
    suspect: float = option(3.0, "Silence after which a node is read from last", "seconds", least=0.01)
    down: float = option(10.0, "Silence after which a node gets no new blobs", "seconds", least=0.01)
    lost: float = option(900.0, "Silence after which repair makes its copies anew", "seconds", least=0.01)
    lease: float = option(120.0, "Time a draft lives without its writer", "seconds", least=0.1)
    sweep: float = option(30.0, "Between two looks for drafts given up", "seconds", least=0.01)
    orphan: float = option(300.0, "Age before an unsealed blob is looked at", "seconds", least=0.01)
    gc: float = option(30.0, "Between two collections of dead versions", "seconds", least=0.01)
    gc_delay: float = option(
        3600.0, "From the replacement of a version to the removal of its bytes", "seconds"
    )
    repair: float = option(10.0, "Between two rounds of repair", "seconds", least=0.01)
    compact: float = option(
        60.0, "Between two rounds of giving back the room of removed small blobs", "seconds", least=0.01
    )
    pull: float = option(5.0, "Between two pulls for `mirror:all`", "seconds", least=0.01)
    leader: float = option(
        15.0, "How long a root leads without renewing; then another takes over", "seconds", least=0.3
    )


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """How blobs lie on the disk."""

    capacity: int = option(0, "What discloud may fill; 0 = the whole disk", "bytes")
    small: int = option(
        128 * KIB, "Blobs up to this share a pack, larger ones are a file each", "bytes", most=MIB
    )
    pack_size: int = option(256 * MIB, "Size of a pack", "bytes", least=4 * MIB)
    full: float = option(0.95, "Fill at which writes are refused", "share", most=1)
    soft: float = option(0.90, "Fill at which the node gets no new blobs", "share", most=1)


@dataclass(frozen=True, slots=True)
class TransferConfig:
    """How bytes move."""

    kernel: bool = option(True, "Let the kernel move large bodies (sendfile, splice); false = copy them")
    fast: bool = option(True, "Answer small hot requests on the short path")
    threads: int = option(8, "Worker threads for large bodies", least=1, most=256)


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """Where roots meet. Without it a root that is alone needs nothing, several find each other by `roots`."""

    url: str = option("", "Redis of the roots, such as redis://10.0.0.5:6379/0", "secret")
    url_file: Path | None = option(None, "File that holds the URL")


@dataclass(frozen=True, slots=True)
class CassandraConfig:
    """Where the metadata of a mesh with several roots lives. Without `hosts` a root keeps them in SQLite."""

    hosts: tuple[str, ...] = option((), "Contact points; port 9042 unless given", "cassandra hosts")
    keyspace: str = option("discloud", "Keyspace of this mesh; made on the first start", "keyspace")
    replication: str = option(
        "3",
        "Copies of the metadata when the keyspace is made: `3`, or of each data centre: `eu:3,us:3`",
        "replication",
    )
    datacenter: str = option(
        "", "Cassandra's data centre to ask first; empty = that of the first contact point", "name"
    )
    username: str = option("", "User of Cassandra; empty = none is needed")
    password: str = option("", "Password of that user", "secret")
    password_file: Path | None = option(None, "File that holds the password")
    patience: float = option(
        1.8,
        "How long a metadata call may take, also through a root; then it is unknown (503)",
        "seconds",
        least=0.05,
    )
    in_flight: int = option(256, "Calls to Cassandra under way at once; more wait", least=1, most=32768)


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Encryption of the API and between nodes: with `cert` and `key` the API speaks HTTPS, with `authority` peers use mTLS."""

    cert: Path | None = option(None, "PEM file of this node's certificate and its chain")
    key: Path | None = option(None, "PEM file of the certificate's private key")
    authority: Path | None = option(
        None, "PEM file of the private authority that signed every node's certificate"
    )


@dataclass(frozen=True, slots=True)
class LogConfig:
    """What is logged."""

    level: str = option("info", "Least level that is logged", accepts="debug, info, warning, error")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings of one node."""

    node: NodeConfig = field(default_factory=NodeConfig)
    limits: Limits = field(default_factory=Limits)
    periods: Periods = field(default_factory=Periods)
    disk: DiskConfig = field(default_factory=DiskConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    cassandra: CassandraConfig = field(default_factory=CassandraConfig)
    tls: TlsConfig = field(default_factory=TlsConfig)
    log: LogConfig = field(default_factory=LogConfig)
    layout: str = option("mirror:3", "Layout of buckets that name none", "layout")


SECTIONS = {
    "node": NodeConfig,
    "limits": Limits,
    "periods": Periods,
    "disk": DiskConfig,
    "transfer": TransferConfig,
    "redis": RedisConfig,
    "cassandra": CassandraConfig,
    "tls": TlsConfig,
    "log": LogConfig,
}


@dataclass(frozen=True, slots=True)
class Given:
    """A value and where it came from: ``default``, the file, a variable or ``flag``. ``rank`` orders the layers."""

    value: Any
    origin: str
    rank: int


@cache
def settings() -> Mapping[str, Setting]:
    """Every setting by its dotted name, in the order of this file."""
    found = [_setting("", each, str) for each in fields(Config) if each.name == "layout"]
    for section, kind in SECTIONS.items():
        hints = get_type_hints(kind)
        found += [_setting(section, each, hints[each.name]) for each in fields(kind)]
    return {setting.name: setting for setting in found}


def _setting(section: str, each: Field[Any], kind: Any) -> Setting:
    return Setting(section, each.name, kind, each.default, **each.metadata)


def home(environ: Mapping[str, str]) -> Path:
    """Where discloud keeps what belongs to this person: ``$DISCLOUD_HOME``, else ``~/.discloud``."""
    return Path(environ.get("DISCLOUD_HOME") or "~/.discloud").expanduser().absolute()


def load(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The settings of ``file`` < ``environ`` < ``flags``; flags are named by dotted name, None = not given.

    Secrets are read from their ``*_file`` here; a root may name a file that is not there yet: node.py makes it on the
    first start and refuses later. Raises: Invalid, naming the key and what is accepted.
    """
    given = resolve(file, environ, flags)
    tables = {
        section: kind(**{each.name: given[f"{section}.{each.name}"].value for each in fields(kind)})
        for section, kind in SECTIONS.items()
    }
    config = Config(layout=given["layout"].value, **tables)
    _check_whole(config)
    return config


def resolve(file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]) -> dict[str, Given]:
    """Every setting with its value and where it came from. Raises: Invalid."""
    given = {name: Given(each.default, "default", 0) for name, each in settings().items()}
    given["node.data"] = Given(home(environ) / "data", "default", 0)
    for rank, layer in enumerate((_of_file(file), _of_environ(environ), _of_flags(flags)), start=1):
        for name, value, origin in layer:
            given[name] = Given(parse(settings()[name], value, origin), origin, rank)
    for secret in SECRETS:
        root = given["node.role"].value is Role.ROOT and secret in MADE
        given[secret] = _with_file(given[secret], given[f"{secret}_file"], secret, made=root)
    return given


def _of_file(file: Path | None) -> Iterator[tuple[str, object, str]]:
    if file is None:
        return
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise Invalid(
            f"cannot read {file}: {error.strerror}", "name an existing file with --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{file} is not TOML: {error}", "see: discloud config --example") from error
    for key, value in tables.items():
        named = (
            {key: value}
            if key not in SECTIONS
            else {f"{key}.{name}": each for name, each in _table(key, value)}
        )
        for name, each in named.items():
            yield _known(name, settings(), str(file)), each, str(file)


def _table(key: str, value: object) -> Iterator[tuple[str, object]]:
    if not isinstance(value, dict):
        raise Invalid(f"{key} is a table, not a value", f"write [{key}] and its keys below")
    yield from value.items()


def _of_environ(environ: Mapping[str, str]) -> Iterator[tuple[str, object, str]]:
    names = {setting.variable: name for name, setting in settings().items()}
    for variable, value in sorted(environ.items()):
        if variable.startswith(PREFIX) and value and not _is_foreign(variable, value):
            yield names[_known(variable, names, "the environment")], value, variable


def _is_foreign(variable: str, value: str) -> bool:
    """Kubernetes describes a service called discloud by variables such as DISCLOUD_PORT=tcp://10.0.0.1:7070."""
    rest = variable.removeprefix(PREFIX)
    service = re.search(r"(^|_)SERVICE_(HOST|PORT)|PORT_\d+_(TCP|UDP)", rest)
    return (
        rest in FOREIGN or rest.startswith("TEST_") or bool(service) or value.startswith(("tcp://", "udp://"))
    )


def _of_flags(flags: Mapping[str, object]) -> Iterator[tuple[str, object, str]]:
    for name, value in flags.items():
        if value is not None:
            yield _known(name, settings(), "the flags"), value, "flag"


def _known(name: str, names: Mapping[str, object], where: str) -> str:
    if name in names:
        return name
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "see: discloud config --example"
    raise Invalid(f"unknown setting {name} in {where}", hint)


def _with_file(secret: Given, file: Given, name: str, *, made: bool) -> Given:
    """The secret or the contents of its file, whichever the later layer gave; empty where a root may make the file."""
    if file.value is None or secret.rank > file.rank:
        return secret
    if secret.rank == file.rank:
        raise Invalid(f"{name} and {name}_file are both given ({file.origin})", "give one of them")
    if made and not file.value.exists():
        return Given("", str(file.value), file.rank)
    try:
        value = file.value.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{name}_file = {file.value} cannot be read", "name a readable text file") from error
    if not value:
        raise Invalid(f"{name}_file = {file.value} is empty", "put the secret into it, on one line")
    return Given(value, str(file.value), file.rank)


def _check_whole(config: Config) -> None:
    """What no single setting can tell. Raises: Invalid."""
    node, periods, disk = config.node, config.periods, config.disk
    if node.role is Role.ORDINARY and not node.roots:
        raise Invalid(
            "an ordinary node needs node.roots",
            "accepted: the host:port of a root's peer port, such as 10.0.0.1:7072",
        )
    if node.port and node.port == node.peer_port:
        raise Invalid(f"node.port and node.peer_port are both {node.port}", "accepted: two different ports")
    if node.peers_at > 65535:
        raise Invalid(f"node.port = {node.port} leaves no port for peers", "accepted: at most 65533")
    if not periods.heartbeat < periods.suspect < periods.down < periods.lost:
        raise Invalid(
            "periods.heartbeat, suspect, down and lost do not grow",
            "accepted: each longer than the one before",
        )
    if (config.tls.cert is None) != (config.tls.key is None):
        raise Invalid("tls.cert and tls.key belong together", "give both, or neither")
    if config.tls.authority is not None and config.tls.cert is None:
        raise Invalid("tls.authority is given without tls.cert and tls.key", "give all three, or none")
    if not disk.soft <= disk.full:
        raise Invalid(f"disk.soft = {disk.soft} is above disk.full = {disk.full}", "accepted: soft <= full")
