"""Large or sensitive payloads, kept beside the journal and referred to by digest.

A salted blob is stored as salt (16 random bytes) ‖ data in `<hex>.salted`, an unsalted one as its data in
`<hex>`; the digest is over what is stored. The salt stays out of the journal on purpose: once a blob is
redacted, the digest alone cannot be used to try out guesses of what it said, and the chain is whole.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from pathlib import Path

import msgspec

from cockpit.base.errors import JournalError
from cockpit.base.files import write_private
from cockpit.base.limits import MAX_BLOB_BYTES

SALT_BYTES = 16
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class BlobRef(msgspec.Struct, frozen=True, kw_only=True):
    """How an event refers to a blob: `sha256:<hex>` of what is stored, bytes of the data, whether salted."""

    digest: str
    size: int
    salted: bool = True


class BlobMissing(JournalError):
    """There is no blob of this digest."""


class BlobRedacted(JournalError):
    """The blob's content was removed on purpose."""


class BlobStore:
    """The `blobs/` folder of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, data: bytes, *, salted: bool = True) -> BlobRef:
        """Keep `data`, on disk on return; raises JournalError when it is too large or cannot be written."""
        if len(data) > MAX_BLOB_BYTES:
            raise JournalError(
                f"a blob of {len(data)} bytes is too large", hint=f"the limit is {MAX_BLOB_BYTES}"
            )
        stored = secrets.token_bytes(SALT_BYTES) + data if salted else data
        digest = hashlib.sha256(stored).hexdigest()
        path = self._folder / (f"{digest}.salted" if salted else digest)
        # A salt makes it new. An unsalted blob that was redacted stays so, though the same bytes come again.
        if salted or not (path.exists() or self._tombstone(digest).exists()):
            try:
                write_private(path, stored)
            except OSError as error:
                raise JournalError(f"a blob cannot be written: {error.strerror}", where=str(path)) from None
        return BlobRef(digest=f"sha256:{digest}", size=len(data), salted=salted)

    def get(self, digest: str) -> bytes:
        """Return the data of `sha256:<hex>`, verified.

        Raises BlobMissing, BlobRedacted, or JournalError when what is stored is not what the digest says.
        """
        name = _hex(digest)
        for path, salt in ((self._folder / f"{name}.salted", SALT_BYTES), (self._folder / name, 0)):
            try:
                with path.open("rb") as file:
                    stored = file.read(MAX_BLOB_BYTES + SALT_BYTES + 1)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise JournalError(f"a blob cannot be read: {error.strerror}", where=str(path)) from None
            if len(stored) < salt or hashlib.sha256(stored).hexdigest() != name:
                raise JournalError("a blob is not what its digest says", where=str(path))
            return stored[salt:]
        if self._tombstone(name).exists():
            raise BlobRedacted("the blob was redacted", where=digest)
        raise BlobMissing("there is no such blob", where=digest)

    def redact(self, digest: str) -> None:
        """Remove a blob's content for good and leave `<hex>.redacted`; raises BlobMissing when there is none.

        Who did it and why belongs in the journal, as an event of its own.
        """
        name = _hex(digest)
        present = [p for p in (self._folder / f"{name}.salted", self._folder / name) if p.exists()]
        if not present:
            if self._tombstone(name).exists():
                return
            raise BlobMissing("there is no such blob", where=digest)
        try:
            write_private(self._tombstone(name), b"")
            for path in present:
                path.unlink()
        except OSError as error:
            raise JournalError(f"a blob cannot be redacted: {error.strerror}", where=digest) from None

    def _tombstone(self, name: str) -> Path:
        return self._folder / f"{name}.redacted"


def _hex(digest: str) -> str:
    match = _DIGEST.fullmatch(digest)
    if not match:
        raise JournalError(
            "not a blob's digest", where=repr(digest[:100]), hint="sha256:<64 hexadecimal digits>"
        )
    return match[1]
