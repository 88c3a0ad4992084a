"""One aiohttp service on a loopback port of its own that can be made to fail."""

from __future__ import annotations

import asyncio
from typing import Literal, get_args

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

Fault = Literal["error", "hang", "refuse"]
FAULTS: tuple[Fault, ...] = get_args(Fault)


class FaultyService:
    """Serves `routes` on 127.0.0.1; `fault` makes it answer 500, hang, or refuse connections."""

    def __init__(self, routes: list[web.RouteDef], *, max_body: int = 1 << 20) -> None:
        self._routes = routes
        self._max_body = max_body
        self._fault: Fault | None = None
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self.requests = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on a free port; the same port again after a stop."""
        app = web.Application(client_max_size=self._max_body, middlewares=[self._middleware()])
        app.add_routes(self._routes)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await self._listen()

    async def stop(self) -> None:
        """Close the port and every connection."""
        self._changed.set()
        if self._runner is not None:
            await self._runner.cleanup()
        self._runner = self._site = None

    async def fault(self, kind: Fault | None) -> None:
        """Fail from now on in the way named, or work again (`None`)."""
        before, self._fault = self._fault, kind
        self._changed.set()
        self._changed = asyncio.Event()
        if kind == "refuse" and self._site is not None:
            await self._site.stop()
            self._site = None
        elif before == "refuse" and kind != "refuse" and self._site is None:
            await self._listen()

    async def _listen(self) -> None:
        assert self._runner is not None
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()
        self.port = self._runner.addresses[0][1]

    def _middleware(self) -> Middleware:
        @web.middleware
        async def failing(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.requests += 1
            if self._fault == "error":
                return web.json_response(
                    {"code": 13, "message": "rehearsal fault: internal error"}, status=500
                )
            if self._fault is not None:
                if self._fault == "hang":
                    await self._changed.wait()
                # Kept-alive connections outlive a closed port: cut them, as a dead process would.
                if request.transport is not None:
                    request.transport.abort()
                return web.Response(status=503)
            return await handler(request)

        return failing
