"""An abort by hand, beside the field's yardstick: Argo Rollouts, on the same real API server, in one run.

From the moment it is asked for to the moment a watch tells that the canary is off: for the controller, its
canary ReplicaSet is to have no pod, as without a router its weights are pods; for the cockpit, the route
gives the canary nothing. The cockpit is asked over its control socket; controller, conductor's parts and
whoever measures share the machine.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.report import Report, parse_arguments, percentile
from benchmarks.scene import plan as scene_plan
from benchmarks.scene import recorder
from cockpit.backends.cluster import HTTPROUTE
from cockpit.base.clock import SystemClock
from cockpit.base.errors import UsageError
from cockpit.conductor.abort import Abort, Stable
from cockpit.conductor.control import ControlServer
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.people import People
from cockpit.conductor.targets import Targets
from cockpit.control.client import ControlClient
from cockpit.plan.model import Plan
from cockpit.rehearsal.real.binaries import missing
from cockpit.rehearsal.real.control_plane import connection, control_plane
from cockpit.rehearsal.real.namespace import entering, inside
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.topology import ROUTE
from tests.conductor.support import NEW, OLD, World
from tests.real.argo_rollouts import NEEDED, Rollouts, argo_rollouts, rollout
from tests.real.shop import shop

T = TypeVar("T")
ABORTS = 20
"""Of each, after one that is not counted."""
SPACE = "yardstick"
REPLICAS, STEP = 10, 10
_QUIET = (0.3, 0.6)
"""Seconds in which nothing happens before each abort, drawn at random."""
_MISSED = 20.0
"""Seconds after which an abort counts as not followed; it is then asked for again."""
_READY = 60.0


@dataclass(frozen=True)
class Site:
    """What both are measured on; `session` is one connection that stays open, to ask and to watch with."""

    url: str
    token: str
    session: aiohttp.ClientSession
    rollouts: Rollouts
    world: World
    plan: Plan

    async def until_seen(
        self, collection: str, holds: Callable[[dict[str, Any]], bool], act: Callable[[], Awaitable[object]]
    ) -> float:
        """Do `act` while a collection is watched; return the ms until an object came for which `holds`."""
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.url}/{collection}"
        async with self.session.get(url, headers=headers, params={"limit": "1"}) as answer:
            version = (await answer.json())["metadata"]["resourceVersion"]
        watch = {"watch": "1", "resourceVersion": version}
        async with (
            self.session.get(url, headers=headers, params=watch) as stream,
            asyncio.TaskGroup() as tasks,
        ):
            seen = tasks.create_task(_first(stream, holds))
            asked = time.perf_counter()
            await act()
            at = await seen
        return (at - asked) * 1000

    async def patch(self, path: str, body: object) -> None:
        """Send one merge patch as the administrator."""
        headers = {
            "Authorization": f"Bearer {self.token}",
            "Content-Type": "application/merge-patch+json",
        }
        async with self.session.patch(f"{self.url}/{path}", data=json.dumps(body), headers=headers) as answer:
            if answer.status != 200:
                raise RuntimeError(f"{path}: {answer.status} {await answer.text()}")


async def _first(stream: aiohttp.ClientResponse, holds: Callable[[dict[str, Any]], bool]) -> float:
    async for line in stream.content:
        at = time.perf_counter()
        if holds(json.loads(line)["object"]):
            return at
    raise RuntimeError("the watch ended early")


async def until(probe: Callable[[], Awaitable[T]]) -> T:
    """Poll until `probe` returns something true, and return it."""
    async with asyncio.timeout(_READY):
        while not (found := await probe()):  # noqa: ASYNC110 - the server is asked, there is no event
            await asyncio.sleep(0.05)
        return found


# -- Argo Rollouts ------------------------------------------------------------------------------------


async def rollouts_abort(site: Site, number: int, dice: random.Random) -> tuple[float, int]:
    """Put a canary up and abort it; return the ms until it wants no pod, and how often nothing came of it.

    Each on a Rollout of its own: on one that has seen many versions within minutes it takes ever longer.
    """
    name, image = f"web-{number}", "registry.example/web:canary"
    steps: list[dict[str, Any]] = [{"setWeight": STEP}, {"pause": {}}]
    labels = {"app": "yardstick", "rollout": name}
    spec = rollout("registry.example/web:stable", replicas=REPLICAS, steps=steps, labels=labels)
    await site.rollouts.create("Rollout", spec, name)

    async def is_in(phase: str) -> bool:
        found = await site.rollouts.get(name)
        status = found.get("status") or {}
        seen = status.get("observedGeneration") == str(found["metadata"]["generation"])
        return seen and status.get("phase") == phase

    async def steady() -> bool:
        canary = (await site.rollouts.sets(name)).get(image)
        return canary is not None and canary["status"].get("readyReplicas") == 1 and await is_in("Paused")

    def off(found: dict[str, Any]) -> bool:
        container = found["spec"]["template"]["spec"]["containers"][0]
        mine = found["metadata"]["labels"].get("rollout") == name and container["image"] == image
        return bool(mine and found["spec"]["replicas"] == 0)

    await until(partial(is_in, "Healthy"))
    await site.rollouts.set_image(name, image)
    await until(steady)
    await asyncio.sleep(dice.uniform(*_QUIET))
    path = f"apis/argoproj.io/v1alpha1/namespaces/{SPACE}/rollouts/{name}/status"
    ask = partial(site.patch, path, {"status": {"abort": True}})
    missed = 0
    while True:
        try:
            async with asyncio.timeout(_MISSED):
                took = await site.until_seen(f"apis/apps/v1/namespaces/{SPACE}/replicasets", off, ask)
            break
        except TimeoutError:
            missed += 1
    await site.rollouts.delete(name)
    return took, missed


# -- the cockpit --------------------------------------------------------------------------------------


class _NoRequests:
    async def canary_requests(self, window_s: float) -> float | None:
        """Return none: nobody sends any here, and what follows the shift is not measured."""
        return 0.0


async def _nothing_against(_by: str, _reason: str) -> str:
    return ""


@asynccontextmanager
async def conductor(site: Site, folder: Path) -> AsyncIterator[tuple[Targets, EffectsGate, People, Abort]]:
    """Yield the parts of a conductor that an abort passes, with a journal of their own."""
    clock = SystemClock()
    async with recorder(folder) as recording:
        lease = ReleaseLease(
            site.world.conductor, site.plan.targets.kubernetes, "benchmark", recording, clock
        )
        await lease.acquire()
        effects = EffectsGate(recording, lease, clock, site.plan.window_utc, frozenset({"prod"}))
        people = People(
            effects=effects, recorder=recording, clock=clock, on_halt="ask", bound=3600, unattended=False
        )
        abort = Abort(
            effects=effects,
            targets=Targets(site.world.conductor, site.plan, lease, abort="benchmark"),
            observer=_NoRequests(),
            recorder=recording,
            plan=site.plan,
            clock=clock,
        )
        control = ControlServer(folder, people, may_resume=_nothing_against)
        await control.start()
        try:
            yield Targets(site.world.conductor, site.plan, lease), effects, people, abort
        finally:
            await control.stop()


async def cockpit_abort(site: Site, folder: Path, dice: random.Random) -> float:
    """Put a canary up and roll it back; return the ms until the route gives it nothing."""
    stable = Stable({"web-stable": 2}, {"web-stable": OLD.format("web")})
    async with conductor(site, folder) as (targets, effects, people, abort):
        for verb, act in (
            ("scale", partial(targets.scale, "web-canary", 1, container="app", image=NEW.format("web"))),
            ("shift", partial(targets.shift, STEP)),
        ):
            await effects.forward(verb, "web-canary", act, env="prod", by="benchmark")

        async def steady() -> bool:
            return all(one.settled for one in (*await targets.stable(), *await targets.canary()))

        def off(found: dict[str, Any]) -> bool:
            refs = [ref for rule in found["spec"]["rules"] for ref in rule["backendRefs"]]
            return all(ref["weight"] == 0 for ref in refs if ref["name"] == "web-canary")

        await until(steady)
        client = ControlClient(folder, source="tui", by="benchmark")
        await client.connect()
        try:
            async with asyncio.TaskGroup() as tasks:
                aborted = tasks.create_task(_abort(people, abort, stable))
                await asyncio.sleep(dice.uniform(*_QUIET))
                took = await site.until_seen(
                    f"apis/gateway.networking.k8s.io/v1/namespaces/{SPACE}/httproutes",
                    off,
                    lambda: client.send("rollback", reason="benchmark"),
                )
        finally:
            await client.close()
        if not aborted.result():
            raise RuntimeError(f"the abort was not verified; see {folder}")
    return took


async def _abort(people: People, abort: Abort, stable: Stable) -> bool:
    stop = await people.stopped()
    return await abort.run(stop.reason, stop.cause, stop.by, stable, replacing=False)


async def floor(site: Site) -> float:
    """Return the ms one read and one write of the route take by the cockpit's client."""
    began = time.perf_counter()
    version = (await site.world.conductor.get(HTTPROUTE, ROUTE))["metadata"]["resourceVersion"]
    note = {"metadata": {"annotations": {"benchmark": str(began)}}}
    await site.world.conductor.patch(HTTPROUTE, ROUTE, note, resource_version=version)
    return (time.perf_counter() - began) * 1000


