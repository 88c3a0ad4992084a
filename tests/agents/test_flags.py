"""A55 over a real cluster stand-in and flag service: ramp, flip, kill switch, and putting flags back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from cockpit.agents.flag_changes import DRILL_FLAG, PROBES
from cockpit.backends.cluster import KubernetesCluster
from cockpit.backends.flags import ConfigMapFlags
from cockpit.conductor.calls import CallResult
from cockpit.journal.events import EffectIntended, GateJudged, LeaseChanged, Released
from cockpit.journal.events_work import DrillRun, FlagChanged
from cockpit.rehearsal.flags import FlagsServer, serving_flags
from cockpit.rehearsal.kube import KubeServer, admin, conductor
from cockpit.rpc.messages import GateVerdict
from cockpit.verdicts.flag_definitions import (
    ALL,
    OFF,
    Scope,
    definition_of,
    read_catalogue,
    scope_of,
    with_scope,
    write_catalogue,
)
from tests.agents.support import Service, World, recomputed

SPACE, NAME = "intelgraph", "flags"
FLAGS = ("search", "realtime")
ONE, TWO = Scope("pilot", ("t1",)), Scope("pilot", ("t1", "t2"))


def definition(**more: Any) -> dict[str, Any]:
    return {
        "state": "ENABLED",
        "variants": {"on": True, "off": False},
        "defaultVariant": "off",
        "metadata": {"owner": "@product", "expires": "2099-12-31"},
        **more,
    }


@dataclass
class Flagged:
    """A world with feature flags."""

    world: World
    kube: KubeServer
    server: FlagsServer
    client: ConfigMapFlags

    async def put(self, flags: dict[str, Any]) -> None:
        await self.kube.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": SPACE},
                "data": {"flags.json": json.dumps({"flags": flags})},
            }
        )

    async def edit(self, flag: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change a flag as somebody else would."""

        def edited(text: str) -> str:
            document = read_catalogue(text)
            document["flags"][flag] = change(document["flags"][flag])
            return write_catalogue(document)

        await self.client.change(edited, fence=(await self.client.read()).fence)

    async def scopes(self) -> dict[str, Scope | None]:
        document = read_catalogue((await self.client.read()).text)
        return {flag: scope_of(definition_of(document, flag)) for flag in FLAGS}

    async def seen(self, flag: str = "search") -> set[str]:
        """Return the tenants that see a flag now."""
        tenants = ("t1", "t2", *PROBES)
        found = await self.client.evaluate(flag, tenants)
        return {one.tenant for one in found if json.loads(one.body).get("value")}

    async def call(self, op: Any, **params: Any) -> CallResult:
        phase: Any = params.pop("phase", "P6")
        return await self.world.call("A55", op, phase, **params)

    async def judged(self, **params: Any) -> GateVerdict:
        result = await self.call("VERIFY", **params)
        assert result.response is not None, result.reason
        [verdict] = result.response.verdicts
        return verdict

    async def release(self) -> None:
        await self.world.recorder.record(Released(version="v3.0.0"))

    def events(self, kind: Any) -> list[Any]:
        self.world.recorder.state()
        return [event for event in self.world.recorder.events() if isinstance(event, kind)]


@pytest_asyncio.fixture
async def flagged(world: World) -> AsyncIterator[Flagged]:
    kube = KubeServer({"world": admin(), "conductor": conductor([SPACE])})
    await kube.start()
    try:
        await kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE}})
        async with serving_flags(kube.url, "world", namespace=SPACE, configmap=NAME) as server:
            client = ConfigMapFlags(
                KubernetesCluster(kube.url, "conductor", SPACE),
                configmap=NAME,
                key="flags.json",
                evaluate_url=server.url,
                deadline=10.0,
            )
            world.handles = replace(world.handles, flags=client)
            world.data |= {
                "ga_flags": list(FLAGS),
                "pilot_tenants": ["t1", "t2"],
                "auto_ramp_flags": True,
                "agents": [*world.data["agents"], "A55"],
                "waivers": [
                    *(one for one in world.data["waivers"] if one["what"] != "flag-proof"),
                    {"what": "flag-proof", "owner": "@sre", "reason": "no dashboards yet"},
                ],
            }
            world.data["targets"]["flags"] = {
                "namespace": SPACE,
                "configmap": NAME,
                "evaluate_url": server.url,
                "settle": "3s",
            }
            made = Flagged(world, kube, server, client)
            await made.put({flag: definition() for flag in FLAGS})
            await world.recorder.record(LeaseChanged(state="acquired", holder="tests", fence=3))
            try:
                await until_seen(made, set())
                yield made
            finally:
                await client.close()
    finally:
        await kube.stop()


