"""The parts of the embedded world by themselves: choices, triggers, plans, pods, locks."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from cockpit.base.errors import UsageError
from cockpit.plan.load import parse_plan
from cockpit.plan.model import Plan
from cockpit.rehearsal.app.content import USER_PATHS, answer
from cockpit.rehearsal.app.faults import Trigger, canary_weight
from cockpit.rehearsal.app.pod import PodIdentity, PodServer
from cockpit.rehearsal.app.process import Settings
from cockpit.rehearsal.app.records import RequestLog
from cockpit.rehearsal.gateway import Backend, Rule, routing_table
from cockpit.rehearsal.manifests import platform
from cockpit.rehearsal.pace import PACES, pace, seconds
from cockpit.rehearsal.release_plan import BASELINE_RPS, dump
from cockpit.rehearsal.scenarios import SCENARIOS, Fault, scenario
from cockpit.rehearsal.topology import (
    CANDIDATE_VERSION,
    PROD,
    SERVICES,
    STABLE_VERSION,
    Behaviour,
    behaviour,
)
from cockpit.rehearsal.watch_lock import is_held, until_released
from tests.contract.world_support import images, plan_data, until


@pytest.mark.parametrize(
    ("name", "scenario_name"),
    [*((name, "green") for name in PACES), *(("fast", name) for name in SCENARIOS if name != "green")],
)
def test_the_plan_is_valid_at_every_pace_and_in_every_scenario(name: str, scenario_name: str) -> None:
    plan = plan_data(name, scenario_name)
    loaded = parse_plan(dump(plan).encode(), "release.yaml", base=Path("/"))
    assert loaded.plan == Plan.model_validate(plan)
    assert loaded.plan.window_utc.contains(datetime.now(UTC))
    assert all(service.image.digest for service in loaded.plan.services)
    assert loaded.plan.canary.bake >= loaded.plan.canary.interval * loaded.plan.canary.required_passes


def test_the_plan_says_what_it_waives_and_holds_no_secret() -> None:
    text = dump(plan_data())
    plan = Plan.model_validate(plan_data())
    assert {waiver.what for waiver in plan.waivers} == {"approvals", "standby", "flag-proof"}
    assert all(waiver.owner and waiver.reason for waiver in plan.waivers)
    assert plan.targets.kubernetes.token.ref.startswith("file:world/secrets/")
    assert "stand-in" in text.splitlines()[0]


def test_scenarios_are_known_by_name_and_explain_themselves() -> None:
    assert list(SCENARIOS) == [
        "green",
        "slo-breach-10",
        "slo-breach-50",
        "unsigned-image",
        "mutable-tag",
        "no-traffic",
        "metrics-outage",
        "low-headroom",
        "policy-deny",
        "signing-outage",
        "slow-canary",
        "stable-sick",
        "approval-rejected",
        "break-glass",
        "critical-breach",
        "window-closes",
        "kpi-regression",
        "operator-lost",
    ]
    assert all(entry.summary.endswith(".") for entry in SCENARIOS.values())
    with pytest.raises(UsageError, match="slo-breach-50"):
        scenario("gren")
    with pytest.raises(UsageError, match="normal"):
        pace("warp")
    assert (seconds(8), seconds(0.5), seconds(120)) == ("8s", "0.5s", "2m")


@pytest.mark.parametrize("service", ["gateway", "web"])
def test_headroom_is_there_in_green_and_missing_when_the_candidate_is_slow(service: str) -> None:
    good = behaviour(service, CANDIDATE_VERSION)
    slow = behaviour(service, CANDIDATE_VERSION, slow=True)
    assert 1 - BASELINE_RPS / good.capacity > 0.3
    assert 0 < 1 - BASELINE_RPS / slow.capacity < 0.2
    assert behaviour(service, STABLE_VERSION).capacity == good.capacity


def test_a_fault_fires_at_its_weight_and_stays() -> None:
    trigger = Trigger(Fault("sick-canary", 50))
    trigger.observe(10)
    assert not trigger.active("sick-canary")
    trigger.observe(50)
    trigger.observe(0)
    assert trigger.active("sick-canary") and not trigger.active("no-traffic")
    healthy = Trigger(None)
    healthy.observe(100)
    assert not healthy.active("sick-canary")


def test_the_canary_weight_is_the_largest_share_of_any_rule() -> None:
    def rule(stable: int, canary: int) -> dict[str, object]:
        return {
            "backendRefs": [
                {"name": "web-stable", "weight": stable},
                {"name": "web-canary", "weight": canary},
            ]
        }

    assert canary_weight([{"spec": {"rules": [rule(100, 0)]}}]) == 0
    assert canary_weight([{"spec": {"rules": [rule(100, 0), rule(9, 1)]}}]) == 10
    assert canary_weight([{"spec": {"rules": [rule(0, 100)]}}]) == 100
    assert canary_weight([{"spec": {"rules": [rule(0, 0)]}}]) == 0


@pytest.mark.parametrize("weight", [0, 1, 10, 50, 100])
def test_the_gateway_keeps_to_the_weights_within_a_request_or_two(weight: int) -> None:
    rule = Rule(
        "/web",
        (Backend("s", 100 - weight, "stable", ()), Backend("c", weight, "canary", ())),
    )
    chosen = [backend.track for _ in range(200) if (backend := rule.choose())]
    assert abs(chosen.count("canary") - 2 * weight) <= 3
    if weight in (0, 100):
        assert len(set(chosen)) == 1
    assert Rule("/web", (Backend("s", 0, "stable", ()),)).choose() is None


def test_rules_match_whole_segments_and_only_ready_pods_count() -> None:
    objects = list(platform(images().stable, images().candidate))
    services = {
        o["metadata"]["name"]: o
        for o in objects
        if o["kind"] == "Service" and o["metadata"]["namespace"] == PROD
    }
    routes = [o for o in objects if o["kind"] == "HTTPRoute" and o["metadata"]["namespace"] == PROD]

    def pod(name: str, ready: str, **metadata: object) -> dict[str, object]:
        return {
            "metadata": {
                "name": name,
                "labels": {"app.kubernetes.io/name": "web", "track": "stable"},
                "annotations": {"rehearsal.cockpit/address": f"{name}:1"},
                **metadata,
            },
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        }

    pods = [pod("a", "True"), pod("b", "False"), pod("c", "True", deletionTimestamp="now"), pod("d", "True")]
    rules = routing_table(routes, services, pods)
    assert {rule.prefix for rule in rules} == {f"/{service}" for service in SERVICES}
    web = next(rule for rule in rules if rule.matches("/web/cases"))
    assert web.matches("/web") and not web.matches("/website") and not web.matches("/")
    chosen = web.choose()
    assert chosen is not None
    assert {chosen.next_address() for _ in range(4)} == {"a:1", "d:1"}
    assert web.backends[1].next_address() is None


def test_every_deployment_is_hardened_and_named_by_digest() -> None:
    for manifest in platform(images().stable, images().candidate):
        if manifest["kind"] != "Deployment":
            continue
        spec = manifest["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        assert "@sha256:" in container["image"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["resources"]["limits"]["memory"]


def test_every_user_path_has_a_document_and_nonsense_has_none() -> None:
    for service, paths in USER_PATHS.items():
        for path in paths:
            inner, _, query = path.removeprefix(f"/{service}").partition("?")
            pairs = dict([query.split("=", 1)]) if query else {}
            document = answer(service, inner, pairs, version="v1", tenant="t1")
            assert document is not None
            assert list(document)[:3] == ["service", "version", "tenant"]
    assert answer("web", "/query", {}, version="v1", tenant="t1") is None
    odd = answer("realtime", "/events", {"since": "x" * 500}, version="v1", tenant="t1")
    assert odd is not None and odd["resume"] == 2


def test_settings_survive_the_pipe(tmp_path: Path) -> None:
    settings = Settings("http://k", "secret", tmp_path, {"i": behaviour("web", "v1")}, Fault("no-traffic", 1))
    assert Settings.from_json(settings.to_json()) == settings
    with pytest.raises((ValueError, KeyError, TypeError)):
        Settings.from_json("{}")


async def test_a_pod_counts_records_and_refuses_what_its_queue_cannot_hold(tmp_path: Path) -> None:
    log = RequestLog(tmp_path / "requests.jsonl")
    slow = Behaviour("web", "v9", workers=1, mean_seconds=0.02, spread=0.01)
    place = PodIdentity("web-1", PROD, "web", "stable")
    server = PodServer(place, "x@sha256:" + "a" * 64, slow, Trigger(None), log)
    address = await server.start()
    async with aiohttp.ClientSession() as session:

        async def get(path: str, tenant: str) -> tuple[int, str]:
            async with session.get(f"http://{address}{path}", headers={"X-Tenant": tenant}) as response:
                return response.status, await response.text()

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(get("/web/healthz", "t1")) for _ in range(90)]
        statuses = [task.result()[0] for task in asked]
        assert statuses.count(200) >= 60 and statuses.count(503) >= 1
        assert await get("/web/none", "<script>") == (404, '{"error": "not found"}')
        page = (await get("/metrics", "t1"))[1]
    await server.stop(1.0)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert len(lines) == 91
    assert {line["tenant"] for line in lines} == {"t1", "none"}, "a label never holds what a client made up"
    assert f'http_requests_total{{code="200",tenant="t1"}} {statuses.count(200)}.0' in page
    assert "http_request_duration_seconds_count 91.0" in page
    assert {"at", "track", "tenant", "service", "status", "env", "version", "pod", "latency_ms"} == set(
        lines[0]
    )
    assert lines[0]["at"].endswith("Z") and lines[0]["env"] == "prod"


async def test_the_watch_ends_when_a_lock_that_was_held_is_free_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert is_held(path)
    waiting = asyncio.create_task(until_released(path, first=30, settle=0.3))
    done, _ = await asyncio.wait([waiting], timeout=0.6)
    assert not done, "held"
    os.close(fd)
    assert not is_held(path)
    await until("the watch notices", lambda: _done(waiting))
    assert waiting.result() == "the release is over"
    assert "nobody took the lock" in await until_released(path, first=0.1, settle=0.1)


async def _done(task: asyncio.Task[str]) -> bool:
    return task.done()
