"""The transparency log: Rekor v2's entries over a Merkle tree with C2SP checkpoints."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import rfc8785
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from cockpit.rehearsal.sigstore.merkle import MerkleTree

_P256 = "PKIX_ECDSA_P256_SHA_256"
_VERSION = "0.0.2"


class EntryRefused(Exception):
    """An entry the log must not take."""


def b64(data: bytes) -> str:
    """Return standard base64."""
    return base64.b64encode(data).decode()


def log_id(origin: str, key: bytes) -> bytes:
    """Return the C2SP signed-note key id of a log's raw Ed25519 key.

    Its first four bytes stand before a checkpoint's signature.
    """
    return hashlib.sha256(f"{origin}\n".encode() + b"\1" + key).digest()


class TransparencyLog:
    """Takes `hashedrekord` and `dsse` entries whose signature holds, and proves what it took."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self._key = ed25519.Ed25519PrivateKey.generate()
        self._tree = MerkleTree()
        self._entries: list[tuple[str, bytes]] = []
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

    def checkpoint(self, size: int | None = None) -> str:
        """Return the signed note (C2SP tlog-checkpoint) over the first `size` entries."""
        count = len(self) if size is None else size
        note = f"{self.origin}\n{count}\n{b64(self._tree.root(count))}\n"
        return f"{note}\n\u2014 {self.origin} {b64(self.log_id[:4] + self._key.sign(note.encode()))}\n"

    def add(self, request: dict[str, Any]) -> dict[str, Any]:
        """Take a `CreateEntryRequest` and return its `TransparencyLogEntry`; raise EntryRefused."""
        readers: dict[str, Callable[[dict[str, Any]], tuple[str, dict[str, Any]]]] = {
            "hashedRekordRequestV002": _hashedrekord,
            "dsseRequestV002": _dsse,
        }
        try:
            [(name, body)] = request.items()
            kind, spec = readers[name](body)
        except (KeyError, TypeError, ValueError, AttributeError, InvalidSignature) as error:
            raise EntryRefused(f"entry refused: {type(error).__name__} {error}".rstrip()) from error
        canonical = rfc8785.dumps({"apiVersion": _VERSION, "kind": kind, "spec": spec})
        self._entries.append((kind, canonical))
        return self.entry(self._tree.append(canonical))

    def entry(self, index: int, size: int | None = None) -> dict[str, Any]:
        """Return entry `index` with its inclusion proof in the tree of `size` (default: all)."""
        count = len(self) if size is None else size
        path = self._tree.inclusion(index, count)
        kind, body = self._entries[index]
        return {
            "logIndex": str(index),
            "logId": {"keyId": b64(self.log_id)},
            "kindVersion": {"kind": kind, "version": _VERSION},
            "inclusionProof": {
                "logIndex": str(index),
                "rootHash": b64(self._tree.root(count)),
                "treeSize": str(count),
                "hashes": [b64(digest) for digest in path],
                "checkpoint": {"envelope": self.checkpoint(count)},
            },
            "canonicalizedBody": b64(body),
        }

    def consistency(self, first: int, second: int) -> dict[str, Any]:
        """Return the proof that the log of `first` entries is the beginning of the log of `second`."""
        hashes_ = self._tree.consistency(first, second)
        return {
            "first": str(first),
            "second": str(second),
            "hashes": [b64(digest) for digest in hashes_],
            "checkpoint": {"envelope": self.checkpoint(second)},
        }


def _check(verifier: dict[str, Any], signature: bytes, digest: bytes) -> dict[str, Any]:
    if verifier["keyDetails"] != _P256:
        raise ValueError(f"key details {verifier['keyDetails']} are not taken here")
    raw = verifier["x509Certificate"]["rawBytes"]
    key = x509.load_der_x509_certificate(base64.b64decode(raw, validate=True)).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("the certificate holds no ECDSA key")
    key.verify(signature, digest, ec.ECDSA(Prehashed(hashes.SHA256())))
    return {"keyDetails": _P256, "x509Certificate": {"rawBytes": raw}}


def _hashedrekord(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    signature = body["signature"]
    digest = base64.b64decode(body["digest"], validate=True)
    content = base64.b64decode(signature["content"], validate=True)
    spec = {
        "data": {"algorithm": "SHA2_256", "digest": b64(digest)},
        "signature": {"content": b64(content), "verifier": _check(signature["verifier"], content, digest)},
    }
    return "hashedrekord", {"hashedRekordV002": spec}


def _dsse(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    envelope = body["envelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    kind = envelope["payloadType"].encode()
    pae = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    digest = hashlib.sha256(pae).digest()
    signatures = []
    for signature, verifier in zip(envelope["signatures"], body["verifiers"], strict=True):
        content = base64.b64decode(signature["sig"], validate=True)
        signatures.append({"content": b64(content), "verifier": _check(verifier, content, digest)})
    if not signatures:
        raise ValueError("an envelope without signatures")
    hashed = {"algorithm": "SHA2_256", "digest": b64(hashlib.sha256(payload).digest())}
    return "dsse", {"dsseV002": {"payloadHash": hashed, "signatures": signatures}}
