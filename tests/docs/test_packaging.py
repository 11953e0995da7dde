"""What is installed and run is what is written down: locks, Makefile, image, CI."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from discloud.config import settings

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DEPENDENCIES = PROJECT["project"]["dependencies"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
LOCKS = {
    "requirements.txt": DEPENDENCIES,
    "requirements-build.txt": PROJECT["dependency-groups"]["build"],
    "requirements-dev.txt": [*DEPENDENCIES, *EXTRAS["test"], *EXTRAS["dev"]],
}


def locked(name: str) -> dict[str, str]:
    """Every locked package with its version."""
    lines = (ROOT / "deploy" / name).read_text().splitlines()
    return dict(line.split(" ")[0].split("==") for line in lines if line and line[0] not in "# ")


@pytest.mark.parametrize("name", LOCKS)
def test_locks_hold_what_the_project_pins(name: str) -> None:
    pinned = dict(
        re.sub(r"\[\w+\]", "", each).split("==") for each in LOCKS[name] if not each.startswith("discloud[")
    )
    found = locked(name)
    assert {each: found.get(each) for each in pinned} == pinned


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_package_has_hashes_and_no_index(name: str) -> None:
    text = (ROOT / "deploy" / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    for package in re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)):
        assert "--hash=sha256:" in package, package


@pytest.mark.parametrize("name", LOCKS)
def test_locks_agree_with_each_other(name: str) -> None:
    everything = locked("requirements-dev.txt")
    assert {each: everything.get(each) for each in locked(name)} == locked(name)


def test_what_a_build_needs_is_what_the_build_system_asks_for() -> None:
    assert set(PROJECT["build-system"]["requires"]) <= set(PROJECT["dependency-groups"]["build"])
    assert set(PROJECT["dependency-groups"]["build"]) <= set(EXTRAS["dev"])


def test_the_makefile_is_thin_and_has_its_targets() -> None:
    text = (ROOT / "Makefile").read_text()
    assert len(text.splitlines()) <= 48
    for target in ("run", "test", "check", "integration-test", "cluster", "bench"):
        assert re.search(rf"^{target}:", text, re.MULTILINE)
    assert "npm" not in text


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, rest), continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in text.splitlines() if line.strip()
    ]


def last_stage() -> dict[str, str]:
    stage: dict[str, str] = {}
    for instruction, rest in instructions():
        stage = {} if instruction == "FROM" else stage
        stage[instruction] = rest
    return stage


def test_the_image_is_multi_stage_and_of_wheels_only() -> None:
    froms = [rest for instruction, rest in instructions() if instruction == "FROM"]
    images = {each.split()[0] for each in froms}
    assert len(froms) == 2
    assert len(images) == 1, "what was installed for one Python runs on another"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", images.pop()), "pin the base by a full tag"
    installs = re.findall(
        r"pip install [^&]*", " ".join(rest for step, rest in instructions() if step == "RUN")
    )
    for each in installs:
        assert "--no-index" in each or ("--require-hashes" in each and "--only-binary :all:" in each), each


def test_the_image_runs_as_nobody_special_with_a_volume() -> None:
    stage = last_stage()
    assert stage["USER"].split(":")[0] == "10001"
    assert stage["VOLUME"] == "/data"
    assert json.loads(stage["ENTRYPOINT"]) == ["discloud"]
    assert json.loads(stage["CMD"]) == ["node"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert stage["EXPOSE"].split() == ["7070", "7071", "7072"]
    assert {"title", "description", "licenses"} <= set(
        re.findall(r"org\.opencontainers\.image\.(\w+)=", stage["LABEL"])
    )


def test_the_image_passes_settings_that_exist() -> None:
    known = {each.variable for each in settings().values()} | {"DISCLOUD_HOME", "PATH"}
    given = dict(word.split("=", 1) for word in last_stage()["ENV"].split())
    assert set(given) <= known
    assert given["DISCLOUD_DATA"] == last_stage()["VOLUME"]


def test_the_health_check_is_the_program_s_own() -> None:
    options, command = last_stage()["HEALTHCHECK"].split("CMD", 1)
    assert re.fullmatch(r"(--(interval|timeout|start-period)=\d+s\s+|--retries=\d+\s+)+", options)
    python, script = json.loads(command)
    assert python == "python"
    copied = dict(
        rest.split() for step, rest in instructions() if step == "COPY" and rest.startswith("deploy/health")
    )
    assert script in [f"{folder}{Path(source).name}" for source, folder in copied.items()]
    allowed = re.search(r"--timeout=(\d+)s", options)
    assert allowed
    patience = re.search(r"^PATIENCE = ([\d.]+)$", (ROOT / "deploy/healthcheck.py").read_text(), re.MULTILINE)
    assert patience
    assert float(patience[1]) < int(allowed[1])


def test_the_image_copies_what_exists() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for instruction, rest in instructions():
        if instruction == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                kept = (line.removeprefix("!").rstrip("/") for line in ignored if line.startswith("!"))
                assert any(Path(source).match(each) for each in kept), f"{source} is not in the build context"


@pytest.mark.parametrize("script", [".ci/run", "deploy/lock", "deploy/make-secrets", "deploy/make-venv"])
def test_scripts_can_be_read_and_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    shell = path.read_text().splitlines()[0].rpartition("/")[2].split()[-1]
    assert subprocess.run([shell, "-n", str(path)], check=False, capture_output=True).stderr == b""


def test_a_missing_python_is_told_in_one_line(tmp_path: Path) -> None:
    told = subprocess.run(
        ["/bin/sh", str(ROOT / "deploy" / "make-venv"), str(tmp_path / "venv")],
        env={"PATH": str(tmp_path)}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
    assert "3.11" in told.stderr
