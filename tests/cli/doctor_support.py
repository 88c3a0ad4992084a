"""A small world for the doctor: every server a plan names on loopback, none of them busy with users."""

from __future__ import annotations

import copy
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from cockpit.backends.http import BoundedHttpReader
from cockpit.base.clock import SystemClock
from cockpit.base.files import write_private
from cockpit.base.redact import Redactor
from cockpit.connecting import Clients
from cockpit.doctor.around import AroundPart
from cockpit.doctor.checks import Check, Report, examine
from cockpit.doctor.cluster import ClusterPart
from cockpit.doctor.examination import examine_plan, warm_up
from cockpit.doctor.local import LocalPart
from cockpit.doctor.metrics import MetricsPart
from cockpit.doctor.policy import PolicyPart
from cockpit.doctor.signing import SigningPart
from cockpit.doctor.supply import SupplyPart
from cockpit.plan.load import LoadedPlan, load_plan
from cockpit.rehearsal import manifests
from cockpit.rehearsal.flags import FlagsServer
from cockpit.rehearsal.forge import FROM_REF, MAIN, make_repository
from cockpit.rehearsal.issues import IssuesServer
from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.rehearsal.kube.access import Rule, User
from cockpit.rehearsal.opa import OpaServer
from cockpit.rehearsal.pace import pace
from cockpit.rehearsal.prometheus.server import PrometheusServer
from cockpit.rehearsal.prometheus.store import Store
from cockpit.rehearsal.registry import RegistryServer, push
from cockpit.rehearsal.release_plan import Endpoints, ImageTrust, build, dump
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.sigstore import SigstoreServer
from cockpit.rehearsal.supply import make_images, references
from cockpit.rehearsal.topology import FLAGS, PROD, STAGE, STAGES
from cockpit.rehearsal.webhook import KINDS, WebhookReceiver

Data = dict[str, Any]
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
DEADLINE = 60.0
"""Seconds a check may take on a busy machine; when all is well nothing takes that long."""

SERIES = (
    "gateway_requests_total",
    "http_requests_total",
    "ingest_lag_seconds",
    "search_queries_total",
    "search_results_total",
    "tenant_isolation_violations_total",
)
BUCKETS = ("http_request_duration_seconds_bucket", "rt_delivery_lag_seconds_bucket")


class HurriedClock(SystemClock):
    """The machine's time without the waiting between two looks at a clock."""

    async def sleep(self, seconds: float) -> None:
        """Do not wait."""


class Proxy:
    """Passes requests on, with another `Date`, and with answers of its own to some paths."""

    def __init__(
        self, target: str, *, shift: timedelta = timedelta(), answers: Mapping[str, Answer] | None = None
    ) -> None:
        self._target = target
        self._shift = shift
        self._answers = dict(answers or {})
        self._session: aiohttp.ClientSession | None = None
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Proxy:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass)
        self._session = aiohttp.ClientSession(auto_decompress=False)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None and self._runner is not None
        await self._session.close()
        await self._runner.cleanup()

    async def _pass(self, request: web.Request) -> web.StreamResponse:
        own = self._answers.get(request.path)
        if own is not None:
            return await own(request)
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() != "host"}
        async with self._session.request(
            request.method, self._target + request.path_qs, data=await request.read(), headers=headers
        ) as answer:
            kept = {
                name: value
                for name, value in answer.headers.items()
                if name.lower() not in ("date", "content-length", "transfer-encoding")
            }
            kept["Date"] = format_datetime(datetime.now(UTC) + self._shift, usegmt=True)
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)


def seeded(*, stable: bool = True) -> Store:
    """Return samples of the minute behind us and of the ten that come: half a second apart, always rising."""
    store = Store()
    now = round(datetime.now(UTC).timestamp() * 1000)
    labels = [{"__name__": name} for name in SERIES]
    labels += [{"__name__": name, "le": le} for name in BUCKETS for le in ("0.1", "1", "+Inf")]
    tracks = ("stable", "canary") if stable else ("canary",)
    for one in labels:
        for track in tracks:
            series = {**one, "namespace": PROD, "track": track, "service": "search", "code": "200"}
            for number, at in enumerate(range(now - 60_000, now + 600_000, 500)):
                store.append(series, at, float(number))
    return store


async def _entry(request: web.Request) -> web.Response:
    if request.path.startswith("/nowhere"):
        return web.Response(status=404)
    return web.json_response({"status": "ok", "total": 3, "seq": 41, "pages": 1, "accepted": 1})


@asynccontextmanager
async def serving(handler: Answer) -> AsyncIterator[str]:
    """Serve every path with one handler; give the base URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def dead_url() -> str:
    """Return a URL where nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{found.getsockname()[1]}"


def without(user: User, verb: str, resource: str) -> User:
    """Return a user who lacks one verb on one resource."""
    rules = [
        replace(rule, verbs=rule.verbs - {verb}) if resource in rule.resources else rule
        for rule in user.rules
    ]
    return User(user.name, tuple(rules))