async def until_seen(flagged: Flagged, tenants: set[str]) -> None:
    async with asyncio.timeout(30):
        while True:
            [one] = await flagged.client.evaluate("search", ["t1"])
            if one.status == 200 and await flagged.seen() == tenants:
                return
            await asyncio.sleep(0.01)


# -- ramp ---------------------------------------------------------------------------------------------


async def test_the_ramp_gives_pilot_tenants_the_flags_and_nobody_else(flagged: Flagged) -> None:
    plan = await flagged.call("PLAN", ramp=10, step=1)
    assert plan.status == "ok" and "search: off → pilot t1" in plan.reason
    assert "not verified, which is waived" in plan.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF), "PLAN changes nothing"
    for step, (weight, scope) in enumerate(((10, ONE), (50, ONE), (100, TWO)), start=1):
        assert (await flagged.call("APPLY", ramp=weight, step=step)).status == "ok"
        assert await flagged.scopes() == dict.fromkeys(FLAGS, scope)
        assert await flagged.seen() == set(scope.tenants)
        verdict = await flagged.judged(step=step)
        assert (verdict.verdict, verdict.gate, verdict.details.phase_gate) == ("pass", "policy", "authz")
        assert "NOT verified: waived by @sre" in verdict.details.reason
    changed = flagged.events(FlagChanged)
    # The second step names the same tenants: nothing is changed.
    assert [(e.flag, e.was, e.now, e.scope, e.by) for e in changed] == [
        (flag, was, now, "pilot", "A55")
        for was, now in (("off", "pilot t1"), ("pilot t1", "pilot t1,t2"))
        for flag in FLAGS
    ]
    assert all(event.seen_ms >= 0 for event in changed)
    intents = flagged.events(EffectIntended)
    assert {(e.lane, e.verb, e.env, e.by, e.detail) for e in intents} == {
        ("forward", "flip", "prod", "A55", "fence 3")
    }
    assert (await flagged.client.read()).fence == 3
    audit = flagged.world.read("flags/audit.json")
    assert audit["proof"]["waiver"]["owner"] == "@sre" and audit["verdict"]["verdict"] == "pass"
    assert (await flagged.call("EVIDENCE")).status == "ok"
    recomputed(flagged.world)


async def test_without_auto_ramp_nothing_is_shown_before_the_flip(flagged: Flagged) -> None:
    flagged.world.data["auto_ramp_flags"] = False
    applied = await flagged.call("APPLY", ramp=10, step=1)
    assert applied.status == "ok" and "auto_ramp_flags is off" in applied.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)
    verdict = await flagged.judged(step=1)
    assert verdict.verdict == "pass" and "NOT verified" not in verdict.details.reason
    assert not flagged.events(EffectIntended)


