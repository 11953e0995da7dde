"""The pages say what the program does: settings, commands, words, decisions, links."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from discloud.cli.main import cli
from discloud.config_text import render_reference
from discloud.core import model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))


def told(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_configuration_page_is_the_program_s() -> None:
    written = (ROOT / "docs" / "configuration.md").read_text()
    assert written == render_reference(), "discloud config --reference > docs/configuration.md"


def commands(page: Path) -> list[list[str]]:
    """Every line of a page's code blocks that runs discloud, as words."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line.split(" # ")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("discloud ")]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "quickstart.md"], ids=told)
def test_commands_of_the_pages_can_be_parsed(page: Path) -> None:
    assert commands(page)
    for words in commands(page):
        # as the program makes it: a command keeps the --help of the context that it was first used in
        context = click.Context(cli, info_name="discloud", **cli.context_settings)
        name, command, rest = cli.resolve_command(context, words)
        assert command is not None, words
        # raises where an option or an argument is wrong
        command.make_context(name, list(rest), parent=context)


def test_the_readme_names_targets_that_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = (ROOT / "README.md").read_text() + (ROOT / "docs" / "contributing.md").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", pages, re.MULTILINE))
    assert {"run", "test", "check", "integration-test", "bench"} <= named <= targets


def test_the_api_of_the_readme_has_ten_lines() -> None:
    block = (ROOT / "README.md").read_text().split("```")[1]
    assert len(block.strip().splitlines()) == 10


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8")):
        if "://" not in link:
            assert (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_pages_name_no_path_of_a_machine(page: Path) -> None:
    assert not re.search(r"/(root|work|tmp|home/\w+)/", page.read_text("utf-8"))


def test_the_glossary_has_the_words_of_the_model() -> None:
    words = re.findall(r"^\| \*\*(\w+)\*\* \|", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(words)
    assert len(words) == len(set(words))
    for name in ("Layout", "Segment", "Version", "Bucket", "Node", "View", "Seal"):
        assert hasattr(model, name)
        assert name.lower() in words


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("path", DECISIONS, ids=told)
def test_a_decision_has_its_four_parts(path: Path) -> None:
    text = path.read_text("utf-8")
    assert text.startswith(f"# {int(path.name[:4])}. ")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Context",
        "Decision",
        "Alternatives",
        "Consequences",
    ]


def test_the_changelog_is_kept() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## \[(.*?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_nothing_generated_is_under_version_control() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    assert not [
        name for name in listed.stdout.splitlines() if name.endswith((".pyc", ".egg-info")) or ".venv" in name
    ]
