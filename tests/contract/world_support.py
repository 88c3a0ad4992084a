"""A platform of the embedded world for tests, and a client that does what a release does to it."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from cockpit.rehearsal.pace import pace
from cockpit.rehearsal.platform import Images, Platform, running
from cockpit.rehearsal.release_plan import Data, Endpoints, ImageTrust, build
from cockpit.rehearsal.scenarios import scenario
from cockpit.rehearsal.topology import CANDIDATE_VERSION, PROD, ROUTE, SERVICES, STABLE_VERSION, STAGES
from cockpit.rehearsal.webhook import KINDS

DEADLINE = 60.0


def images() -> Images:
    """Return references to images nobody pulls: the kubelet knows them by name."""

    def named(service: str, version: str) -> str:
        digest = hashlib.sha256(f"{service} {version}".encode()).hexdigest()
        return f"registry.invalid/intelgraph/{service}@sha256:{digest}"

    return Images(
        {service: named(service, STABLE_VERSION) for service in SERVICES},
        {service: named(service, CANDIDATE_VERSION) for service in SERVICES},
        {service: f"registry.invalid/intelgraph/{service}:{CANDIDATE_VERSION}" for service in SERVICES},
    )


def endpoints() -> Endpoints:
    """Return endpoints of the right shape where nothing listens."""
    return Endpoints(
        kubernetes="http://127.0.0.1:9",
        kubernetes_token="file:world/secrets/kubernetes",
        prometheus="http://127.0.0.1:9",
        registry="http://127.0.0.1:9",
        entry="http://127.0.0.1:9",
        load="http://127.0.0.1:9",
        stages=dict.fromkeys(STAGES, "http://127.0.0.1:9"),
        token_url="http://127.0.0.1:9/token",
        token_secret="file:world/secrets/token",
        issuer="http://127.0.0.1:9",
        trust_config="world/trust_config.json",
        repository="world/repository",
        from_ref="v2.9.4",
        to_ref="main",
        webhook="http://127.0.0.1:9/hook",
        webhook_secret="file:world/secrets/webhook",
        issues="http://127.0.0.1:9",
        issues_repository="intelgraph/platform",
        issues_token="file:world/secrets/issues",
        flags="http://127.0.0.1:9",
        webhooks=dict.fromkeys(KINDS, "http://127.0.0.1:9/hook"),
    )


TRUST = ImageTrust("ci@intelgraph.io", "http://127.0.0.1:9", "https://ci.invalid/builder", "git+https://x")


def plan_data(pace_name: str = "fast", scenario_name: str = "green") -> Data:
    """Return the plan of a rehearsal as data."""
    return build(
        endpoints(),
        images().candidate,
        TRUST,
        pace(pace_name),
        datetime.now(UTC),
        scenario(scenario_name),
    )


async def until(what: str, holds: Callable[[], Awaitable[bool]]) -> None:
    """Poll until `holds`; fail with `what` after a generous deadline."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not await holds():  # noqa: ASYNC110 - what is watched lies in another process
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never happened: {what}") from None


class Release:
    """Does to a platform what a conductor does, over the same API with the conductor's own token."""

    def __init__(self, platform: Platform, folder: Path, session: aiohttp.ClientSession) -> None:
        self.platform = platform
        self._folder = folder
        self._session = session
        self._images = images()

    async def _patch(self, path: str, body: Any, kind: str = "application/merge-patch+json") -> None:
        headers = {"Authorization": f"Bearer {self.platform.conductor_token}", "Content-Type": kind}
        async with self._session.patch(self.platform.kube.url + path, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()

    async def get(self, path: str) -> Any:
        """Return an object or a list of the API."""
        headers = {"Authorization": f"Bearer {self.platform.conductor_token}"}
        async with self._session.get(self.platform.kube.url + path, headers=headers) as answer:
            return await answer.json()

    async def patch_deployment(self, name: str, spec: Any, *, namespace: str = PROD) -> None:
        """Merge `spec` into a Deployment's."""
        path = f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"
        await self._patch(path, {"spec": spec}, "application/strategic-merge-patch+json")

    async def deploy_canary(self, replicas: int = 1, *, namespace: str = PROD) -> None:
        """Set the candidate's image on every canary Deployment, scale, and wait until all pods are ready."""
        for service in SERVICES:
            container = {"name": "app", "image": self._images.candidate[service]}
            await self.patch_deployment(
                f"{service}-canary",
                {"replicas": replicas, "template": {"spec": {"containers": [container]}}},
                namespace=namespace,
            )

        async def ready() -> bool:
            found = await self.get(f"/apis/apps/v1/namespaces/{namespace}/deployments")
            return all(
                item["status"].get("readyReplicas", 0) == item["spec"]["replicas"]
                and item["status"].get("observedGeneration") == item["metadata"]["generation"]
                for item in found["items"]
                if item["metadata"]["name"].endswith("-canary")
            )

        await until("canary pods are ready", ready)

    async def shift(self, weight: int, *, namespace: str = PROD) -> None:
        """Give the canary `weight` percent of every rule."""
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes/{ROUTE}"
        route = await self.get(path)
        rules = route["spec"]["rules"]
        for rule in rules:
            for ref in rule["backendRefs"]:
                ref["weight"] = weight if ref["name"].endswith("-canary") else 100 - weight
        await self._patch(path, {"spec": {"rules": rules}})

    async def ask(self, query: str) -> tuple[int, list[tuple[dict[str, str], float]]]:
        """Ask Prometheus; return the HTTP status and the vector."""
        url = f"{self.platform.prometheus.url}/api/v1/query"
        async with self._session.get(url, params={"query": query}) as answer:
            if answer.status != 200:
                return answer.status, []
            data = (await answer.json())["data"]
        if data["resultType"] == "scalar":
            return 200, [({}, float(data["result"][1]))]
        return 200, [(item["metric"], float(item["value"][1])) for item in data["result"]]

    async def value(self, query: str) -> float | None:
        """Return the one value of a query's answer, or None."""
        _, found = await self.ask(query)
        return found[0][1] if len(found) == 1 else None

    def served(self, **where: object) -> list[dict[str, Any]]:
        """Return what the application recorded so far, selected by fields."""
        text = (self._folder / "requests.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if all(line[key] == value for key, value in where.items())]


@asynccontextmanager
async def release(folder: Path, scenario_name: str) -> AsyncIterator[Release]:
    """Run the platform of a scenario until it carries traffic."""
    async with (
        running(folder, scenario(scenario_name), images(), scrape=0.5) as platform,
        aiohttp.ClientSession() as session,
    ):
        faults = asyncio.create_task(platform.run())
        try:
            await platform.until_ready()
            yield Release(platform, folder, session)
        finally:
            faults.cancel()
            await asyncio.wait([faults])
