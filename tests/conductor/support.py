"""A conductor's parts for tests: a journal on disk, a cluster on loopback, a metrics back end that says what
it is told, and clocks that do not make anybody wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from cockpit.backends.cluster import DEPLOYMENT, HTTPROUTE, KubernetesCluster, Object
from cockpit.base.clock import Clock, SystemClock, VirtualClock
from cockpit.base.errors import Conflict
from cockpit.conductor.bake import LookResult, ShareSeen
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.journal.base import Event
from cockpit.journal.events import AnyEvent
from cockpit.journal.reader import JOURNAL_NAME, decode_events, read_lines
from cockpit.journal.state_people import RequestView
from cockpit.journal.storage import Io
from cockpit.journal.upcast import decode
from cockpit.journal.writer import JournalWriter
from cockpit.plan.model import Plan
from cockpit.plan.values import Window
from cockpit.rehearsal import manifests
from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.rehearsal.topology import PROD, ROUTE
from cockpit.verdicts.rule import Outcome
from tests.unit.journal.support import KEY
from tests.unit.plan.test_refuse import data

T = TypeVar("T")
E = TypeVar("E", bound=Event)
DEADLINE = 30.0
RUN_ID = "20250923T080000Z-abcdef"
OLD = "registry.example/{}@sha256:" + "1" * 64
NEW = "registry.example/{}@sha256:" + "a" * 64


class FastClock:
    """The machine's clock, `speed` times as fast: real servers take part, and nobody waits for a bake."""

    def __init__(self, speed: float = 25.0) -> None:
        self._real = SystemClock()
        self._speed = speed
        self._began = self._real.monotonic()
        self._start = self._real.now()

    def now(self) -> datetime:
        """Return the present time of this clock."""
        return self._start + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Return the seconds of this clock since it was made."""
        return (self._real.monotonic() - self._began) * self._speed

    async def sleep(self, seconds: float) -> None:
        """Sleep for `seconds` of this clock."""
        await self._real.sleep(seconds / self._speed)


async def until(probe: Callable[[], T | None], *, deadline: float = DEADLINE) -> T:
    """Poll until `probe` gives something true and return it; fails after the deadline."""
    async with asyncio.timeout(deadline):
        while not (found := probe()):  # noqa: ASYNC110 - what is waited for is another process's or thread's
            await asyncio.sleep(0.005)
        return found


@asynccontextmanager
async def recording(
    folder: Path, clock: Clock | None = None, *, io: Io | None = None, reserve: int = 4096
) -> AsyncIterator[Recorder]:
    """Yield a recorder of a run folder."""
    writer = JournalWriter.open(folder, clock=clock or SystemClock(), io=io, reserve=reserve)
    recorder = Recorder(writer, folder, RUN_ID, KEY)
    try:
        yield recorder
    finally:
        await recorder.close()


async def events(recorder: Recorder, kind: type[E]) -> list[E]:
    """Return the events of a type once everything noted so far is on disk."""
    await recorder.record_abort(_Mark())
    return on_disk(recorder.run_dir, kind)


class _Mark(Event, frozen=True, tag="test.mark.v1"):
    """Nothing: its receipt says that what came before is on disk."""


def on_disk(folder: Path, kind: type[E]) -> list[E]:
    """Return the events of a type that are on disk at this moment."""
    found: list[AnyEvent] = list(decode_events(read_lines(folder / JOURNAL_NAME), decode))
    return [event for event in found if isinstance(event, kind)]


@dataclass
class Holder:
    """Who holds the lock, as a test says."""

    held: bool = True
    fenced_out: bool = False


def window_around(clock: Clock) -> Window:
    """Return a window an hour to each side of now."""
    now = clock.now()
    return Window(start=now - timedelta(hours=1), end=now + timedelta(hours=1))


def gate_of(
    recorder: Recorder,
    *,
    holder: Holder | None = None,
    clock: Clock | None = None,
    window: Window | None = None,
) -> EffectsGate:
    """Return an effects gate that grants prod and stage."""
    clock = clock or VirtualClock()
    return EffectsGate(
        recorder, holder or Holder(), clock, window or window_around(clock), frozenset({"prod", "stage"})
    )


def plan_of(
    clock: Clock,
    *,
    services: Sequence[str] = ("web",),
    url: str = "http://127.0.0.1:1",
    canary: dict[str, Any] | None = None,
    **changes: Any,
) -> Plan:
    """Return the rehearsal's plan with few services and short times."""
    plan = data()
    now = clock.now()
    plan["window_utc"] = (
        f"{now - timedelta(hours=2):%Y-%m-%d %H:%M} → {now + timedelta(days=2):%Y-%m-%d %H:%M}"
    )
    plan["services"] = [{"name": name, "image": NEW.format(name)} for name in services]
    plan["targets"]["kubernetes"].update({"url": url, "lease_seconds": 3600, "deadline": "5s"})
    plan["canary"].update(
        {
            "bake": "4s", "interval": "1s", "required_passes": 2, "failure_limit": 2, "drain": "0.2s",
            "weight_deadline": "10s", "low_traffic_deadline": "8s", "provider_grace": "6s",
            "rollout_deadline": "200s", "drain_deadline": "100s", "abort_scale_bound": "20s",
        }
    )  # fmt: skip
    plan["canary"].update(canary or {})
    plan.update(changes)
    return Plan.model_validate(plan)


def look(outcome: Outcome = "pass", *, critical: bool = False, requests: float = 500.0) -> LookResult:
    """Return a look."""
    return LookResult(outcome, critical, f"told to: {outcome}", requests)


