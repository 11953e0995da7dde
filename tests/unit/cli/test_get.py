"""``discloud get`` and ``cat`` against the contract: resume, verification, and names that would do harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud.cli.landing import PartFile, part_names
from discloud.cli.tree import Tree
from discloud.errors import Invalid
from tests.support.command_line import CommandLine, refused
from tests.support.fake_api import FakeApi

BIG = 8 * 1024 * 1024 + 5


def left_behind(path: Path, data: bytes, etag: str, size: int) -> None:
    """What a get of another time left."""
    part, note = part_names(path)
    part.write_bytes(data)
    note.write_text(json.dumps({"etag": etag, "size": size}))


def here(folder: str = ".") -> list[str]:
    return sorted(each.name for each in Path(folder).iterdir())


def test_into_this_folder_a_folder_or_a_name(discloud: CommandLine, api: FakeApi) -> None:
    api.store("x/a.txt", b"hello")
    Path("sub").mkdir()
    for target in ((), ("sub",), ("other",)):
        assert discloud.run("get", "files/x/a.txt", *target).exit_code == 0
    assert [Path(name).read_bytes() for name in ("a.txt", "sub/a.txt", "other")] == [b"hello"] * 3
    assert here() == ["a.txt", "other", "sub"]


def test_one_line_says_what_was_fetched(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a.txt", b"hello")
    assert discloud.run("get", "files/a.txt").stderr == "files/a.txt -> a.txt (5 B)\n"
    assert discloud.run("get", "-q", "files/a.txt").output == ""


def test_json_tells_what_happened(discloud: CommandLine, api: FakeApi) -> None:
    stored = api.store("a", b"hello")
    assert json.loads(discloud.run("get", "--json", "files/a").stdout) == {
        "bucket": "files",
        "key": "a",
        "path": "a",
        "size": 5,
        "etag": f'"{stored.etag}"',
        "resumed": 0,
        "verified": True,
    }


def test_to_standard_output(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    api.store("a", data)
    api.store("b", b"end")
    result = discloud.run("get", "files/a", "-")
    assert (result.stdout_bytes, result.stderr) == (data, "")
    assert discloud.run("cat", "files/a", "files/b").stdout_bytes == data + b"end"


def test_a_reader_that_leaves_early_is_no_failure_to_talk_about(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a", bytes(BIG))
    with discloud.start("cat", "files/a", stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


def test_a_cut_is_resumed_where_it_happened(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    api.store("a", data)
    api.cuts = [3_000_000, 0, 3_000_000, 7]
    assert discloud.run("get", "files/a").exit_code == 0
    assert Path("a").read_bytes() == data
    ranges = [headers.get("Range") for headers in api.headers]
    assert ranges[0] is None
    assert len(ranges) == 5
    assert all(later and later > "bytes=0-" for later in ranges[1:])
    assert discloud.run("cat", "files/a").stdout_bytes == data


def test_ctrl_c_leaves_what_came_for_the_next_get(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    api.store("a", data)
    api.cuts, api.stall = [3_000_000], True
    with discloud.start("get", "files/a", stdin=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (Path("a.part").exists() and Path("a.part").stat().st_size == 3_000_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert discloud.run("get", "files/a").exit_code == 0
    assert Path("a").read_bytes() == data
    assert api.headers[-1]["Range"] == "bytes=3000000-"


def test_another_node_goes_on_after_a_cut(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    api.store("a", data)
    api.cuts = [3_000_000]
    with FakeApi().serving() as other:
        other.store("a", data)
        discloud.profile(url=api.url, nodes=[other.url], token=api.token)
        assert discloud.run("get", "files/a").exit_code == 0
        assert Path("a").read_bytes() == data
        assert len(api.headers) == 1
        assert "Range" in other.headers[0]
        api.busy = 1
        assert discloud.run("cat", "files/a").stdout_bytes == data


def test_cuts_without_progress_give_up_and_the_next_get_goes_on(discloud: CommandLine, api: FakeApi) -> None:
    data = os.urandom(BIG)
    stored = api.store("a", data)
    api.cuts = [3_000_000, 0, 0, 0, 0]
    refused(discloud.run("get", "files/a"), "was lost", "try again")
    have = Path("a.part").stat().st_size
    assert 0 < have <= 3_000_000
    api.cuts, api.headers = [], []
    result = discloud.run("get", "files/a")
    assert result.exit_code == 0
    assert "were there" in result.stderr
    assert Path("a").read_bytes() == data
    (headers,) = api.headers
    assert headers["Range"] == f"bytes={have}-"
    assert headers["If-Match"] == f'"{stored.etag}"'
    assert here() == ["a"]


@pytest.mark.parametrize("have", [0, 1, 10, 11, 12])
def test_any_rest_is_resumed(discloud: CommandLine, api: FakeApi, have: int) -> None:
    stored = api.store("a", b"hello world")
    left_behind(Path("a"), b"hello world!"[:have], f'"{stored.etag}"', 11)
    assert discloud.run("get", "files/a").exit_code == 0
    assert Path("a").read_bytes() == b"hello world"


def test_another_version_is_fetched_from_its_beginning(discloud: CommandLine, api: FakeApi) -> None:
    left_behind(Path("a"), b"old by", '"old"', 11)
    api.store("a", b"hello world")
    result = discloud.run("get", "--json", "files/a")
    assert json.loads(result.stdout)["resumed"] == 0
    assert Path("a").read_bytes() == b"hello world"


@pytest.mark.parametrize("note", ["", "{", "[]", '{"etag": 1}', '{"etag": "", "size": 4}'])
def test_a_broken_note_means_from_the_beginning(discloud: CommandLine, api: FakeApi, note: str) -> None:
    Path("a.part").write_bytes(b"wrong")
    Path("a.part.json").write_text(note)
    api.store("a", b"hello world")
    assert discloud.run("get", "files/a").exit_code == 0
    assert Path("a").read_bytes() == b"hello world"


def test_wrong_bytes_get_no_name(discloud: CommandLine, api: FakeApi) -> None:
    stored = api.store("a", b"hello world")
    left_behind(Path("a"), b"HELLO", f'"{stored.etag}"', 11)
    refused(discloud.run("get", "files/a"), "do not have the object's digest")
    assert here() == []
    api.lie = True
    assert discloud.run("cat", "files/a").exit_code == 1


def test_two_gets_of_one_file_do_not_mix(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a", b"hello")
    with PartFile(Path("a")) as other:
        other.begin('"x"', 5)
        refused(discloud.run("get", "files/a"), "another get is writing")


def test_max_size(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a", bytes(2000))
    refused(discloud.run("get", "files/a", "--max-size", "1 KiB"), "2000 bytes")
    assert discloud.run("get", "files/a", "--max-size", "2kB").exit_code == 0
    refused(discloud.run("get", "files/a", "--max-size", "much"), "is not a size", code=2)


def test_a_tree(discloud: CommandLine, api: FakeApi) -> None:
    api.page = 50
    names = {f"{number % 5}/{number}": os.urandom(100) for number in range(120)}
    for name, data in names.items():
        api.store(f"photos/{name}", data)
    api.store("photoshop", b"not below photos/")
    api.store("photos/", b"")
    api.store("photos/empty/", b"")
    for target in (("out",), ()):
        result = discloud.run("get", "-r", "files/photos", *target)
        assert result.exit_code == 0, result.stderr
        out = Path(*(target or ("photos",)))
        assert {
            str(each.relative_to(out)): each.read_bytes() for each in out.rglob("*") if each.is_file()
        } == names
        assert (out / "empty").is_dir()
        assert "got 120 files" in result.stderr.splitlines()[-1]


HOSTILE = [
    "../evil",
    "a/../../evil",
    "/etc/evil",
    "a//b",
    "./evil",
    "x/",
    "Readme",
    "clash/inner",
    "link/evil",
    "p.part",
]


def test_names_that_would_do_harm_are_refused_one_by_one(discloud: CommandLine, api: FakeApi) -> None:
    for key in (*HOSTILE, "README", "clash", "good/one", "p"):
        api.store(key)
    Path("out").mkdir()
    Path("outside").mkdir()
    Path("out/link").symlink_to("../outside")
    result = discloud.run("get", "-r", "-j", "1", "files", "out")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("discloud: error: ")]
    assert len(errors) == len(HOSTILE), result.stderr
    assert sorted(str(each) for each in Path("out").rglob("*") if each.is_file()) == [
        "out/README",
        "out/clash",
        "out/good/one",
        "out/p",
    ]
    assert here("outside") == []
    assert here() == ["out", "outside"]
    assert f"{len(HOSTILE)} failed" in result.stderr


@given(st.lists(st.text(st.sampled_from("aA./\\\0é"), min_size=1, max_size=8), max_size=8))
def test_a_tree_hands_out_only_places_of_its_own(keys: list[str]) -> None:
    tree = Tree(Path("/srv/folder"))
    taken: set[str] = set()
    for key in keys:
        try:
            path = tree.claim(key)
        except Invalid:
            continue
        assert os.path.normpath(path) == str(path)
        assert str(path).startswith("/srv/folder/")
        assert str(path).casefold() not in taken
        taken.add(str(path).casefold())


def test_a_hostile_name_of_a_single_object_stays_here(discloud: CommandLine, api: FakeApi) -> None:
    api.store("x/..")
    refused(discloud.run("get", "files/x/.."), "is not followed")
    refused(discloud.run("get", "files/x/..", "./"), "is not followed")
    assert discloud.run("get", "files/x/..", "name").exit_code == 0


def test_a_link_in_the_place_of_a_part_is_not_followed(discloud: CommandLine, api: FakeApi) -> None:
    api.store("a", b"evil")
    Path("victim").write_text("mine")
    Path("a.part").symlink_to("victim")
    refused(discloud.run("get", "files/a"), "cannot write a.part")
    assert Path("victim").read_text() == "mine"


def test_what_is_not_there(discloud: CommandLine, api: FakeApi) -> None:
    refused(discloud.run("get", "files/no"), "no object no")
    refused(
        discloud.run("get", "nobucket/no"), "there is no bucket nobucket", "make it: discloud mb nobucket"
    )
    refused(discloud.run("get", "-r", "files/no"), "below 'no'")
    refused(discloud.run("get", "files/no/"), "add -r", code=2)
    assert here() == []
    api.store("a")
    refused(discloud.run("get", "files/a", "no/such/file"), "no folder no/such here", "make it first")
    Path("file").write_text("mine")
    refused(discloud.run("get", "-r", "files/a", "file"), "'file' is not a folder", code=2)
    assert Path("file").read_text() == "mine"
