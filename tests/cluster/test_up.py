"""``discloud up`` with real containers: what it prints can be pasted, what README.md shows runs, and data outlive a stop."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.local_mesh import LocalMesh, free_base

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def shell(script: str, environ: dict[str, str], folder: Path) -> str:
    """What a person sees who pastes ``script``; it must succeed, line by line."""
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env=environ, cwd=folder, capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def test_lines_to_paste_and_a_stop_between(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "home")
    base = free_base()
    with mesh.up("--port", str(base)) as (_, said):
        lines = said.partition("Paste into another terminal:\n")[2].splitlines()[:3]
        told = [shell(line, {"PATH": os.environ["PATH"]}, tmp_path) for line in lines]
        assert "node1" in told[1]
        assert told[2] == "hello\n"
    with mesh.up() as (_, said):
        assert (
            mesh.run("cat", "files/hello.txt", "--url", f"http://127.0.0.1:{base + 10}").stdout == "hello\n"
        )
    assert [
        each for each in (mesh.folder / "node2.log").read_text().splitlines() if "Traceback" in each
    ] == []


def test_what_the_readme_shows_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    first = next(block for block in blocks if "discloud put" in block)
    second = next(block for block in blocks if "curl" in block)
    mesh = LocalMesh(tmp_path / "home")
    base = free_base()
    with mesh.up("--port", str(base)):
        environ = mesh.environ | {"TOKEN": (mesh.folder / "token").read_text().strip()}
        environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for block in (first, second):
            script = re.sub(r":70(\d0)\b", lambda port: f":{base + int(port[1]) - 70}", block)
            assert shell(script, environ, tmp_path).endswith("hello\n")


@contextmanager
def node(mesh: LocalMesh, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """``discloud node``, stopped on leaving."""
    with subprocess.Popen(
        [sys.executable, "-c", mesh.program, "node", *flags],
        env=mesh.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


def test_a_lone_root_tells_once_how_to_join(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "home")
    base, data = free_base(1), tmp_path / "data"
    flags = ["--role=root", "--data", str(data), "--port", str(base)]
    with node(mesh, *flags) as first:
        assert first.stdout is not None
        told = first.stdout.readline().strip()
        assert told == (
            f"join: discloud node --role=ordinary --roots 127.0.0.1:{base + 2} --secret-file {data / 'secret'}"
        )
        assert str(data / "token") in first.stdout.readline()
    assert first.returncode == 0
    with node(mesh, *flags) as second:
        assert second.stderr is not None
        assert any("node_started" in line for line in second.stderr)
        second.terminate()
        assert second.communicate(timeout=30)[0] == ""
    assert second.returncode == 0


def test_a_node_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    mesh = LocalMesh(tmp_path / "home")
    wrong = mesh.run("node", "--role=ordinary")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "node.roots" in wrong.stderr
