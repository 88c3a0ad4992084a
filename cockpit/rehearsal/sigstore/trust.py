"""The client trust configuration: trusted root and signing config, as Sigstore's protobuf-specs give them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from cockpit.rehearsal.sigstore.ca import BACKDATE, OPERATOR, der_bytes
from cockpit.rehearsal.sigstore.log import b64

__all__ = ["OPERATOR", "Addresses", "Anchors", "Trust"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base URLs of the services; the CT log's is what its entry in the root says."""

    oidc: str
    fulcio: str
    rekor: str
    tsa: str
    ctlog: str


@dataclass(frozen=True, slots=True)
class Anchors:
    """The keys and certificates to trust: public ones only.

    Chains begin with what signs and end with their root; keys are DER SubjectPublicKeyInfo.
    """

    operator: str
    ca: tuple[x509.Certificate, ...]
    ct_key: bytes
    log_origin: str
    log_key: bytes
    log_id: bytes
    tsa: tuple[x509.Certificate, ...]


class Trust:
    """What a client must know to sign with, and to verify, a Sigstore of a rehearsal."""

    def __init__(self, anchors: Anchors) -> None:
        self._anchors = anchors
        # Truncated to the second: the JSON form of a protobuf timestamp may leave fractions out.
        self._window = {"start": (datetime.now(UTC) - BACKDATE).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def root(self, at: Addresses) -> dict[str, Any]:
        """Return the trusted root."""
        known = self._anchors
        ct_id = hashlib.sha256(known.ct_key).digest()
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                self._instance(f"https://{known.log_origin}", known.log_key, "PKIX_ED25519", known.log_id)
            ],
            "certificateAuthorities": [self._chain(at.fulcio, known.ca)],
            "ctlogs": [self._instance(at.ctlog, known.ct_key, "PKIX_ECDSA_P256_SHA_256", ct_id)],
            "timestampAuthorities": [self._chain(at.tsa, known.tsa)],
        }

    def config(self, at: Addresses) -> dict[str, Any]:
        """Return the client trust configuration."""
        return {
            "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
            "trustedRoot": self.root(at),
            "signingConfig": {
                "mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
                "caUrls": [self._service(at.fulcio, 1)],
                "oidcUrls": [self._service(at.oidc, 1)],
                "rekorTlogUrls": [self._service(at.rekor, 2)],
                "rekorTlogConfig": {"selector": "ANY"},
                "tsaUrls": [self._service(f"{at.tsa}/api/v1/timestamp", 1)],
                "tsaConfig": {"selector": "ANY"},
            },
        }

    def _instance(self, url: str, key: bytes, details: str, key_id: bytes) -> dict[str, Any]:
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": b64(key), "keyDetails": details, "validFor": self._window},
            "logId": {"keyId": b64(key_id)},
            "operator": self._anchors.operator,
        }

    def _chain(self, url: str, chain: tuple[x509.Certificate, ...]) -> dict[str, Any]:
        [name] = chain[-1].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return {
            "subject": {"organization": self._anchors.operator, "commonName": str(name.value)},
            "uri": url,
            "certChain": {"certificates": [{"rawBytes": b64(der_bytes(one))} for one in chain]},
            "validFor": self._window,
            "operator": self._anchors.operator,
        }

    def _service(self, url: str, version: int) -> dict[str, Any]:
        operator = self._anchors.operator
        return {"url": url, "majorApiVersion": version, "validFor": self._window, "operator": operator}


def dumps(value: dict[str, Any]) -> str:
    """Return compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
