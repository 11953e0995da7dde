"""``discloud mb rb nodes status``."""

from __future__ import annotations

import json

from tests.support.command_line import CommandLine, refused
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
    )
    assert discloud.run("mb", "cdn", *settings).exit_code == 0
    made = api.buckets["cdn"]
    assert (made["layout"], made["regions"], made["cache_control"]) == ("mirror:all", ["eu", "us"], "public")
    assert made["verify"] == "window"
    assert json.loads(discloud.run("mb", "plain", "--json").stdout)["name"] == "plain"
    refused(discloud.run("mb", "cdn"), "there is a bucket cdn already")
    refused(discloud.run("mb", "cdn/x"), "names an object", code=2)


def test_rb(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a")
    refused(discloud.run("rb", "files"), "holds objects. discloud rm -r files")
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


def test_status(discloud: CommandLine) -> None:
    lines = discloud.run("status").stdout.splitlines()
    assert lines[1].split(maxsplit=1) == ["nodes", "2 alive, 1 down"]
    assert "25 %  1.0 MiB of 4.0 MiB" in lines[2]
    assert json.loads(discloud.run("status", "--json").stdout)["mesh"] == "home"
