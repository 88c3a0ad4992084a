"""Argo Rollouts and the cockpit on one real control plane and one real Prometheus: what each of them does.

Told by effects: what the API server holds afterwards. The last tests have both at work on one Deployment.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.backends.cluster import DEPLOYMENT, REPLICASET
from cockpit.backends.metrics import PrometheusMetrics
from cockpit.conductor.bake import LookResult
from cockpit.conductor.people import Stop
from cockpit.journal.events import EffectIntended, Released, RollbackUnfinished, RollbackVerified
from cockpit.rehearsal.real.control_plane import ControlPlane
from cockpit.rehearsal.real.prometheus import RealPrometheus, prometheus
from cockpit.rehearsal.real.rights import Obj
from cockpit.rehearsal.real.servers import Servers
from cockpit.verdicts.answers import parse_answer
from tests.conductor.support import NEW, OLD, World, events, look
from tests.conductor.test_release import Show, show
from tests.real.argo_rollouts import NEEDED, Rollouts, analysis, argo_rollouts, rollout
from tests.real.fixtures import need
from tests.real.shop import shop

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.asyncio(loop_scope="module")]
T = TypeVar("T")
BOUND = 60.0
SPEED = 5.0
"""How much faster than the real one the cockpit's clock goes: the servers need their time."""
ERRORS = "max(canary_errors)"
BELOW = 0.05
PATIENT = {
    "weight_deadline": "60s", "provider_grace": "60s", "rollout_deadline": "300s", "drain_deadline": "300s",
    "abort_scale_bound": "60s",
}  # fmt: skip
REPLICAS = 10
FIRST, SECOND = OLD.format("web"), NEW.format("web")
LABELS = {"app": "field"}
STEPS: list[Obj] = [
    *({"setWeight": 10}, {"pause": {"duration": "3s"}}),
    *({"setWeight": 50}, {"pause": {"duration": "2s"}}),
    *({"setWeight": 100}, {"pause": {"duration": "1s"}}),
]


@dataclass
class App:
    """What both judge: a share of errors, as a target of Prometheus."""

    errors: float = 0.0
    url: str = ""

    async def metrics(self, _: web.Request) -> web.Response:
        """Answer a scrape."""
        return web.Response(text=f"# TYPE canary_errors gauge\ncanary_errors {self.errors}\n")


@dataclass
class Field:
    """The servers, and a namespace of the test's own."""

    plane: ControlPlane
    rollouts: Rollouts
    prometheus: RealPrometheus
    app: App
    worlds: list[str] = field(default_factory=list)

    async def judged(self) -> float:
        """Return the share of errors as Prometheus tells it now."""
        client = PrometheusMetrics(self.prometheus.url)
        try:
            samples, _ = parse_answer((await client.query(ERRORS)).raw)
        finally:
            await client.close()
        return samples[0].value if samples else -1.0

    async def has_errors(self, errors: float) -> None:
        """Have the application answer with errors, until Prometheus says so."""
        self.app.errors = errors

        async def seen() -> bool:
            return await self.judged() == errors

        await until(seen)

    async def look(self, step: int, window_s: float) -> LookResult:
        """Take the cockpit's look: the question of the AnalysisTemplate."""
        errors = await self.judged()
        return look("pass" if 0 <= errors < BELOW else "fail")


async def until(probe: Callable[[], Awaitable[T]]) -> T:
    """Poll until `probe` returns something true, and return it."""
    async with asyncio.timeout(BOUND):
        while not (found := await probe()):  # noqa: ASYNC110 - the servers are asked, there is no event
            await asyncio.sleep(0.05)
        return found


@pytest_asyncio.fixture(scope="module", loop_scope="module", name="site")
async def the_field(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Field]:
    """Run controller, Prometheus and the application it scrapes."""
    need(*NEEDED, "prometheus")
    await plane.namespace("field")
    app = App()
    served = web.Application()
    served.router.add_get("/metrics", app.metrics)
    runner = web.AppRunner(served)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        async with (
            Servers(tmp_path_factory.mktemp("field")) as servers,
            prometheus(servers, scrape_interval=0.2, targets=[f"{host}:{port}"]) as metrics,
            argo_rollouts(servers, plane, "field") as rollouts,
        ):
            await rollouts.create("AnalysisTemplate", analysis(metrics.url, ERRORS, below=BELOW), "errors")
            yield Field(plane, rollouts, metrics, app)
    finally:
        await runner.cleanup()


