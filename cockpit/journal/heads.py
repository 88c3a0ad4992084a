"""Signed heads: C2SP checkpoints over the journal's RFC 6962 root, kept outside the file they vouch for.

A head (c2sp.org/tlog-checkpoint, c2sp.org/signed-note) is the text `<origin>\\n<size>\\n<base64 root>\\n`,
an empty line, and signature lines `— <key name> <base64(4-byte key id ‖ Ed25519 signature)>`. Key name and
origin are `cockpit/<run id>`. The key is made for one run; its public half lies in `heads/run-key.pub` for
looking up, and counts for as much as whatever certifies it (the run's signature bundle).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from cockpit.base import sshsig
from cockpit.base.errors import JournalError
from cockpit.base.files import write_private

PUBLIC_KEY_NAME = "run-key.pub"
_MAX_HEAD_BYTES = 16 * 1024
_MAX_SIGNATURES = 16
_ED25519 = b"\x01"
_SIGNATURE_START = "\u2014 "
_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")
_ORIGIN = re.compile(r"[!-*,-~]{1,200}")  # no space and no plus sign, as signed-note wants of key names
_FILE = re.compile(r"([0-9]{8,19})-([a-z0-9][a-z0-9.-]{0,63})\.checkpoint")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Head:
    """A checkpoint: the root over the first `size` records of the log called `origin`."""

    origin: str
    size: int
    root: bytes

    def text(self) -> bytes:
        """Return the signed text."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def origin_of(run_id: str) -> str:
    """Return the origin line, and key name, of a run; JournalError for an id that cannot be in a note."""
    origin = f"cockpit/{run_id}"
    if not _ORIGIN.fullmatch(origin):
        raise JournalError("a run id of unfit characters", where=repr(run_id[:80]))
    return origin


def key_id(name: str, public_key: bytes) -> bytes:
    """Return the 4-byte signed-note id of an Ed25519 key."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + public_key).digest()[:4]


class RunKey:
    """The Ed25519 key of one run; it stays in memory unless saved for a resume."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private

    @classmethod
    def generate(cls) -> RunKey:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> RunKey:
        """Read a saved key; raises JournalError when the file holds none, or others may read it."""
        try:
            if path.stat().st_mode & 0o077:
                raise JournalError("the run's key is readable by others", where=str(path), hint="chmod 600")
            seed = base64.b64decode(path.read_bytes().strip(), validate=True)
            return cls(Ed25519PrivateKey.from_private_bytes(seed))
        except (OSError, ValueError) as error:
            raise JournalError(f"the run's key cannot be read: {error}", where=str(path)) from None

    def save(self, path: Path) -> None:
        """Write the private key (base64 of its 32 bytes), readable by the owner only."""
        _write(path, base64.b64encode(self._private.private_bytes_raw()) + b"\n")

    @property
    def public_bytes(self) -> bytes:
        """The 32 bytes of the public key."""
        return self._private.public_key().public_bytes_raw()

    def ssh_signature(self, message: bytes, namespace: str) -> bytes:
        """Return the armoured SSH signature of `message`, as git verifies it on tags."""
        return sshsig.sign(message, namespace, self.public_bytes, self._private.sign)

    def note_signature(self, name: str, text: bytes) -> bytes:
        """Return the signature line, with its newline, of a note's `text` under the key name `name`."""
        blob = key_id(name, self.public_bytes) + self._private.sign(text)
        return f"{_SIGNATURE_START}{name} {base64.b64encode(blob).decode()}\n".encode()


def sign_head(head: Head, key: RunKey) -> bytes:
    """Return the checkpoint: text, empty line, one signature."""
    text = head.text()
    return text + b"\n" + key.note_signature(head.origin, text)


def parse_and_verify(data: bytes, public_key: bytes, *, origin: str = "") -> Head:
    """Return the head of a checkpoint signed by the 32-byte `public_key` (and, if given, of that origin).

    Signatures by other keys are passed over, as signed-note says. Raises JournalError for anything that is
    not such a checkpoint.
    """
    try:
        text, signatures = _split(data)
        head = _parse(text)
    except ValueError as error:
        raise JournalError(f"not a checkpoint: {error}") from None
    if origin and head.origin != origin:
        raise JournalError(f"a checkpoint of {head.origin}, not of {origin}")
    wanted = key_id(head.origin, public_key)
    for name, blob in signatures:
        if name == head.origin and blob[:4] == wanted:
            try:
                Ed25519PublicKey.from_public_bytes(public_key).verify(blob[4:], text)
            except (InvalidSignature, ValueError):
                raise JournalError("the checkpoint's signature does not verify") from None
            return head
    raise JournalError("the checkpoint is not signed by the run's key")


