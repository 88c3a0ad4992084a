"""A certificate authority of a real server's own, for one rehearsal or one run of the tests."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cockpit.rehearsal.sigstore.ca import usage


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate holds, seen from now."""

    since: timedelta = timedelta(minutes=-5)
    until: timedelta = timedelta(days=2)


@dataclass(frozen=True)
class Served:
    """The files of a server's certificate and key, and of the CA that signed it."""

    ca: Path
    certificate: Path
    key: Path


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Make a P-256 key, written to `path` for its owner's eyes only."""
    key = ec.generate_private_key(ec.SECP256R1())
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    return key


def public_file(path: Path, key: ec.EllipticCurvePrivateKey) -> Path:
    """Write the public half of a key as PEM."""
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path


def write_private(path: Path, content: bytes) -> Path:
    """Write a file nobody else can read."""
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def serving(
    folder: Path,
    name: str,
    *names: str,
    validity: Validity = Validity(),
    authority: Validity = Validity(),
    loopback: bool = True,
) -> Served:
    """Make a CA and a certificate for 127.0.0.1, localhost and `names`; the CA's key is not kept.

    `validity` is the certificate's, `authority` the CA's; without `loopback` it is for `names` alone.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    issuer = _name(f"{name} CA")
    root = (
        _begin(issuer, issuer, ca_key, ca_key, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    key = new_key(folder / f"{name}.key")
    hosts: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
    if loopback:
        hosts += [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
    leaf = (
        _begin(_name(name), issuer, key, ca_key, validity)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    made = Served(folder / f"{name}-ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
    made.ca.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    made.certificate.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    return made


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _begin(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    validity: Validity = Validity(),
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + validity.since)
        .not_valid_after(now + validity.until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(authority, critical=False)
    )