@dataclass
class Ward:
    """The servers, and a plan that names them, as data to be changed."""

    folder: Path
    kube: KubeServer
    prometheus: PrometheusServer
    registry: RegistryServer
    sigstore: SigstoreServer
    opa: OpaServer
    issues: IssuesServer
    flags: FlagsServer
    data: Data
    secrets: Mapping[str, str]
    clock: SystemClock = field(default_factory=HurriedClock)

    def plan(self, folder: Path, change: Callable[[Data], None] = lambda _: None) -> LoadedPlan:
        """Write a plan, changed, with its secrets into a folder, and load it."""
        data = copy.deepcopy(self.data)
        for name, value in self.secrets.items():
            write_private(folder / name, value.encode())
        change(data)
        path = folder / "release.yaml"
        path.write_text(dump(data), encoding="utf-8")
        return load_plan(path)

    async def report(self, loaded: LoadedPlan) -> Report:
        """Examine a whole plan."""
        return await examine_plan(loaded, self.clock, name="release.yaml", deadline=DEADLINE)

    async def part(self, name: str, loaded: LoadedPlan) -> dict[str, Check]:
        """Examine one part; return its checks by name, the last one of each."""
        clients, reader = Clients(loaded, self.clock, Redactor()), BoundedHttpReader()
        parts: dict[str, Any] = {
            "local": lambda: LocalPart(loaded, clients, self.clock),
            "cluster": lambda: ClusterPart(loaded.plan, clients, self.clock),
            "metrics": lambda: MetricsPart(loaded.plan, clients, self.clock),
            "supply": lambda: SupplyPart(loaded, clients, self.clock),
            "policy": lambda: PolicyPart(loaded, clients, self.clock, reader),
            "signing": lambda: SigningPart(loaded.plan, clients, self.clock, reader),
            "around": lambda: AroundPart(loaded, clients, self.clock, reader),
        }
        part = parts[name]()
        try:
            found = await examine(list(part.probes()), deadline=DEADLINE)
        finally:
            if hasattr(part, "close"):
                await part.close()
        return {f"{one.part} {one.check}": one for one in found}


@asynccontextmanager
async def ward(folder: Path) -> AsyncIterator[Ward]:
    """Start every server."""
    warm_up()
    forge = make_repository(folder / "repository", released=False)
    full = conductor((PROD, *STAGES), drills=(STAGE,))
    async with AsyncExitStack() as stack:
        kube = KubeServer(
            {
                "world": admin(),
                "full": full,
                "no-route": without(full, "patch", "httproutes"),
                "nobody": User("nobody", (Rule(frozenset(), "", frozenset()),)),
            },
            start_delay=0.01,
            stop_delay=0.01,
        )
        await kube.start()
        stack.push_async_callback(kube.stop)
        sigstore = await stack.enter_async_context(SigstoreServer())
        registry = await stack.enter_async_context(RegistryServer())
        prometheus = await stack.enter_async_context(PrometheusServer(store=seeded()))
        opa = await stack.enter_async_context(OpaServer(token="opa-token"))
        issues = await stack.enter_async_context(IssuesServer(token="issues-token"))
        hook = await stack.enter_async_context(WebhookReceiver(folder / "webhooks.jsonl"))
        entry = await stack.enter_async_context(serving(_entry))
        made = make_images(scenario("green"), forge.stable, forge.candidate)
        for pair in made.values():
            for image in pair:
                push(registry.repository(image.repository), image)
        images = references(registry.host, made)
        for manifest in manifests.platform(images.stable, images.candidate):
            await kube.apply(manifest)
        flags = FlagsServer(kube.url, "world", namespace=PROD, configmap=FLAGS)
        await flags.start()
        stack.push_async_callback(flags.stop)
        endpoints = Endpoints(
            kubernetes=kube.url,
            kubernetes_token="file:kubernetes",
            prometheus=prometheus.url,
            registry=registry.url,
            entry=entry,
            load=entry,
            stages=dict.fromkeys(STAGES, entry),
            token_url=sigstore.token_url,
            token_secret="file:signing",
            issuer=sigstore.issuer,
            trust_config="trust_config.json",
            repository=str(forge.path),
            from_ref=FROM_REF,
            to_ref=MAIN,
            webhook=hook.url_of("generic"),
            webhook_secret="file:webhook",
            issues=issues.url,
            issues_repository=issues.repository,
            issues_token="file:issues",
            flags=flags.url,
            policy=opa.url,
            policy_token="file:policy",
            webhooks={kind: hook.url_of(kind) for kind in KINDS if kind != "generic"},
        )
        trust = ImageTrust("ci@intelgraph.io", sigstore.issuer, "https://ci.invalid/b", "git+https://x")
        data = build(endpoints, images.candidate, trust, pace("fast"), datetime.now(UTC), scenario("green"))
        for name in ("kubernetes", "prometheus", "policy"):
            data["targets"][name]["deadline"] = "30s"  # on a busy machine nothing is late for that alone
        yield Ward(
            folder=folder,
            kube=kube,
            prometheus=prometheus,
            registry=registry,
            sigstore=sigstore,
            opa=opa,
            issues=issues,
            flags=flags,
            data=data,
            secrets={
                "kubernetes": "full",
                "signing": sigstore.token_secret,
                "webhook": "webhook-secret",
                "issues": "issues-token",
                "policy": "opa-token",
                "trust_config.json": sigstore.trust_config(),
            },
        )


def mixed(config: str, other: str) -> str:
    """Return the services of one trust configuration under the trusted root of another."""
    return json.dumps({**json.loads(config), "trustedRoot": json.loads(other)["trustedRoot"]})
