"""Cassandra for tests: small nodes on 127.0.0.1, .2, .3 that start at once, as containers or with the jars that Maven brings.

Measured on 2 cores (Java 17, Cassandra 5.0.6): three nodes answer after 13 s with the JVM's defaults, after 10 s with the
serial collector and the first compiler only, which also takes a third off the processor time and 100 MB off each node (830 MB
resident). A class-data archive brings another second and costs a start and 53 MB: not worth it. The agent jamm is not
needed: without it Cassandra estimates the sizes of its objects.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory

from cassandra import DriverException
from cassandra.cluster import EXEC_PROFILE_DEFAULT, ExecutionProfile, NoHostAvailable, Session
from cassandra.cluster import Cluster as Driver
from cassandra.connection import DefaultEndPoint
from cassandra.policies import WhiteListRoundRobinPolicy

from tests.support.engine import CASSANDRA_IMAGE, ServerContainer, require_engine
from tests.support.server_process import (
    NotHere,
    Server,
    ServerProcess,
    first_of,
    free_port,
    program,
    wait_for,
    wait_ready,
)

VERSION = "5.0.6"
FILES = Path(__file__).parent / "cassandra"
HEAP = ("-Xms512M", "-Xmx512M", "-Xmn128M", "-Xss256k")
FAST = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:ActiveProcessorCount=2",
    "-XX:+ExitOnOutOfMemoryError",
)
EXPORTS = (
    "java.base/jdk.internal.misc",
    "java.base/java.lang.ref",
    "java.management.rmi/com.sun.jmx.remote.internal.rmi",
    "java.rmi/sun.rmi.registry",
    "java.rmi/sun.rmi.server",
    "java.sql/java.sql",
    "jdk.unsupported/sun.misc",
    "jdk.attach/sun.tools.attach",
)
OPENS = (
    "java.base/java.io",
    "java.base/java.lang",
    "java.base/java.lang.module",
    "java.base/java.lang.reflect",
    "java.base/java.nio",
    "java.base/java.util",
    "java.base/java.util.concurrent",
    "java.base/java.util.concurrent.atomic",
    "java.base/jdk.internal.loader",
    "java.base/jdk.internal.math",
    "java.base/jdk.internal.module",
    "java.base/jdk.internal.ref",
    "java.base/jdk.internal.reflect",
    "java.base/jdk.internal.util.jar",
    "java.base/sun.nio.ch",
    "java.base/sun.security.ssl",
    "jdk.management/com.sun.management.internal",
)
"""What Cassandra reaches into on Java 17 (its own conf/jvm17-server.options)."""
FORGETS = 10_000
"""Milliseconds of silence after which a node forgets, for good, another whose tokens it has not yet heard. With the 100 that are
often advised for tests nodes that start together on a busy machine lose each other; nothing else here waits for it, but a
node that starts while no other lives."""
FIRST_WORDS = "JVM vendor/version:"
"""What every start of a node says."""
START = 90.0
"""Seconds that a start may take on a machine that does much else."""


def cache() -> Path:
    """Where what is downloaded and what is shared between processes lies."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "discloud-tests"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def locked(path: Path, how: int = fcntl.LOCK_EX) -> Iterator[int]:
    """Hold a lock file; it is free again at the end, also when the process is killed."""
    with path.open("w") as file:
        fcntl.flock(file, how)
        yield file.fileno()


def java() -> str:
    """A Java that Cassandra 5 supports, where several are installed; raises NotHere."""
    for found in sorted(Path("/usr/lib/jvm").glob("*-17-*/bin/java")):
        return str(found)
    return program("java")


def jars() -> str:
    """The class path of Cassandra, downloaded by Maven once (66 MB); raises NotHere."""
    folder = cache() / f"cassandra-{VERSION}"
    with locked(cache() / "download.lock"):
        if not folder.exists():
            _download(folder)
    return ":".join(sorted(str(each) for each in folder.glob("*.jar")))


