"""Where a test's servers come from: the environment, a Docker engine, a local process; and that nothing stays behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread

import pytest
from cassandra import ConsistencyLevel, RequestExecutionException
from cassandra.cluster import Session
from cassandra.query import SimpleStatement
from testcontainers.core.config import testcontainers_config

from tests.support import keeper, servers
from tests.support.cassandra_server import CassandraNode, PrivateCassandra, driver_session
from tests.support.engine import CASSANDRA_IMAGE, REDIS_IMAGE
from tests.support.server_process import NotHere, ServerProcess, wait_for
from tests.support.stub_engine import StubEngine, stub_engine


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """No address in the environment and no engine."""
    for name in (servers.REDIS, servers.CASSANDRA, servers.REQUIRE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nobody/listens.sock")
    monkeypatch.setattr(testcontainers_config, "_ryuk_disabled", True)


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No program can be found but those put into this folder, and nothing was ever downloaded."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[StubEngine]:
    with short_folder() as folder, stub_engine(folder) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        yield engine


@contextmanager
def short_folder() -> Iterator[Path]:
    """A unix socket's path has at most 107 bytes."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_an_address_in_the_environment_comes_first(
    engine: StubEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(servers.REDIS, "redis://10.0.0.5:6379/0")
    monkeypatch.setenv(servers.CASSANDRA, "10.0.0.5,10.0.0.6:9142")
    assert servers.shared_redis().url == "redis://10.0.0.5:6379/0"
    assert servers.shared_cassandra().hosts == ("10.0.0.5:9042", "10.0.0.6:9142")
    assert engine.asked == []


def test_an_engine_that_answers_comes_before_a_local_process(engine: StubEngine) -> None:
    with servers.redis_server() as redis:
        assert engine.created[0]["Image"] == REDIS_IMAGE
        assert redis.command("SET", "a", "1") == b"+OK\r\n"
        redis.flush()
        assert redis.command("GET", "a") == b"$-1\r\n"
        redis.pause()
        redis.resume()
        redis.command("SET", "a", "1")
        redis.kill()
        redis.start()
        assert redis.command("GET", "a") == b"$-1\r\n"
    assert engine.asked[:3] == ["images", "create", "start"]
    assert engine.asked[3:] == ["pause", "unpause", "kill", "wait", "start", "remove"]
    assert engine.created[0]["HostConfig"]["NetworkMode"] == "host"


def test_an_engine_without_images_falls_through(monkeypatch: pytest.MonkeyPatch) -> None:
    with short_folder() as folder, stub_engine(folder, images=False) as engine:
        monkeypatch.setenv("DOCKER_HOST", engine.address)
        with servers.redis_server() as redis:
            assert isinstance(redis.server, ServerProcess)
        assert engine.asked == ["images"]


def test_without_an_engine_it_is_a_local_process() -> None:
    with servers.redis_server() as redis:
        assert isinstance(redis.server, ServerProcess)
        assert redis.command("PING") == b"+PONG\r\n"


def test_containers_that_end_by_themselves_fall_through(engine: StubEngine, bare_machine: Path) -> None:
    java = bare_machine / "java"
    java.write_text("#!/bin/sh\necho no such class; exit 1\n")
    java.chmod(0o700)
    with pytest.raises(servers.NoServer, match=r"(?s)no such class.*mvn is not installed"):
        servers.private_cassandra(3).__enter__()
    assert [each["Image"] for each in engine.created] == [CASSANDRA_IMAGE] * 3
    assert engine.asked.count("remove") == 3


@pytest.mark.usefixtures("bare_machine")
def test_where_there_is_nothing_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = r"no Docker engine answers at unix:///nobody/listens.sock .*; redis-server is not installed"
    with pytest.raises(servers.NoServer, match=f"no server: Redis: {reasons}"):
        servers.redis_server().__enter__()
    monkeypatch.setenv(servers.REQUIRE, "1")
    with pytest.raises(pytest.fail.Exception, match=f"no server: Redis: {reasons}"):
        servers.redis_server().__enter__()


