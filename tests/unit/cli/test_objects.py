"""``discloud ls rm mv cp stat map``: names, pages, questions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine, refused, shown_on
from tests.support.fake_api import MODIFIED, FakeApi

KEYS = ["a.txt", "b/1", "b/2", "b/c/3", "bee", "z"]


@pytest.fixture(autouse=True)
def stored(api: FakeApi) -> None:
    for key in KEYS:
        api.store(key, b"x" * 1536)


def names(output: str) -> list[str]:
    return [line.rpartition("  ")[2] for line in output.splitlines()]


def test_ls_of_a_bucket(discloud: CommandLine) -> None:
    result = discloud.run("ls", "files")
    assert names(result.stdout) == ["a.txt", "b/", "bee", "z"]
    assert result.stdout.splitlines()[0].split()[:2] == ["1.5", "KiB"]


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("files/b/", ["b/1", "b/2", "b/c/"]),
        ("files/b", ["b/", "bee"]),
        ("files/b/c", ["b/c/3"]),  # a folder without its slash, when nothing else begins like that
        ("files/bee", ["bee"]),
    ],
)
def test_ls_of_a_prefix(discloud: CommandLine, argument: str, expected: list[str]) -> None:
    assert names(discloud.run("ls", argument).stdout) == expected


def test_ls_draws_page_after_page(discloud: CommandLine, api: FakeApi) -> None:
    api.page = 2
    assert names(discloud.run("ls", "-r", "files").stdout) == KEYS
    assert len(api.seen) == 3


def test_ls_as_json(discloud: CommandLine) -> None:
    lines = [json.loads(line) for line in discloud.run("ls", "--json", "files").stdout.splitlines()]
    assert [line.get("key") or line["prefix"] for line in lines] == ["a.txt", "b/", "bee", "z"]
    assert lines[0]["size"] == 1536
    assert lines[0]["modified"] == MODIFIED


def test_ls_of_nothing(discloud: CommandLine, api: FakeApi) -> None:
    api.make("empty")
    assert discloud.run("ls", "empty").output == ""
    refused(discloud.run("ls", "files/no"), "nothing in files begins with 'no'", 'see "discloud ls files"')
    refused(discloud.run("ls", "absent"), "no bucket absent")


def test_ls_of_buckets(discloud: CommandLine, api: FakeApi) -> None:
    api.make("cdn", layout="mirror:all")
    assert [line.split()[2:] for line in discloud.run("ls").stdout.splitlines()] == [
        ["files/"],
        ["cdn/", "mirror:all"],
    ]
    assert json.loads(discloud.run("ls", "--json").stdout.splitlines()[1])["layout"] == "mirror:all"


def test_rm(discloud: CommandLine, api: FakeApi) -> None:
    assert discloud.run("rm", "files/a.txt", "files/z").exit_code == 0
    assert {key for _, key in api.objects} == {"b/1", "b/2", "b/c/3", "bee"}
    refused(discloud.run("rm", "files/a.txt"), "no object a.txt")
    refused(discloud.run("rm", "files"), "add -r", code=2)


def test_rm_of_a_folder_leaves_its_neighbours(discloud: CommandLine, api: FakeApi) -> None:
    api.page = 1
    result = discloud.run("rm", "-r", "files/b")
    assert result.exit_code == 0
    assert {key for _, key in api.objects} == {"a.txt", "bee", "z"}
    assert result.stderr == "removed 3 objects\n"
    assert discloud.run("rm", "-r", "files/no").exit_code == 1
    assert discloud.run("rm", "-r", "files", "-q").output == ""
    assert not api.objects


@pytest.mark.parametrize(("reply", "left", "code"), [(b"n\n", 6, 1), (b"y\n", 3, 0)])
def test_rm_asks_on_a_terminal(
    discloud: CommandLine, api: FakeApi, reply: bytes, left: int, code: int
) -> None:
    terminal, end = os.openpty()
    with discloud.start("rm", "-r", "files/b", stdin=end) as process:
        os.close(end)
        os.write(terminal, reply)
        _, errors = process.communicate(timeout=30)
    os.close(terminal)
    assert b"Remove everything in files/b?" in errors
    assert process.returncode == code
    assert len(api.objects) == left


def test_mv_and_cp(discloud: CommandLine, api: FakeApi) -> None:
    api.make("other")
    assert discloud.run("mv", "files/b/1", "files/b c/%/").exit_code == 0
    assert ("files", "b c/%/1") in api.objects
    assert ("files", "b/1") not in api.objects
    api.store("x&y=z?", b"odd")
    assert json.loads(discloud.run("cp", "--json", "files/x&y=z?", "other").stdout)["key"] == "x&y=z?"
    assert api.objects["other", "x&y=z?"].data == b"odd"
    refused(discloud.run("mv", "files/z", "other/z"), "use cp, then rm", code=2)
    refused(discloud.run("mv", "files", "files/z"), "names a bucket", code=2)
    refused(discloud.run("cp", "files/no", "files/z"), "no object no")


def test_stat(discloud: CommandLine, api: FakeApi) -> None:
    api.objects["files", "z"].metadata = {"author": "Ada Ü"}
    facts = json.loads(discloud.run("stat", "--json", "files/z").stdout)
    assert facts["size"] == 1536
    assert facts["modified"] == MODIFIED
    assert facts["etag"] == api.objects["files", "z"].etag
    assert facts["metadata"] == {"author": "Ada Ü"}
    shown = discloud.run("stat", "files/z").stdout
    assert "1.5 KiB (1536 bytes)" in shown
    assert "author=Ada Ü" in shown
    assert json.loads(discloud.run("stat", "--json", "files").stdout)["verify"] == "always"
    refused(discloud.run("stat", "files/no"), "there is no files/no")


def test_map(discloud: CommandLine) -> None:
    lines = discloud.run("map", "files/z").stdout.splitlines()
    assert lines[0] == "files/z  1.5 KiB  stripe:2x2  version v-1"
    assert lines[1].split()[:6] == ["fragment", "0", "768", "B", "|-", "[#]"]
    assert lines[2].split() == ["`-", "[", "]", "node2", "eu/a", "missing"]
    assert lines[-1] == "2 of 4 copies present"
    assert json.loads(discloud.run("map", "--json", "files/z").stdout)["layout"] == "stripe:2x2"


def test_names_cannot_command_a_terminal(discloud: CommandLine, api: FakeApi) -> None:
    api.objects.clear()
    api.store("evil\x9b2J\u202e")
    terminal, end = os.openpty()
    with discloud.start("ls", "files", stdin=subprocess.DEVNULL, stdout=end) as process:
        os.close(end)
        shown = shown_on(terminal).decode()
        assert process.wait(30) == 0
    assert "evil\\x9b2J\\u202e" in shown
    assert "evil\x9b2J\u202e" in discloud.run("ls", "files").stdout


def test_a_file_of_this_machine_is_not_taken_for_an_object(discloud: CommandLine) -> None:
    Path("photo.jpg").write_text("x")
    refused(discloud.run("cp", "photo.jpg", "files/"), "is on this machine", "store it with put", code=2)
