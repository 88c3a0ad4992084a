"""The small gateway in front of a namespace: follows the weights of its HTTPRoutes and forwards requests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import generate_latest

from cockpit.rehearsal.app.faults import Trigger, canary_weight
from cockpit.rehearsal.app.metrics import CONTENT_TYPE
from cockpit.rehearsal.app.mirror import Mirror, Object
from cockpit.rehearsal.topology import ADDRESS, SERVICES, TRACKS

_GOLDEN = 0.6180339887498949
_MAX_BODY = 1 << 20
_FORWARDED = ("X-Tenant", "traceparent", "Content-Type", "Accept")
_CONNECT_ERRORS = (
    aiohttp.ClientConnectorError,
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
)


@dataclass
class Backend:
    """A Service behind a rule: its share, its ready pods, and whose turn it is."""

    name: str
    weight: int
    track: str
    addresses: tuple[str, ...]
    turn: int = 0

    def next_address(self) -> str | None:
        """Return the next ready pod, round robin; None when there is none."""
        if not self.addresses:
            return None
        self.turn = (self.turn + 1) % len(self.addresses)
        return self.addresses[self.turn]


@dataclass
class Rule:
    """Requests below `prefix` go to one of `backends`, by weight.

    The choice follows a golden-ratio sequence from a random start: random enough not to lock step with the
    users, and the share of any hundred requests is within a request or two of the weight.
    """

    prefix: str
    backends: tuple[Backend, ...]
    position: float = field(default_factory=random.random)

    def matches(self, path: str) -> bool:
        """Tell whether `path` lies below the prefix, by whole segments (Gateway API, PathPrefix)."""
        return path == self.prefix or path.startswith(self.prefix.rstrip("/") + "/")

    def choose(self) -> Backend | None:
        """Return the backend for the next request; None when no backend has weight."""
        total = sum(backend.weight for backend in self.backends)
        if total <= 0:
            return None
        self.position = (self.position + _GOLDEN) % 1.0
        point = self.position * total
        for backend in self.backends:
            point -= backend.weight
            if point < 0:
                return backend
        return self.backends[-1] if self.backends[-1].weight else None


def ready_address(pod: Object) -> str | None:
    """Return where a pod listens when it is ready and not on its way out."""
    metadata = pod["metadata"]
    if metadata.get("deletionTimestamp"):
        return None
    conditions = pod.get("status", {}).get("conditions", [])
    if not any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
        return None
    address: str | None = metadata.get("annotations", {}).get(ADDRESS)
    return address


def routing_table(
    routes: Iterable[Object], services: Mapping[str, Object], pods: Iterable[Object]
) -> tuple[Rule, ...]:
    """Build the rules, longest prefix first, from the objects of one namespace."""
    ready = [(pod["metadata"].get("labels", {}), address) for pod in pods if (address := ready_address(pod))]

    def backend(ref: Mapping[str, object]) -> Backend:
        name, weight = str(ref["name"]), ref.get("weight", 1)
        service = services.get(name)
        selector = service["spec"].get("selector", {}) if service else {}
        chosen = tuple(a for labels, a in ready if selector and selector.items() <= labels.items())
        track = str(selector.get("track", "stable"))
        return Backend(name, weight if isinstance(weight, int) else 0, track, chosen)

    rules = [
        Rule(match["path"]["value"], tuple(backend(ref) for ref in rule.get("backendRefs", [])))
        for route in routes
        for rule in route["spec"].get("rules", [])
        for match in rule.get("matches", [])
        if match.get("path", {}).get("type", "PathPrefix") == "PathPrefix"
    ]
    return tuple(sorted(rules, key=lambda rule: -len(rule.prefix)))


class Gateway:
    """Listens on a free loopback port for one namespace; `pods` is the kubelet's view of its pods."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        upstream: aiohttp.ClientSession,
        url: str,
        namespace: str,
        pods: Callable[[], Iterable[Object]],
        trigger: Trigger | None,
    ) -> None:
        self.url = ""
        self._namespace = namespace
        self._upstream = upstream
        self._pods = pods
        self._trigger = trigger
        self._routes = Mirror(
            session,
            url,
            f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes",
            self._route_changed,
        )
        self._services = Mirror(session, url, f"/api/v1/namespaces/{namespace}/services", self.refresh)
        self._rules: tuple[Rule, ...] = ()
        self._stale = True
        self._registry = CollectorRegistry()
        self._count = Counter(
            "gateway_requests_total",
            "Requests that left the gateway, by where it sent them.",
            ("service", "track", "code"),
            registry=self._registry,
        )
        for service in SERVICES:
            for track in TRACKS:
                self._count.labels(service, track, "200")
        self._runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=1.0)

    async def start(self) -> None:
        """Listen."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def run(self) -> None:
        """Follow routes and services until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._routes.run())
                tasks.create_task(self._services.run())
        finally:
            await self._runner.cleanup()

    def refresh(self) -> None:
        """Note that routes, services or pods have changed."""
        self._stale = True

    def serves(self, services: Iterable[str]) -> bool:
        """Tell whether a ready pod stands behind the route of every service."""
        rules = [self._rule(f"/{service}") for service in services]
        return all(rule and any(b.weight and b.addresses for b in rule.backends) for rule in rules)

    def target(self) -> tuple[str, dict[str, str]]:
        """Return the gateway's own scrape target."""
        return self.url.removeprefix("http://"), {"namespace": self._namespace, "pod": "edge-gateway"}

    def _route_changed(self) -> None:
        self._stale = True
        if self._trigger is not None:
            self._trigger.observe(canary_weight(self._routes.objects.values()))

    def _rule(self, path: str) -> Rule | None:
        if self._stale:
            positions = {rule.prefix: rule.position for rule in self._rules}
            self._rules = routing_table(self._routes.objects.values(), self._services.objects, self._pods())
            for rule in self._rules:
                rule.position = positions.get(rule.prefix, rule.position)
            self._stale = False
        return next((rule for rule in self._rules if rule.matches(path)), None)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.rel_url.path
        if path == "/metrics":
            return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE})
        rule = self._rule(path)
        if rule is None:
            self._count.labels("none", "none", "404").inc()
            return _problem(404, "no route")
        backend = rule.choose()
        if backend is None:
            self._count.labels(rule.prefix.strip("/"), "none", "503").inc()
            return _problem(503, "no backend has weight")
        if request.content_length is not None and request.content_length > _MAX_BODY:
            return _problem(413, "body too large")
        body = await request.content.read(_MAX_BODY) if request.body_exists else None
        answer = await self._forward(backend, request, body)
        self._count.labels(rule.prefix.strip("/"), backend.track, str(answer.status)).inc()
        return answer

    async def _forward(
        self, backend: Backend, request: web.BaseRequest, body: bytes | None
    ) -> web.StreamResponse:
        headers = {name: request.headers[name] for name in _FORWARDED if name in request.headers}
        for attempt in (1, 2):
            address = backend.next_address()
            if address is None:
                return _problem(503, "no pod is ready")
            try:
                async with self._upstream.request(
                    request.method,
                    f"http://{address}{request.rel_url}",
                    headers=headers,
                    data=body,
                    allow_redirects=False,
                ) as answer:
                    content = await answer.read()
                    kind = answer.headers.get("Content-Type", "application/octet-stream")
                    return web.Response(body=content, status=answer.status, headers={"Content-Type": kind})
            except _CONNECT_ERRORS:
                # A pod that just went away never saw the request: another one may.
                if attempt == 2:
                    return _problem(502, "the pod hung up")
            except (aiohttp.ClientError, TimeoutError):
                return _problem(504, "the pod did not answer")
        raise AssertionError("unreachable")


def _problem(status: int, text: str) -> web.Response:
    return web.json_response({"error": text}, status=status)
