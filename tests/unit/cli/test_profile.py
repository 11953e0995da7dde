"""Which mesh a command talks to, as whom, and what it says when nobody answers."""

from __future__ import annotations

import socket
from pathlib import Path
from threading import Thread

import pytest

from discloud.cli.profile import Profile, load_profile
from discloud.errors import Invalid
from tests.support.command_line import CommandLine, refused
from tests.support.fake_api import FakeApi


@pytest.fixture
def closed() -> str:
    """An address where nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_no_mesh_is_known(discloud: CommandLine) -> None:
    (discloud.home / "profile.toml").unlink()
    refused(discloud.run("ls"), "no mesh is known here", 'start a mesh with "discloud up"', code=2)


def test_nobody_answers(discloud: CommandLine, closed: str) -> None:
    discloud.profile(url=f"http://{closed}", token="t")
    for command in (("ls",), ("get", "files/a"), ("rm", "-r", "files"), ("status",)):
        refused(
            discloud.run(*command), f"no node answers at http://{closed}", "is the mesh up?", "discloud up"
        )
    for name in "abc":
        Path(name).touch()
    refused(discloud.run("put", "a", "b", "c", "files"), "is the mesh up?")


def test_another_program_answers(discloud: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"discloud\0peer")

        other = Thread(target=answer)
        other.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        refused(discloud.run("ls", "--url", url, "--token", "t"), "does not answer like a node", "port 7070")
        other.join()


def test_the_next_node_is_tried(discloud: CommandLine, api: FakeApi, closed: str) -> None:
    discloud.profile(url=f"http://{closed}", nodes=[closed, api.url.removeprefix("http://")], token=api.token)
    Path("a").write_text("hello")
    assert discloud.run("put", "a", "files/").exit_code == 0
    assert discloud.run("cat", "files/a").stdout == "hello"


def test_a_wrong_token(discloud: CommandLine, api: FakeApi) -> None:
    Path("a").touch()
    Path("b").touch()
    for command in (("ls", "files"), ("put", "a", "b", "files"), ("cat", "files/a")):
        refused(discloud.run(*command, "--token", "wrong"), "no valid token", "DISCLOUD_TOKEN")


def test_where_url_and_token_come_from(discloud: CommandLine, api: FakeApi, closed: str) -> None:
    Path("token").write_text(f"{api.token}\n")
    elsewhere = {"DISCLOUD_URL": f"http://{closed}", "DISCLOUD_TOKEN": "wrong"}
    assert discloud.run("ls", "--url", api.url, "--token", api.token, env=elsewhere).exit_code == 0
    discloud.profile(url=f"http://{closed}", token="wrong")
    given = {"DISCLOUD_URL": api.url, "DISCLOUD_TOKEN_FILE": "token"}
    assert discloud.run("ls", env=given).exit_code == 0
    assert discloud.run("ls", env={**given, "DISCLOUD_TOKEN": "wrong"}).exit_code == 1
    refused(
        discloud.run("ls", env={**given, "DISCLOUD_TOKEN_FILE": "no"}),
        "cannot read DISCLOUD_TOKEN_FILE",
        code=2,
    )


def test_the_profiles_token_goes_to_its_own_nodes_only(tmp_path: Path) -> None:
    (tmp_path / "profile.toml").write_text(
        'url = "http://a:1"\ntoken = "t"\nnodes = ["a:1", "b:2"]\n[s3]\nx = 1\n'
    )
    environ = {"DISCLOUD_HOME": str(tmp_path)}
    assert load_profile(environ) == Profile(("http://a:1", "http://b:2"), "t")
    assert load_profile(environ, "http://b:2/") == Profile(("http://b:2",), "t")
    assert load_profile(environ, "http://evil:2") == Profile(("http://evil:2",), "")
    assert load_profile(environ, "https://b:2") == Profile(("https://b:2",), "")


@pytest.mark.parametrize(
    "text",
    [
        "url = ",
        "url = 1",
        'nodes = "a"',
        'nodes = ["a:b"]',
        'url = "ftp://a"',
        'url = "http://"',
        'url = "http://a/path"',
        'url = "http://u:p@a"',
        'url = "http://a"\ntoken = "two words"',
    ],
)
def test_a_broken_profile(tmp_path: Path, text: str) -> None:
    (tmp_path / "profile.toml").write_text(text)
    with pytest.raises(Invalid) as caught:
        load_profile({"DISCLOUD_HOME": str(tmp_path)})
    assert caught.value.hint


def test_somebody_else_answers(discloud: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = discloud.start("status", "--url", url, stdin=-3)
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            _, errors = process.communicate(timeout=30)
    assert b"does not answer like a node of discloud" in errors
    assert process.returncode == 1
