"""A node's certificate: what is wrong with the files is said at once, and new files are taken while the node runs."""

from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from discloud.errors import Invalid
from discloud.transfer.tls import Certificates, Files
from tests.support.certificates import authority, files, sign


@asynccontextmanager
async def listening(context: ssl.SSLContext) -> AsyncIterator[tuple[str, int]]:
    """A port that answers each connection's bytes with the same."""

    opened: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        while data := await reader.read(4096):
            writer.write(data)
        writer.transport.abort()

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        for each in opened:
            each.transport.abort()


Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def connect(address: tuple[str, int], ca: Path, name: str = "127.0.0.1") -> Ends:
    trust = ssl.create_default_context(cafile=ca)
    return await asyncio.open_connection(*address, ssl=trust, server_hostname=name)


def serial(ends: Ends) -> str:
    found: str = ends[1].get_extra_info("peercert")["serialNumber"]
    return found


async def echoes(ends: Ends) -> bool:
    ends[1].write(b"hello")
    return await ends[0].readexactly(5) == b"hello"


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records]


async def test_new_connections_show_the_new_certificate_and_open_ones_go_on(tmp_path: Path) -> None:
    signer = authority(tmp_path)
    shown = files(signer, tmp_path / "n")
    certificates = Certificates(shown)
    assert not await certificates.run_once()
    async with listening(certificates.api) as address:
        old = await connect(address, signer / "ca.pem")
        first = serial(old)
        assert first == certificates.serial
        second = sign(signer, tmp_path / "n").serial
        assert await certificates.run_once()
        assert not await certificates.run_once()
        # an address in place of a name sends no server name: the new certificate is shown all the same
        for name in ("127.0.0.1", "localhost"):
            new = await connect(address, signer / "ca.pem", name)
            assert serial(new) == second == certificates.serial != first
            assert await echoes(new)
            new[1].transport.abort()
        assert await echoes(old)
        old[1].transport.abort()


async def test_what_is_broken_is_told_once_and_the_old_one_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = authority(tmp_path)
    shown = files(signer, tmp_path / "n")
    certificates = Certificates(shown)
    kept = certificates.serial
    shown.cert.write_text("half of a cert")
    with caplog.at_level(logging.INFO, "discloud"):
        assert [await certificates.run_once() for _ in range(4)] == [False] * 4
        assert events(caplog) == ["certificate_refused"]
        shown.key.unlink()
        assert [await certificates.run_once() for _ in range(3)] == [False] * 3
        assert events(caplog) == ["certificate_refused"] * 2
        async with listening(certificates.api) as address:
            still = await connect(address, signer / "ca.pem")
            assert serial(still) == kept
            still[1].transport.abort()
        renewed = sign(signer, tmp_path / "n")
        assert await certificates.run_once()
    assert certificates.serial == renewed.serial
    assert events(caplog)[-1] == "certificate_loaded"
    assert "PRIVATE" not in caplog.text


async def test_the_moment_between_certificate_and_key_is_no_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    signer = authority(tmp_path)
    shown = files(signer, tmp_path / "n")
    certificates = Certificates(shown)
    other = sign(signer, tmp_path / "other")
    with caplog.at_level(logging.INFO, "discloud"):
        shutil.copy(other.cert, shown.cert)
        assert not await certificates.run_once()
        shutil.copy(other.key, shown.key)
        assert await certificates.run_once()
    assert events(caplog) == ["certificate_loaded"]


async def test_an_authority_is_replaced_too(tmp_path: Path) -> None:
    one, other = authority(tmp_path, "one"), authority(tmp_path, "other")
    ca = tmp_path / "trusted.pem"
    shutil.copy(one / "ca.pem", ca)
    made = sign(one, tmp_path / "n")
    certificates = Certificates(Files(made.cert, made.key, ca))
    before = certificates.for_peer(accepting=True)
    # both are believed while the nodes get their new certificates one after the other
    ca.write_bytes((one / "ca.pem").read_bytes() + (other / "ca.pem").read_bytes())
    assert await certificates.run_once()
    assert certificates.for_peer(accepting=True) is not before
    assert len(certificates.for_peer(accepting=True).get_ca_certs()) == 2
    sign(other, tmp_path / "n")
    assert await certificates.run_once()


def refused(shown: Files, *words: str) -> None:
    with pytest.raises(Invalid) as found:
        Certificates(shown)
    for word in words:
        assert word in str(found.value)


def test_wrong_files_are_named(tmp_path: Path) -> None:
    signer = authority(tmp_path)
    good = files(signer, tmp_path / "n")
    other = sign(signer, tmp_path / "other")
    text = tmp_path / "text.pem"
    text.write_text("hello")
    refused(Files(tmp_path / "none.pem", good.key), "tls.cert", "none.pem", "No such file")
    refused(Files(good.cert, tmp_path / "none.key"), "tls.key", "none.key", "No such file")
    refused(Files(good.cert, other.key), "is not the key of tls.cert")
    refused(Files(text, good.key), "are not PEM files")
    refused(Files(tmp_path, good.key), "tls.cert", "Is a directory")
    refused(Files(good.cert, good.key, tmp_path / "none.pem"), "tls.authority", "No such file")
    refused(Files(good.cert, good.key, text), "tls.authority", "ca.pem")


def test_a_key_with_a_passphrase_asks_nobody(tmp_path: Path) -> None:
    good = files(authority(tmp_path), tmp_path / "n")
    key = load_pem_private_key(good.key.read_bytes(), None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    good.key.write_bytes(sealed)
    refused(good, "tls.key is encrypted")


def test_a_certificate_that_the_others_would_refuse_is_refused_at_home(tmp_path: Path) -> None:
    signer, stranger = authority(tmp_path, "one"), authority(tmp_path, "other")
    ended = files(signer, tmp_path / "ended", days_ago=500)
    refused(ended, "the other nodes would refuse", "certificate has expired", "discloud cert node")
    foreign = sign(stranger, tmp_path / "foreign")
    refused(Files(foreign.cert, foreign.key, signer / "ca.pem"), "would refuse", "local issuer certificate")


def test_the_end_of_a_certificate_is_told_ahead(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    signer = authority(tmp_path)
    with caplog.at_level(logging.INFO, "discloud"):
        Certificates(files(signer, tmp_path / "fresh"))
        assert events(caplog) == []
        Certificates(files(signer, tmp_path / "old", days_ago=390))
        assert events(caplog) == ["certificate_ends"]
        # only clients look at this one: they say so themselves, and the mesh goes on
        ended = files(signer, tmp_path / "ended", days_ago=500)
        Certificates(Files(ended.cert, ended.key))
        assert events(caplog) == ["certificate_ends"] * 2


async def test_a_warning_comes_once_while_the_time_goes_by(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    now = [time.time()]
    certificates = Certificates(files(authority(tmp_path), tmp_path / "n"), lambda: now[0])
    with caplog.at_level(logging.INFO, "discloud"):
        await certificates.run_once()
        now[0] += 390 * 86400
        for _ in range(3):
            await certificates.run_once()
    assert events(caplog) == ["certificate_ends"]


def test_keys_stay_out_of_reach_of_others(tmp_path: Path) -> None:
    made = sign(authority(tmp_path), tmp_path / "n")
    assert made.key.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "authority" / "ca.key").stat().st_mode & 0o777 == 0o600
