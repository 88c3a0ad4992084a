"""The one accepted form of those parts of a Sigstore bundle that no signature covers.

A time-stamp token (RFC 3161 in CMS, RFC 5652) and a checkpoint (C2SP signed note) hold bytes outside what
their signer signed: status, versions, algorithm parameters, embedded certificates, signature names, further
signatures, and of each ECDSA signature (r, s) the equally valid (r, n - s). Who signs brings them into
normal form; who verifies demands it. So no byte of a bundle can change without being noticed.
"""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from cockpit.backends import der

_ORDERS = {  # SEC 2: the order n of each curve's base point
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int("FF" * 24 + "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973", 16),
    "secp521r1": int(
        "01FF" + "FF" * 31 + "FA51868783BF2F966B7FCC0148F709A5D03BB5C9B8899C47AEBB6FB71E91386409", 16
    ),
}
_SIGNED_DATA = bytes.fromhex("06092a864886f70d010702")
_TST_INFO = bytes.fromhex("060b2a864886f70d0109100104")
_ECDSA_WITH = {  # digest algorithm -> ecdsa-with-SHA2 (RFC 5754): both without parameters
    bytes.fromhex("0609608648016503040201"): bytes.fromhex("06082a8648ce3d040302"),
    bytes.fromhex("0609608648016503040202"): bytes.fromhex("06082a8648ce3d040303"),
    bytes.fromhex("0609608648016503040203"): bytes.fromhex("06082a8648ce3d040304"),
}
_NOTE = re.compile(
    r"(?P<origin>[^\n]+)\n(?P<size>0|[1-9][0-9]{0,18})\n(?P<root>[A-Za-z0-9+/]{43}=)\n(?:[^\n]+\n)*"
)
_SIGNATURE_LINE = re.compile("\u2014 (\\S+) ([A-Za-z0-9+/]+={0,2})")


class NotNormal(ValueError):
    """A time-stamp or checkpoint that has no normal form."""


