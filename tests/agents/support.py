"""A small world for agents: real servers on loopback, the real clients, a real journal, the real dispatch."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

from aiohttp import web

from cockpit.agentkit.context import Handles
from cockpit.agents.records import events_of
from cockpit.agents.roster import ROSTER, find
from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.forge import GitRepo
from cockpit.backends.http import BoundedHttpReader
from cockpit.backends.load import OpenLoopGenerator
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.backends.notify import Webhook
from cockpit.backends.policy import EmbeddedRego
from cockpit.backends.policy_engine import EmbeddedEngine
from cockpit.backends.registry import OciRegistry
from cockpit.backends.signing import HttpToken, SigstoreSigning
from cockpit.base.clock import SystemClock
from cockpit.base.files import sha256_hex
from cockpit.base.threads import BoundedThreads
from cockpit.conductor.calls import AgentCalls, CallResult
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.dispatch import LocalDispatch
from cockpit.evidence.recompute import verdict_problem
from cockpit.journal.events import GateJudged, RosterEntry, RunOpened, ServiceImage
from cockpit.journal.heads import RunKey, write_public_key
from cockpit.journal.writer import JournalWriter
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.rehearsal.forge import make_repository
from cockpit.rehearsal.manifests import deployment
from cockpit.rehearsal.pace import pace
from cockpit.rehearsal.registry import Image, RegistryServer, attach, build_image, predicates, push
from cockpit.rehearsal.release_plan import RELEASE_IDENTITY, Data, Endpoints, ImageTrust, build
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.sigstore import BuildSigning, SigstoreServer
from cockpit.rehearsal.topology import STAGES
from cockpit.rpc.messages import GateVerdict, Op, Phase

Mode = Literal["ok", "garbage", "error", "hang"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SERVICES = ("gateway", "web")
BUILD = "https://forge.rehearsal.invalid/build@refs/heads/main"
BUILDER = "https://forge.rehearsal.invalid/builders/release"
SOURCE = "https://forge.rehearsal.invalid/intelgraph/platform"
DEADLINE = 1.0
"""Seconds every back end has, so that one that hangs is given up soon."""

P95_BUCKETS = {"0.05": 480.0, "0.1": 495.0, "0.2": 500.0, "+Inf": 500.0}


class Service:
    """One HTTP service on a free loopback port, which can be told to misbehave."""

    def __init__(self, handle: Handler) -> None:
        self.mode: Mode = "ok"
        self._handle = handle
        self._over = asyncio.Event()
        self.url = ""
        self.requests = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Service]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            self._over.set()
            await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        if self.mode == "hang":
            await self._over.wait()
        if self.mode == "error":
            return web.Response(status=500, text="out of order")
        if self.mode == "garbage":
            return web.Response(body=b'{"\xff\x00": [nonsense', content_type="application/json")
        return await self._handle(request)


@dataclass
class Facts:
    """What is so in the world; tests change one of them."""

    stable: dict[str, float] = field(default_factory=lambda: {"errors": 0.0, "requests": 500.0})
    canary: dict[str, float] = field(default_factory=lambda: {"errors": 0.0, "requests": 500.0, "p95": 80.0})
    buckets: dict[str, float] = field(default_factory=lambda: dict(P95_BUCKETS))
    busy: float = 0.4
    violations: float = 0.0
    """Answers that were another tenant's."""
    risk: list[float] = field(default_factory=lambda: [20.0])
    """Value of every risk trigger, oldest first; the last one is now, earlier ones are spread over `for`."""
    warnings: list[str] = field(default_factory=list)
    deployments: list[dict[str, Any]] = field(default_factory=list)
    pages: dict[str, tuple[int, str]] = field(default_factory=dict)
    stage_delay_s: float = 0.0
    stage_slots: asyncio.Semaphore | None = None
    stage_status: int = 200


