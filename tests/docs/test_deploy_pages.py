"""What docs/deploy/ tells a person to do can be done: commands, settings, files and services are those of the program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from discloud.cli.main import COMMANDS
from discloud.config import settings
from tests.docs.test_deploy import command, services
from tests.docs.test_pages import commands
from tests.support.cluster import USES

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "deploy").glob("*.md"))


def told(path: Path) -> str:
    return path.name


def test_there_is_a_page_for_each_use() -> None:
    assert {page.stem for page in PAGES} == {"index", *USES}


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_a_page_has_a_diagram_and_says_what_survives_what(page: Path) -> None:
    text = page.read_text()
    assert "```mermaid" in text
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    if page.stem in USES:
        assert {"Sizing", "What survives what", "From a laptop"} <= set(headings)
        assert USES[page.stem].sentence in text


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_a_page_names_what_exists(page: Path) -> None:
    text = page.read_text()
    known = {each.variable for each in settings().values()} | {
        "DISCLOUD_URL",
        "DISCLOUD_TOKEN",
        "DISCLOUD_BIND",
    }
    assert set(re.findall(r"\bDISCLOUD_[A-Z_]+\b", text)) <= known
    for name in re.findall(r"(?:^|[\s`(])((?:deploy|docs|tests|benchmarks)/[\w./@-]*\w)", text):
        assert (ROOT / name).exists() or name.startswith("deploy/secrets"), name
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE)) <= targets
    assert set(re.findall(r"USE=([a-z-]+)", text)) <= set(USES)


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_the_commands_of_a_page_can_be_parsed(page: Path) -> None:
    for words in commands(page):
        assert words[0] in COMMANDS, words
        found = command(words[0])
        found.make_context(words[0], words[1:])  # raises where an option or an argument is wrong


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_the_settings_that_a_page_names_exist(page: Path) -> None:
    sections = "|".join({name.partition(".")[0] for name in settings() if "." in name})
    named = set(re.findall(rf"`((?:{sections})\.[a-z_]+)`", page.read_text()))
    assert named <= set(settings())


@pytest.mark.parametrize("page", PAGES, ids=told)
def test_a_page_shows_services_of_its_compose_file(page: Path) -> None:
    if page.stem in USES:
        for name in services(page.stem, "discloud"):
            assert name in page.read_text(), name


def test_the_cluster_runner_is_what_make_cluster_starts() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "python -m tests.support.cluster $(USE)" in text
    for use in USES:
        assert (ROOT / "tests" / "cluster" / f"test_use_{use.replace('-', '_')}.py").exists()
        ran = subprocess.run(
            ["make", "-n", "integration-test", f"USE={use}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"test_use_{use.replace('-', '_')}.py" in ran.stdout
