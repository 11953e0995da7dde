"""``discloud mb rb nodes status``."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from tests.support.command_line import CommandLine, refused, shown_on
from tests.support.fake_api import FakeApi


def test_mb_with_settings(discloud: CommandLine, api: FakeApi) -> None:
    settings = (
        "--layout",
        "mirror:all",
        "--regions",
        "eu, us",
        "--cache-control",
        "public",
        "--verify",
        "window",
        "--max-stale",
        "1.5",
    )
    assert discloud.run("mb", "cdn", *settings).exit_code == 0
    made = api.buckets["cdn"]
    assert (made["layout"], made["regions"], made["cache_control"]) == ("mirror:all", ["eu", "us"], "public")
    assert (made["verify"], made["max_stale"]) == ("window", 1.5)
    assert json.loads(discloud.run("mb", "plain", "--json").stdout)["name"] == "plain"
    refused(discloud.run("mb", "cdn"), "there is a bucket cdn already")
    refused(discloud.run("mb", "cdn/x"), "names an object", code=2)


def test_rb(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a")
    refused(discloud.run("rb", "files"), "holds objects; discloud rm -r files")
    api.objects.clear()
    assert discloud.run("rb", "files/").exit_code == 0
    assert not api.buckets
    refused(discloud.run("rb", "files"), "there is no bucket files")


def test_nodes(discloud: CommandLine) -> None:
    head, first, second = discloud.run("nodes").stdout.splitlines()
    assert head.split()[0] == "NAME"
    assert first.split()[:5] == ["node1", "root", "127.0.0.1:7070", "eu/a", "alive"]
    assert first.endswith("[####............]  25 %")
    assert second.endswith("[###############.]  93 %")
    assert [json.loads(line)["name"] for line in discloud.run("nodes", "--json").stdout.splitlines()] == [
        "node1",
        "node2",
    ]


@pytest.mark.parametrize(
    ("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colours_on_a_terminal_that_wants_them(
    discloud: CommandLine, variable: dict[str, str], coloured: bool
) -> None:
    discloud.environ |= {"TERM": "xterm", "NO_COLOR": "", **variable}
    terminal, end = os.openpty()
    with discloud.start("nodes", stdin=subprocess.DEVNULL, stdout=end) as process:
        os.close(end)
        shown = shown_on(terminal)
        assert process.wait(30) == 0
    assert (b"\x1b[32malive" in shown) is coloured
    assert b"\x1b" not in discloud.run("nodes").stdout_bytes


def test_status(discloud: CommandLine) -> None:
    lines = discloud.run("status").stdout.splitlines()
    assert lines[1].split(maxsplit=1) == ["nodes", "2 alive, 1 down"]
    assert "25 %  1.0 MiB of 4.0 MiB" in lines[2]
    assert json.loads(discloud.run("status", "--json").stdout)["mesh"] == "home"