@dataclass
class ToldPolicy:
    """A policy on people that says what it is told of an act (`approve`, `break_glass`, …), else nothing."""

    against: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def _says(self, act: str, *facts: str) -> str:
        self.asked.append((act, *facts))
        return self.against.get(act, "")

    async def resume(self, by: str, reason: str) -> str:
        """Say what stands against ending a HALT."""
        return self._says("resume", by, reason)

    async def approve(self, request: RequestView, person: str, reason: str) -> str:
        """Say what stands against an approval."""
        return self._says("approve", request.asked, person, reason)

    async def break_glass(self, person: str, reason: str) -> str:
        """Say what stands against break-glass."""
        return self._says("break_glass", person, reason)

    async def glass_broken(self, person: str, reason: str, *, second: str, at: datetime) -> str:
        """Say what stands against break-glass once it is to count."""
        return self._says("glass_broken", person, reason, second)


Share = Callable[[], Awaitable[ShareSeen]]


@dataclass
class ToldAnalyst:
    """Looks as told: `looks` are used up in order, `after` is what follows; the share follows the route."""

    weight: Callable[[], Awaitable[int]] | None = None
    looks: list[LookResult] = field(default_factory=list)
    after: LookResult = field(default_factory=look)
    shares: list[ShareSeen] = field(default_factory=list)
    gone: bool = False
    """The metrics back end does not answer."""
    windows: list[tuple[int, float]] = field(default_factory=list)
    on_look: Callable[[int], None] | None = None

    async def look(self, step: int, window_s: float) -> LookResult:
        """Take the next look there is."""
        self.windows.append((step, window_s))
        if self.on_look is not None:
            self.on_look(len(self.windows))
        return self.looks.pop(0) if self.looks else self.after

    async def share(self, window_s: float) -> ShareSeen:
        """Return the weight the route has, unless told otherwise."""
        if self.shares:
            return self.shares.pop(0)
        if self.gone or self.weight is None:
            return ShareSeen(None, "told to be gone")
        return ShareSeen(await self.weight() / 100)

    async def canary_requests(self, window_s: float) -> float | None:
        """Return some requests while the route sends any."""
        if self.gone or self.weight is None:
            return None
        return 10.0 * await self.weight()


@dataclass
class World:
    """A cluster on loopback with its services, and two clients: the conductor's and the administrator's."""

    kube: KubeServer
    conductor: KubernetesCluster
    admin: KubernetesCluster
    services: tuple[str, ...]
    url: str

    async def stable(self) -> dict[str, tuple[int, str]]:
        """Return each stable Deployment's replicas and image."""
        found = {}
        for name in self.services:
            spec = (await self.admin.get(DEPLOYMENT, f"{name}-stable"))["spec"]
            found[name] = (spec["replicas"], spec["template"]["spec"]["containers"][0]["image"])
        return found

    async def canary_replicas(self) -> int:
        """Return the replicas all canary Deployments want."""
        found = [await self.admin.get(DEPLOYMENT, f"{name}-canary") for name in self.services]
        return sum(int(item["spec"]["replicas"]) for item in found)

    async def weights(self) -> list[dict[str, int]]:
        """Return each rule's weights by back end."""
        rules = (await self.admin.get(HTTPROUTE, ROUTE))["spec"]["rules"]
        return [{ref["name"]: ref["weight"] for ref in rule["backendRefs"]} for rule in rules]

    async def change(self, kind: Any, name: str, body: Object) -> Object:
        """Change an object as somebody else would."""
        while True:
            version = (await self.admin.get(kind, name))["metadata"]["resourceVersion"]
            try:
                return await self.admin.patch(kind, name, body, resource_version=version)
            except Conflict:
                continue  # a controller, or a renewal, was quicker


def route_manifest(services: Sequence[str]) -> Object:
    """Return the HTTPRoute: a rule a service, all of it on stable."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": ROUTE, "namespace": PROD},
        "spec": {
            "parentRefs": [{"name": "public"}],
            "rules": [
                {
                    "matches": [{"path": {"type": "PathPrefix", "value": f"/{name}"}}],
                    "backendRefs": [
                        {"name": f"{name}-stable", "port": 80, "weight": 100},
                        {"name": f"{name}-canary", "port": 80, "weight": 0},
                    ],
                }
                for name in services
            ],
        },
    }


@asynccontextmanager
async def world(services: Sequence[str] = ("web",)) -> AsyncIterator[World]:
    """Yield a cluster in which every service runs its old image on two stable pods, and no canary."""
    users = {"world-token": admin(), "conductor-token": conductor([PROD])}
    kube = KubeServer(users, start_delay=0.01, stop_delay=0.01)
    url = await kube.start()
    mine, theirs = (
        KubernetesCluster(url, token, PROD, deadline=10.0) for token in ("conductor-token", "world-token")
    )
    made = World(kube, mine, theirs, tuple(services), url)
    try:
        for client in (mine, theirs):
            await client.connect()
        await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": PROD}})
        for name in services:
            for track, replicas in (("stable", 2), ("canary", 0)):
                body = manifests.deployment(PROD, name, track, OLD.format(name), replicas)  # type: ignore[arg-type]
                body["spec"]["template"]["spec"].pop("readinessGates")
                await kube.apply(body)
        await kube.apply(route_manifest(services))
        async with asyncio.timeout(DEADLINE):
            await whole(made)
        yield made
    finally:
        for client in (mine, theirs):
            await client.close()
        await kube.stop()


async def whole(made: World) -> None:
    """Wait until both stable pods of every service are ready."""
    for name in made.services:
        while (await _ready(made, name)) < 2:  # noqa: ASYNC110 - the cluster tells nobody
            await asyncio.sleep(0.01)


async def _ready(made: World, name: str) -> int:
    status = (await made.admin.get(DEPLOYMENT, f"{name}-stable")).get("status") or {}
    return int(status.get("readyReplicas", 0)) if status.get("observedGeneration") else 0
