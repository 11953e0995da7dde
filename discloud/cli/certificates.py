"""A private authority and the certificates that it signs, as PEM files. Needs the library cryptography (extra ``cert``).

ECDSA on P-256 throughout. Invariant: a key is written with mode 0600 from its first byte on, and a file that is there is
replaced only where the caller says so, whole or not at all.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from discloud.errors import Conflict, Invalid

AUTHORITY_LIFE = timedelta(days=3653)
NODE_LIFE = timedelta(days=397)
"""Longest life of a server's certificate that every client believes."""
SKEW = timedelta(hours=1)
"""From how long before now on a certificate holds: clocks differ."""
NAME_LIMIT = 64
"""Letters of a subject's name at most (RFC 5280)."""

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, slots=True)
class Made:
    """A pair of files; ``serial`` in hexadecimal, as openssl and the log lines of a node print it."""

    cert: Path
    key: Path
    serial: str
    until: datetime


def make_authority(out: Path, name: str, now: datetime, *, force: bool) -> Made:
    """``ca.pem`` and ``ca.key`` in ``out``. Raises: Conflict (they exist), Invalid, OSError."""
    subject = _named(name)
    target = _target(out, "ca", force=force)
    key = _new_key()
    builder = (
        _begun(subject, subject, key.public_key(), now, now + AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs=True), critical=True)
    )
    return _write_pair(target, key, builder, key)


def make_node(
    out: Path, name: str, hosts: tuple[str, ...], authority: Path, now: datetime, *, force: bool
) -> Made:
    """``node.pem`` and ``node.key`` in ``out``, signed by the authority in that folder, for servers and clients.

    Raises: Conflict (they exist), Invalid (a host or the authority is none), OSError.
    """
    subject, names = _named(name), [_alternative(host) for host in dict.fromkeys(hosts)]
    ca, ca_key = _load_authority(authority, now)
    target = _target(out, "node", force=force)
    key = _new_key()
    until = min(now + NODE_LIFE, ca.not_valid_after_utc)
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    builder = (
        _begun(subject, ca.subject, key.public_key(), now, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False
        )
    )
    return _write_pair(target, key, builder, ca_key)


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _named(name: str) -> x509.Name:
    if not name.strip() or len(name) > NAME_LIMIT or not name.isprintable():
        raise Invalid(f"{name!r} is no name for a certificate", f"give 1..{NAME_LIMIT} letters")
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(host: str) -> x509.GeneralName:
    """A host as it stands in the certificate: an address, or a name (``*.`` may lead it). Raises: Invalid."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        labels = host.removeprefix("*.").split(".")
        if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
            raise Invalid(
                f"{host!r} is neither an address nor a host's name", "give it without scheme and port"
            ) from None
        return x509.DNSName(host)


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*, signs: bool) -> x509.KeyUsage:
    """An authority signs certificates and nothing else; a node proves that it has its key."""
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _load_authority(folder: Path, now: datetime) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """What ``make_authority`` wrote. Raises: Invalid."""
    try:
        cert = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
        key = load_pem_private_key((folder / "ca.key").read_bytes(), None)
    except OSError as error:
        raise Invalid(
            f"there is no authority in {folder}: {error.filename} cannot be read ({error.strerror})",
            f"make it: discloud cert authority --out {folder}",
        ) from error
    except (ValueError, TypeError) as error:
        raise Invalid(
            f"ca.pem and ca.key in {folder} are not those of an authority of discloud",
            "name the folder that discloud cert authority made",
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != cert.public_key():
        raise Invalid(f"ca.key in {folder} is not the key of ca.pem", "put the two of one authority there")
    if cert.not_valid_after_utc <= now:
        raise Invalid(
            f"the authority in {folder} ended on {cert.not_valid_after_utc:%Y-%m-%d}",
            "make a new one and new certificates for every node",
        )
    return cert, key


def _target(out: Path, name: str, *, force: bool) -> tuple[Path, Path]:
    """The two files to write. Raises: Conflict when one is there and may not be replaced."""
    pair = out / f"{name}.pem", out / f"{name}.key"
    if not force:
        for path in pair:
            if os.path.lexists(path):
                raise Conflict(f"{path} is there already", "name another folder, or replace it with --force")
    out.mkdir(parents=True, exist_ok=True)
    return pair


def _write_pair(
    target: tuple[Path, Path],
    key: ec.EllipticCurvePrivateKey,
    builder: x509.CertificateBuilder,
    signer: ec.EllipticCurvePrivateKey,
) -> Made:
    cert = builder.sign(signer, SHA256())
    pem, private = target
    _write(private, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
    _write(pem, cert.public_bytes(Encoding.PEM), 0o644)
    serial = f"{cert.serial_number:X}"
    return Made(pem, private, serial.zfill(len(serial) + len(serial) % 2), cert.not_valid_after_utc)


def _write(path: Path, data: bytes, mode: int) -> None:
    temporary = path.with_name(f"{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(descriptor)
    temporary.replace(path)