def low_s(signature: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    """Return the one of (r, s) and (r, n - s) with the smaller s, in DER."""
    order = _ORDERS.get(key.curve.name)
    if order is None:
        raise NotNormal(f"signatures on the curve {key.curve.name} are not supported")
    try:
        r, s = decode_dss_signature(signature)
    except ValueError as error:
        raise NotNormal("an ECDSA signature that does not decode") from error
    return encode_dss_signature(r, min(s, order - s))


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise NotNormal(f"time-stamp: {what}")


def signer_of(response: bytes, authorities: list[x509.Certificate]) -> x509.Certificate:
    """Return the one of `authorities` a TimeStampResp names as its signer; raise NotNormal."""
    named = _signer_info(response).children[1].raw
    for certificate in authorities:
        if named == _signer_id(certificate):
            return certificate
    raise NotNormal("time-stamp: signed by an authority that is not in the trusted root")


def normal_timestamp(response: bytes, authority: x509.Certificate) -> bytes:
    """Return the normal form of a granted DER TimeStampResp signed with ECDSA by `authority`.

    Status 0 without text; versions 3 and 1; algorithms without parameters; exactly the authority's own
    certificate; signed attributes in DER order; low s; no CRLs and no unsigned attributes.
    """
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise NotNormal("time-stamp: only ECDSA authorities are supported")
    signer = _signer_info(response)
    content = _signed_data(response).children[2]
    _expect(len(content.children) == 2 and content.children[0].raw == _TST_INFO, "not a TSTInfo")
    holder = content.children[1]
    _expect(holder.tag == der.CONTEXT_0 and len(holder.children) == 1, "not a TSTInfo")
    _expect(holder.children[0].tag == der.OCTETS, "not a TSTInfo")
    _strict(holder.children[0].content)
    _expect(signer.children[1].raw == _signer_id(authority), "signed by another authority")
    digest = signer.children[2].children[0].raw
    _expect(digest in _ECDSA_WITH, "digest algorithm not supported")
    attributes = signer.children[3]
    order = [attribute.raw for attribute in attributes.children]
    _expect(attributes.tag == der.CONTEXT_0 and order == sorted(order), "signed attributes out of order")
    _expect(signer.children[5].tag == der.OCTETS, "no signature")
    algorithm = der.tlv(der.SEQUENCE, digest)
    signer_info = der.tlv(
        der.SEQUENCE,
        der.integer(1),
        _signer_id(authority),
        algorithm,
        attributes.raw,
        der.tlv(der.SEQUENCE, _ECDSA_WITH[digest]),
        der.tlv(der.OCTETS, low_s(signer.children[5].content, key)),
    )
    signed_data = der.tlv(
        der.SEQUENCE,
        der.integer(3),
        der.tlv(der.SET, algorithm),
        content.raw,
        der.tlv(der.CONTEXT_0, authority.public_bytes(serialization.Encoding.DER)),
        der.tlv(der.SET, signer_info),
    )
    token = der.tlv(der.SEQUENCE, _SIGNED_DATA, der.tlv(der.CONTEXT_0, signed_data))
    return der.tlv(der.SEQUENCE, der.tlv(der.SEQUENCE, der.integer(0)), token)


def _strict(data: bytes) -> der.Element:
    try:
        return der.read(data)
    except der.NotDer as error:
        raise NotNormal(f"time-stamp: {error}") from error


@lru_cache(maxsize=8)  # asked for several times over in one verification
def _signed_data(response: bytes) -> der.Element:
    outer = _strict(response).children
    _expect(len(outer) == 2 and bool(outer[0].children), "no token in the answer")
    _expect(outer[0].children[0].raw == der.integer(0), "not granted")
    token = outer[1].children
    _expect(
        len(token) == 2 and token[0].raw == _SIGNED_DATA and len(token[1].children) == 1, "not signed data"
    )
    data = token[1].children[0]
    _expect(data.tag == der.SEQUENCE and len(data.children) >= 4, "not signed data")
    return data


def _signer_info(response: bytes) -> der.Element:
    signers = _signed_data(response).children[-1]
    _expect(signers.tag == der.SET and len(signers.children) == 1, "not exactly one signer")
    signer = signers.children[0]
    _expect(len(signer.children) >= 6 and bool(signer.children[2].children), "no signed attributes")
    return signer


def _signer_id(certificate: x509.Certificate) -> bytes:
    return der.tlv(der.SEQUENCE, certificate.issuer.public_bytes(), der.integer(certificate.serial_number))


def checkpoint_size(envelope: str) -> int:
    """Return the tree size a checkpoint states; raise NotNormal."""
    return int(_note(envelope)[0]["size"])


def normal_checkpoint(envelope: str, key_id: bytes, key: PublicKeyTypes) -> str:
    """Return a checkpoint with the log's own signature only, named as its origin, low s when ECDSA.

    `key_id` is the log's id, whose first four bytes mark its signature. Raises NotNormal.
    """
    match, text, lines = _note(envelope)
    own = []
    for line in lines:
        found = _SIGNATURE_LINE.fullmatch(line)
        if found is None:
            raise NotNormal("checkpoint: a signature line that does not parse")
        try:
            signature = base64.b64decode(found[2], validate=True)
        except binascii.Error as error:
            raise NotNormal("checkpoint: a signature line that does not parse") from error
        if signature[:4] == key_id[:4]:
            own.append(signature[4:])
    if len(own) != 1:
        raise NotNormal("checkpoint: not exactly one signature of the log")
    value = low_s(own[0], key) if isinstance(key, ec.EllipticCurvePublicKey) else own[0]
    return f"{text}\n\u2014 {match['origin']} {base64.b64encode(key_id[:4] + value).decode()}\n"


def _note(envelope: str) -> tuple[re.Match[str], str, list[str]]:
    text, separator, rest = envelope.partition("\n\n")
    match = _NOTE.fullmatch(f"{text}\n")
    if match is None or not separator or not rest.endswith("\n"):
        raise NotNormal("checkpoint: not a signed note")
    return match, f"{text}\n", rest.removesuffix("\n").split("\n")
