"""Settings: three layers, each refusal names the key and what is accepted, and every text round-trips."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discloud import config, config_text
from discloud.core.model import GIB, Role
from discloud.core.units import format_duration, format_size, parse_duration, parse_size
from discloud.errors import Invalid

NONE: dict[str, str] = {}


def written(folder: Path, text: str) -> Path:
    file = folder / "discloud.toml"
    file.write_text(text)
    return file


def test_defaults_are_the_dataclasses_own() -> None:
    loaded = config.load(None, {"DISCLOUD_HOME": "/somewhere"}, {})
    assert loaded.limits == config.Limits()
    assert loaded.periods == config.Periods()
    assert loaded.disk == config.DiskConfig()
    assert loaded.node.data == Path("/somewhere/data")
    assert loaded.node.peers_at == 7072


def test_flags_win_over_variables_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, '[limits]\nlist = 10\ngrace = "2m"\nidle = 5\n[node]\nroots = ["a:1"]\n')
    variables = {"DISCLOUD_LIMITS_LIST": "20", "DISCLOUD_LIMITS_GRACE": "3m", "DISCLOUD_NAME": ""}
    flags = {"limits.list": 30, "limits.grace": None, "node.role": "ordinary"}
    loaded = config.load(file, variables, flags)
    assert (loaded.limits.list, loaded.limits.grace, loaded.limits.idle) == (30, 180.0, 5.0)
    assert loaded.node.role is Role.ORDINARY
    assert loaded.node.roots == ("a:1",)
    origins = config.resolve(file, variables, flags)
    assert [origins[f"limits.{name}"].origin for name in ("list", "grace", "idle", "connections")] == [
        "flag", "DISCLOUD_LIMITS_GRACE", str(file), "default",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"DISCLOUD_LIMIT_LIST": "1"}, "did you mean DISCLOUD_LIMITS_LIST"),
        ({"DISCLOUD_LIMITS_LIST": "0"}, "limits.list = '0' (DISCLOUD_LIMITS_LIST): out of bounds. accepted: a whole number, at least 1"),
        ({"DISCLOUD_LIMITS_LIST": "1.5"}, "not a whole number"),
        ({"DISCLOUD_LIMITS_MAX_OBJECT": "5 apples"}, "limits.max_object = '5 apples'"),
        ({"DISCLOUD_PERIODS_LEASE": "soon"}, "accepted: a duration such as"),
        ({"DISCLOUD_ROLE": "boss"}, "accepted: root, ordinary"),
        ({"DISCLOUD_ROLE": "ordinary"}, "an ordinary node needs node.roots"),
        ({"DISCLOUD_ROOTS": "http://a:1"}, "accepted: host:port"),
        ({"DISCLOUD_ROOTS": "a:99999"}, "'a:99999' is not host:port"),
        ({"DISCLOUD_PORT": "70000"}, "at most 65535"),
        ({"DISCLOUD_PORT": "7072", "DISCLOUD_PEER_PORT": "7072"}, "two different ports"),
        ({"DISCLOUD_NAME": "a b"}, "not a name"),
        ({"DISCLOUD_DISK_FULL": "0.5"}, "soft"),
        ({"DISCLOUD_DISK_FULL": "nan"}, "not a number"),
        ({"DISCLOUD_PERIODS_DOWN": "2s"}, "each longer than the one before"),
        ({"DISCLOUD_TRANSFER_KERNEL": "maybe"}, "accepted: true or false"),
        ({"DISCLOUD_LOG_LEVEL": "loud"}, "accepted: debug, info, warning, error"),
        ({"DISCLOUD_LAYOUT": "raid7"}, "layout = 'raid7'"),
        ({"DISCLOUD_SECRET_FILE": "/nowhere/secret", "DISCLOUD_ROLE": "ordinary"}, "node.secret_file = /nowhere/secret cannot be read"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(variables: dict[str, str], told: str) -> None:
    with pytest.raises(Invalid) as caught:
        config.load(None, variables, {})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[limit]\nlist = 1", "unknown setting limit in"),
        ("[limits]\nlsit = 1", "did you mean limits.list?"),
        ("limits = 1", "limits is a table"),
        ("[limits]\nlist = true", "not a whole number"),
        ("[periods]\nlease = false", "not a number"),
        ("[transfer]\nkernel = 1", "not a text"),
        ("[node]\nsecret = 17", "node.secret ("),
        ("[node]\ndata = ''", "node.data = ''"),
        ("not toml", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(Invalid) as caught:
        config.load(written(tmp_path, text), NONE, {})
    assert told in str(caught.value)


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot read"):
        config.load(Path("/nowhere/discloud.toml"), NONE, {})


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(Invalid, match=r"did you mean node\.port"):
        config.load(None, NONE, {"node.prot": 1})


def test_variables_of_others_are_left_alone() -> None:
    others = {
        "DISCLOUD_HOME": "/h", "DISCLOUD_URL": "http://a", "DISCLOUD_TEST_REDIS": "r", "DISCLOUD_REQUIRE_SERVERS": "1",
        "DISCLOUD_PORT": "tcp://10.0.0.1:7070", "DISCLOUD_SERVICE_HOST": "10.0.0.1", "DISCLOUD_PORT_7070_TCP_ADDR": "10.0.0.1",
        "DISCLOUD_S3_SERVICE_PORT": "7071", "HOME": "/root",
    }  # fmt: skip
    assert config.load(None, others, {}).node.port == 7070


def test_a_secret_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("of-the-file\n")
    assert config.load(None, {"DISCLOUD_SECRET_FILE": str(file)}, {}).node.secret == "of-the-file"
    later = config.load(None, {"DISCLOUD_SECRET": "of-the-variable"}, {"node.secret_file": file})
    assert later.node.secret == "of-the-file"
    toml = written(tmp_path, f'[node]\nsecret_file = "{file}"\n')
    assert config.load(toml, {"DISCLOUD_SECRET": "of-the-variable"}, {}).node.secret == "of-the-variable"


def test_a_secret_and_its_file_contradict_each_other(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="both given"):
        config.load(None, {"DISCLOUD_SECRET": "a", "DISCLOUD_SECRET_FILE": str(tmp_path)}, {})


def test_only_a_root_may_name_a_secret_file_to_be(tmp_path: Path) -> None:
    variables = {"DISCLOUD_SECRET_FILE": str(tmp_path / "to-be")}
    assert config.load(None, variables, {}).node.secret == ""
    with pytest.raises(Invalid, match="cannot be read"):
        config.load(None, variables, {"node.role": "ordinary", "node.roots": "a:1"})


def test_an_empty_secret_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(" \n")
    with pytest.raises(Invalid, match="is empty"):
        config.load(None, NONE, {"node.secret_file": tmp_path / "secret"})


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    loaded = config.load(None, {"DISCLOUD_SECRET": "hush", "DISCLOUD_TOKEN": "hush"}, {})
    assert "hush" not in repr(loaded)
    with pytest.raises(Invalid) as caught:
        config.load(None, NONE, {"node.secret": b"hush"})
    assert "hush" not in str(caught.value)


def test_the_example_is_the_defaults(tmp_path: Path) -> None:
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line and not line.startswith("# discloud") else line
        for line in config_text.render_example().splitlines()
        if not line.startswith("# accepted")
    )
    lines = [line for line in uncommented.splitlines() if line.startswith(("[", "#")) or " = " in line]
    text = "\n".join(line for line in lines if line.startswith("[") or line.split(" = ")[0].isidentifier())
    assert tomllib.loads(text)["limits"]["list"] == 1000
    environ = {"DISCLOUD_HOME": str(Path("~/.discloud").expanduser())}
    assert config.load(written(tmp_path, text), environ, {}) == config.load(None, environ, {})
    assert {f"{s}.{k}" for s, t in tomllib.loads(text).items() if isinstance(t, dict) for k in t} == {
        name for name in config.settings() if "." in name
    }


def test_every_setting_says_what_it_means() -> None:
    reference = config_text.render_reference()
    for setting in config.settings().values():
        assert setting.doc
        assert f"`{setting.variable}`" in reference


def test_variables_are_distinct() -> None:
    names = [setting.variable for setting in config.settings().values()]
    assert len(names) == len(set(names))


@given(st.integers(0, 2**60))
def test_sizes_round_trip(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.integers(0, 10**8))
def test_durations_round_trip(milliseconds: int) -> None:
    seconds = milliseconds / 1000
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "size"), [("5 TiB", 5120 * GIB), ("1.5KiB", 1536), ("10 MB", 10**7), ("7", 7), ("64k", None), ("", None), ("-1", None)]
)  # fmt: skip
def test_sizes(text: str, size: int | None) -> None:
    if size is None:
        with pytest.raises(Invalid):
            parse_size(text)
    else:
        assert parse_size(text) == size


@pytest.mark.parametrize(
    ("text", "seconds"), [("1h30m", 5400), ("500ms", 0.5), ("2.5", 2.5), ("7d", 604800), ("1h x", None), ("", None), ("-1s", None)]
)  # fmt: skip
def test_durations(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(Invalid):
            parse_duration(text)
    else:
        assert parse_duration(text) == seconds
