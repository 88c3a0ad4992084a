"""The platform of the embedded world does what the route, the pods and the scenario say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cockpit.rehearsal.kube import KubeServer
from cockpit.rehearsal.topology import PROD, SERVICES, STABLE_VERSION
from cockpit.verdicts.thresholds import parse
from tests.contract.world_support import Release, plan_data, release, until

pytestmark = pytest.mark.contract

ROUTED = f'gateway_requests_total{{namespace="{PROD}"'
SHARE = f'sum(increase({ROUTED},track="canary"}}[3s])) / sum(increase({ROUTED}}}[3s]))'


async def test_traffic_follows_the_weights_of_the_route(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world:
        assert not world.served(track="canary")
        await world.deploy_canary()
        assert not world.served(track="canary"), "pods without weight get no users"
        for weight in (50, 10):
            await world.shift(weight)

            async def agrees(weight: int = weight) -> bool:
                share = await world.value(SHARE)
                return share is not None and abs(share - weight / 100) < 0.03

            await until(f"observed share is {weight} %", agrees)
        before = len(world.served())

        async def more() -> bool:
            return len(world.served(env="prod")) > before + 400

        await until("four hundred more requests", more)
        later = world.served(env="prod")[before:]
        share = sum(line["track"] == "canary" for line in later) / len(later)
        assert abs(share - 0.1) < 0.04
        assert {line["service"] for line in later} == set(SERVICES)
        assert {line["tenant"] for line in later} == {"t1", "t2", "t3", "t4", "t5"}

        await world.shift(0)
        await until("no canary traffic in the metrics", lambda: _is(world, SHARE, 0.0))
        done = len(world.served(track="canary"))
        before = len(world.served())
        await until("four hundred more requests", more)
        assert len(world.served(track="canary")) == done


async def test_weights_are_followed_across_a_compaction_and_cut_watches(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world:
        await world.deploy_canary()
        kube = world.platform.kube
        assert isinstance(kube, KubeServer)
        kube.drop_watches()
        kube.forget_history()
        await world.shift(100)

        async def all_of_it() -> bool:
            lines = world.served(env="prod")[-40:]
            return len(lines) == 40 and {line["track"] for line in lines} == {"canary"}

        await until("everyone is on the canary", all_of_it)


async def test_every_query_of_the_plan_has_an_answer_during_a_canary(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world:
        await world.deploy_canary()
        await world.shift(10)
        plan = plan_data()
        requests = plan["canary"]["requests"].replace("{window}", "8s")

        async def enough() -> bool:
            return (await world.value(requests) or 0) >= 50

        await until("fifty canary requests in the window", enough)
        for query in _queries(plan):
            status, found = await world.ask(query.replace("{window}", "8s"))
            assert status == 200 and found, query
            assert all(value == value for _, value in found), f"NaN: {query}"

        async def well() -> bool:
            values = {
                check["threshold"]: await world.value(check["query"].replace("{window}", "8s"))
                for check in plan["canary"]["checks"]
            }
            return all(parse(threshold).holds(value) for threshold, value in values.items())

        await until("a healthy canary passes its checks", well)


async def test_a_sick_canary_fails_only_from_its_weight_on(tmp_path: Path) -> None:
    async with release(tmp_path, "slo-breach-50") as world:
        await world.deploy_canary()
        await world.shift(10)

        async def some() -> bool:
            return len(world.served(track="canary")) >= 60

        await until("sixty canary requests", some)
        assert {line["status"] for line in world.served(track="canary")} == {200}
        await world.shift(50)

        async def failing() -> bool:
            return len(world.served(track="canary", status=500)) >= 20

        await until("the canary fails", failing)
        stable = world.served(track="stable", env="prod")
        assert sum(line["status"] == 500 for line in stable) < len(stable) / 100
        errors = f'http_requests_total{{namespace="{PROD}",track="canary",code="500"}}'
        total = f'http_requests_total{{namespace="{PROD}",track="canary"}}'

        async def seen() -> bool:
            return (await world.value(f"sum(rate({errors}[4s])) / sum(rate({total}[4s]))") or 0) > 0.05

        await until("Prometheus shows it", seen)


async def test_no_traffic_takes_the_users_away_with_the_first_weight(tmp_path: Path) -> None:
    async with release(tmp_path, "no-traffic") as world:
        await world.deploy_canary()
        assert (await world.value(f"sum(rate({ROUTED}}}[3s]))") or 0) > 50
        await world.shift(10)
        await until("nobody comes any more", lambda: _is(world, f"sum(rate({ROUTED}}}[3s]))", 0.0))
        await world.shift(0)
        assert await world.value(f"sum(rate({ROUTED}}}[3s]))") == 0.0, "users who left stay away"


async def test_metrics_outage_begins_with_the_first_weight(tmp_path: Path) -> None:
    async with release(tmp_path, "metrics-outage") as world:
        await world.deploy_canary()
        assert (await world.ask("sum(up)"))[0] == 200
        await world.shift(10)

        async def away() -> bool:
            return (await world.ask("sum(up)"))[0] == 503

        await until("Prometheus answers 503", away)


async def test_pods_say_what_they_are_and_unknown_images_never_serve(tmp_path: Path) -> None:
    async with release(tmp_path, "green") as world, aiohttp.ClientSession() as session:
        body: dict[str, Any] = {}

        async def found() -> bool:
            async with session.get(
                world.platform.entry + "/search/query?q=ship", headers={"X-Tenant": "t2"}
            ) as answer:
                body.update(await answer.json())
                return answer.status == 200  # the version that runs drops one request in two thousand

        await until("the search answers", found)
        assert (body["service"], body["version"], body["tenant"]) == ("search", STABLE_VERSION, "t2")
        assert body["total"] == len(body["hits"]) == 3
        async with session.get(world.platform.entry + "/nowhere") as answer:
            assert answer.status == 404

        async def nothing() -> bool:
            async with session.get(world.platform.entry + "/web/nothing/here") as answer:
                return answer.status == 404

        await until("what no service knows is not found", nothing)

        bad = {"name": "app", "image": "registry.invalid/intelgraph/web@sha256:" + "0" * 64}
        await world.patch_deployment(
            "web-canary", {"replicas": 1, "template": {"spec": {"containers": [bad]}}}
        )

        async def stuck() -> bool:
            pods = (await world.get(f"/api/v1/namespaces/{PROD}/pods"))["items"]
            return any(
                pod["spec"]["containers"][0]["image"] == bad["image"]
                and pod["status"].get("phase") == "Running"
                for pod in pods
            )

        await until("the pod exists", stuck)
        await world.shift(100)

        async def unavailable() -> bool:
            async with session.get(world.platform.entry + "/web/healthz") as answer:
                return answer.status == 503

        await until("the gateway finds no ready pod", unavailable)


async def _is(world: Release, query: str, value: float) -> bool:
    return await world.value(query) == value


def _queries(plan: dict[str, Any]) -> Iterator[str]:
    canary = plan["canary"]
    yield canary["requests"]
    yield canary["share"]
    yield from (check["query"] for check in canary["checks"])
    for look in canary["baseline"]:
        yield from (look[key] for key in ("canary", "canary_total", "stable", "stable_total") if key in look)
    yield canary["burn"]["errors"]
    yield canary["burn"]["total"]
    yield from (trigger["query"] for risk in plan["risks"] for trigger in risk["triggers"])
