"""Sessions with the Kubernetes API of the world: a bearer token, and the certificate to trust."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp


def api_session(token: str, ca_file: str | Path | None = None) -> aiohttp.ClientSession:
    """Return a session for as many watches as there are; `ca_file` signed the server's certificate.

    Without one the API speaks plain HTTP. Raises OSError when the file cannot be read.
    """
    context = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    return aiohttp.ClientSession(
        headers={"Authorization": f"Bearer {token}"},
        connector=aiohttp.TCPConnector(limit=0, ssl=context),
        read_bufsize=1 << 20,  # a line of a watch is a whole object
    )
