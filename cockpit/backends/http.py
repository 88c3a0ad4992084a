"""Reading over HTTP: GET only, bounded in time and size, never led to another host."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from cockpit.backends.tls import USUAL, Tls
from cockpit.base.errors import BackendGarbage, BackendRefused, BackendUnreachable, UsageError
from cockpit.base.limits import MAX_ANSWER_BYTES
from cockpit.base.text import visible

_REDIRECTS = 3
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An answer, whatever its status. `took_s` is from the first byte sent to the last received."""

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    took_s: float


class HttpReader(Protocol):
    """Reads URLs."""

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        """Return the answer to GET; an HTTP status is an answer, not an error.

        Raises BackendUnreachable (no connection, time-out), BackendGarbage (not HTTP, too large) or
        BackendRefused (a redirect to another host).
        """
        ...


class BoundedHttpReader:
    """The real reader, over httpx; `deadline` seconds (with redirects) and `max_bytes` bound an answer."""

    def __init__(
        self, *, deadline: float = 10.0, max_bytes: int = MAX_ANSWER_BYTES, tls: Tls = USUAL
    ) -> None:
        self._deadline = deadline
        self._max_bytes = max_bytes
        self._tls = tls

    async def get(self, url: str, *, headers: Mapping[str, str] | None = None) -> HttpAnswer:
        """Return the answer to GET; see HttpReader."""
        import httpx

        where = origin(url)
        outside = where[1] not in _LOOPBACK
        shown = visible(url, limit=200)
        # Without it a server may send a small body that unpacks to a very large one.
        asked = {"Accept-Encoding": "identity", "User-Agent": "release-cockpit", **(headers or {})}
        try:
            async with (
                asyncio.timeout(self._deadline),
                httpx.AsyncClient(
                    timeout=self._deadline,
                    trust_env=outside,
                    verify=self._tls.context(environment=outside),
                ) as client,
            ):
                for _ in range(_REDIRECTS + 1):
                    answer = await self._once(client, url, asked)
                    target = answer.headers.get("location", "")
                    if answer.status not in (301, 302, 303, 307, 308) or not target:
                        return answer
                    url = urljoin(url, target)
                    if origin(url) != where:
                        raise BackendRefused("redirected to another host", where=shown, status=answer.status)
                raise BackendGarbage(f"more than {_REDIRECTS} redirects", where=shown)
        except TimeoutError:
            raise BackendUnreachable(f"no answer within {self._deadline:g} s", where=shown) from None
        except (httpx.DecodingError, httpx.RemoteProtocolError, httpx.LocalProtocolError) as error:
            if hung_up(error):
                raise BackendUnreachable(f"cut off: {visible(str(error), limit=200)}", where=shown) from None
            raise BackendGarbage(f"not HTTP: {visible(str(error), limit=200)}", where=shown) from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            text = visible(f"{type(error).__name__}: {error}", limit=200)
            raise BackendUnreachable(text, where=shown) from None

    async def _once(self, client: object, url: str, headers: Mapping[str, str]) -> HttpAnswer:
        import httpx

        assert isinstance(client, httpx.AsyncClient)
        loop = asyncio.get_running_loop()
        start = loop.time()
        async with client.stream("GET", url, headers=dict(headers), follow_redirects=False) as answer:
            if answer.headers.get("content-encoding", "identity") != "identity":
                raise BackendGarbage("the answer is compressed, which was not asked for", where=url[:200])
            body = bytearray()
            async for chunk in answer.aiter_raw():
                body += chunk
                if len(body) > self._max_bytes:
                    raise BackendGarbage(f"an answer of more than {self._max_bytes} bytes", where=url[:200])
            return HttpAnswer(
                url=url,
                status=answer.status_code,
                headers={name.lower(): visible(value, limit=500) for name, value in answer.headers.items()},
                body=bytes(body),
                took_s=loop.time() - start,
            )


def hung_up(error: Exception) -> bool:
    """Tell whether an httpx error means that the peer closed the connection, and not that it is no HTTP."""
    # The library has one class for both; these are the texts of its parser (h11) and its transport.
    return type(error).__name__ == "RemoteProtocolError" and str(error).startswith(
        ("Server disconnected", "peer closed connection", "peer unexpectedly closed connection")
    )


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of an http(s) URL; raises UsageError for any other."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"not a URL: {visible(url, limit=200)!r}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"not an http(s) URL: {visible(url, limit=200)!r}")
    return parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80)