REFUSED: dict[str, tuple[Callable[[Flagged], Any], str]] = {
    "no proof": (lambda f: f.world.data.update(waivers=[]), "dashboards (A13) and alerts (A39)"),
    "no pilot tenants": (lambda f: f.world.data.update(pilot_tenants=[]), "no pilot tenants"),
    "no flags": (lambda f: f.world.data.update(ga_flags=[]), "names no flag"),
    "a flag is missing": (lambda f: f.put({"search": definition()}), "realtime: there is no such flag"),
    "no owner": (
        lambda f: f.put({"search": definition(metadata={}), "realtime": definition()}),
        "search: its metadata name no owner",
    ),
    "expired": (
        lambda f: f.put(
            {
                "search": definition(metadata={"owner": "@a", "expires": "2025-01-01"}),
                "realtime": definition(),
            }
        ),
        "search: it expired on 2025-01-01",
    ),
    "somebody else's targeting": (
        lambda f: f.put(
            {
                "search": definition(targeting={"if": [{"==": [{"var": "plan"}, "pro"]}, "on", "off"]}),
                "realtime": definition(),
            }
        ),
        "its targeting is not the cockpit's",
    ),
    "disabled": (
        lambda f: f.put({"search": definition(state="DISABLED"), "realtime": definition()}),
        "it is DISABLED",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_ramp_is_refused(flagged: Flagged, change: Callable[[Flagged], Any], said: str) -> None:
    waiting = change(flagged)
    if asyncio.iscoroutine(waiting):
        await waiting
    before = await flagged.client.read()
    for op in ("PLAN", "APPLY"):
        result = await flagged.call(op, ramp=10, step=1)
        assert result.status in ("blocked", "fail") and said in result.reason, result.reason
    assert await flagged.client.read() == before
    assert not flagged.events(EffectIntended)


async def test_verified_dashboards_and_alerts_are_a_proof(flagged: Flagged) -> None:
    flagged.world.data["waivers"] = []
    for agent, flags in (("A13", FLAGS), ("A39", FLAGS[:1])):
        await flagged.world.recorder.record(proving(agent, flags))
    refused = await flagged.call("APPLY", ramp=100, step=1)
    assert refused.status == "blocked" and "of realtime are not verified" in refused.reason
    await flagged.world.recorder.record(proving("A39", FLAGS))
    assert (await flagged.call("APPLY", ramp=100, step=1)).status == "ok"
    verdict = await flagged.judged(step=1)
    assert (verdict.verdict, verdict.metrics["unproven"]) == ("pass", 0)
    assert "NOT verified" not in verdict.details.reason


def proving(agent: str, flags: tuple[str, ...]) -> GateJudged:
    return GateJudged(
        gate="policy",
        phase_gate="alert_hygiene" if agent == "A39" else "slo",
        agent=agent,
        phase="P7",
        env="prod",
        verdict="pass",
        outcome="pass",
        reason="",
        metrics={f"flag_{flag}": True for flag in flags},
        thresholds=[],
        images={},
        plan_sha256="",
        valid_s=1.0,
        verdict_blob="",
    )


# -- flip and kill switch -----------------------------------------------------------------------------


async def test_the_flip_drills_the_kill_switch_and_shows_the_flags_to_everybody(flagged: Flagged) -> None:
    await flagged.call("APPLY", ramp=100, step=3)
    await flagged.release()
    flipped = await flagged.call("APPLY", phase="P8", flip=True)
    assert flipped.status == "ok", flipped.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, ALL)
    assert await flagged.seen("realtime") == {"t1", "t2", *PROBES}
    assert DRILL_FLAG not in read_catalogue((await flagged.client.read()).text)["flags"]
    [run] = flagged.events(DrillRun)
    assert (run.drill, run.kind, run.env, run.passed) == (DRILL_FLAG, "kill-switch", "prod", True)
    assert 0 < run.seconds < 3
    verdict = await flagged.judged(phase="P8", flip=True)
    assert verdict.verdict == "pass", verdict.details.reason
    assert verdict.metrics["kill_ms"] and "kill_ms<=3000" in verdict.thresholds
    assert [(e.was, e.now, e.scope) for e in flagged.events(FlagChanged)][-1] == ("pilot t1,t2", "all", "all")
    again = await flagged.call("APPLY", phase="P8", flip=True)
    assert again.status == "ok" and "search: all already" in again.reason
    recomputed(flagged.world)


@pytest.mark.parametrize(("phase", "released"), [("P6", True), ("P8", False)])
async def test_a_flip_at_the_wrong_time_is_refused(flagged: Flagged, phase: str, released: bool) -> None:
    if released:
        await flagged.release()
    result = await flagged.call("APPLY", phase=phase, flip=True)
    assert result.status == "blocked" and "the GA flip is in P8" in result.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)


