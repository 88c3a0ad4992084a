"""SSH signatures with Ed25519 keys (PROTOCOL.sshsig of OpenSSH): what git verifies on signed tags.

Pure functions over bytes; a public key is its 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Callable

GIT = "git"
"""The namespace git signs tags and commits in."""
_MAGIC = b"SSHSIG"
_KIND = b"ssh-ed25519"
_HASH = b"sha512"
_BEGIN = b"-----BEGIN SSH SIGNATURE-----"
_END = b"-----END SSH SIGNATURE-----"
_WIDTH = 70
_MAX_ARMOURED = 4096
_NAMESPACE = re.compile(r"[a-z][a-z0-9.@-]{0,63}")


def public_blob(public: bytes) -> bytes:
    """Return a public key as SSH encodes it."""
    return _text(_KIND) + _text(public)


def public_line(public: bytes) -> str:
    """Return a public key as in an authorized_keys file, without a comment."""
    return f"ssh-ed25519 {base64.b64encode(public_blob(public)).decode()}"


def fingerprint(public: bytes) -> str:
    """Return `SHA256:…` as `ssh-keygen -l` prints it."""
    digest = hashlib.sha256(public_blob(public)).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def allowed_signer(principal: str, public: bytes, namespace: str = GIT) -> str:
    """Return the line of an allowed_signers file that trusts the key for one namespace only."""
    return f'{principal} namespaces="{namespace}" {public_line(public)}\n'


def sign(message: bytes, namespace: str, public: bytes, key: Callable[[bytes], bytes]) -> bytes:
    """Return the armoured signature of `message`; `key` gives the 64 bytes of an Ed25519 signature."""
    raw = key(_signed(message, namespace))
    blob = (
        _MAGIC
        + struct.pack(">I", 1)
        + _text(public_blob(public))
        + _text(namespace.encode())
        + _text(b"")
        + _text(_HASH)
        + _text(_text(_KIND) + _text(raw))
    )
    encoded = base64.b64encode(blob)
    lines = [encoded[at : at + _WIDTH] for at in range(0, len(encoded), _WIDTH)]
    return b"\n".join([_BEGIN, *lines, _END, b""])


def verify(message: bytes, namespace: str, public: bytes, armoured: bytes) -> None:
    """Check an armoured signature of `message` by exactly this key; raises ValueError that says why not.

    There is one encoding of a signature: any other bytes for the same one are refused.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    raw = _raw(armoured)
    if armoured != sign(message, namespace, public, lambda _: raw):
        raise ValueError("a signature of another key, namespace or form")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw, _signed(message, namespace))
    except InvalidSignature:
        raise ValueError("the signature is not over this text") from None


def split(signed: bytes) -> tuple[bytes, bytes]:
    """Return the text and the armoured signature behind it, which is empty where there is none."""
    at = signed.find(b"\n" + _BEGIN + b"\n")
    return (signed, b"") if at < 0 else (signed[: at + 1], signed[at + 1 :])


def _raw(armoured: bytes) -> bytes:
    lines = armoured.split(b"\n")
    if len(armoured) > _MAX_ARMOURED or lines[0] != _BEGIN or lines[-2:] != [_END, b""]:
        raise ValueError("no SSH signature")
    try:
        blob = base64.b64decode(b"".join(lines[1:-2]), validate=True)
    except binascii.Error:
        raise ValueError("no SSH signature") from None
    if len(blob) < 64:
        raise ValueError("no SSH signature")
    return blob[-64:]


def _signed(message: bytes, namespace: str) -> bytes:
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"not a namespace: {namespace[:80]!r}")
    digest = hashlib.sha512(message).digest()
    return _MAGIC + _text(namespace.encode()) + _text(b"") + _text(_HASH) + _text(digest)


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
