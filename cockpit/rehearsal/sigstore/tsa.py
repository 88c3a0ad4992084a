"""The time-stamp authority (RFC 3161)."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID
from rfc3161_client import _rust as tsp

from cockpit.rehearsal.sigstore import ca, der

_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2)
_SIZES = {"2.16.840.1.101.3.4.2.1": 32, "2.16.840.1.101.3.4.2.2": 48, "2.16.840.1.101.3.4.2.3": 64}
_SHA256 = der.seq(der.oid("2.16.840.1.101.3.4.2.1"))
_ECDSA_SHA256 = der.seq(der.oid("1.2.840.10045.4.3.2"))
_TST_INFO = der.oid("1.2.840.113549.1.9.16.1.4")
_SIGNED_DATA = der.oid("1.2.840.113549.1.7.2")
_POLICY = der.oid("1.3.6.1.4.1.57264.2")


class StampRefused(Exception):
    """A time-stamp request that does not parse, or asks for another hash than one of SHA-2."""


def time_stamping_authority(operator: str) -> ca.Authority:
    """Return a new certificate for time-stamping below a root of its own."""
    root_key, key = ca.new_key(), ca.new_key()
    root = ca.ca_certificate(
        ca.subject("rehearsal-tsa-root", operator), root_key, issuer=None, issuer_key=root_key, path_length=0
    )
    now = datetime.now(UTC)
    certificate = (
        ca.begin_certificate(
            ca.subject("rehearsal-tsa", operator),
            root.subject,
            key.public_key(),
            root_key.public_key(),
            since=now - ca.BACKDATE,
            until=now + timedelta(days=3650),
        )
        .add_extension(ca.usage(signs=True), critical=True)
        # Critical, and nothing else (RFC 3161, 2.3).
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING]), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    return ca.Authority(key, certificate, root)


class TimestampAuthority:
    """Stamps SHA-2 digests with the machine's clock, to the second."""

    def __init__(self) -> None:
        authority = time_stamping_authority(ca.OPERATOR)
        self._key, self.certificate, self.root = authority.key, authority.certificate, authority.root

    def answer(self, request: bytes) -> bytes:
        """Return the TimeStampResp to a DER TimeStampReq; raise StampRefused."""
        try:
            asked = tsp.parse_timestamp_request(request)
        except ValueError as error:
            raise StampRefused("Error generating timestamp response") from error
        imprint = asked.message_imprint
        algorithm = imprint.hash_algorithm.dotted_string
        if _SIZES.get(algorithm) != len(imprint.message):
            raise StampRefused("Error generating timestamp response")
        digest = der.seq(der.seq(der.oid(algorithm)), der.octets(imprint.message))
        return self._stamp(digest, asked.nonce, named=asked.cert_req)

    def _stamp(self, imprint: bytes, nonce: int | None, *, named: bool) -> bytes:
        moment = datetime.now(UTC).strftime("%Y%m%d%H%M%SZ").encode()
        info = der.seq(
            der.integer(1),
            _POLICY,
            imprint,
            der.integer(secrets.randbits(63)),
            der.tlv(der.TIME, moment),
            der.seq(der.integer(1)),  # accurate to a second
            *([der.integer(nonce)] if nonce is not None else []),
        )
        certificate = self.certificate.public_bytes(serialization.Encoding.DER)
        attributes = (
            _attribute("1.2.840.113549.1.9.3", _TST_INFO),
            _attribute("1.2.840.113549.1.9.4", der.octets(hashlib.sha256(info).digest())),
            # RFC 5816 SigningCertificateV2: which certificate must check this signature.
            _attribute(
                "1.2.840.113549.1.9.16.2.47",
                der.seq(der.seq(der.seq(der.octets(hashlib.sha256(certificate).digest())))),
            ),
        )
        r, s = decode_dss_signature(self._key.sign(der.set_of(*attributes), ec.ECDSA(hashes.SHA256())))
        # Of the two equally valid signatures the one with the smaller s: nothing else fixes which it is.
        signature = encode_dss_signature(r, min(s, _ORDER - s))
        signer = der.seq(
            der.integer(1),
            der.seq(self.certificate.issuer.public_bytes(), der.integer(self.certificate.serial_number)),
            _SHA256,
            der.set_of(*attributes, tag=der.CONTEXT_0),
            _ECDSA_SHA256,
            der.octets(signature),
        )
        signed = der.seq(
            der.integer(3),
            der.set_of(_SHA256),
            der.seq(_TST_INFO, der.tlv(der.CONTEXT_0, der.octets(info))),
            *([der.tlv(der.CONTEXT_0, certificate)] if named else []),
            der.set_of(signer),
        )
        return der.seq(der.seq(der.integer(0)), der.seq(_SIGNED_DATA, der.tlv(der.CONTEXT_0, signed)))


def _attribute(dotted: str, value: bytes) -> bytes:
    return der.seq(der.oid(dotted), der.set_of(value))