async def test_a_flip_outside_the_window_is_refused(flagged: Flagged) -> None:
    await flagged.release()
    flagged.world.data["window_utc"] = "2020-01-01 08:00 → 2020-01-01 12:00"
    result = await flagged.call("APPLY", phase="P8", flip=True)
    assert result.status == "refused" and "outside the release window" in result.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)


async def test_a_kill_switch_that_does_not_work_stops_the_flip(flagged: Flagged) -> None:
    await flagged.release()
    flagged.world.data["targets"]["flags"]["settle"] = "0.3s"
    await flagged.server.fault("error")
    result = await flagged.call("APPLY", phase="P8", flip=True)
    assert result.status == "fail" and "it did not hold" in result.reason
    [run] = flagged.events(DrillRun)
    assert not run.passed and "does not show it" in run.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)
    assert DRILL_FLAG not in read_catalogue((await flagged.client.read()).text)["flags"]


async def test_a_drill_alone_changes_no_flag_of_the_release(flagged: Flagged) -> None:
    before = (await flagged.client.read()).text
    assert (await flagged.call("APPLY", phase="P8", drill=True)).status == "ok"
    assert read_catalogue((await flagged.client.read()).text) == read_catalogue(before)
    assert len(flagged.events(DrillRun)) == 1 and not flagged.events(FlagChanged)


# -- verifying ----------------------------------------------------------------------------------------


async def test_somebody_who_sees_a_flag_they_must_not_fails_the_gate(flagged: Flagged) -> None:
    await flagged.call("APPLY", ramp=100, step=1)
    await flagged.edit("search", partial(with_scope, scope=ALL))
    await until_seen(flagged, {"t1", "t2", *PROBES})
    verdict = await flagged.judged(step=1)
    assert verdict.details.outcome == "fail"
    assert f"search (pilot t1,t2): {', '.join(PROBES)} sees it" in verdict.details.reason
    await flagged.edit("search", partial(with_scope, scope=OFF))
    await until_seen(flagged, set())
    verdict = await flagged.judged(step=1)
    assert verdict.details.outcome == "fail" and "t1, t2 does not see it" in verdict.details.reason
    recomputed(flagged.world)


async def test_a_flag_shown_to_a_share_before_the_release_is_measured_by_a_sample(flagged: Flagged) -> None:
    share = Scope("share", (), 30)
    await flagged.edit("search", partial(with_scope, scope=share))
    verdict = await settled(flagged)
    assert verdict.verdict == "pass" and "search 30%" in verdict.details.reason
    assert verdict.metrics["tenants_asked"] == 100 + len(PROBES) + 2
    # Whoever evaluates otherwise than the definitions say is found out.
    await flagged.server.stop()
    everybody = Service(lambda request: sees(request.path.rpartition("/")[2]))
    async with everybody.running():
        other = ConfigMapFlags(
            KubernetesCluster(flagged.kube.url, "conductor", SPACE),
            configmap=NAME,
            key="flags.json",
            evaluate_url=everybody.url,
        )
        flagged.world.handles = replace(flagged.world.handles, flags=other)
        verdict = await flagged.judged(step=1)
        await other.close()
    assert verdict.details.outcome == "fail" and "100 of 100 sampled tenants see it" in verdict.details.reason
    recomputed(flagged.world)


async def sees(flag: str) -> web.StreamResponse:
    return web.json_response({"key": flag, "value": True, "variant": "on", "reason": "STATIC"})


async def settled(flagged: Flagged) -> GateVerdict:
    async with asyncio.timeout(10):
        while (verdict := await flagged.judged(step=1)).verdict != "pass":  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.02)
    return verdict


@pytest.mark.parametrize("fault", ["error", "refuse"])
async def test_a_service_that_is_away_is_no_pass(flagged: Flagged, fault: Any) -> None:
    await flagged.call("APPLY", ramp=100, step=1)
    await flagged.server.fault(fault)
    verdict = await flagged.judged(step=1)
    assert (verdict.verdict, verdict.details.outcome) == ("fail", "provider_error")
    recomputed(flagged.world)


