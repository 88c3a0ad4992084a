"""What is wrong with a world, seen from outside: late, leaking, blind, unready, denied, unsigned, closing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest

from cockpit.plan.model import Plan
from cockpit.rehearsal.manifests import platform
from cockpit.rehearsal.pace import PACES
from cockpit.rehearsal.plan_looks import kpis
from cockpit.rehearsal.plan_people import PLATFORM, SECURITY
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.supply import Supply, supplying
from cockpit.rehearsal.topology import (
    CANDIDATE_VERSION,
    DEV,
    GA_FLAGS,
    PERF,
    PROD,
    SERVICES,
    STABLE_VERSION,
    STAGE,
)
from tests.contract.world_support import Release, images, plan_data, release, until

pytestmark = pytest.mark.contract


async def _canary_at(world: Release, weight: int, requests: int) -> None:
    await world.deploy_canary()
    await world.shift(weight)

    async def served() -> bool:
        return len(world.served(track="canary", env="prod")) >= requests

    await until(f"{requests} canary requests", served)


async def test_a_slow_canary_is_late_from_its_weight_on_and_never_fails(tmp_path: Path) -> None:
    async with release(tmp_path, "slow-canary") as world:
        await _canary_at(world, 10, 40)
        quick = [line["latency_ms"] for line in world.served(track="canary", env="prod")]
        assert sum(value > 200 for value in quick) < len(quick) / 10
        await world.shift(50)

        async def late() -> bool:
            return len([1 for line in world.served(track="canary") if line["latency_ms"] > 250]) >= 100

        await until("canary answers are late", late)
        assert {line["status"] for line in world.served(track="canary")} == {200}
        check = next(c for c in plan_data()["canary"]["checks"] if c["metric"] == "p95_ms")

        async def breached() -> bool:
            return (await world.value(check["query"].replace("{window}", "4s")) or 0) > 150

        await until("Prometheus shows it", breached)


async def test_a_leaking_canary_answers_well_and_is_counted(tmp_path: Path) -> None:
    async with release(tmp_path, "critical-breach") as world:
        await _canary_at(world, 10, 40)
        check = next(c for c in plan_data()["canary"]["checks"] if c["metric"] == "isolation_violations")
        query = check["query"].replace("{window}", "4s")
        assert await world.value(query) == 0
        await world.shift(50)

        async def counted() -> bool:
            return (await world.value(query) or 0) >= 5

        await until("violations are counted", counted)
        assert {line["status"] for line in world.served(track="canary")} == {200}
        stable = query.replace('track="canary"', 'track="stable"')
        assert await world.value(stable) == 0


async def test_a_blind_candidate_answers_well_and_its_kpi_falls(tmp_path: Path) -> None:
    query = kpis()["items"][0]["query"].replace("{window}", "4s")
    async with release(tmp_path, "kpi-regression") as world:
        assert await world.value(query) == pytest.approx(3)
        await _canary_at(world, 100, 300)

        async def fallen() -> bool:
            return (await world.value(query) or 3) < 2

        await until("fewer results a search", fallen)
        assert {line["status"] for line in world.served(track="canary")} == {200}
        async with (
            aiohttp.ClientSession() as session,
            session.get(world.platform.entry + "/search/query?q=ship") as answer,
        ):
            body = await answer.json()
        assert (body["version"], body["total"]) == (CANDIDATE_VERSION, 3), "its smoke path does not show it"


async def test_one_stable_pod_stops_being_ready_and_stable_still_serves(tmp_path: Path) -> None:
    async with release(tmp_path, "stable-sick") as world:
        path = f"/apis/apps/v1/namespaces/{PROD}/deployments/reports-stable"
        assert (await world.get(path))["status"]["readyReplicas"] == 2
        await world.platform.worsen()

        async def one_left() -> bool:
            return bool((await world.get(path))["status"].get("readyReplicas") == 1)

        await until("one of two is ready", one_left)
        async with (
            aiohttp.ClientSession() as session,
            session.get(world.platform.entry + "/reports/healthz") as answer,
        ):
            assert answer.status == 200


async def test_stage_has_a_canary_and_testers_and_dev_runs_stable(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world:
        gateways = world.platform.app.endpoints.gateways
        async with aiohttp.ClientSession() as session:

            async def version(namespace: str) -> str:
                async with session.get(f"{gateways[namespace]}/web/healthz") as answer:
                    return str((await answer.json())["version"])

            assert [await version(one) for one in (DEV, STAGE, PERF)] == [
                STABLE_VERSION,
                STABLE_VERSION,
                CANDIDATE_VERSION,
            ]

        async def testers() -> bool:
            return {line["service"] for line in world.served(env="stage", track="stable")} >= set(SERVICES)

        await until("testers in stage", testers)
        await world.deploy_canary(namespace=STAGE)
        await world.shift(100, namespace=STAGE)

        async def candidate() -> bool:
            return len(world.served(env="stage", track="canary", version=CANDIDATE_VERSION)) >= 20

        await until("testers are on the candidate", candidate)
        query = f'sum(increase(http_requests_total{{namespace="{STAGE}",track="canary"}}[4s]))'

        async def seen() -> bool:
            return (await world.value(query) or 0) >= 5

        await until("Prometheus shows it", seen)
        assert not world.served(env="prod", track="canary"), "prod has nothing to do with it"


async def test_flags_are_off_for_everybody_and_follow_their_definitions(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world, aiohttp.ClientSession() as session:
        url = f"{world.platform.flags_url}/ofrep/v1/evaluate/flags/"
        for flag in GA_FLAGS:
            context = {"context": {"targetingKey": "t1", "tenant": "t1"}}
            async with session.post(url + flag, json=context) as answer:
                assert answer.status == 200
                assert (await answer.json())["value"] is False


def test_only_the_lax_canary_of_prod_breaks_the_policy() -> None:
    lax = [
        (one["metadata"]["namespace"], one["metadata"]["name"])
        for one in platform(images().stable, images().candidate, lax_service="reports")
        if one["kind"] == "Deployment"
        and one["spec"]["template"]["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
    ]
    assert lax == [(PROD, "reports-canary")]


@asynccontextmanager
async def _supply(folder: Path, name: str) -> AsyncIterator[Supply]:
    (folder / "world").mkdir()
    async with supplying(folder / "world", scenario(name)) as supply:
        await supply.publish()
        await supply.worsen()
        yield supply


async def test_the_signing_outage_leaves_images_signed_and_nobody_to_sign(tmp_path: Path) -> None:
    async with _supply(tmp_path, "signing-outage") as supply, aiohttp.ClientSession() as session:
        config = json.loads(supply.trust_config)
        authority = config["signingConfig"]["caUrls"][0]["url"]
        log = config["signingConfig"]["rekorTlogUrls"][0]["url"]
        for url in (authority, log):
            with pytest.raises(aiohttp.ClientConnectorError):
                await session.get(url)
        image = supply.images.candidate["web"]
        repository, digest = image.partition("/")[2].split("@")
        async with session.get(f"{supply.registry_url}/v2/{repository}/referrers/{digest}") as answer:
            assert json.loads(await answer.read())["manifests"]


@pytest.mark.parametrize("name", list(PACES))
def test_the_short_window_ends_in_the_second_step_by_the_plans_own_times(name: str) -> None:
    before = datetime.now(UTC)
    plan = Plan.model_validate(plan_data(name, "window-closes"))
    lasts = (plan.window_utc.end - before).total_seconds()
    # After one bake and the phases before it, and well before the third is over.
    assert 1.5 * plan.canary.bake < lasts < 6 * plan.canary.bake
    assert plan.on_window_end == "abort"
    assert Plan.model_validate(plan_data(name)).window_utc.end - before > timedelta(hours=3)


async def test_the_forge_takes_issues_and_the_policy_engine_holds_that_of_the_release_before(
    tmp_path: Path,
) -> None:
    async with _supply(tmp_path, "green") as supply, aiohttp.ClientSession() as session:
        issues = f"{supply.issues_url}/repos/{supply.issues_repository}/issues"
        for token, status in ((supply.issues_token, 200), ("another", 401)):
            async with session.get(issues, headers={"Authorization": f"Bearer {token}"}) as answer:
                assert answer.status == status
        asked = f"{supply.policy_url}/v1/data/cockpit/release/decision"
        bearer = {"Authorization": f"Bearer {supply.policy_token}"}
        async with session.post(asked, json={"input": {}}, headers=bearer) as answer:
            decision = (await answer.json())["result"]
            assert (answer.status, decision["allow"]) == (200, False), "people are decided on from the first"
        async with session.post(asked, json={"input": {}}) as answer:
            assert answer.status == 401


async def test_a_person_signs_in_as_themselves_and_as_nobody_else(tmp_path: Path) -> None:
    async with _supply(tmp_path, "approval-rejected") as supply, aiohttp.ClientSession() as session:
        secret = supply.person_secret(SECURITY.identity)

        async def status(secret: str, sub: str) -> int:
            headers = {"Authorization": f"Bearer {secret}"}
            async with session.post(supply.token_url, json={"sub": sub}, headers=headers) as answer:
                return answer.status

        assert await status(secret, SECURITY.identity) == 200
        assert await status(secret, PLATFORM.identity) == 403
        assert await status(f"{secret}x", SECURITY.identity) == 401


def test_people_are_asked_only_where_they_are_there_to_answer() -> None:
    asked = {
        name: Plan.model_validate(plan_data(scenario_name=name))
        for name in ("green", "approval-rejected", "break-glass", "operator-lost")
    }
    assert asked.pop("green").approvals is None
    for plan in asked.values():
        assert plan.approvals is not None and "approvals" not in {w.what for w in plan.waivers}
        assert {rule.asked for rule in plan.approvals.rules} == {"promote", "flip", "break-glass"}
        assert plan.approvals.break_glass is not None
        assert "policy_ci" in plan.approvals.break_glass.overridable
        assert plan.on_operator_lost == "continue"