def _download(folder: Path) -> None:
    maven, half = program("mvn"), folder.with_suffix(".half")
    shutil.rmtree(half, ignore_errors=True)
    done = subprocess.run(
        [maven, "-B", "-q", "-f", str(FILES / "pom.xml"), "dependency:copy-dependencies", "-DincludeScope=runtime",
         f"-DoutputDirectory={half}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NotHere(f"mvn cannot download Cassandra {VERSION}: {(done.stdout + done.stderr).strip()[:300]}")
    half.rename(folder)


@contextmanager
def driver_session(hosts: Sequence[str]) -> Iterator[Session]:
    """A session of the driver that asks these nodes (``address:port``) only."""
    split = [host.rsplit(":", 1) for host in hosts]
    points = [DefaultEndPoint(address, int(port)) for address, port in split]
    these = ExecutionProfile(WhiteListRoundRobinPolicy([address for address, _ in split]), request_timeout=30)
    with Driver(points, protocol_version=5, execution_profiles={EXEC_PROFILE_DEFAULT: these}) as driver:
        yield driver.connect()


@dataclass
class CassandraNode:
    """One node. What is killed and started again has its data and its address."""

    address: str
    native_port: int
    server: Server

    @property
    def host(self) -> str:
        """Address and port for clients."""
        return f"{self.address}:{self.native_port}"

    @property
    def running(self) -> bool:
        return self.server.running

    def start(self, wait: bool = True) -> None:
        """Start it; with ``wait`` come back when clients can connect (about 5 s: not on an event loop)."""
        self.server.start()
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Come back when clients can connect."""
        wait_ready(self.server, self._answers, START, f"Cassandra on {self.host}")

    def pause(self) -> None:
        """Stop it in its tracks: connections stay open and nobody answers."""
        self.server.pause()

    def resume(self) -> None:
        """Let a paused one go on."""
        self.server.resume()

    def kill(self) -> None:
        """End it as a power cut would, but for the pages of the kernel."""
        self.server.kill()

    def sees_up(self) -> set[str]:
        """Addresses of the other nodes that this one, since it was last started, last called up."""
        *_, lived = self.server.output().rpartition(FIRST_WORDS)
        last = dict(re.findall(r"InetAddress /([\d.]+):\d+ is now (UP|DOWN)", lived))
        return {address for address, state in last.items() if state == "UP"}

    def _answers(self) -> bool:
        create_connection((self.address, self.native_port), timeout=1).close()
        return True


@dataclass
class PrivateCassandra:
    """A cluster that a test may break."""

    nodes: list[CassandraNode]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Address and port of every node."""
        return tuple(node.host for node in self.nodes)

    def start(self) -> None:
        """Start all at once and come back when each sees the others and knows their tokens and data centres."""
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        self.wait_settled()
        wait_for(lambda: all(map(self._knows_all, self.nodes)), START, "one view of the ring in Cassandra")

    def wait_settled(self, seconds: float = START) -> None:
        """Come back when every running node has called up all running others, and down all that do not run."""
        living = {node.address for node in self.nodes if node.running}
        running = [node for node in self.nodes if node.running]
        wait_for(
            lambda: all(node.sees_up() == living - {node.address} for node in running),
            seconds, "one view of who is up in Cassandra",
        )  # fmt: skip

    def _knows_all(self, node: CassandraNode) -> bool:
        try:
            with driver_session([node.host]) as session:
                found = session.execute("SELECT data_center, tokens FROM system.peers_v2").all()
        except (DriverException, NoHostAvailable):
            return False
        return sum(bool(each.data_center and each.tokens) for each in found) == len(self.nodes) - 1

    def close(self) -> None:
        """End all."""
        for node in self.nodes:
            node.server.close()


def cassandra_server(nodes: int = 3, *, lasting: bool = True) -> AbstractContextManager[PrivateCassandra]:
    """A ready cluster of containers, else of local processes; raises NotHere where neither can be. Not ``lasting`` saves the
    flushes of system tables that only a node that is started again needs."""
    return first_of(
        lambda: container_cassandra(nodes, lasting),
        lambda: local_cassandra(nodes, lasting),
    )


@contextmanager
def local_cassandra(nodes: int, lasting: bool) -> Iterator[PrivateCassandra]:
    """A ready cluster of local processes; raises NotHere."""
    program_and_classes = [java(), "-cp", jars()]

    def server(folder: Path, options: list[str]) -> Server:
        return ServerProcess([*program_and_classes, *options], folder / "log")

    with _cluster(server, nodes, lasting) as cluster:
        yield cluster


@contextmanager
def container_cassandra(nodes: int, lasting: bool) -> Iterator[PrivateCassandra]:
    """A ready cluster of containers; raises NotHere where no Docker engine gives them."""
    require_engine()

    def server(folder: Path, options: list[str]) -> Server:
        return ServerContainer(CASSANDRA_IMAGE, ["java", "-cp", "/opt/cassandra/lib/*", *options], folder)

    with _cluster(server, nodes, lasting) as cluster:
        yield cluster


@contextmanager
def _cluster(
    server: Callable[[Path, list[str]], Server], nodes: int, lasting: bool
) -> Iterator[PrivateCassandra]:
    addresses = [f"127.0.0.{number + 1}" for number in range(nodes)]
    ports = {name: str(free_port(addresses)) for name in ("storage_port", "ssl_storage_port", "native_port")}
    with TemporaryDirectory(prefix="discloud-cassandra-") as base, closing(PrivateCassandra([])) as cluster:
        for number, address in enumerate(addresses):
            folder = Path(base) / str(number + 1)
            folder.mkdir()
            configure_node(folder, addresses, number, ports)
            node = CassandraNode(
                address, int(ports["native_port"]), server(folder, node_options(folder, lasting))
            )
            cluster.nodes.append(node)
        cluster.start()
        yield cluster


def configure_node(
    folder: Path, addresses: list[str], number: int, ports: dict[str, str], datacenters: Sequence[str] = ()
) -> None:
    """Write into ``folder`` what node ``number`` of those at ``addresses`` reads at its start.

    ``datacenters`` names that of each node, else all are in ``datacenter1``.
    """
    # every node is a seed: seeds that start together do not wait for one another
    values = {
        **ports,
        "folder": str(folder),
        "address": addresses[number],
        "seeds": ",".join(f"{each}:{ports['storage_port']}" for each in addresses),
        "token": str(-(2**63) + 2**64 // len(addresses) * number),
        "snitch": "GossipingPropertyFileSnitch" if datacenters else "SimpleSnitch",
    }
    text = (FILES / "cassandra.yaml").read_text()
    (folder / "cassandra.yaml").write_text(re.sub(r"\{(\w+)\}", lambda found: values[found[1]], text))
    shutil.copy(FILES / "logback.xml", folder)
    if datacenters:
        place = f"dc={datacenters[number]}\nrack=rack1\n"
        (folder / "cassandra-rackdc.properties").write_text(place)


def node_options(folder: Path, lasting: bool) -> list[str]:
    """What Java is told, behind the class path, to be the node that ``folder`` was configured for."""
    return [
        *HEAP, *FAST,
        f"-Dcassandra.config=file://{folder}/cassandra.yaml",
        f"-Dcassandra-rackdc.properties=file://{folder}/cassandra-rackdc.properties",
        f"-Dcassandra.storagedir={folder}",
        f"-Dlogback.configurationFile=file://{folder}/logback.xml",
        f"-Djava.io.tmpdir={folder}",
        f"-Dcassandra.unsafesystem={str(not lasting).lower()}",
        "-Dcassandra-foreground=yes",
        "-Dcassandra.skip_wait_for_gossip_to_settle=0",
        f"-Dcassandra.ring_delay_ms={FORGETS}",
        "-Dcassandra.fd_initial_value_ms=1000",
        "-Djdk.attach.allowAttachSelf=true",
        "-Dio.netty.tryReflectionSetAccessible=true",
        *(word for each in EXPORTS for word in ("--add-exports", f"{each}=ALL-UNNAMED")),
        *(word for each in OPENS for word in ("--add-opens", f"{each}=ALL-UNNAMED")),
        "org.apache.cassandra.service.CassandraDaemon",
    ]  # fmt: skip