async def test_no_flags_configured_is_blocked(world: World) -> None:
    for op in ("PLAN", "VERIFY"):
        result = await world.call("A55", op, "P8")
        assert result.status == "blocked" and "'flags'" in result.reason


# -- putting back -------------------------------------------------------------------------------------


async def test_a_rollback_restores_what_was_and_looks(flagged: Flagged) -> None:
    await flagged.edit("realtime", partial(with_scope, scope=ONE))
    await flagged.call("APPLY", ramp=100, step=3)
    await flagged.release()
    await flagged.call("APPLY", phase="P8", flip=True)
    # A rollback goes out in the abort lane: neither window nor HALT holds it back.
    flagged.world.data["window_utc"] = "2020-01-01 08:00 → 2020-01-01 12:00"
    result = await flagged.call("ROLLBACK", phase="P8")
    assert result.status == "ok", result.reason
    assert await flagged.scopes() == {"search": OFF, "realtime": ONE}
    assert await flagged.seen("search") == set() and await flagged.seen("realtime") == {"t1"}
    lanes = {(e.lane, e.verb) for e in flagged.events(EffectIntended)[-2:]}
    assert lanes == {("abort", "flip")}
    assert [(e.was, e.now) for e in flagged.events(FlagChanged)[-2:]] == [("all", "off"), ("all", "pilot t1")]
    assert (await flagged.judged(phase="P8")).verdict == "pass"
    again = await flagged.call("ROLLBACK", phase="P8")
    assert again.status == "ok" and "nothing to restore" in again.reason


async def test_a_rollback_leaves_off_what_somebody_switched_off(flagged: Flagged) -> None:
    await flagged.edit("search", partial(with_scope, scope=ONE))
    await flagged.call("APPLY", ramp=100, step=1)
    await flagged.edit("search", partial(with_scope, scope=OFF))
    result = await flagged.call("ROLLBACK")
    assert result.status == "ok" and "stays off" in result.reason
    assert (await flagged.scopes())["search"] == OFF


async def test_a_rollback_that_is_not_seen_is_not_done(flagged: Flagged) -> None:
    await flagged.call("APPLY", ramp=100, step=1)
    flagged.world.data["targets"]["flags"]["settle"] = "0.2s"
    await flagged.server.fault("error")
    result = await flagged.call("ROLLBACK")
    assert result.status == "fail" and "not restored: search" in result.reason
    await flagged.server.fault(None)
    assert (await flagged.call("ROLLBACK")).status == "ok"
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)


async def test_a_crash_between_recording_and_changing_leaves_nothing_lost(flagged: Flagged) -> None:
    # The first write goes out and its answer never comes: what was before is on record all the same.
    real = flagged.client

    class Cut(ConfigMapFlags):
        async def change(self, *given: Any, **more: Any) -> Any:
            await real.change(*given, **more)
            raise RuntimeError("cut")

    flagged.world.handles = replace(
        flagged.world.handles,
        flags=Cut(
            KubernetesCluster(flagged.kube.url, "conductor", SPACE),
            configmap=NAME,
            key="flags.json",
            evaluate_url=flagged.server.url,
        ),
    )
    assert (await flagged.call("APPLY", ramp=100, step=1)).status == "crash"
    assert (await flagged.scopes())["search"] == TWO
    await flagged.world.handles.flags.close()  # type: ignore[union-attr]
    flagged.world.handles = replace(flagged.world.handles, flags=real)
    assert (await flagged.call("ROLLBACK")).status == "ok"
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)


async def test_an_audit_that_was_tampered_with_restores_nothing(flagged: Flagged) -> None:
    await flagged.call("APPLY", ramp=100, step=1)
    (flagged.world.run_dir / "flags.json").write_text('{"originals": []}')
    result = await flagged.call("ROLLBACK")
    assert result.status == "blocked" and "not as it was written" in result.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, TWO)


async def test_a_newer_holder_s_fence_stops_a_change(flagged: Flagged) -> None:
    await flagged.client.stamp(fence=4)
    result = await flagged.call("APPLY", ramp=100, step=1)
    assert result.status == "refused" and "newer holder" in result.reason
    assert await flagged.scopes() == dict.fromkeys(FLAGS, OFF)
