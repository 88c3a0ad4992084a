"""A36: pods are killed before prod alone, within rails; what came back, and when, is judged again offline."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import pytest_asyncio

from cockpit.backends.cluster import DEPLOYMENT, POD, KubernetesCluster
from cockpit.backends.drills import DrillGround, NamespaceDrills, PodSeen, WorkloadSeen
from cockpit.base.errors import BackendRefused, Conflict, EffectRefused
from cockpit.conductor.calls import CallResult
from cockpit.conductor.effects import EffectsGate
from cockpit.journal.events import EffectIntended
from cockpit.journal.events_work import DrillRun
from cockpit.plan.refuse import unfailable
from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.rehearsal.manifests import deployment
from cockpit.rpc.messages import GateVerdict
from cockpit.verdicts.rules.chaos import chaos_drill
from tests.agents.support import World, recomputed

SPACE = "intelgraph-stage"
IMAGE = f"registry.example/web@sha256:{'1' * 64}"
ERRORS = 'sum(rate(http_requests_total{code=~"5.."}[{window}])) / sum(rate(http_requests_total[{window}]))'
EXPERIMENT = {"name": "web-pod", "service": "web", "most": 1, "recovers_within": "5s"}


@dataclass
class Breaking:
    """The real drill ground, after whose kills the steady state is broken."""

    ground: DrillGround
    world: World

    @property
    def namespace(self) -> str:
        return self.ground.namespace

    async def workload(self, deployment: str) -> WorkloadSeen:
        return await self.ground.workload(deployment)

    async def kill(self, pod: PodSeen) -> None:
        await self.ground.kill(pod)
        self.world.facts.stable["errors"] = 250.0


@dataclass
class Stage:
    """A stage with one service of three pods, and the agent that may kill some of them."""

    world: World
    kube: KubeServer
    client: KubernetesCluster
    drills: NamespaceDrills

    async def call(self, op: Any) -> CallResult:
        return await self.world.call("A36", op, "P5")

    async def judged(self) -> GateVerdict:
        result = await self.call("VERIFY")
        assert result.response is not None, result.reason
        [verdict] = result.response.verdicts
        return verdict

    async def pods(self) -> dict[str, str]:
        """Return the pods that stay, by name."""
        found = await self.client.list(POD)
        return {
            one["metadata"]["name"]: one["metadata"]["uid"]
            for one in found
            if "deletionTimestamp" not in one["metadata"]
        }

    def kills(self) -> list[EffectIntended]:
        return [one for one in self.events(EffectIntended) if one.verb == "chaos"]

    def events(self, kind: Any) -> list[Any]:
        self.world.recorder.state()
        return [event for event in self.world.recorder.events() if isinstance(event, kind)]

    def chaos(self, **changes: Any) -> None:
        experiment = EXPERIMENT | changes.pop("experiment", {})
        self.world.data["chaos"] = {
            "environment": "stage",
            "namespace": SPACE,
            "steady": [{"metric": "error_rate", "query": ERRORS, "threshold": "error_rate<0.01"}],
            "window": "0.3s",
            "experiments": [experiment],
            **changes,
        }


@pytest_asyncio.fixture
async def stage(world: World) -> AsyncIterator[Stage]:
    kube = KubeServer({"token": conductor(["intelgraph", SPACE], drills=(SPACE,)), "world": admin()},
                      start_delay=0.05, stop_delay=0.05)  # fmt: skip
    url = await kube.start()
    client = KubernetesCluster(url, "world", SPACE, deadline=5.0)
    drills = NamespaceDrills(KubernetesCluster(url, "token", SPACE, deadline=5.0), SPACE)
    try:
        await client.connect()
        for name in (SPACE, "intelgraph"):
            await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            body = deployment(name, "web", "stable", IMAGE, 3)
            body["spec"]["template"]["spec"].pop("readinessGates")
            await kube.apply(body)
        made = Stage(world, kube, client, drills)
        await ready(made)
        made.chaos()
        world.handles = replace(world.handles, drills=drills)
        yield made
    finally:
        await drills.close()
        await client.close()
        await kube.stop()


async def ready(stage: Stage) -> None:
    async with asyncio.timeout(10):
        while len((await stage.drills.workload("web-stable")).ready) < 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.01)


async def test_the_plan_names_the_pods_and_kills_none(stage: Stage) -> None:
    before = await stage.pods()
    plan = await stage.call("PLAN")
    assert plan.status == "ok", plan.reason
    assert f"web-pod: {min(before)} of 3 ready pods" in plan.reason
    assert await stage.pods() == before and not stage.kills()


async def test_a_drill_kills_recovers_and_is_judged_again(stage: Stage) -> None:
    before = await stage.pods()
    done = await stage.call("APPLY")
    assert done.status == "ok", done.reason
    after = await stage.pods()
    gone = set(before) - set(after)
    assert gone == {min(before)} and len(after) == 3
    [kill] = stage.kills()
    assert (kill.env, kill.by, kill.lane) == ("stage", "A36", "forward")
    assert kill.target == f"pod {SPACE}/{min(before)}" and before[min(before)] in kill.detail
    [drill] = stage.events(DrillRun)
    assert (drill.drill, drill.kind, drill.env, drill.passed) == ("web-pod", "chaos", "stage", True)
    assert 0.3 <= drill.seconds <= 5, "a whole window after the kill, and in time"

    verdict = await stage.judged()
    assert (verdict.verdict, verdict.gate, verdict.env) == ("pass", "chaos", "stage"), verdict.details.reason
    assert verdict.details.phase_gate == "chaos"
    assert verdict.metrics["pods_killed"] == 1 and verdict.metrics["rollback_s"] is None
    assert "rollback_s is absent" in verdict.details.reason
    assert not any("rollback_s" in text for text in verdict.thresholds)
    recomputed(stage.world)
    assert (await stage.call("EVIDENCE")).status == "ok"
    record = stage.world.read("chaos/web-pod.json")
    assert record["killed"] == [before[min(before)]] and record["passed"] is True
    assert len(stage.events(DrillRun)) == 1, "VERIFY and EVIDENCE run no drill"


async def test_a_drill_that_was_held_is_not_held_again(stage: Stage) -> None:
    await stage.call("APPLY")
    again = await stage.call("APPLY")
    assert again.status == "ok" and "already" in again.reason
    assert len(stage.kills()) == 1


async def test_no_more_than_the_plan_allows(stage: Stage) -> None:
    stage.chaos(experiment={"most": 2})
    before = await stage.pods()
    assert (await stage.call("APPLY")).status == "ok"
    assert len(set(before.values()) - set((await stage.pods()).values())) == 2 == len(stage.kills())
    assert (await stage.judged()).verdict == "pass"


async def test_nothing_is_killed_in_an_unsteady_stage(stage: Stage) -> None:
    stage.world.facts.stable["errors"] = 100.0
    for op in ("PLAN", "APPLY"):
        result = await stage.call(op)
        assert result.status == "fail" and "error_rate is 0.2" in result.reason
    assert not stage.kills() and not stage.events(DrillRun)
    assert (await stage.judged()).verdict == "fail"
    recomputed(stage.world)


async def test_an_unreachable_metric_is_no_steady_state(stage: Stage) -> None:
    stage.world.prometheus.mode = "error"
    assert (await stage.call("APPLY")).status == "fail"
    assert not stage.kills()


async def test_pods_that_do_not_come_back_stop_the_drill(stage: Stage) -> None:
    stage.chaos(
        experiments=[
            EXPERIMENT | {"recovers_within": "0.5s"},
            EXPERIMENT | {"name": "second", "recovers_within": "0.5s"},
        ]
    )
    stage.kube.faults.unpullable.add(IMAGE)
    result = await stage.call("APPLY")
    assert result.status == "fail" and "2 of 3 pods are ready" in result.reason
    assert len(stage.kills()) == 1, "the second experiment is not begun"
    [drill] = stage.events(DrillRun)
    assert not drill.passed
    assert (await stage.call("VERIFY")).status == "fail"  # the second one is missing
    assert (await stage.call("ROLLBACK")).status == "fail"
    stage.kube.faults.unpullable.clear()
    await kick(stage)
    back = await stage.call("ROLLBACK")
    assert back.status == "ok" and "leaves no fault" in back.reason


async def kick(stage: Stage) -> None:
    """Have pods that could not be pulled made anew."""
    for pod in (await stage.drills.workload("web-stable")).pods:
        if not pod.ready:
            await stage.client.delete(POD, pod.name, uid=pod.uid)
    await ready(stage)


async def test_a_steady_state_that_stays_broken_fails(stage: Stage) -> None:
    stage.chaos(experiment={"recovers_within": "0.5s"})
    stage.world.handles = replace(stage.world.handles, drills=Breaking(stage.drills, stage.world))
    result = await stage.call("APPLY")
    assert result.status == "fail" and "error_rate is 0.5" in result.reason
    verdict = await stage.judged()
    assert verdict.verdict == "fail" and "not recovered" in verdict.details.reason
    recomputed(stage.world)


async def test_a_changed_record_counts_for_nothing(stage: Stage) -> None:
    await stage.call("APPLY")
    path = stage.world.run_dir / "artifacts" / "chaos" / "web-pod.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"killed": []}))
    result = await stage.call("VERIFY")
    assert result.status == "fail" and "not drilled" in result.reason


async def test_a_measured_rollback_is_judged(stage: Stage) -> None:
    await stage.call("APPLY")
    run = DrillRun(drill="slo", kind="rollback", env="stage", passed=True, seconds=12.5, reason="")
    await stage.world.recorder.record(run)
    verdict = await stage.judged()
    assert verdict.verdict == "pass" and verdict.metrics["rollback_s"] == 12.5
    assert "rollback_s<=300" in verdict.thresholds
    await stage.world.recorder.record(
        DrillRun(drill="slow", kind="rollback", env="stage", passed=True, seconds=400.0, reason="")
    )
    assert (await stage.judged()).verdict == "fail"
    recomputed(stage.world)


# -- never in prod ------------------------------------------------------------------------------------


async def test_prod_is_refused_by_plan_agent_gate_and_cluster(stage: Stage) -> None:
    url = stage.kube.url
    prod = NamespaceDrills(KubernetesCluster(url, "token", "intelgraph", deadline=5.0), "intelgraph")
    try:
        stage.chaos(namespace="intelgraph")
        assert "chaos.namespace" in {field for field, _, _ in unfailable(stage.world.plan)}
        stage.world.handles = replace(stage.world.handles, drills=prod)
        for op in ("PLAN", "APPLY", "VERIFY", "ROLLBACK"):
            result = await stage.call(op)
            assert result.status == "blocked" and "never" in result.reason
        [pod, *_] = (await prod.workload("web-stable")).pods
        with pytest.raises(BackendRefused) as refused:
            await prod.kill(pod)
        assert refused.value.status == 403
        plan = stage.world.plan
        gate = EffectsGate(
            stage.world.recorder, Held(), stage.world.clock, plan.window_utc, frozenset({"prod", "stage"})
        )
        with pytest.raises(EffectRefused) as never:
            await gate.forward("chaos", "pod", lambda: prod.kill(pod), env="prod", by="A36")
        assert never.value.reason == "env" and not stage.kills()
    finally:
        await prod.close()


class Held:
    held = True
    fenced_out = False


async def test_a_handle_of_another_namespace_is_refused(stage: Stage) -> None:
    stage.chaos(namespace="elsewhere")
    result = await stage.call("APPLY")
    assert result.status == "blocked" and f"reach {SPACE}" in result.reason


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"experiment": {"service": "nothing"}}, "chaos.experiments[0].service"),
        ({"experiment": {"name": "drain"}}, "chaos.experiments[0].name"),
        ({"experiment": {"recovers_within": "20s"}}, "chaos.experiments"),
        ({"window": "5s"}, "chaos.experiments[0].recovers_within"),
        ({"experiments": [EXPERIMENT, EXPERIMENT]}, "chaos.experiments"),
        (
            {"steady": [{"metric": "error_rate", "query": "x", "threshold": "error_rate>=0"}]},
            "chaos.steady[0].threshold",
        ),
    ],
)
async def test_plans_that_cannot_be_drilled_are_refused(
    stage: Stage, changes: dict[str, Any], field: str
) -> None:
    stage.chaos(**changes)
    assert field in {where for where, _, _ in unfailable(stage.world.plan)}


async def test_a_plan_without_drills_blocks(stage: Stage) -> None:
    del stage.world.data["chaos"]
    stage.world.data["agents"].append("A36")
    assert "chaos" in {field for field, _, _ in unfailable(stage.world.plan)}
    assert (await stage.call("PLAN")).status == "blocked"


# -- the pods themselves ------------------------------------------------------------------------------


async def test_only_the_pod_that_was_meant_is_deleted(stage: Stage) -> None:
    [pod, *_] = (await stage.drills.workload("web-stable")).pods
    with pytest.raises(Conflict):
        await stage.drills.kill(replace(pod, uid="another"))
    assert pod.name in await stage.pods()


async def test_a_selector_that_selects_everything_is_refused(stage: Stage) -> None:
    found = await stage.client.get(DEPLOYMENT, "web-stable")
    assert found["spec"]["selector"]["matchLabels"]
    workload = await stage.drills.workload("web-stable")
    assert workload.wanted == 3 and all(pod.images == (IMAGE,) for pod in workload.pods)


# -- the rule -----------------------------------------------------------------------------------------

GOOD = {
    "service": "web",
    "before": {"wanted": 2, "pods": [{"uid": "a", "ready": True}, {"uid": "b", "ready": True}]},
    "after": {"wanted": 2, "pods": [{"uid": "b", "ready": True}, {"uid": "c", "ready": True}]},
    "killed": ["a"],
    "times": {"steady_at": 100.0, "killed_at": 100.5, "ready_at": 102.0, "recovered_at": 103.0},
    "asked": {"before": 100.0, "after": 103.0},
}


def answer(value: float, at: float) -> bytes:
    result = [{"metric": {}, "value": [at, repr(value)]}]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}}).encode()


def ruled(record: dict[str, Any], **answers: bytes) -> tuple[str, str]:
    stored = {
        "x.record": json.dumps(record).encode(),
        "x.before.error_rate": answer(0.0, 100.0),
        "x.after.error_rate": answer(0.0, 103.0),
        "now.error_rate": answer(0.0, 200.0),
        "now.x": json.dumps(record["after"]).encode(),
    } | {name.replace("__", "."): raw for name, raw in answers.items()}
    params = {
        "experiments": [{"name": "x", "service": "web", "most": 1, "recovers_within": 5.0}],
        "checks": [{"metric": "error_rate", "threshold": "error_rate<0.01"}],
        "window": 2.0,
        "now": 200.0,
        "max_age": 5.0,
        "rollback": [],
    }
    judgement = chaos_drill(stored, params)
    return judgement.outcome, judgement.reason


def test_a_good_record_passes() -> None:
    assert ruled(GOOD)[0] == "pass"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"killed": []}, "no pod was killed"),
        ({"killed": ["a", "a"]}, "no pod was killed"),
        ({"killed": ["a", "b"]}, "at most 1"),
        ({"killed": ["z"]}, "not ready before"),
        ({"service": "api"}, "another service"),
        ({"after": {"wanted": 2, "pods": GOOD["before"]["pods"]}}, "ready after"),  # type: ignore[index]
        ({"after": {"wanted": 2, "pods": [{"uid": "b", "ready": True}]}}, "1 of 2 pods"),
        ({"after": {"wanted": 1, "pods": [{"uid": "b", "ready": True}]}}, "fewer replicas"),
        ({"times": GOOD["times"] | {"recovered_at": 106.0}}, "5 s are allowed"),  # type: ignore[operator]
        ({"times": GOOD["times"] | {"recovered_at": None}}, "did not come back"),  # type: ignore[operator]
        ({"times": GOOD["times"] | {"killed_at": 102.5, "ready_at": 102.6}}, "after the kill"),  # type: ignore[operator]
        ({"times": GOOD["times"] | {"killed_at": 99.0}}, "out of order"),  # type: ignore[operator]
    ],
)
def test_a_record_that_shows_no_recovery_fails(change: dict[str, Any], said: str) -> None:
    outcome, reason = ruled(GOOD | change)
    assert outcome == "fail" and said in reason


def test_what_was_not_measured_is_no_pass() -> None:
    assert ruled(GOOD, now__error_rate=answer(0.5, 200.0))[0] == "fail"
    assert ruled(GOOD, x__after__error_rate=answer(0.0, 10.0))[0] == "provider_error"
    assert ruled(GOOD, x__before__error_rate=b"{}")[0] == "provider_error"
    assert ruled({**GOOD, "times": {}})[0] == "fail"
    assert ruled({**GOOD, "asked": {}})[0] == "provider_error"
