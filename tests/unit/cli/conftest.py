"""A fake mesh and a command line that talks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine
from tests.support.fake_api import FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi().serving() as api:
        yield api


@pytest.fixture
def discloud(api: FakeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("DISCLOUD_URL", "DISCLOUD_TOKEN", "DISCLOUD_TOKEN_FILE", "DISCLOUD_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("discloud.cli.upload.PAUSES", (0.0, 0.0))
    monkeypatch.setattr("discloud.cli.download.PAUSES", (0.0, 0.0))
    command_line = CommandLine(home, {})
    command_line.profile(url=api.url, token=api.token)
    return command_line
