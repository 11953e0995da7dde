"""``discloud cert``: what it makes is believed by everybody who should, and no key is ever lost by mistake."""

from __future__ import annotations

import builtins
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from discloud.cli.certificates import make_authority, make_node
from discloud.transfer.tls import Certificates, Files
from tests.support.command_line import CommandLine, refused


@pytest.fixture
def made(discloud: CommandLine) -> Path:
    """An authority in ./ca and a certificate in ./n1."""
    assert discloud.run("cert", "authority", "--out", "ca").exit_code == 0
    hosts = ("--host", "127.0.0.1", "--host", "::1", "--host", "files.example.org", "--host", "*.example.org")
    result = discloud.run("cert", "node", "node1", *hosts, "--authority", "ca", "--out", "n1")
    assert result.exit_code == 0, result.stderr
    return Path("n1")


def loaded(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_node_runs_with_what_was_made(made: Path) -> None:
    files = Files(made / "node.pem", made / "node.key", Path("ca/ca.pem"))
    assert Certificates(files).serial == ssl_serial(made / "node.pem")
    assert Certificates(files).between_nodes


def ssl_serial(path: Path) -> str:
    number = f"{loaded(path).serial_number:X}"
    return number.zfill(len(number) + len(number) % 2)


def test_what_stands_in_the_certificates(made: Path) -> None:
    ca, node = loaded(Path("ca/ca.pem")), loaded(made / "node.pem")
    assert ca.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not node.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["files.example.org", "*.example.org"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    usage = node.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usage) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    now = datetime.now(UTC)
    assert timedelta(days=396) < node.not_valid_after_utc - now < timedelta(days=398)
    assert timedelta(days=3650) < ca.not_valid_after_utc - now < timedelta(days=3654)
    assert node.not_valid_before_utc < now - timedelta(minutes=30)  # clocks differ
    node.verify_directly_issued_by(ca)


def test_keys_are_the_owner_s(made: Path) -> None:
    for key in (Path("ca/ca.key"), made / "node.key"):
        assert key.stat().st_mode & 0o777 == 0o600
    assert not list(Path().rglob("*.new"))


def test_no_key_is_replaced_without_force(discloud: CommandLine, made: Path) -> None:
    before = {path: path.read_bytes() for path in (*Path("ca").iterdir(), *made.iterdir())}
    again = ("cert", "node", "node1", "--host", "x", "--authority", "ca", "--out", "n1")
    refused(discloud.run("cert", "authority", "--out", "ca"), "ca.pem is there already", "--force")
    refused(discloud.run(*again), "node.pem is there already", "--force")
    (made / "node.pem").unlink()
    refused(discloud.run(*again), "node.key is there already", "--force")
    (made / "node.pem").write_bytes(before[made / "node.pem"])
    assert {path: path.read_bytes() for path in before} == before
    assert discloud.run(*again, "--force").exit_code == 0
    assert all((made / name).read_bytes() != before[made / name] for name in ("node.pem", "node.key"))
    assert (made / "node.key").stat().st_mode & 0o777 == 0o600


def test_json(discloud: CommandLine, made: Path) -> None:
    result = discloud.run(
        "cert", "node", "n", "--host", "h", "--authority", "ca", "--out", "deep/er", "--json"
    )
    told = json.loads(result.stdout)
    assert told["cert"] == "deep/er/node.pem"
    assert told["key"] == "deep/er/node.key"
    assert told["serial"] == ssl_serial(Path(told["cert"]))
    assert datetime.fromisoformat(told["until"]) == loaded(Path(told["cert"])).not_valid_after_utc
    assert set(json.loads(discloud.run("cert", "authority", "--out", "b", "--json").stdout)) == set(told)


def test_what_it_says_can_be_pasted(discloud: CommandLine, made: Path) -> None:
    result = discloud.run("cert", "node", "n", "--host", "h", "--authority", "ca", "--out", "n2")
    config = Path("node.toml")
    config.write_text(result.stdout[result.stdout.index("[tls]") :])
    shown = discloud.run("config", "--show", "--config", config).stdout
    for line in ("tls.cert", "tls.key", "tls.authority"):
        assert any(each.startswith(line) and str(Path.cwd()) in each for each in shown.splitlines())


def test_wrong_hosts_and_names(discloud: CommandLine, made: Path) -> None:
    for host in ("http://h", "h:7070", "", "a..b", "-a", "ä.org", "a b", "x" * 64):
        result = discloud.run("cert", "node", "n", "--host", host, "--authority", "ca", "--out", "n3")
        refused(result, "neither an address nor a host's name", "without scheme and port")
    for name in ("", " ", "x" * 65, "a\nb"):
        result = discloud.run("cert", "node", name, "--host", "h", "--authority", "ca", "--out", "n3")
        refused(result, "is no name for a certificate")
    assert not Path("n3").exists()
    refused(discloud.run("cert", "node", "n", "--authority", "ca", "--out", "n3"), "--host", code=2)
    refused(discloud.run("cert", "authority"), "--out", code=2)


def test_wrong_authorities(discloud: CommandLine, made: Path) -> None:
    node = ("cert", "node", "n", "--host", "h", "--out", "n3", "--authority")
    refused(discloud.run(*node, "nowhere"), "there is no authority in nowhere", "discloud cert authority")
    refused(discloud.run(*node, "n1"), "there is no authority in n1")
    assert discloud.run("cert", "authority", "--out", "other").exit_code == 0
    Path("other/ca.key").write_bytes(Path("ca/ca.key").read_bytes())
    refused(discloud.run(*node, "other"), "is not the key of ca.pem")
    Path("other/ca.key").write_text("hello")
    refused(discloud.run(*node, "other"), "are not those of an authority")
    make_authority(Path("old"), "old", datetime.now(UTC) - timedelta(days=4000), force=False)
    refused(discloud.run(*node, "old"), "the authority in old ended on", "new certificates")
    assert not Path("n3").exists()


def test_a_certificate_never_outlives_its_authority(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ca = make_authority(tmp_path / "ca", "ca", now - timedelta(days=3600), force=False)
    node = make_node(tmp_path / "n", "n", ("h",), tmp_path / "ca", now, force=False)
    assert node.until == ca.until


def test_without_its_library_it_says_how_to_get_it(
    discloud: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "cryptography":
            raise ImportError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    monkeypatch.delitem(sys.modules, "discloud.cli.certificates")
    monkeypatch.delattr("discloud.cli.certificates")
    assert discloud.run("cert", "--help").exit_code == 0
    refused(discloud.run("cert", "authority", "--out", "ca"), "cryptography", "pip install 'discloud[cert]'")
    assert not Path("ca").exists()


def test_a_full_disk_is_told_by_its_file(discloud: CommandLine) -> None:
    Path("file").touch()
    refused(discloud.run("cert", "authority", "--out", "file/ca"), "file")
