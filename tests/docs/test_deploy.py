"""What deploy/ tells a machine to run fits the program, the image and the meshes that the tests run."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from discloud.cli.main import COMMANDS
from discloud.config import Config, load, settings
from discloud.core.model import Role
from tests.docs.test_packaging import last_stage
from tests.support.cluster import USES
from tests.support.engine import CASSANDRA_IMAGE, REDIS_IMAGE
from tests.support.processes import local_mesh

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = ("discloud.service", "discloud@.service")
HARDENED = {
    "NoNewPrivileges": "yes",
    "ProtectSystem": "strict",
    "ProtectHome": "yes",
    "PrivateTmp": "yes",
    "PrivateDevices": "yes",
    "CapabilityBoundingSet": "",
    "RestrictNamespaces": "yes",
    "MemoryDenyWriteExecute": "yes",
    "UMask": "0077",
}
PATIENT = {"retries": int, "interval": str, "timeout": str}

Service = dict[str, Any]


def compose(use: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / f"compose.{use}.yaml").read_text())
    return found


def services(use: str, image: str = "") -> dict[str, Service]:
    """The services of a use, or those of one image."""
    found: dict[str, Service] = compose(use)["services"]
    return {name: each for name, each in found.items() if each["image"].split(":")[0].startswith(image)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Secrets as the script makes them."""
    folder = tmp_path_factory.mktemp("made") / "secrets"
    subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
    return folder


def configured(service: Service, made: Path) -> Config:
    """The settings of a node in its container: what the image says, then the service; a secret is one that was made."""
    of_image = dict(word.split("=", 1) for word in last_stage()["ENV"].split())
    environ = {name: value for name, value in of_image.items() if name != "PATH"} | service["environment"]
    for name, value in environ.items():
        assert isinstance(value, str), f"{name} is {value!r}: quote it"
        if value.startswith("/run/secrets/"):
            assert Path(value).name in service["secrets"], f"{value} is not given to the service"
            environ[name] = str(made / Path(value).name)
    return load(None, environ, {})


# ---------------------------------------------------------------- compose


@pytest.mark.parametrize("use", USES)
def test_a_compose_file_refers_only_to_what_it_has(use: str) -> None:
    whole = compose(use)
    for name, each in whole["services"].items():
        assert set(each["networks"]) <= set(whole["networks"])
        assert set(each.get("secrets", [])) <= set(whole["secrets"])
        volumes = [volume.split(":")[0] for volume in each.get("volumes", [])]
        assert set(volumes) <= set(whole["volumes"])
        assert each["hostname"] == name if "volumes" in each else name == "redis"
    used = [volume.split(":")[0] for each in whole["services"].values() for volume in each.get("volumes", [])]
    assert sorted(used) == sorted(whole["volumes"]), "every disk belongs to one service"
    given = {secret for each in whole["services"].values() for secret in each.get("secrets", [])}
    assert given == set(whole["secrets"])


