"""``discloud up`` and ``down`` around stand-in containers: what is written, said, stopped, and refused."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from discloud.cli.mesh_folder import MeshFolder, Running, began, make_plan
from discloud.errors import Conflict, Invalid
from tests.support.local_mesh import FAKE, LocalMesh, free_base, is_free, until


@pytest.fixture
def mesh(tmp_path: Path) -> LocalMesh:
    return LocalMesh(tmp_path / "home", FAKE)


def test_a_mesh_starts_and_ctrl_c_stops_it(mesh: LocalMesh) -> None:
    base = free_base()
    with mesh.up("--port", str(base), DISCLOUD_NAME="not-for-them") as (process, said):
        profile = tomllib.loads((mesh.home / "profile.toml").read_text())
        token = (mesh.folder / "token").read_text().strip()
        assert profile == {
            "url": f"http://127.0.0.1:{base}",
            "token": token,
            "nodes": [f"127.0.0.1:{base + at}" for at in (0, 10, 20)],
        }
        for secret in (mesh.home / "profile.toml", mesh.folder / "token", mesh.folder / "secret"):
            assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        lines = said.splitlines()
        assert lines[0].split() == ["node1", "root", f"http://127.0.0.1:{base}"]
        assert lines[2].split() == ["node3", "ordinary", f"http://127.0.0.1:{base + 20}"]
        assert f"token  {token}" in lines
        assert f"http://127.0.0.1:{base + 20}/v1/files/files/hello.txt" in said
        assert f"DISCLOUD_HOME={mesh.home}" in said
        running = MeshFolder(mesh.folder).running()
        assert [each.name for each in running] == ["up", "node1", "node2", "node3"]
        assert running[0].pid == process.pid
        assert len({os.getsid(each.pid) for each in running}) == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert all(each.poll() is not None for each in running)
    assert is_free(base)


def test_a_second_up_goes_on_with_data_and_ports(mesh: LocalMesh) -> None:
    base = free_base(5)
    with mesh.up("--port", str(base)):
        pass
    token = (mesh.folder / "token").read_text()
    with mesh.up() as (_, said):
        assert f"http://127.0.0.1:{base + 20}" in said
    assert (mesh.folder / "token").read_text() == token
    fewer = mesh.run("up", "--nodes", "2")
    assert fewer.returncode == 2
    assert "this mesh has 3 nodes" in fewer.stderr
    with mesh.up("--nodes", "4") as (_, said):
        assert f"http://127.0.0.1:{base + 30}" in said


def test_up_on_a_live_folder_says_so(mesh: LocalMesh) -> None:
    with mesh.up("--port", str(free_base())) as (process, _):
        second = mesh.run("up")
        assert second.returncode == 1
        assert "is running already" in second.stderr
        assert second.stderr.count("\n") == 1
        assert process.poll() is None


def test_a_taken_port_is_told_before_anything_is_written(mesh: LocalMesh) -> None:
    base = free_base()
    with socket.create_server(("127.0.0.1", base + 12)):
        refused = mesh.run("up", "--port", str(base))
    assert refused.returncode == 1
    assert f"port {base + 12} is taken" in refused.stderr
    assert "--port" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not mesh.home.exists()


def test_a_container_that_cannot_start_ends_up(mesh: LocalMesh) -> None:
    base = free_base()
    failed = mesh.run("up", "--port", str(base), FAKE_NODE_DIES="node2")
    assert failed.returncode == 1
    assert "node2 ended with exit code 1: discloud: error: the disk is on fire" in failed.stderr
    assert str(mesh.folder / "node2.log") in failed.stderr
    assert failed.stderr.count("\n") == 1
    assert not (mesh.home / "profile.toml").exists()
    assert not MeshFolder(mesh.folder).lives()
    with mesh.up("--port", str(base)):
        pass


def test_a_container_that_dies_is_reported_and_the_others_go_on(mesh: LocalMesh) -> None:
    with mesh.up("--port", str(free_base())) as (process, _):
        assert process.stdout is not None
        victim = next(each for each in MeshFolder(mesh.folder).running() if each.name == "node2")
        victim.send_signal(signal.SIGKILL)
        line = process.stdout.readline()
        assert "node2 was ended by SIGKILL" in line
        assert [each.name for each in MeshFolder(mesh.folder).running()] == ["up", "node1", "node3"]


def test_down_stops_what_up_runs(mesh: LocalMesh) -> None:
    with mesh.up("--port", str(free_base())) as (process, _):
        stopped = mesh.run("down")
        assert stopped.returncode == 0, stopped.stderr
        assert "stopped" in stopped.stdout
        assert process.wait(10) == 0
    assert "is not running" in mesh.run("down").stdout


def test_down_stops_containers_that_outlived_up(mesh: LocalMesh) -> None:
    with mesh.up("--port", str(free_base())) as (process, _):
        process.kill()
        process.wait(10)
        folder = MeshFolder(mesh.folder)
        assert folder.lives()
        assert "is running already" in mesh.run("up").stderr
        assert mesh.run("down").returncode == 0
        assert not folder.lives()


def test_detached_containers_live_on(mesh: LocalMesh) -> None:
    started = mesh.run("up", "--port", str(free_base()), "--detach")
    try:
        assert started.returncode == 0, started.stderr
        assert [each.name for each in MeshFolder(mesh.folder).running()] == ["node1", "node2", "node3"]
    finally:
        assert mesh.run("down").returncode == 0
    assert not MeshFolder(mesh.folder).lives()


def test_sigterm_stops_it_too(mesh: LocalMesh) -> None:
    with mesh.up("--port", str(free_base())) as (process, _):
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert not MeshFolder(mesh.folder).lives()


def test_a_foreign_folder_is_left_alone(mesh: LocalMesh) -> None:
    mesh.folder.mkdir(parents=True)
    (mesh.folder / "thesis.odt").write_text("precious")
    refused = mesh.run("up", "--port", str(free_base()))
    assert refused.returncode != 0
    assert "holds other things" in refused.stderr
    assert [each.name for each in mesh.folder.iterdir()] == ["thesis.odt"]


def test_the_profile_of_another_mesh_is_kept(mesh: LocalMesh) -> None:
    mesh.home.mkdir()
    (mesh.home / "profile.toml").write_text('token = "the only one"\n')
    with mesh.up("--port", str(free_base())) as (_, said):
        assert "profile.toml.old" in said
    assert "the only one" in (mesh.home / "profile.toml.old").read_text()


def test_a_number_that_another_program_got_is_left_alone() -> None:
    assert began(os.getpid())
    assert Running("node1", os.getpid(), "long ago").poll() == 0
    Running("node1", os.getpid(), "long ago").send_signal(signal.SIGKILL)
    assert Running("node1", os.getpid(), began(os.getpid())).poll() is None


def test_a_process_is_told_from_another_and_from_its_remains() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        own = began(other.pid)
        assert own not in {"", began(os.getpid())}
        assert began(other.pid) == own
        other.kill()
        until(lambda: began(other.pid) == "")  # dead, and nobody has taken notice yet
        assert other.returncode is None
    assert began(other.pid) == ""


def test_one_lock_for_a_folder(tmp_path: Path) -> None:
    folder = MeshFolder(tmp_path)
    with folder.hold():
        assert folder.lives()
        with pytest.raises(Conflict), folder.hold():
            pass
    until(lambda: not folder.lives())


def test_plans() -> None:
    first = make_plan(None, None, None, None)
    assert [each.port for each in first.members] == [7070, 7080, 7090]
    assert [each.port for each in make_plan(first, 4, None, None).members] == [7070, 7080, 7090, 7100]
    assert [each.port for each in make_plan(first, None, 8000, None).members] == [8000, 8010, 8020]
    assert make_plan(None, 1, None, "0.0.0.0").host == "0.0.0.0"
    with pytest.raises(Invalid):
        make_plan(first, 2, None, None)
    with pytest.raises(Invalid):
        make_plan(None, 64, 65000, None)