def test_the_closing_line_of_a_run_names_the_server_that_is_missing(bare_machine: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "1", f"{__file__}::{test_without_an_engine_it_is_a_local_process.__name__}"],
        capture_output=True, text=True, check=False, env={**os.environ, "PATH": str(bare_machine)},
    )  # fmt: skip
    assert "1 skipped" in run.stdout, run.stdout
    closing = next(line for line in run.stdout.splitlines() if line.startswith("not run:"))
    assert "no server: Redis: no Docker engine answers" in closing
    assert closing.endswith("redis-server is not installed: 1 tests")


def test_a_killed_process_leaves_no_server_behind(tmp_path: Path) -> None:
    script = (
        "from tests.support.servers import *\nwith redis_server() as r: print(r.port, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as user:
        assert user.stdout is not None
        port = int(user.stdout.readline())
        socket.create_connection(("127.0.0.1", port)).close()
        user.kill()
    wait_for(lambda: refused(port), 10, "the end of Redis")


def refused(port: int) -> bool:
    with closing(socket.socket()) as client:
        return client.connect_ex(("127.0.0.1", port)) != 0


def test_a_keeper_ends_with_its_last_user(bare_machine: Path) -> None:
    ended: list[bool] = []

    @contextmanager
    def cluster() -> Iterator[PrivateCassandra]:
        node = CassandraNode("127.0.0.9", 9042, ServerProcess(["/bin/sleep", "60"], bare_machine / "log"))
        node.server.start()
        yield PrivateCassandra([node])
        node.kill()
        ended.append(True)

    with keeper.used(), keeper.used():
        thread = Thread(target=keeper.keep, args=(cluster,))
        thread.start()
        wait_for((keeper.folder() / "state.json").exists, 10, "the keeper")
        assert keeper.shared_hosts() == ("127.0.0.9:9042",)
        assert ended == []
    keeper.leave()
    thread.join(10)
    assert ended == [True]
    assert not (keeper.folder() / "state.json").exists()


@pytest.mark.usefixtures("bare_machine")
def test_a_keeper_that_finds_no_server_says_why() -> None:
    with pytest.raises(NotHere, match=r"no Docker engine answers .*; (java|mvn) is not installed"):
        keeper.shared_hosts()
    keeper.leave()


@pytest.mark.cluster
@pytest.mark.timeout(300)
def test_a_killed_node_of_a_private_cluster_comes_back_with_its_data() -> None:
    with servers.private_cassandra(2) as cassandra:
        with driver_session(cassandra.hosts) as session:
            session.execute(
                "CREATE KEYSPACE k WITH replication = {'class': 'NetworkTopologyStrategy', 'datacenter1': 2}"
            )
            session.execute("CREATE TABLE k.t (a int PRIMARY KEY)")
            everywhere = SimpleStatement(
                "INSERT INTO k.t (a) VALUES (7)", consistency_level=ConsistencyLevel.ALL
            )
            wait_for(lambda: written(session, everywhere), 60, "a first write")
        other, killed = cassandra.nodes
        killed.kill()
        assert not killed.running
        killed.start()
        cassandra.wait_settled()
        other.kill()
        cassandra.wait_settled()
        with driver_session([killed.host]) as session:
            assert [each.a for each in session.execute("SELECT a FROM k.t")] == [7]


@pytest.mark.cluster
def test_a_fresh_keyspace_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the cluster that all tests share, as they get it
    hosts = servers.shared_cassandra().hosts
    with driver_session(hosts) as session:
        with servers.fresh_keyspace(hosts) as name:
            session.execute(
                f"CREATE KEYSPACE {name} WITH replication = {{'class': 'NetworkTopologyStrategy', 'datacenter1': 3}}"
            )
            assert name in keyspaces(session)
        assert name not in keyspaces(session)


def keyspaces(session: Session) -> set[str]:
    return {
        each.keyspace_name for each in session.execute("SELECT keyspace_name FROM system_schema.keyspaces")
    }


def written(session: Session, cql: SimpleStatement) -> bool:
    """The first requests of a cold server on a busy machine may take longer than the server allows."""
    try:
        session.execute(cql)
    except RequestExecutionException:
        return False
    return True