@asynccontextmanager
async def cockpit(
    site: Field, folder: Path, *, unattended: bool = True, **canary: str
) -> AsyncIterator[Show]:
    """A release of the cockpit, judged by the real Prometheus."""
    site.worlds.append(f"shop-{len(site.worlds)}")
    place = partial(shop, site.plane, site.worlds[-1])
    bounds = {**PATIENT, **canary}
    async with show(folder, place=place, speed=SPEED, unattended=unattended, canary=bounds) as made:
        made.analyst.look = site.look  # type: ignore[method-assign]
        yield made


async def ended(made: Show, code: int) -> str:
    """Run a release, which must end with this code; return why it did."""
    ending = await made.run()
    assert ending.exit == code, ending
    return ending.cause


async def deployed(site: Field, name: str, steps: list[Obj]) -> None:
    """Have a Rollout run its first image, under analysis from its first step on."""
    spec = rollout(
        FIRST,
        replicas=REPLICAS,
        steps=steps,
        labels={**LABELS, "rollout": name},
        analysis={"templates": [{"templateName": "errors"}], "startingStep": 1},
    )
    await site.rollouts.create("Rollout", spec, name)
    await until(partial(phase, site, name, "Healthy"))


async def phase(site: Field, name: str, wanted: str) -> bool:
    """Tell whether the controller has seen a Rollout as it is, and says this of it."""
    found = await site.rollouts.get(name)
    status = found.get("status") or {}
    seen = status.get("observedGeneration") == str(found["metadata"]["generation"])
    return seen and status.get("phase") == wanted


async def pods_of(site: Field, name: str, image: str) -> tuple[int, int]:
    """Return how many pods of an image a Rollout wants, and how many there are."""
    found = (await site.rollouts.sets(name)).get(image)
    if found is None:
        return 0, 0
    return int(found["spec"]["replicas"]), int(found["status"].get("replicas", 0))


async def back(site: Field, name: str) -> None:
    """Wait until a Rollout is wholly on its first image, and the canary has no pod."""

    async def gone() -> bool:
        first, second = await pods_of(site, name, FIRST), await pods_of(site, name, SECOND)
        return (first, second) == ((REPLICAS, REPLICAS), (0, 0))

    await until(gone)


# -- each by itself -----------------------------------------------------------------------------------


async def test_a_good_version_goes_10_50_100_in_both(site: Field, tmp_path: Path) -> None:
    await site.has_errors(0.0)
    await deployed(site, "good", STEPS)
    await site.rollouts.set_image("good", SECOND)
    wanted: set[int] = set()

    async def out() -> bool:
        wanted.add((await pods_of(site, "good", SECOND))[0])
        return wanted >= {REPLICAS} and await phase(site, "good", "Healthy")

    await until(out)
    assert wanted >= {1, 5, 10}
    assert await pods_of(site, "good", SECOND) == (REPLICAS, REPLICAS)
    assert await pods_of(site, "good", FIRST) == (0, 0)

    async def judged() -> list[Obj]:
        found = [one.get("status") or {} for one in await site.rollouts.analyses("good")]
        return found if all(one.get("phase") == "Successful" for one in found) else []

    (analysed,) = await until(judged)
    assert analysed["metricResults"][0]["successful"] >= 1
    async with cockpit(site, tmp_path) as made:
        await ended(made, 0)
        assert await made.decided() == [(1, "advance"), (2, "advance"), (3, "advance")]
        assert await made.world.stable() == {"web": (2, SECOND)}
        assert await made.world.canary_replicas() == 0


async def test_a_version_with_errors_is_taken_off_by_both(site: Field, tmp_path: Path) -> None:
    await site.has_errors(0.0)
    await deployed(site, "bad", [{"setWeight": 10}, {"pause": {}}])
    try:
        await site.rollouts.set_image("bad", SECOND)
        await until(lambda: _counts(site, "bad", 1))
        await site.has_errors(0.5)
        await back(site, "bad")
        await until(partial(phase, site, "bad", "Degraded"))
        assert (await site.rollouts.get("bad"))["status"]["abort"] is True
        async with cockpit(site, tmp_path) as made:
            await ended(made, 20)
            await made.restored()
    finally:
        await site.has_errors(0.0)


