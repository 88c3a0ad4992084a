"""Whether something listens at an address, and with which certificate, without saying a word to it."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.request import getproxies, proxy_bypass

from cockpit.backends.http import origin
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendUnreachable
from cockpit.base.text import visible

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Reached:
    """A connection that was made and closed; `took_s` with its TLS handshake, which `tls` names if any."""

    took_s: float
    tls: str
    expires: datetime | None
    """When the server's certificate ends."""


def proxy_for(url: str) -> str:
    """Return the proxy of the environment through which a URL would be asked, nothing for a direct way."""
    scheme, host, _ = origin(url)
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all", "")
    return "" if not proxy or host in _LOOPBACK or proxy_bypass(host) else visible(proxy, limit=200)


async def reach(url: str, *, deadline: float, tls: Tls = USUAL) -> Reached:
    """Connect to a URL's host, with TLS where it says https, and hang up.

    Raises BackendUnreachable, and UsageError for what is no http(s) URL.
    """
    scheme, host, port = origin(url)
    where = visible(f"{host}:{port}", limit=200)
    context = ssl.create_default_context() if scheme == "https" else None
    if context is not None:
        tls.add_to(context)
    loop = asyncio.get_running_loop()
    start = loop.time()
    try:
        async with asyncio.timeout(deadline):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
            took = loop.time() - start
            try:
                return Reached(took, *_encrypted(writer.get_extra_info("ssl_object")))
            finally:
                writer.close()
                try:
                    await writer.wait_closed()
                except (OSError, ssl.SSLError):
                    pass  # it has gone already
    except TimeoutError:
        raise BackendUnreachable(f"no connection within {deadline:g} s", where=where) from None
    except ssl.SSLCertVerificationError as error:
        text = visible(error.verify_message, limit=200)
        raise BackendUnreachable(f"its certificate does not hold: {text}", where=where) from None
    except (OSError, ssl.SSLError, UnicodeError) as error:
        text = visible(f"{type(error).__name__}: {error}", limit=200)
        raise BackendUnreachable(text, where=where) from None


def _encrypted(found: ssl.SSLObject | None) -> tuple[str, datetime | None]:
    if found is None:
        return "", None
    until = (found.getpeercert() or {}).get("notAfter")
    expires = datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC) if isinstance(until, str) else None
    return found.version() or "", expires