@pytest.mark.parametrize("use", USES)
def test_nothing_runs_with_more_rights_than_it_needs(use: str) -> None:
    forbidden = {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "userns_mode"}
    for name, each in services(use).items():
        assert not forbidden & set(each), name
        assert each["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in each["security_opt"]
        assert each["restart"] == "unless-stopped"
        assert {"cpus", "memory", "pids"} <= set(each["deploy"]["resources"]["limits"])
        assert not any(volume.startswith(("/", ".")) for volume in each.get("volumes", []))
        assert each.get("user", last_stage()["USER"]).split(":")[0] not in {"0", "root"}


@pytest.mark.parametrize("use", USES)
def test_a_service_waits_for_what_can_say_that_it_is_healthy(use: str) -> None:
    found = services(use)
    for name, each in found.items():
        for needed, wish in each.get("depends_on", {}).items():
            assert wish == {"condition": "service_healthy"}
            checked = found[needed].get("healthcheck") or last_stage().get("HEALTHCHECK")
            assert checked, f"{name} waits for {needed}, which has no health check"
            if isinstance(checked, dict):
                assert {key: type(checked[key]) for key in PATIENT} == PATIENT
    waits = {name: set(each.get("depends_on", {})) for name, each in found.items()}
    while waits:
        free = {name for name, needed in waits.items() if not needed & set(waits)}
        assert free, f"they wait for one another: {sorted(waits)}"
        waits = {name: needed for name, needed in waits.items() if name not in free}


@pytest.mark.parametrize("use", USES)
def test_the_files_of_secrets_are_those_that_the_script_makes(use: str, made: Path) -> None:
    for name, each in compose(use)["secrets"].items():
        assert each == {"file": f"secrets/{name}"}
        assert (made / name).read_text().strip()


@pytest.mark.parametrize("use", USES)
def test_every_node_is_configured_as_the_program_wants_it(use: str, made: Path) -> None:
    nodes = services(use, "discloud")
    configs = {name: configured(each, made) for name, each in nodes.items()}
    roots = {name for name, config in configs.items() if config.node.role is Role.ROOT}
    for name, config in configs.items():
        node, service = config.node, nodes[name]
        assert (node.name, node.advertise, node.listen) == (name, name, "0.0.0.0")
        assert service["volumes"] == [f"{name}:{node.data}"]
        assert node.secret
        assert {each.split(":")[0] for each in node.roots} == roots
        assert {each.split(":")[1] for each in node.roots} == {str(node.peers_at)}
        assert [each.split(":")[-1] for each in service["ports"]] == [str(node.port)]
        assert {str(node.port), str(node.peers_at)} <= set(last_stage()["EXPOSE"].split())
        assert (config.cassandra.hosts != ()) == bool(config.redis.url) == (name in roots)
        assert (name in roots) == bool(node.token)
    published = [each for service in nodes.values() for each in service["ports"]]
    assert len({each.rsplit(":", 1)[0] for each in published}) == len(nodes)
    assert all(each.startswith("${DISCLOUD_BIND:-127.0.0.1}:") for each in published)


@pytest.mark.parametrize("use", USES)
def test_variables_of_a_node_are_settings(use: str) -> None:
    known = {each.variable for each in settings().values()}
    for each in services(use, "discloud").values():
        assert set(each["environment"]) <= known
        assert "command" not in each, "the health check knows variables, not flags"


@pytest.mark.parametrize("use", USES)
def test_roots_meet_the_servers_of_the_file(use: str, made: Path) -> None:
    cassandras, redis = services(use, "cassandra"), services(use, "redis")
    centres: dict[str, int] = {}
    for each in cassandras.values():
        centre = each["environment"]["CASSANDRA_DC"]
        centres[centre] = centres.get(centre, 0) + 1
    for service in services(use, "discloud").values():
        config = configured(service, made)
        if config.node.role is Role.ROOT:
            assert sorted(config.cassandra.hosts) == sorted(f"{name}:9042" for name in cassandras)
            assert config.cassandra.datacenter in centres
            wished = dict(each.split(":") for each in config.cassandra.replication.split(","))
            assert wished == {centre: str(count) for centre, count in centres.items()}
            assert re.fullmatch(rf"redis://:\w+@{next(iter(redis))}:6379/0", config.redis.url)
            assert {"mesh", "metadata"} == set(service["networks"])
    assert compose(use)["networks"]["metadata"] == {"internal": True}
    for each in [*cassandras.values(), *redis.values()]:
        assert each["networks"] == ["metadata"]
        assert "ports" not in each


@pytest.mark.parametrize("use", USES)
def test_cassandra_is_the_tested_one_and_syncs_before_it_answers(use: str) -> None:
    tested = re.search(
        r"<version>(5[\d.]+)</version>", (ROOT / "tests/support/cassandra/pom.xml").read_text()
    )
    assert tested
    config = yaml.safe_load(
        (ROOT / "tests/support/cassandra/cassandra.yaml").read_text().replace("{", "").replace("}", "")
    )
    names = services(use, "cassandra")
    for name, each in names.items():
        assert each["image"] == CASSANDRA_IMAGE
        environ = each["environment"]
        assert environ["CASSANDRA_SEEDS"] in names
        given = dict(re.findall(r"-Dcassandra\.settings\.(\w+)=(\S+)", environ["JVM_EXTRA_OPTS"]))
        assert "-Dcassandra.config.allow_system_properties=true" in environ["JVM_EXTRA_OPTS"]
        assert given.pop("commitlog_sync_period") == "0ms"  # the image's own, which group refuses
        assert given == {key: config[key] for key in given}
        assert {"commitlog_sync", "commitlog_sync_group_window", "paxos_variant"} == set(given)
        others = [needed for needed in each.get("depends_on", {}) if needed in names]
        assert len(others) == (name != environ["CASSANDRA_SEEDS"]), "nodes join one after the other"


@pytest.mark.parametrize("use", USES)
def test_redis_is_the_tested_one_and_keeps_nothing(use: str) -> None:
    (redis,) = services(use, "redis").values()
    assert redis["image"] == REDIS_IMAGE
    assert Path(redis["command"][1]).name in redis["secrets"]
    assert "volumes" not in redis


@pytest.mark.parametrize("use", USES)
def test_the_shape_is_the_one_that_make_cluster_runs(use: str, made: Path) -> None:
    tried = USES[use]
    configs = [configured(each, made) for each in services(use, "discloud").values()]
    shape = {(each.node.name, each.node.role.value, each.node.region, each.node.zone) for each in configs}
    assert shape == {(place.name, place.role, place.region, place.zone) for place in tried.places}
    assert {each.layout for each in configs} == {tried.layout}
    centres = [each["environment"]["CASSANDRA_DC"] for each in services(use, "cassandra").values()]
    assert sorted(centres) == sorted(tried.keepers)
    replications = {each.cassandra.replication for each in configs if each.node.role is Role.ROOT}
    assert replications == {tried.replication}


def test_secrets_are_made_once_and_lie_in_a_folder_of_one_s_own(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    before: dict[str, str] = {}
    for _ in range(2):
        subprocess.run([DEPLOY / "make-secrets", folder], check=True, capture_output=True)
        found = {each.name: each.read_text() for each in folder.iterdir()}
        assert not before or found == before
        before = found
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len(before["secret"].strip()) >= 64
    assert before["redis.conf"].split()[1] in before["redis.url"]
    assert "/secrets/" in (DEPLOY / ".gitignore").read_text()


# ---------------------------------------------------------------- the image's health check


async def test_the_health_check_tells_a_living_node_from_none(tmp_path: Path) -> None:
    async with local_mesh(tmp_path, 1) as mesh:
        port, address = str(mesh.root.port), {"DISCLOUD_LISTEN": "0.0.0.0"}
        assert checked(DISCLOUD_PORT=port, **address) == (0, "")
        mesh.root.kill()
        code, told = checked(DISCLOUD_PORT=port)
        assert (code, told.count("\n")) == (1, 1)


def test_the_health_check_says_what_setting_is_wrong() -> None:
    code, told = checked(DISCLOUD_PORT="none")
    assert code == 1
    assert "node.port" in told


def checked(**environ: str) -> tuple[int, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DISCLOUD_")}
    ran = subprocess.run(
        [sys.executable, DEPLOY / "healthcheck.py"],
        env=kept | environ, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    return ran.returncode, ran.stderr


# ---------------------------------------------------------------- systemd and TOML


def unit(name: str) -> dict[str, list[str]]:
    """Every key of a unit with its values in order."""
    found: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_is_well_formed_and_hardened(name: str) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / name)
    assert parser.sections() == ["Unit", "Service", "Install"]
    keys = unit(name)
    assert {key: keys[key][-1] for key in HARDENED} == HARDENED
    assert keys["User"] == ["discloud"]
    if verify := shutil.which("systemd-analyze"):
        told = subprocess.run(
            [verify, "verify", "--man=no", DEPLOY / name], capture_output=True, text=True, check=False
        )
        wrong = [
            line for line in told.stderr.splitlines() if name in line and "is not executable" not in line
        ]
        assert not wrong


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_runs_the_program_with_settings_that_exist(name: str) -> None:
    keys = unit(name)
    words = keys["ExecStart"][0].split()
    assert words[0].endswith("/bin/discloud")
    assert words[1] in COMMANDS
    flags = {flag for each in command(words[1]).params for flag in each.opts}
    assert {word for word in words if word.startswith("--")} <= flags
    environ = dict(word.split("=", 1) for line in keys["Environment"] for word in line.split())
    assert set(environ) <= {each.variable for each in settings().values()} | {"DISCLOUD_HOME"}
    assert environ["DISCLOUD_DATA"] == f"/var/lib/{keys['StateDirectory'][0]}"
    credential = keys["LoadCredential"][0].split(":")[0]
    assert environ["DISCLOUD_SECRET_FILE"] == f"%d/{credential}"


def test_the_two_units_differ_only_in_the_instance() -> None:
    one, several = (DEPLOY / name for name in UNITS)
    made = several.read_text().replace("/discloud/%i.toml", "/discloud/discloud.toml").replace("/%i", "")
    assert made.replace("discloud %i:", "discloud:").splitlines()[1:] == one.read_text().splitlines()[1:]


def test_the_example_of_a_file_is_accepted(tmp_path: Path, made: Path) -> None:
    text = (DEPLOY / "discloud.toml").read_text()
    for commented in (text, re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE)):
        tomllib.loads(commented)
        here = re.sub(r'"/etc/discloud/([\w.]+)"', lambda found: f'"{made / found[1]}"', commented)
        (made / "cassandra.password").write_text("x")
        (tmp_path / "discloud.toml").write_text(here)
        config = load(tmp_path / "discloud.toml", {"DISCLOUD_SECRET_FILE": str(made / "secret")}, {})
        assert config.redis.url
        assert config.cassandra.hosts[0].endswith(":9042")


def command(name: str) -> Any:
    from click import Context

    from discloud.cli.main import cli

    found = cli.get_command(Context(cli), name)
    assert found is not None, name
    return found
