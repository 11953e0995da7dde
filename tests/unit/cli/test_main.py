"""What holds for every command: help with an example, one summary, a fast start, completion, the page of docs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from discloud import __version__
from discloud.cli.main import COMMANDS, cli, main
from discloud.cli.output import human, span
from discloud.cli.reference import render
from tests.support.command_line import CommandLine, refused


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example(discloud: CommandLine, name: str) -> None:
    shown = discloud.run(name, "--help").stdout
    assert "Example" in shown
    assert f"discloud {name}" in shown


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_says_what_the_command_says(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name
    assert command.get_short_help_str(200).rstrip(".") == COMMANDS[name].summary.rstrip(".")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from discloud.cli.main import main; sys.argv = ['discloud', '--help']\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'aiohttp', 'asyncio', 'uvloop', 'blake3', 'yarl'} & sys.modules.keys()))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, timeout=60, text=True
    )
    assert "Files:" in shown.stdout
    assert shown.stdout.splitlines()[-1] == "[]"


def test_version(discloud: CommandLine) -> None:
    assert discloud.run("--version").stdout == f"discloud {__version__}\n"


def test_a_wrong_command(discloud: CommandLine) -> None:
    refused(
        discloud.run("stats"),
        "there is no command 'stats'; did you mean 'stat",
        'see "discloud --help"',
        code=2,
    )
    refused(discloud.run("ls", "--wrong"), "--wrong", 'see "discloud ls --help"', code=2)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(discloud: CommandLine, shell: str) -> None:
    assert "_DISCLOUD_COMPLETE" in discloud.run("completion", shell).stdout
    asked = {"_DISCLOUD_COMPLETE": f"{shell}_complete", "COMP_WORDS": "discloud st"}
    asked["COMP_CWORD"] = "st" if shell == "fish" else "1"  # fish says the word, the others its number
    assert "status" in discloud.run(env=asked).stdout


def test_the_page_of_docs_is_current() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text(encoding="utf-8") == render(), "run: python -m discloud.cli.reference > docs/cli.md"


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KiB"),
        (1024, "1.0 KiB"),
        (102_348, "99.9 KiB"),
        (10**6, "977 KiB"),
    ],
)
def test_sizes(size: int, text: str) -> None:
    assert human(size) == text


def test_durations() -> None:
    assert [span(seconds) for seconds in (0.4, 59.4, 59.6, 125, 3723)] == [
        "0 s",
        "59 s",
        "1:00",
        "2:05",
        "1:02:03",
    ]


def test_windows_is_told_where_to_go(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1
    assert "WSL" in capsys.readouterr().err