# -- both ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def site_of(folder: Path) -> AsyncIterator[Site]:
    """Run the servers, the controller, and a service of the cockpit's."""
    plan = scene_plan(folder).plan
    canary = plan.canary.model_copy(update={"drain": 0.1, "drain_deadline": _READY})
    plan = plan.model_copy(
        update={"services": [one for one in plan.services if one.name == "web"], "canary": canary}
    )
    async with (
        Servers(folder / "servers") as servers,
        control_plane(servers) as plane,
        shop(plane, SPACE) as world,
        argo_rollouts(servers, plane, SPACE) as rollouts,
        connection(plane.admin.context, seconds=3600) as session,
    ):
        yield Site(plane.url, plane.admin_token, session, rollouts, world, plan)


async def measure(report: Report, folder: Path) -> None:
    """Run the servers and take turns, so that both meet the same machine."""
    dice = random.Random(2025)
    theirs: list[float] = []
    ours: list[float] = []
    plain: list[float] = []
    missed = 0
    async with site_of(folder) as site:
        for number in range(ABORTS + 1):
            took, more = await rollouts_abort(site, number, dice)
            theirs.append(took)
            missed += more
            run_dir = folder / f"run-{number}"
            run_dir.mkdir(mode=0o700)
            ours.append(await cockpit_abort(site, run_dir, dice))
            plain.append(await floor(site))
    names = {
        "Argo Rollouts, canary wants 0 pods": theirs,
        "the cockpit, route gives it 0": ours,
        "one read and one write of the route": plain,
    }
    report.add("aborts of each", ABORTS, "")
    medians = {}
    for name, values in names.items():
        counted = values[1:]  # the first finds everything cold
        medians[name] = report.add(f"{name}, median", percentile(counted, 50), "ms")
        report.add(f"{name}, p95", percentile(counted, 95), "ms")
    first, second, least = medians.values()
    report.add(f"aborts Argo Rollouts did not follow within {_MISSED:g} s", missed, "")
    report.add("Argo Rollouts : the cockpit, medians", first / second, "times", at_least=1)
    report.add("the cockpit : a read and a write, medians", second / least, "times")


def main() -> int:
    """Measure and print; without the servers or a network namespace say so, which is no failure."""
    arguments = parse_arguments("Measure aborts beside Argo Rollouts on real servers (about 2 minutes).")
    title = "An abort by hand: Argo Rollouts and the cockpit"
    if gone := missing(NEEDED):
        print(f"{title}: not measured; not there: {', '.join(gone)}. Run: make backends ARGS=--long")
        return 0
    if not inside():
        return _again_inside(title)
    report = Report(title)
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=Path.cwd()) as name:
        asyncio.run(measure(report, Path(name)))
    return report.finish(arguments)


def _again_inside(title: str) -> int:
    """Run the same benchmark in a network namespace of its own, where that is possible."""
    try:
        trial = subprocess.run(entering(["true"]), capture_output=True, text=True, check=False)
        problem = (trial.stderr.strip() or "refused") if trial.returncode else ""
    except (OSError, UsageError) as error:
        problem = str(error)
    if problem:
        print(f"{title}: not measured; no network namespace for the real servers: {problem}")
        return 0
    return subprocess.run(entering([sys.executable, *sys.argv]), check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
