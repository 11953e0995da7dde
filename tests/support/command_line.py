"""Runs discloud's commands in an empty folder, with a profile that leads to the fake API."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from click.testing import CliRunner, Result

from discloud.cli.main import cli


class CommandLine:
    """``run`` stays in this process; ``start`` makes a real one, where pipes, signals or terminals matter."""

    def __init__(self, home: Path, environ: Mapping[str, str]) -> None:
        self.home = home
        self.environ = {**environ, "DISCLOUD_HOME": str(home)}

    def profile(self, **keys: str | Sequence[str]) -> None:
        lines = [
            f"{key} = {list(value) if not isinstance(value, str) else value!r}" for key, value in keys.items()
        ]
        (self.home / "profile.toml").write_text("\n".join(lines))

    def run(self, *arguments: str | Path, env: Mapping[str, str] | None = None) -> Result:
        given = {**self.environ, **(env or {})}
        result = CliRunner().invoke(
            cli, [str(each) for each in arguments], env=given, prog_name="discloud", catch_exceptions=False
        )
        assert "Traceback" not in result.stderr
        return result

    def start(
        self, *arguments: str, stdin: int, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "discloud.cli.main", *arguments],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**os.environ, **self.environ},
        )


def shown_on(terminal: int) -> bytes:
    """All that is written to a terminal until its other end is closed by everybody."""
    shown = b""
    while True:
        try:
            data = os.read(terminal, 4096)
        except OSError:  # EIO: nobody has it open any more
            data = b""
        if not data:
            os.close(terminal)
            return shown
        shown += data


def refused(result: Result, *words: str, code: int = 1) -> None:
    """The command failed with one line on stderr that holds the words."""
    lines = result.stderr.splitlines()
    assert result.exit_code == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("discloud: error: ")
    for word in words:
        assert word in lines[0]
