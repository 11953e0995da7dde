"""Cassandra with a node in each region: clients and its own nodes cross the border of the test mesh to reach the others.

Every node announces the address of its entry at the border, to the other nodes (gossip) as well as to clients
(``system.peers_v2``), so nothing passes by the delay and a region that is cut off loses its Cassandra too. Local processes
only: the border tells who asks by the process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import create_connection
from tempfile import TemporaryDirectory

from tests.support.cassandra_server import (
    CassandraNode,
    PrivateCassandra,
    configure_node,
    jars,
    java,
    node_options,
)
from tests.support.region_proxy import Border, Entry
from tests.support.server_process import ServerProcess, free_port


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a server listens, where others reach it, and the region that it is in."""

    real: str
    entry: str
    region: str


@dataclass(kw_only=True)
class BorderedNode(CassandraNode):
    """A node whose ``address`` is its entry; it is ready when it listens behind it."""

    server: ServerProcess
    stand: Stand
    border: Border

    def start(self, wait: bool = True) -> None:
        """Start it; its region is known before it has connected to anybody."""
        super().start(wait=False)
        assert self.server.process is not None
        self.border.stands(self.server.process.pid, self.stand.region)
        if wait:
            self.wait_ready()

    def _answers(self) -> bool:
        create_connection((self.stand.real, self.native_port), timeout=1).close()
        return True


@contextmanager
def regional_cassandra(stands: Sequence[Stand], border: Border) -> Iterator[PrivateCassandra]:
    """One node at each stand, its data centre named like its region; ready, and ended at the end. Raises: NotHere."""
    program = [java(), "-cp", jars()]
    real, entries = [each.real for each in stands], [each.entry for each in stands]
    names = ("storage_port", "ssl_storage_port", "native_port")
    ports = {name: str(free_port(real + entries)) for name in names}
    with TemporaryDirectory(prefix="discloud-cassandra-") as base, closing(PrivateCassandra([])) as cluster:
        for number, stand in enumerate(stands):
            folder = Path(base) / str(number + 1)
            folder.mkdir()
            configure_node(folder, real, number, ports, [each.region for each in stands])
            _announce(folder / "cassandra.yaml", real, entries, number)
            for name in ("storage_port", "native_port"):
                port = int(ports[name])
                border.open(Entry((stand.entry, port), (stand.real, port), stand.region))
            server = ServerProcess([*program, *node_options(folder, lasting=True)], folder / "log")
            port = int(ports["native_port"])
            cluster.nodes.append(BorderedNode(stand.entry, port, server=server, stand=stand, border=border))
        cluster.start()
        yield cluster


def _announce(file: Path, real: Sequence[str], entries: Sequence[str], number: int) -> None:
    """Let the node be known by its entry, to the others and to clients, and meet them at theirs."""
    text = file.read_text()
    for mine, announced in zip(real, entries, strict=True):
        text = text.replace(f"{mine}:", f"{announced}:")  # the seeds
    file.write_text(
        f"{text}\nbroadcast_address: {entries[number]}\nbroadcast_rpc_address: {entries[number]}\n"
    )
