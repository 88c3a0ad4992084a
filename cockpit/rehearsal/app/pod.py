"""One pod of the demo application: a real HTTP server with a bounded number of workers and a queue."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from aiohttp import web

from cockpit.rehearsal.app.content import answer, is_health
from cockpit.rehearsal.app.faults import Trigger
from cockpit.rehearsal.app.metrics import CONTENT_TYPE, PodMetrics
from cockpit.rehearsal.app.records import RequestLog, Served
from cockpit.rehearsal.scenarios import FaultKind
from cockpit.rehearsal.topology import ENVIRONMENTS, NO_TENANT, TENANT_RATES, Behaviour

_log = logging.getLogger("rehearsal.pod")

_QUEUE = 64  # requests that may wait; one more is answered 503 at once
_SICK_ERRORS = 0.2
_SICK_FACTOR = 4.0
_SICK_EXTRA = 0.08
_LATE_SECONDS = 0.25
_LEAKS = 0.2

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(frozen=True)
class PodIdentity:
    """Where a pod belongs."""

    name: str
    namespace: str
    service: str
    track: str


class PodServer:
    """Serves one pod on a free loopback port until it is drained."""

    def __init__(
        self, identity: PodIdentity, image: str, behaviour: Behaviour, trigger: Trigger, log: RequestLog
    ) -> None:
        self.identity = identity
        self.behaviour = behaviour
        self.metrics = PodMetrics(identity.service, behaviour.workers, self._lag)
        self.address = ""
        self._sha = image.partition("@sha256:")[2][:12]
        self._trigger = trigger
        self._log = log
        self._random = random.Random(identity.name)  # noqa: S311 - latency, not a secret
        self._workers = asyncio.Semaphore(behaviour.workers)
        self._waiting: dict[int, float] = {}
        self._arrivals = 0
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)

    async def start(self) -> str:
        """Listen; return the address as host:port."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"
        return self.address

    async def stop(self, grace: float) -> None:
        """Let requests under way finish for up to `grace` seconds, then close."""
        try:
            async with asyncio.timeout(grace):
                await self._idle.wait()
        except TimeoutError:
            pass  # what is still under way is cut, as the kernel would
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path == "/metrics":
            return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})
        at = datetime.now(UTC)
        clock = asyncio.get_running_loop().time
        start = clock()
        tenant = request.headers.get("X-Tenant", NO_TENANT)
        if tenant not in TENANT_RATES:  # labels come from a closed set, whatever a client sends
            tenant = NO_TENANT
        self._inside += 1
        self._idle.clear()
        try:
            status, body, busy = await self._serve(path, request, tenant)
            if self._canary_fault("slow-canary"):
                # Something behind the pod is late: no worker is busy, so nothing queues and nothing fails.
                await asyncio.sleep(_LATE_SECONDS)
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()
        seconds = clock() - start
        self.metrics.served(tenant, status, seconds, busy)
        place = self.identity
        env = ENVIRONMENTS.get(place.namespace, place.namespace)
        if status >= 500:
            _log.warning(
                "request failed",
                extra={
                    "release": self.behaviour.version,
                    "env": env,
                    "tenant": tenant,
                    "trace_id": _trace_id(request.headers.get("traceparent", "")),
                    "sha": self._sha,
                    "pod": place.name,
                    "path": path[:200],
                    "status": status,
                },
            )
        self._log.add(
            Served(
                at=at,
                track=place.track,
                tenant=tenant,
                service=place.service,
                status=status,
                env=env,
                version=self.behaviour.version,
                pod=place.name,
                latency_ms=seconds * 1000,
            )
        )
        return web.Response(body=json.dumps(body).encode(), status=status, content_type="application/json")

    async def _serve(
        self, path: str, request: web.BaseRequest, tenant: str
    ) -> tuple[int, dict[str, object], float]:
        if len(self._waiting) >= _QUEUE:
            return 503, {"error": "overloaded"}, 0.0
        clock = asyncio.get_running_loop().time
        self._arrivals += 1
        ticket = self._arrivals
        self._waiting[ticket] = clock()
        try:
            await self._workers.acquire()
        finally:
            del self._waiting[ticket]
        start = clock()
        try:
            sick = self._canary_fault("sick-canary")
            await asyncio.sleep(self._service_time(sick))
            prefix = f"/{self.identity.service}"
            inner = path.removeprefix(prefix) if path.startswith(prefix + "/") else path
            # A release drops work now and then, never the answer that it lives; a sick pod drops both.
            rate = self.behaviour.error_rate if not is_health(inner) else 0.0
            if self._random.random() < (max(rate, _SICK_ERRORS) if sick else rate):
                return 500, {"error": "internal"}, clock() - start
            document = answer(
                self.identity.service,
                inner,
                request.rel_url.query,
                version=self.behaviour.version,
                tenant=self._whose(tenant),
                blind=self.behaviour.blind,
            )
            if document is None:
                return 404, {"error": "not found"}, clock() - start
            if document["tenant"] != tenant:
                self.metrics.leaked()
            if "hits" in document:
                self.metrics.searched(len(document["hits"]))
            return 200, document, clock() - start
        finally:
            self._workers.release()

    def _canary_fault(self, kind: FaultKind) -> bool:
        return self.identity.track == "canary" and self._trigger.active(kind)

    def _whose(self, tenant: str) -> str:
        """Return whose data is looked up: the asking tenant's, unless this pod mixes tenants up."""
        if self._canary_fault("leaky-canary") and self._random.random() < _LEAKS:
            return next(other for other in TENANT_RATES if other != tenant)
        return tenant

    def _service_time(self, sick: bool) -> float:
        spread = self.behaviour.spread
        mu = math.log(self.behaviour.mean_seconds) - spread * spread / 2
        seconds = min(self._random.lognormvariate(mu, spread), 2.0)
        return seconds * _SICK_FACTOR + _SICK_EXTRA if sick else seconds

    def _lag(self) -> float:
        oldest = next(iter(self._waiting.values()), None)
        return 0.0 if oldest is None else max(0.0, asyncio.get_running_loop().time() - oldest)


def _trace_id(header: str) -> str:
    found = _TRACEPARENT.fullmatch(header)
    return found[1] if found else ""
