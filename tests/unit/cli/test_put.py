"""``discloud put`` against the contract: names, streaming, refusals, repetition."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command_line import CommandLine, refused, shown_on
from tests.support.fake_api import FakeApi

BIG = 5 * 1024 * 1024 + 17


def tree(count: int) -> dict[str, bytes]:
    """Files below ./dir, by their relative names."""
    files = {f"{number % 7}/{number}.txt": f"file {number}".encode() for number in range(count)}
    for name, data in files.items():
        path = Path("dir", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def test_the_name_is_appended_to_a_folder(discloud: CommandLine, api: FakeApi) -> None:
    Path("a b.txt").write_text("hello")
    assert discloud.run("put", "a b.txt", "files/x/").exit_code == 0
    assert discloud.run("put", "a b.txt", "files").exit_code == 0
    assert api.objects["files", "x/a b.txt"].data == b"hello"
    assert api.objects["files", "a b.txt"].content_type == "text/plain"


def test_one_line_says_what_was_stored(discloud: CommandLine) -> None:
    Path("a.txt").write_text("hello")
    result = discloud.run("put", "a.txt", "files/b.txt")
    assert result.stderr == "a.txt -> files/b.txt (5 B, mirror:3)\n"
    assert result.stdout == ""
    assert discloud.run("put", "-q", "a.txt", "files/b.txt").output == ""


def test_json_is_the_servers_answer(discloud: CommandLine, api: FakeApi) -> None:
    Path("a.txt").write_text("hello")
    answer = json.loads(discloud.run("put", "--json", "-q", "a.txt", "files/").stdout)
    assert (answer["key"], answer["etag"]) == ("a.txt", api.objects["files", "a.txt"].etag)
    assert answer["source"] == "a.txt"


def test_the_layout_is_passed_on(discloud: CommandLine, api: FakeApi) -> None:
    Path("a").write_text("x")
    wish = (
        "--layout",
        "stripe:2x2",
        "--nodes",
        "self,n2",
        "--ack",
        "all",
        "--copies",
        "2",
        "--regions",
        "eu",
    )
    assert discloud.run("put", "a", "files/", *wish).exit_code == 0
    path, _, query = api.seen[0].partition("?")
    assert path == "PUT /v1/files/files/a"
    assert set(query.split("&")) == {
        "layout=stripe%3A2x2",
        "nodes=self%2Cn2",
        "ack=all",
        "copies=2",
        "regions=eu",
    }


@pytest.mark.parametrize(
    "key", ["a?b#c&d", "100%", "%41", "ü/é", "x/../y", "./z", "a//b", "tail ", "+", "folder/"]
)
def test_any_key_arrives_as_it_was_named(discloud: CommandLine, api: FakeApi, key: str) -> None:
    Path("a").write_bytes(b"bytes")
    assert discloud.run("put", "a", f"files/{key}").exit_code == 0
    named = f"{key}a" if key.endswith("/") else key
    assert api.objects["files", named].data == b"bytes"
    assert discloud.run("get", f"files/{named}", "back").exit_code == 0
    assert Path("back").read_bytes() == b"bytes"


def test_a_large_file_asks_first_and_is_streamed(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    Path("big.bin").write_bytes(data)
    assert discloud.run("put", "big.bin", "files/").exit_code == 0
    assert api.objects["files", "big.bin"].data == data
    assert api.headers[0]["Expect"] == "100-continue"
    assert api.headers[0]["Content-Length"] == str(BIG)


def test_an_empty_file(discloud: CommandLine, api: FakeApi) -> None:
    Path("empty").touch()
    assert discloud.run("put", "empty", "files/").exit_code == 0
    assert api.objects["files", "empty"].data == b""


def test_a_file_too_large_is_refused_before_it_is_sent(discloud: CommandLine, api: FakeApi) -> None:
    api.max_object = 1000
    Path("big.bin").write_bytes(bytes(BIG))
    refused(discloud.run("put", "big.bin", "files/"), "larger than 1000 bytes", "store less")
    assert api.most_writing == 0


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_standard_input_is_streamed(discloud: CommandLine, api: FakeApi, source: str) -> None:
    data = b"piped" * 300_000
    Path("in").write_bytes(data)
    if source == "pipe":
        process = discloud.start("put", "-", "files/dump", stdin=subprocess.PIPE)
        _, errors = process.communicate(data, timeout=30)
    else:
        with Path("in").open("rb") as stdin:
            process = discloud.start("put", "-", "files/dump", stdin=stdin.fileno())
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert api.objects["files", "dump"].data == data
    assert api.headers[0]["Transfer-Encoding"] == "chunked"


def test_ctrl_c_ends_a_put_that_waits_for_standard_input(discloud: CommandLine, api: FakeApi) -> None:
    with discloud.start("put", "-", "files/dump", stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(b"begun")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not api.received:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert ("files", "dump") not in api.objects


def test_ctrl_c_that_ends_the_writer_of_standard_input_too_stores_nothing(
    discloud: CommandLine, api: FakeApi
) -> None:
    with discloud.start("put", "-", "files/dump", stdin=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(b"begun")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not api.received:
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.stdin.close()  # the shell interrupts both at once, and the writer may be the faster one
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert ("files", "dump") not in api.objects


@pytest.mark.parametrize(("target", "prefix"), [("files/p", "p/"), ("files/p/", "p/dir/"), ("files", "")])
def test_a_folder_with_many_files(discloud: CommandLine, api: FakeApi, target: str, prefix: str) -> None:
    files = tree(200)
    api.meet = 6
    result = discloud.run("put", "-r", "-j", "6", "dir", target)
    assert result.exit_code == 0, result.stderr
    assert {key: stored.data for (_, key), stored in api.objects.items()} == {
        prefix + name: data for name, data in files.items()
    }
    assert api.most_writing == 6
    assert "stored 200 files" in result.stderr.splitlines()[-1]


def test_one_bad_file_does_not_stop_the_others(discloud: CommandLine, api: FakeApi) -> None:
    tree(3)
    Path("dir", "broken\nname").write_text("x")
    Path("dir", "nowhere").symlink_to("absent")
    os.mkfifo("dir/pipe")
    Path(os.fsdecode(b"dir/\xff")).write_text("x")
    result = discloud.run("put", "-r", "dir", "files/d")
    assert result.exit_code == 1
    assert len(api.objects) == 3
    assert sum(line.startswith("discloud: error: ") for line in result.stderr.splitlines()) == 4
    assert "stored 3 files" in result.stderr
    assert "4 failed" in result.stderr


def test_two_sources_of_one_name_do_not_replace_each_other(discloud: CommandLine, api: FakeApi) -> None:
    for folder in ("x", "y"):
        Path(folder).mkdir()
        Path(folder, "a").write_text(folder)
    result = discloud.run("put", "x/a", "y/a", "files/")
    assert result.exit_code == 1
    assert "cannot store y/a: x/a goes to files/a too" in result.stderr
    assert api.objects["files", "a"].data == b"x"


def test_an_existing_object_is_kept_on_wish(discloud: CommandLine, api: FakeApi) -> None:
    Path("a").write_text("new")
    api.store("a", b"old")
    refused_line = discloud.run("put", "--if-none-match", "a", "files/").stderr.splitlines()[0]
    assert refused_line == "discloud: error: a exists"
    assert api.objects["files", "a"].data == b"old"


@pytest.mark.parametrize("size", [10, BIG])
def test_an_answer_that_says_later_is_followed(discloud: CommandLine, api: FakeApi, size: int) -> None:
    api.busy = 2
    Path("a").write_bytes(b"y" * size)
    assert discloud.run("put", "a", "files/").exit_code == 0
    assert api.objects["files", "a"].data == b"y" * size
    api.busy = 3
    refused(discloud.run("put", "a", "files/"), "metadata is not reachable (request r-1)")


def test_what_was_stored_is_compared_with_what_was_read(discloud: CommandLine, api: FakeApi) -> None:
    api.lie = True
    Path("a").write_text("x")
    assert "what was stored is not what was read" in discloud.run("put", "a", "files/").stderr


def test_warnings_of_the_mesh_are_shown(discloud: CommandLine, api: FakeApi) -> None:
    api.warnings = ["only 2 of 3 copies"]
    Path("a").write_text("x")
    assert "discloud: warning: files/a: only 2 of 3 copies\n" in discloud.run("put", "a", "files/").stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("absent", "files/"), "there is no 'absent' here"),
        (("dir", "files/"), "add -r"),
        (("a", "a", "files/x"), "several sources need a folder"),
        (("-", "files/"), "standard input has no name"),
        (("a", "UPPER/x"), "not a bucket name"),
        (("a", "files/x", "--jobs", "0"), "--jobs"),
    ],
)
def test_a_wrong_command_line_is_refused(
    discloud: CommandLine, api: FakeApi, arguments: tuple[str, ...], word: str
) -> None:
    Path("dir").mkdir()
    Path("a").touch()
    refused(discloud.run("put", *arguments), word, 'see "discloud put --help"', code=2)
    assert not api.seen


def test_a_terminal_sees_a_bar(discloud: CommandLine, api: FakeApi) -> None:
    Path("big.bin").write_bytes(bytes(20 * 1024 * 1024))
    terminal, end = os.openpty()
    process = discloud.start("put", "big.bin", "files/", stdin=subprocess.DEVNULL, stderr=end)
    os.close(end)
    shown = shown_on(terminal)
    process.communicate(timeout=30)
    assert process.returncode == 0
    lines = shown.decode().split("\r")
    assert any("ETA" in line and "MiB/s" in line for line in lines)
    assert "big.bin -> files/big.bin (20.0 MiB, mirror:3)" in shown.decode()


@pytest.mark.parametrize("kind", ["a/b\r\nX: y", "a/\u00fc", "text", ""])
def test_a_media_type_that_is_none(discloud: CommandLine, api: FakeApi, kind: str) -> None:
    Path("a").write_text("x")
    refused(discloud.run("put", "a", "files/", "--content-type", kind), "is not a media type", code=2)
    assert not api.objects
