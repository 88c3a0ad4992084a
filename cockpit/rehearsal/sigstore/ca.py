"""The certificate authority and its certificate-transparency log, after Fulcio's certificate profile."""

from __future__ import annotations

import hashlib
import re
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from cockpit.rehearsal.sigstore import der

OPERATOR = "rehearsal stand-in"
BACKDATE = timedelta(minutes=5)
_YEARS = timedelta(days=3650)
_FULCIO = "1.3.6.1.4.1.57264.1."
_SCT_LIST = "1.3.6.1.4.1.11129.2.4.2"
_DIGESTS = {"secp256r1": "sha256", "secp384r1": "sha384", "secp521r1": "sha512"}
_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")
_URI_LETTERS = "!#$%&'()*+,/:;=?@[]~"
# A percent sign that begins no byte, a blank in the host, and a colon after what is no scheme.
_NO_URI = re.compile(r"%(?![0-9A-Fa-f]{2})|^[^/?#]*//[^/?#]*\s|^(?![A-Za-z][A-Za-z0-9+.-]*:)[^/?#]*:")


class RequestRefused(Exception):
    """A signing request the CA must not honour."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """Return a public key as DER SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def der_bytes(certificate: x509.Certificate) -> bytes:
    """Return a certificate's DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def usage(*, signs: bool) -> x509.KeyUsage:
    """Return the key usage of a leaf that signs, or of a CA."""
    return x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=not signs,
        crl_sign=not signs,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True)
class Authority:
    """Who signs: a certificate, the root that signed it, and its key."""

    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    root: x509.Certificate


def subject(common_name: str, operator: str) -> x509.Name:
    """Return a name whose organisation says whose it is."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, operator),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def begin_certificate(
    name: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    *,
    since: datetime,
    until: datetime,
) -> x509.CertificateBuilder:
    """Return a builder with names, key, serial, validity and key identifiers set."""
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False)
    )


def ca_certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    path_length: int,
    purpose: ObjectIdentifier | None = None,
) -> x509.Certificate:
    """Return a CA certificate; `issuer=None` signs it with its own key. `purpose` is all it certifies for."""
    now = datetime.now(UTC)
    builder = (
        begin_certificate(
            name,
            issuer.subject if issuer else name,
            key.public_key(),
            issuer_key.public_key(),
            since=now - BACKDATE,
            until=now + _YEARS,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage(signs=False), critical=True)
    )
    if purpose is not None:
        # Not critical: Fulcio takes no intermediate in which it is.
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def code_signing_authority(operator: str) -> Authority:
    """Return a new intermediate CA for code signing below a root of its own."""
    root_key, key = new_key(), new_key()
    root = ca_certificate(
        subject("rehearsal-root", operator), root_key, issuer=None, issuer_key=root_key, path_length=1
    )
    intermediate = ca_certificate(
        subject("rehearsal-ca", operator),
        key,
        issuer=root,
        issuer_key=root_key,
        path_length=0,
        purpose=ExtendedKeyUsageOID.CODE_SIGNING,
    )
    return Authority(key, intermediate, root)


class CertificateAuthority:
    """Issues ten-minute code-signing certificates with an embedded SCT (RFC 6962)."""

    def __init__(self, issuer_url: str, lifetime: timedelta = timedelta(minutes=10)) -> None:
        self._issuer_url = issuer_url
        self._lifetime = lifetime
        self._ct_key = new_key()
        authority = code_signing_authority(OPERATOR)
        self._key, self.intermediate, self.root = authority.key, authority.certificate, authority.root

    @property
    def ct_public_key(self) -> bytes:
        """The CT log's public key, DER."""
        return spki(self._ct_key.public_key())

    def issue(self, identity: str, request_pem: bytes) -> tuple[x509.Certificate, ...]:
        """Return leaf, intermediate and root for `identity`.

        Raises RequestRefused when the request does not parse, does not prove possession of its key
        (RFC 2986), holds another key than one of ECDSA with the digest that belongs to its curve, or the
        identity is neither a URI nor an e-mail address.
        """
        key = _requested(request_pem)
        name = _name(identity)
        now = datetime.now(UTC)
        builder = (
            begin_certificate(
                x509.Name([]),
                self.intermediate.subject,
                key,
                self._key.public_key(),
                since=now,
                until=now + self._lifetime,
            )
            .add_extension(usage(signs=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
            .add_extension(x509.SubjectAlternativeName([name]), critical=True)
            .add_extension(_extension(_FULCIO + "1", self._issuer_url.encode()), critical=False)
            .add_extension(
                _extension(_FULCIO + "8", der.tlv(der.UTF8, self._issuer_url.encode())), critical=False
            )
            .add_extension(_extension(_FULCIO + "24", der.tlv(der.UTF8, identity.encode())), critical=False)
        )
        # RFC 6962, 3.2: the log signs the certificate as it is before its timestamp is put in.
        precertificate = builder.sign(self._key, hashes.SHA256()).tbs_certificate_bytes
        stamped = builder.add_extension(
            _extension(_SCT_LIST, self._timestamp(precertificate)), critical=False
        )
        return stamped.sign(self._key, hashes.SHA256()), self.intermediate, self.root

    def _timestamp(self, tbs: bytes) -> bytes:
        millis = int(datetime.now(UTC).timestamp() * 1000)
        issuer = hashlib.sha256(spki(self._key.public_key())).digest()
        entry = issuer + len(tbs).to_bytes(3, "big") + tbs
        signed = struct.pack("!BBQH", 0, 0, millis, 1) + entry + b"\0\0"
        signature = self._ct_key.sign(signed, ec.ECDSA(hashes.SHA256()))
        log_id = hashlib.sha256(self.ct_public_key).digest()
        sct = (
            b"\0"
            + log_id
            + struct.pack("!QH", millis, 0)
            + b"\4\3"
            + struct.pack("!H", len(signature))
            + signature
        )
        return der.octets(struct.pack("!HH", len(sct) + 2, len(sct)) + sct)


def _extension(dotted: str, value: bytes) -> x509.UnrecognizedExtension:
    return x509.UnrecognizedExtension(ObjectIdentifier(dotted), value)


def _requested(pem: bytes) -> ec.EllipticCurvePublicKey:
    try:
        request = x509.load_pem_x509_csr(pem)
    except ValueError as error:
        raise RequestRefused("The certificate signing request could not be parsed") from error
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _DIGESTS:
        raise RequestRefused("The public key supplied in the request is insecure")
    if not request.is_signature_valid:
        raise RequestRefused("The signature supplied in the request could not be verified")
    digest = request.signature_hash_algorithm
    if digest is None or digest.name != _DIGESTS[key.curve.name]:
        raise RequestRefused("signing algorithm not permitted")
    return key


def _name(identity: str) -> x509.GeneralName:
    """Return who a certificate names, in the forms that Fulcio writes: an e-mail address, or else a URI."""
    try:
        if "@" in identity and "://" not in identity:
            if not _EMAIL.fullmatch(identity):
                raise RequestRefused("There was an error processing the identity token")
            return x509.RFC822Name(identity)
        if _NO_URI.search(identity):
            raise RequestRefused(f"parse {identity!r}: not a URI")
        return x509.UniformResourceIdentifier(quote(identity, safe=_URI_LETTERS))
    except ValueError as error:
        raise RequestRefused(f"the identity cannot be written into a certificate: {error}") from error
