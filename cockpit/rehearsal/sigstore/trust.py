"""The client trust configuration: trusted root and signing config, as Sigstore's protobuf-specs give them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from cockpit.rehearsal.sigstore.ca import BACKDATE, OPERATOR, CertificateAuthority, der_bytes
from cockpit.rehearsal.sigstore.log import TransparencyLog, b64
from cockpit.rehearsal.sigstore.tsa import TimestampAuthority

__all__ = ["OPERATOR", "Addresses", "Trust"]


@dataclass(frozen=True, slots=True)
class Addresses:
    """Base URLs of the four services."""

    oidc: str
    fulcio: str
    rekor: str
    tsa: str


class Trust:
    """What a client must know to sign with, and to verify, this stand-in."""

    def __init__(
        self, authority: CertificateAuthority, log: TransparencyLog, tsa: TimestampAuthority
    ) -> None:
        self._authority = authority
        self._log = log
        self._tsa = tsa
        # Truncated to the second: the JSON form of a protobuf timestamp may leave fractions out.
        self._window = {"start": (datetime.now(UTC) - BACKDATE).strftime("%Y-%m-%dT%H:%M:%SZ")}

    def root(self, at: Addresses) -> dict[str, Any]:
        """Return the trusted root."""
        return {
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [
                self._instance(
                    f"https://{self._log.origin}", self._log.public_key, "PKIX_ED25519", self._log.log_id
                )
            ],
            "certificateAuthorities": [
                self._chain(at.fulcio, "rehearsal-root", self._authority.intermediate, self._authority.root)
            ],
            "ctlogs": [
                self._instance(
                    f"{at.fulcio}/ct",
                    self._authority.ct_public_key,
                    "PKIX_ECDSA_P256_SHA_256",
                    hashlib.sha256(self._authority.ct_public_key).digest(),
                )
            ],
            "timestampAuthorities": [
                self._chain(at.tsa, "rehearsal-tsa-root", self._tsa.certificate, self._tsa.root)
            ],
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

    def _instance(self, url: str, key: bytes, details: str, log_id: bytes) -> dict[str, Any]:
        return {
            "baseUrl": url,
            "hashAlgorithm": "SHA2_256",
            "publicKey": {"rawBytes": b64(key), "keyDetails": details, "validFor": self._window},
            "logId": {"keyId": b64(log_id)},
            "operator": OPERATOR,
        }

    def _chain(self, url: str, common_name: str, *certificates: x509.Certificate) -> dict[str, Any]:
        return {
            "subject": {"organization": OPERATOR, "commonName": common_name},
            "uri": url,
            "certChain": {"certificates": [{"rawBytes": b64(der_bytes(one))} for one in certificates]},
            "validFor": self._window,
            "operator": OPERATOR,
        }

    def _service(self, url: str, version: int) -> dict[str, Any]:
        return {"url": url, "majorApiVersion": version, "validFor": self._window, "operator": OPERATOR}


def dumps(value: dict[str, Any]) -> str:
    """Return compact JSON with sorted keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