def write_head(folder: Path, name: str, head: Head, key: RunKey) -> Path:
    """Sign `head` and keep it, synced, as `<size:08d>-<name>.checkpoint`; return the path."""
    if not _NAME.fullmatch(name):
        raise JournalError("a head's name is of a-z, 0-9, dot and hyphen", where=repr(name[:80]))
    path = folder / f"{head.size:08d}-{name}.checkpoint"
    _write(path, sign_head(head, key))
    return path


def write_public_key(folder: Path, key: RunKey) -> Path:
    """Keep the public key, base64, as `run-key.pub` beside the heads."""
    path = folder / PUBLIC_KEY_NAME
    _write(path, base64.b64encode(key.public_bytes) + b"\n")
    return path


def read_public_key(folder: Path) -> bytes:
    """Return the 32 bytes of `run-key.pub`; raises JournalError when it is missing or something else."""
    path = folder / PUBLIC_KEY_NAME
    try:
        with path.open("rb") as file:
            key = base64.b64decode(file.read(200).strip(), validate=True)
    except (OSError, ValueError) as error:
        raise JournalError(f"the run's public key cannot be read: {error}", where=str(path)) from None
    if len(key) != 32:
        raise JournalError("the run's public key is not 32 bytes", where=str(path))
    return key


def head_files(folder: Path) -> list[tuple[int, Path]]:
    """Return a folder's checkpoint files with the sizes in their names (-1: not a head's name), in order."""
    found: list[tuple[int, Path]] = []
    for path in sorted(folder.glob("*.checkpoint")):
        match = _FILE.fullmatch(path.name)
        found.append((int(match[1]) if match else -1, path))
    return found


def read_head(path: Path, public_key: bytes, *, origin: str = "") -> Head:
    """Return the verified head in a file; raises JournalError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_HEAD_BYTES + 1)
    except OSError as error:
        raise JournalError(f"a head cannot be read: {error.strerror}", where=str(path)) from None
    return parse_and_verify(data, public_key, origin=origin)


def _split(data: bytes) -> tuple[bytes, list[tuple[str, bytes]]]:
    if len(data) > _MAX_HEAD_BYTES:
        raise ValueError("too large")
    # The text may itself hold empty lines; the last one parts it from the signatures.
    at = data.rfind(b"\n\n")
    if at < 0 or not data.endswith(b"\n"):
        raise ValueError("no signatures")
    text, lines = data[: at + 1], data[at + 2 : -1].decode("utf-8").split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise ValueError("too many signatures")
    signatures: list[tuple[str, bytes]] = []
    for line in lines:
        if not line.startswith(_SIGNATURE_START):
            raise ValueError("a line among the signatures is none")
        name, _, encoded = line.removeprefix(_SIGNATURE_START).partition(" ")
        blob = _unbase64(encoded)
        if not _ORIGIN.fullmatch(name) or len(blob) < 5:
            raise ValueError("a malformed signature line")
        signatures.append((name, blob))
    return text, signatures


def _parse(text: bytes) -> Head:
    lines = text.decode("utf-8").split("\n")
    # The writer makes no extension lines, and a line it did not make has no meaning it could vouch for.
    if len(lines) != 4 or lines[3]:
        raise ValueError("not three lines")
    origin, size, root = lines[:3]
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("a malformed origin")
    if not _DECIMAL.fullmatch(size):
        raise ValueError("a malformed size")
    digest = _unbase64(root)
    if len(digest) != 32:
        raise ValueError("a root that is not 32 bytes")
    return Head(origin, int(size), digest)


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("malformed base64") from None
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 that is not canonical")
    return data


def _write(path: Path, data: bytes) -> None:
    try:
        write_private(path, data)
    except OSError as error:
        raise JournalError(f"cannot be written: {error.strerror}", where=str(path)) from None