async def test_an_abort_by_hand_takes_the_canary_off_in_both(site: Field, tmp_path: Path) -> None:
    await site.has_errors(0.0)
    await deployed(site, "halted", [{"setWeight": 10}, {"pause": {}}])
    await site.rollouts.set_image("halted", SECOND)
    await until(lambda: _counts(site, "halted", 1))
    await until(partial(phase, site, "halted", "Paused"))
    await site.rollouts.abort("halted")
    await back(site, "halted")
    async with cockpit(site, tmp_path, unattended=False) as made:
        made.people.attach("tui")

        async def looked(step: int, window_s: float) -> LookResult:
            made.people.stop(Stop("manual", "ROLLBACK by bob: no", "bob"))
            return await site.look(step, window_s)

        made.analyst.look = looked  # type: ignore[method-assign]
        await ended(made, 20)
        await made.restored()


async def _counts(site: Field, name: str, pods: int) -> bool:
    return await pods_of(site, name, SECOND) == (pods, pods)


# -- both on one Deployment ---------------------------------------------------------------------------


async def taken_over(site: Field, made: World, scale_down: str) -> None:
    """Have a Rollout take stable's Deployment over: pods of its own from the Deployment's template."""
    reference = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-stable"}
    spec = {
        "replicas": 2,
        "workloadRef": {**reference, "scaleDown": scale_down},
        "strategy": {"canary": {"steps": [{"setWeight": 50}, {"pause": {}}]}},
    }
    mine = Rollouts(site.rollouts.api, site.worlds[-1], site.rollouts.running)
    await mine.create("Rollout", spec, "web")

    async def there() -> bool:
        if ((await mine.get("web")).get("status") or {}).get("phase") != "Healthy":
            return False
        found = await made.admin.get(DEPLOYMENT, "web-stable")
        wanted, status = found["spec"]["replicas"], found["status"]
        counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "readyReplicas")}
        seen = status["observedGeneration"] == found["metadata"]["generation"]
        # By itself the Deployment is well: it has what it wants.
        return seen and {wanted} == counts == {0 if scale_down == "onsuccess" else 2}

    await until(there)


async def keepers(made: World) -> set[str]:
    """Return the kinds of controllers that keep pods."""
    kept = [one for one in await made.admin.list(REPLICASET) if one["spec"]["replicas"]]
    return {owner["kind"] for one in kept for owner in one["metadata"]["ownerReferences"]}


@pytest.mark.parametrize(
    ("scale_down", "says"),
    [
        ("never", "somebody else keeps pods of the release: Rollout/web (web-stable)"),
        ("onsuccess", "web-stable"),
    ],
)
async def test_what_a_rollout_has_taken_over_is_not_begun_on(
    site: Field, tmp_path: Path, scale_down: str, says: str
) -> None:
    async with cockpit(site, tmp_path) as made:
        await taken_over(site, made.world, scale_down)
        assert says in await ended(made, 10)
        assert not made.gate.prod_touched
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]
        assert "Rollout" in await keepers(made.world)


@pytest.mark.parametrize("at", [1, 3])
async def test_a_rollout_that_comes_in_mid_canary_ends_the_release(
    site: Field, tmp_path: Path, at: int
) -> None:
    async with cockpit(site, tmp_path) as made:

        async def late(step: int) -> None:
            if step == at:
                await taken_over(site, made.world, "never")

        made.gates.under_step = late  # type: ignore[method-assign]
        assert "Rollout/web" in await ended(made, 20)
        assert not [e for e in await events(made.recorder, EffectIntended) if e.verb == "promote"]
        # Its canary is gone and its stable whole; whose pods stand beside stable is theirs to settle.
        await made.restored()
        assert len(await events(made.recorder, RollbackVerified)) == 1


async def test_a_rollout_that_keeps_taking_stable_away_is_left_to_a_person(
    site: Field, tmp_path: Path
) -> None:
    async with cockpit(site, tmp_path, drain_deadline="20s", abort_scale_bound="5s") as made:

        async def late(step: int) -> None:
            if step == 3:
                await taken_over(site, made.world, "onsuccess")

        made.gates.under_step = late  # type: ignore[method-assign]
        await ended(made, 21)
        assert await events(made.recorder, Released) == []
        assert not [e for e in await events(made.recorder, EffectIntended) if e.verb == "promote"]
        (unfinished,) = await events(made.recorder, RollbackUnfinished)
        assert "web-stable" in unfinished.reason
        assert await made.world.weights() == [{"web-stable": 100, "web-canary": 0}]
        assert await made.world.canary_replicas() == 0