class World:
    """Everything an agent can reach, and calls to agents that are journaled as in a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_dir = folder / "run"
        self.facts = Facts()
        self.prometheus = Service(self._prometheus)
        self.kubernetes = Service(self._kubernetes)
        self.entry = Service(self._entry)
        self.stage = Service(self._stage)
        self.hook = Service(self._hook)
        self.posted: list[dict[str, Any]] = []
        self.hook_status = 200
        self.sigstore = SigstoreServer()
        self.registry = RegistryServer()
        self.images: dict[str, tuple[Image, Image]] = {}
        self.clock = SystemClock()
        self.data: Data = {}

    # -- servers ----------------------------------------------------------------------------------------

    async def _prometheus(self, request: web.Request) -> web.StreamResponse:
        form = {**request.query, **(await request.post())}
        text = str(form.get("query", ""))
        now = datetime.now(UTC).timestamp()
        rows = self._rows(text)
        if request.path.endswith("query_range"):
            start, end, step = (float(str(form[name]).removesuffix("s")) for name in ("start", "end", "step"))
            points = int((end - start) / step + 1e-6) + 1
            result: list[dict[str, Any]] = []
            for labels, _ in rows:
                share = len(self.facts.risk) / points
                values = [self.facts.risk[int(index * share)] for index in range(points)]
                spread = [[start + index * step, _text(value)] for index, value in enumerate(values)]
                result.append({"metric": labels, "values": spread})
            return self._answered("matrix", result)
        found = [{"metric": labels, "value": [now, _text(value)]} for labels, value in rows]
        return self._answered("vector", found)

    def _answered(self, kind: str, result: list[dict[str, Any]]) -> web.Response:
        body: dict[str, Any] = {"status": "success", "data": {"resultType": kind, "result": result}}
        if self.facts.warnings:
            body["warnings"] = self.facts.warnings
        return web.json_response(body)

    def _rows(self, text: str) -> list[tuple[dict[str, str], float]]:
        facts = self.facts
        side = facts.canary if 'track="canary"' in text else facts.stable
        if "worker_busy" in text or "worker_count" in text:
            return [({"service": one}, facts.busy if "busy" in text else 1.0) for one in SERVICES]
        if "histogram_quantile" in text:
            return [({}, facts.canary["p95"] if 'track="canary"' in text else facts.risk[-1])]
        if "_bucket" in text:
            return [({"le": bound}, count) for bound, count in facts.buckets.items()]
        if "isolation_violations" in text:
            return [({}, facts.violations)]
        if "ingest_lag" in text:
            return [({}, 0.0)]
        if "/" in text.replace("5..", ""):
            return [({}, side["errors"] / side["requests"])] if side["requests"] else []
        if "5.." in text:
            return [({}, side["errors"])] if "errors" in side else []
        return [({}, side["requests"])] if "requests" in side else []

    async def _kubernetes(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "37"})
        name = request.path.rpartition("/")[2]
        if name == "deployments":
            items = self.facts.deployments
            return web.json_response({"kind": "DeploymentList", "apiVersion": "apps/v1", "items": items})
        found = next((one for one in self.facts.deployments if one["metadata"]["name"] == name), None)
        if found is None:
            return web.json_response({"kind": "Status", "message": "not found"}, status=404)
        return web.json_response(found)

    async def _entry(self, request: web.Request) -> web.StreamResponse:
        status, body = self.facts.pages.get(request.path, (404, "{}"))
        return web.Response(status=status, text=body, content_type="application/json")

    async def _stage(self, request: web.Request) -> web.StreamResponse:
        facts = self.facts
        if facts.stage_slots is None:
            await asyncio.sleep(facts.stage_delay_s)
        else:
            async with facts.stage_slots:
                await asyncio.sleep(facts.stage_delay_s)
        return web.Response(status=facts.stage_status, text="{}")

    async def _hook(self, request: web.Request) -> web.StreamResponse:
        self.posted.append({"key": request.headers["Idempotency-Key"], **(await request.json())})
        return web.Response(status=self.hook_status)

    # -- making it --------------------------------------------------------------------------------------

    async def supply(
        self, *, unsigned: str = "", contents: predicates.Contents = predicates.CANDIDATE
    ) -> None:
        """Push and attest the images of both versions."""
        signer = BuildSigning(self.sigstore, BUILD)
        for service, pair in self.images.items():
            for image, inside in zip(pair, (predicates.PREVIOUS, contents), strict=True):
                repository = self.registry.repository(image.repository)
                push(repository, image)
                await attach(
                    repository,
                    image,
                    signer,
                    contents=inside,
                    builder=BUILDER,
                    source=SOURCE,
                    commit="c0ffee" * 6 + "c0ff",
                    ref="refs/tags/v3.0.0",
                    signature=not (image is pair[1] and service == unsigned),
                )

    def _prepare(self) -> None:
        (self.folder / "secret").write_text(self.sigstore.token_secret)
        (self.folder / "trust.json").write_text(self.sigstore.trust_config())
        make_repository(self.folder / "repository")
        self.images = {
            one: (
                build_image(one, "v2.9.4", [{"app/v": b"2.9.4"}]),
                build_image(one, "v3.0.0", [{"app/v": b"3.0.0"}]),
            )
            for one in SERVICES
        }
        for service, (stable, candidate) in self.images.items():
            reference = f"registry.invalid/{stable.repository}@{stable.digest}"
            for track in ("stable", "canary"):
                self.facts.deployments.append(deployment("intelgraph", service, track, reference, 1))
            self.facts.pages[f"/{service}/healthz"] = (200, '{"status": "ok"}')
            self.data.setdefault("services", []).append(
                {"name": service, "image": f"registry.invalid/{candidate.repository}@{candidate.digest}"}
            )
        endpoints = Endpoints(
            kubernetes=self.kubernetes.url,
            kubernetes_token="file:secret",
            prometheus=self.prometheus.url,
            registry=self.registry.url,
            entry=self.entry.url,
            load=self.stage.url,
            stages=dict.fromkeys(STAGES, self.stage.url),
            token_url=self.sigstore.token_url,
            token_secret="file:secret",
            issuer=self.sigstore.issuer,
            trust_config="trust.json",
            repository="repository",
            from_ref="v2.9.4",
            to_ref="v3.0.0",
            webhook=f"{self.hook.url}/hook",
            webhook_secret="file:secret",
            issues=self.hook.url,
            issues_repository="intelgraph/platform",
            issues_token="file:secret",
            flags=self.hook.url,
        )
        trust = ImageTrust(BUILD, self.sigstore.issuer, BUILDER, SOURCE)
        services = self.data["services"]
        references = {one["name"]: one["image"] for one in services}
        every = {name: references.get(name, "x/y@sha256:" + "0" * 64) for name in _ALL}
        self.data = build(endpoints, every, trust, pace("fast"), datetime.now(UTC), scenario("green"))
        self.data["services"] = services
        self.data["agent_deadline"] = "20s"
        # Not all services are here: tests of drills bring their own.
        self.data.pop("chaos", None)
        self.data["agents"] = [one for one in self.data["agents"] if one != "A36"]
        self.data["targets"]["load"] |= {"baseline_rps": 104, "spike_rps": 120, "seconds": "0.5s"}
        self.data["targets"]["smoke"] = [
            {"name": f"{one}-health", "path": f"/{one}/healthz", "contains": '"status": "ok"'}
            for one in SERVICES
        ] + [{"name": "nowhere", "path": "/nowhere", "status": 404}]
        self.data["targets"]["signing"]["deadline"] = "5s"

    @property
    def plan(self) -> Plan:
        """The plan as the data say now."""
        return Plan.model_validate(self.data)

    async def open(self, stack: AsyncExitStack) -> None:
        """Start everything and open the run."""
        for one in (self.prometheus, self.kubernetes, self.entry, self.stage, self.hook):
            await stack.enter_async_context(one.running())
        await stack.enter_async_context(self.sigstore)
        await stack.enter_async_context(self.registry)
        self._prepare()
        targets = self.plan.targets
        cluster = KubernetesCluster(self.kubernetes.url, "token", "intelgraph", deadline=DEADLINE)
        stack.push_async_callback(cluster.close)
        await cluster.connect()
        metrics = PrometheusMetrics(self.prometheus.url, read_timeout=DEADLINE, deadline=DEADLINE)
        stack.push_async_callback(metrics.close)
        registry = OciRegistry(self.registry.url, deadline=DEADLINE)
        stack.push_async_callback(registry.close)
        self.handles = Handles(
            metrics=metrics,
            cluster=cluster,
            registry=registry,
            forge=GitRepo(self.folder / "repository", deadline=5.0),
            policy=EmbeddedRego(deadline=10.0),
            decisions=EmbeddedEngine(deadline=10.0),
            load=OpenLoopGenerator(self.stage.url, "stage", timeout=DEADLINE),
            http=BoundedHttpReader(deadline=DEADLINE),
            signing=SigstoreSigning(
                self.sigstore.trust_config(),
                token=HttpToken(
                    targets.signing.token_url,
                    secret=f"file:{self.folder / 'secret'}",
                    subject=RELEASE_IDENTITY,
                ),
                identity=RELEASE_IDENTITY,
                issuer=self.sigstore.issuer,
                threads=BoundedThreads("signing in tests", 4),
            ),
            webhooks=Webhook(deadline=DEADLINE),
        )
        writer = JournalWriter.open(self.run_dir, clock=self.clock)
        self.key = RunKey.generate()
        write_public_key(self.run_dir / "heads", self.key)
        self.recorder = Recorder(writer, self.run_dir, "20250923T080000Z-1a2b3c", self.key)
        stack.push_async_callback(self.recorder.close)
        await self.recorder.record(self._opened())

    def _opened(self) -> RunOpened:
        plan = self.plan
        return RunOpened(
            run_id="20250923T080000Z-1a2b3c",
            version=plan.target_version,
            repo=plan.repo,
            environment="prod",
            plan_sha256=self.plan_sha256,
            plan_blob=self.recorder.keep(self.plan_bytes),
            rehearsal=True,
            reduced=["tests"],
            trust_profile="embedded",
            operator="tests",
            host="tests",
            run_key=base64.b64encode(self.key.public_bytes).decode(),
            steps=list(plan.canary.steps),
            services=[ServiceImage(one.name, one.image.digest) for one in plan.services],
            phases=list(plan.phases),
            required_gates=list(plan.required_gates),
            window_start="",
            window_end="",
            roster=[
                RosterEntry(
                    id=info.id,
                    name=info.name,
                    domain=info.domain,
                    phases=list(info.phases),
                    built=info.built,
                    required=info.id in plan.agents,
                )
                for info in ROSTER
            ],
        )

    @property
    def plan_bytes(self) -> bytes:
        """The plan as a file: JSON is YAML."""
        return json.dumps(self.data, sort_keys=True).encode()

    @property
    def plan_sha256(self) -> str:
        """The digest of the plan's file."""
        return sha256_hex(self.plan_bytes)

    # -- calling ----------------------------------------------------------------------------------------

    async def call(
        self, agent: str, op: Op = "VERIFY", phase: Phase | None = None, **params: Any
    ) -> CallResult:
        """Call an agent as the conductor does; everything is journaled."""
        info = find(agent)
        plan = self.plan
        loaded = LoadedPlan(plan, b"", self.plan_sha256, self.folder)
        effects = EffectsGate(
            self.recorder, _Holder(), self.clock, plan.window_utc, frozenset({"prod", "stage", "all"})
        )
        dispatch = LocalDispatch(loaded, self.run_dir, self.clock, self.recorder, self.handles, effects)
        calls = AgentCalls(
            dispatch,
            self.recorder,
            self.clock,
            deadline=30.0,
            consequences=lambda agent, response: events_of(
                agent, response, self.run_dir, self.recorder.state()
            ),
        )
        chosen = phase or cast(Phase, next(one for one in info.phases if one != "canary"))
        return await calls.call(info.id, info.name, chosen, op, params=params, capabilities=info.capabilities)

    async def verdict(self, agent: str, **params: Any) -> GateVerdict:
        """Call VERIFY and return its one verdict."""
        result = await self.call(agent, **params)
        assert result.response is not None, result.reason
        [verdict] = result.response.verdicts
        return verdict

    def read(self, artifact: str) -> Any:
        """Return a JSON artifact."""
        return json.loads((self.run_dir / "artifacts" / artifact).read_bytes())


def recomputed(world: World) -> None:
    """Every verdict so far comes out the same from the stored answers."""
    world.recorder.state()
    judged = [event for event in world.recorder.events() if isinstance(event, GateJudged)]
    assert judged
    assert [verdict_problem(event, world.recorder.blob) for event in judged] == [""] * len(judged)


class _Holder:
    held = True
    fenced_out = False


_ALL = ("gateway", "web", "search", "realtime", "reports", "ingest")


def _text(value: float) -> str:
    return "NaN" if value != value else repr(value)


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    """Run a world."""
    async with AsyncExitStack() as stack:
        made = World(folder)
        await made.open(stack)
        yield made
