"""The transparency log: Rekor v2's entries over a Merkle tree with C2SP checkpoints and tiles."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from cockpit.rehearsal.sigstore.merkle import TILE, MerkleTree

KIND = {"kind": "hashedrekord", "version": "0.0.2"}
_REQUEST = "hashedRekordRequestV002"
_KEYS: dict[str, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm, str]] = {
    "PKIX_ECDSA_P256_SHA_256": (ec.SECP256R1, hashes.SHA256(), "SHA2_256"),
    "PKIX_ECDSA_P384_SHA_384": (ec.SECP384R1, hashes.SHA384(), "SHA2_384"),
    "PKIX_ECDSA_P521_SHA_512": (ec.SECP521R1, hashes.SHA512(), "SHA2_512"),
}


class EntryRefused(Exception):
    """An entry the log must not take."""


class EntryKnown(Exception):
    """An entry the log has taken already; the text says where."""


def b64(data: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(data).decode()


def log_id(origin: str, key: bytes) -> bytes:
    """Return the C2SP signed-note key id of a log's raw Ed25519 key.

    Its first four bytes stand before a checkpoint's signature.
    """
    return hashlib.sha256(f"{origin}\n".encode() + b"\1" + key).digest()


class TransparencyLog:
    """Takes `hashedrekord` entries whose signature holds, each once, and proves what it took.

    Rekor v2 takes no other kind: of a DSSE envelope it is given what the signature covers.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._key = ed25519.Ed25519PrivateKey.generate()
        self._tree = MerkleTree()
        self._entries: list[bytes] = []
        self._known: dict[bytes, int] = {}
        raw = self._key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        self.log_id = log_id(origin, raw)

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def public_key(self) -> bytes:
        """The log's Ed25519 public key as DER SubjectPublicKeyInfo."""
        return self._key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def checkpoint(self) -> str:
        """Return the signed note (C2SP tlog-checkpoint) over all entries."""
        note = f"{self.origin}\n{len(self)}\n{b64(self._tree.root(len(self)))}\n"
        return f"{note}\n\u2014 {self.origin} {b64(self.log_id[:4] + self._key.sign(note.encode()))}\n"

    def add(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Take a `CreateEntryRequest` and return its `TransparencyLogEntry`.

        Raises EntryRefused, and EntryKnown for an entry that is in the log already.
        """
        if list(request) != [_REQUEST]:
            raise EntryRefused("invalid type, must be hashedrekord")
        try:
            spec = _hashedrekord(request[_REQUEST])
        except (KeyError, TypeError, ValueError, AttributeError, InvalidSignature) as error:
            raise EntryRefused("invalid hashedrekord request") from error
        body = rfc8785.dumps({"apiVersion": KIND["version"], "kind": KIND["kind"], "spec": spec})
        if body in self._known:
            raise EntryKnown(
                f"an equivalent entry already exists in the transparency log with index {self._known[body]}"
            )
        self._known[body] = self._tree.append(body)
        self._entries.append(body)
        return self._entry(len(self) - 1)

    def tile(self, level: int, index: int, width: int = TILE) -> bytes:
        """Return the hashes of a tile; raises ValueError when it is not there."""
        return self._tree.tile(level, index, width)

    def entries(self, index: int, width: int = TILE) -> bytes:
        """Return a bundle of entries, each after its length in two bytes; raises ValueError."""
        bodies = self._entries[index * TILE : index * TILE + width]
        if not 0 < width <= TILE or len(bodies) != width:
            raise ValueError(f"bundle {index} has no {width} entries")
        return b"".join(len(body).to_bytes(2, "big") + body for body in bodies)

    def _entry(self, index: int) -> dict[str, Any]:
        size = len(self)
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": KIND,
            "integratedTime": "0",
            "inclusionPromise": None,
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(self._tree.root(size)),
                "treeSize": str(size),
                "hashes": [b64(digest) for digest in self._tree.inclusion(index, size)],
                "checkpoint": {"envelope": self.checkpoint()},
            },
            "canonicalizedBody": b64(self._entries[index]),
        }


def _hashedrekord(body: Mapping[str, Any]) -> dict[str, Any]:
    _only(body, "digest", "signature")
    signature = body["signature"]
    _only(signature, "content", "verifier")
    verifier = signature["verifier"]
    _only(verifier, "keyDetails", "x509Certificate")
    _only(verifier["x509Certificate"], "rawBytes")
    digest = base64.b64decode(body["digest"], validate=True)
    content = base64.b64decode(signature["content"], validate=True)
    raw = base64.b64decode(verifier["x509Certificate"]["rawBytes"], validate=True)
    curve, algorithm, name = _KEYS[verifier["keyDetails"]]
    key = x509.load_der_x509_certificate(raw).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, curve):
        raise ValueError("the certificate holds another key")
    key.verify(content, digest, ec.ECDSA(Prehashed(algorithm)))
    return {
        "hashedRekordV002": {
            "data": {"algorithm": name, "digest": b64(digest)},
            "signature": {
                "content": b64(content),
                "verifier": {
                    "keyDetails": verifier["keyDetails"],
                    "x509Certificate": {"rawBytes": b64(raw)},
                },
            },
        }
    }


def _only(value: Mapping[str, Any], *names: str) -> None:
    if not set(value) <= set(names):
        raise ValueError("unknown field")
