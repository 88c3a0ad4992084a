"""A real toxiproxy between a client and its server: slow, silent, cut and choked, as one says.

Its HTTP API: https://github.com/Shopify/toxiproxy#http-api. Toxics act on what comes back from the server
(`downstream`) or on what goes to it (`upstream`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import aiohttp

from cockpit.base.errors import BackendError
from cockpit.rehearsal.real.binaries import binary
from cockpit.rehearsal.real.servers import Running, Servers, free_ports

Stream = Literal["downstream", "upstream"]
_SECONDS = 10.0


@dataclass(frozen=True)
class Toxic:
    """A toxic that is on; what it is, and how it is taken away."""

    proxy: Proxy
    name: str

    async def remove(self) -> None:
        """Take it away; connections that it held go on."""
        await self.proxy.toxiproxy.call(
            "DELETE", f"/proxies/{quote(self.proxy.name)}/toxics/{quote(self.name)}"
        )


@dataclass(frozen=True)
class Proxy:
    """A way through to a server: whoever connects to `host`:`port` gets to it, as long as it is on."""

    toxiproxy: Toxiproxy
    name: str
    host: str
    port: int

    def url_of(self, url: str) -> str:
        """Return a URL of the server as the one that leads through here."""
        return urlsplit(url)._replace(netloc=f"{self.host}:{self.port}").geturl()

    async def latency(self, ms: int, *, jitter_ms: int = 0, stream: Stream = "downstream") -> Toxic:
        """Delay each piece of data."""
        return await self.add("latency", {"latency": ms, "jitter": jitter_ms}, stream)

    async def half_open(self, stream: Stream = "downstream") -> Toxic:
        """Let connections be made and never a byte come through, for as long as the toxic is on."""
        return await self.add("timeout", {"timeout": 0}, stream)

    async def slow_close(self, ms: int, stream: Stream = "downstream") -> Toxic:
        """Keep a connection open for so long after it was closed on the other side."""
        return await self.add("slow_close", {"delay": ms}, stream)

    async def reset(self, after_ms: int = 0, stream: Stream = "downstream") -> Toxic:
        """Answer with a TCP reset, at once or some time after the connection was made."""
        return await self.add("reset_peer", {"timeout": after_ms}, stream)

    async def bandwidth(self, kb_per_s: int, stream: Stream = "downstream") -> Toxic:
        """Let no more than so many kilobytes a second through."""
        return await self.add("bandwidth", {"rate": kb_per_s}, stream)

    async def limit(self, size: int, stream: Stream = "downstream") -> Toxic:
        """Close a connection after so many bytes."""
        return await self.add("limit_data", {"bytes": size}, stream)

    async def add(self, kind: str, attributes: Mapping[str, int], stream: Stream = "downstream") -> Toxic:
        """Put a toxic on by its type and attributes in toxiproxy's API."""
        name = f"{kind}-{stream}"
        body = {"name": name, "type": kind, "stream": stream, "toxicity": 1.0, "attributes": dict(attributes)}
        await self.toxiproxy.call("POST", f"/proxies/{quote(self.name)}/toxics", body)
        return Toxic(self, name)

    async def cut(self) -> None:
        """Close every connection and refuse new ones, until `mend`."""
        await self._enabled(False)

    async def mend(self) -> None:
        """Let connections through again."""
        await self._enabled(True)

    async def _enabled(self, value: bool) -> None:
        await self.toxiproxy.call("POST", f"/proxies/{quote(self.name)}", {"enabled": value})


class Toxiproxy:
    """The client of a toxiproxy's API; every call raises BackendError when it is not done."""

    def __init__(self, url: str, server: Running, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.server = server
        self._session = session
        self._made = 0

    async def proxy(self, upstream: str) -> Proxy:
        """Return a new proxy on a free port of loopback to `upstream`, a URL or `host:port`."""
        address = urlsplit(upstream).netloc or upstream
        self._made += 1
        name = f"p{self._made}"
        body = {"name": name, "listen": "127.0.0.1:0", "upstream": address, "enabled": True}
        made = await self.call("POST", "/proxies", body)
        host, _, port = str(made.get("listen", "")).rpartition(":")
        return Proxy(self, name, host, int(port))

    async def remove(self, proxy: Proxy) -> None:
        """Take a proxy away, and its connections with it."""
        await self.call("DELETE", f"/proxies/{quote(proxy.name)}")

    async def reset(self) -> None:
        """Switch every proxy on and take every toxic away."""
        await self.call("POST", "/reset")

    async def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the API; return its JSON object, an empty one where it says nothing."""
        try:
            async with self._session.request(method, f"{self.url}{path}", json=body) as answer:
                if answer.status >= 300:
                    raise BackendError(
                        f"toxiproxy answered {answer.status}: {(await answer.text())[:300]}", where=path
                    )
                value = await answer.json(content_type=None) if answer.status != 204 else {}
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BackendError(f"toxiproxy: {type(error).__name__}: {error}", where=path) from None
        return value if isinstance(value, dict) else {}


@asynccontextmanager
async def toxiproxy(folder: Path) -> AsyncIterator[Toxiproxy]:
    """Run toxiproxy with its log in `folder`; its proxies end with the context."""
    program = binary("toxiproxy-server")
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    # A connection for each call: none is kept that a proxy's end could have gone stale with.
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        Servers(folder) as servers,
        aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=_SECONDS)) as session,
    ):
        running = await servers.start(
            "toxiproxy", [program, "-host", "127.0.0.1", "-port", str(port)], ready=f"{url}/version"
        )
        yield Toxiproxy(url, running, session)
