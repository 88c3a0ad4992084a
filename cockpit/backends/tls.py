"""Whom clients trust over TLS: the authorities of the machine, and those a plan adds (`targets.ca_file`)."""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from cockpit.base.errors import UsageError
from cockpit.base.text import visible

_MAX_BYTES = 1 << 20
_HINT = "`ca_file` names a PEM file with certificates of certificate authorities"


@dataclass(frozen=True, slots=True)
class Tls:
    """Authorities to trust besides the usual ones, PEM; none by default."""

    added: str = ""

    def context(self, *, environment: bool) -> ssl.SSLContext:
        """Return what a client checks servers with, for whoever asks; not to be changed.

        The usual ones are those certifi brings; with `environment`, SSL_CERT_FILE or SSL_CERT_DIR stands in
        their place. Raises UsageError when those cannot be read.
        """
        named = (os.environ.get(name, "") for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
        return _context(self.added, *named) if environment else _context(self.added, "", "")

    def add_to(self, context: ssl.SSLContext) -> None:
        """Have a context trust the added ones as well."""
        if self.added:
            context.load_verify_locations(cadata=self.added)


USUAL = Tls()
"""Nothing added."""


def read_authorities(path: Path) -> Tls:
    """Return the authorities of a PEM file as added ones.

    Raises UsageError for a file that is not there, is longer than a megabyte or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        what = f"the CA file cannot be read: {error.strerror}"
        raise UsageError(what, where=str(path), hint=_HINT) from None
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"the CA file is longer than {_MAX_BYTES} bytes", where=str(path), hint=_HINT)
    try:
        added = Tls(raw.decode("ascii"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        added.add_to(context)
    except (ssl.SSLError, UnicodeDecodeError, ValueError) as error:
        what = f"the CA file cannot be used: {visible(str(error), limit=200)}"
        raise UsageError(what, where=str(path), hint=_HINT) from None
    if not context.get_ca_certs():  # a server's own certificate vouches for nobody
        raise UsageError("the CA file holds no certificate of an authority", where=str(path), hint=_HINT)
    return added


def certificates_of(tls: Tls) -> list[tuple[str, datetime]]:
    """Return the name of each added authority, and when its certificate ends."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.add_to(context)
    found = []
    certificates: list[Any] = [*context.get_ca_certs()]
    for certificate in certificates:
        parts = [value for part in certificate.get("subject", ()) for _, value in part]
        ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)
        found.append((visible(", ".join(map(str, parts)) or "without a name", limit=200), ends))
    return found


@lru_cache(maxsize=16)
def _context(added: str, file: str, folder: str) -> ssl.SSLContext:
    # Kept: reading the certificates takes longer than many an answer.
    import httpx

    try:
        context = httpx.create_ssl_context(trust_env=bool(file or folder))
    except (OSError, ssl.SSLError) as error:
        what = f"the machine's authorities cannot be read: {visible(str(error), limit=200)}"
        raise UsageError(what, where=file or folder, hint="correct SSL_CERT_FILE or SSL_CERT_DIR") from None
    Tls(added).add_to(context)
    return context
