"""``discloud up`` as a person runs it: a process of its own, whose lines are read until the mesh is ready."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import SystemRandom

REAL = "from discloud.cli.main import main; main()"
FAKE = (
    "import sys; from discloud.cli import processes; "
    "processes.program = lambda: [sys.executable, '-m', 'tests.support.fake_node']; " + REAL
)
"""The same program with a stand-in for each container."""


def free_base(nodes: int = 3) -> int:
    """A first port behind which every port of ``nodes`` containers is free now, below those that the kernel gives to clients."""
    while True:
        base = SystemRandom().randrange(10_000, 20_000 - 10 * nodes)
        if all(is_free(base + at) for at in range(10 * nodes)):
            return base


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def until(holds: Callable[[], object], seconds: float = 30) -> None:
    """Wait for a condition; fail with its text when it does not come."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


class LocalMesh:
    """Runs discloud with a home of its own."""

    def __init__(self, home: Path, program: str = REAL) -> None:
        self.home = home
        self.folder = home / "mesh"
        self.program = program
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("DISCLOUD_")}
        self.environ |= {"DISCLOUD_HOME": str(home), "PYTHONUNBUFFERED": "1"}

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """A command that ends by itself."""
        return subprocess.run(
            [sys.executable, "-c", self.program, *words],
            env=self.environ | environ, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip

    @contextmanager
    def up(self, *words: str, **environ: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        """``discloud up`` once it is ready, and what it said; on leaving it is stopped by Ctrl-C."""
        process = subprocess.Popen(
            [sys.executable, "-c", self.program, "up", *words],
            env=self.environ | environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        said = ""
        try:
            for line in process.stdout:
                said += line
                if line.startswith("erase"):
                    break
            assert "erase" in said, said
            yield process, said
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(60)
            process.stdout.close()
            self.run("down")
