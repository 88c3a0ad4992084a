"""The running platform of a world: Kubernetes API, demo application and Prometheus, wired together."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp

from cockpit.base.errors import BackendError
from cockpit.rehearsal import manifests
from cockpit.rehearsal.app.api import api_session
from cockpit.rehearsal.app.faults import Trigger, canary_weight
from cockpit.rehearsal.app.mirror import Mirror
from cockpit.rehearsal.app.process import Settings
from cockpit.rehearsal.child import AppProcess
from cockpit.rehearsal.embedded import Embedded
from cockpit.rehearsal.flags import serving_flags
from cockpit.rehearsal.parts import Cluster, KubernetesApi, Metrics, Parts
from cockpit.rehearsal.scenarios import Scenario
from cockpit.rehearsal.topology import (
    CANDIDATE_VERSION,
    FLAGS,
    LOADED,
    NAMESPACES,
    PROD,
    SERVICES,
    SERVING,
    STABLE_REPLICAS,
    STABLE_VERSION,
    Behaviour,
    behaviour,
)

_PODS = len(SERVICES) * (STABLE_REPLICAS + 2) + len(LOADED) + 1
_UNREADY_SECONDS = 10.0
_MIN_REQUESTS = 150


@dataclass(frozen=True)
class Images:
    """Image references of each service: what runs, and what is to be released; `tags` are other names."""

    stable: Mapping[str, str]
    candidate: Mapping[str, str]
    tags: Mapping[str, str]
    """Tagged references of the candidates, as a node would pull them."""

    def behaviours(self, scenario: Scenario) -> dict[str, Behaviour]:
        """Return how each image behaves, by reference."""
        table = {image: behaviour(service, STABLE_VERSION) for service, image in self.stable.items()}
        for names in (self.candidate, self.tags):
            for service, image in names.items():
                table[image] = behaviour(
                    service,
                    CANDIDATE_VERSION,
                    slow=scenario.slow_candidate,
                    blind=scenario.blind_candidate and service == "search",
                )
        return table


@dataclass(frozen=True)
class Platform:
    """A platform that runs, on servers of either kind."""

    cluster: Cluster
    prometheus: Metrics
    app: AppProcess
    flags_url: str
    scenario: Scenario
    ready_within: float

    @property
    def kube(self) -> KubernetesApi:
        """Return the Kubernetes API."""
        return self.cluster.api

    @property
    def world_token(self) -> str:
        """Return the bearer token of the world itself."""
        return self.cluster.world_token

    @property
    def conductor_token(self) -> str:
        """Return the bearer token a release works with."""
        return self.cluster.conductor_token

    @property
    def entry(self) -> str:
        """Return where users enter prod."""
        return self.app.endpoints.gateways[PROD]

    async def run(self) -> None:
        """Spring the faults of the scenario that are the platform's own; return when none is left.

        Raises BackendError when the demo application ends by itself.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._outage())
            raise BackendError(await self.app.died())

    async def _outage(self) -> None:
        """Follow the route in prod as anyone could, and take Prometheus away when the scenario says so."""
        if self.scenario.fault is None or self.scenario.fault.kind != "metrics-outage":
            return
        trigger = Trigger(self.scenario.fault)
        async with self._api() as session, asyncio.TaskGroup() as tasks:
            routes = Mirror(
                session,
                self.kube.url,
                f"/apis/gateway.networking.k8s.io/v1/namespaces/{PROD}/httproutes",
                lambda: trigger.observe(canary_weight(routes.objects.values())),
            )
            follow = tasks.create_task(routes.run())
            await trigger.fired.wait()
            await self.prometheus.outage()
            follow.cancel()

    async def until_ready(self) -> None:
        """Wait until all pods serve, all targets are scraped and traffic shows in Prometheus.

        Raises BackendError when it takes too long.
        """
        checks = {
            f'count(up{{job="intelgraph"}} == 1) >= {_PODS + len(NAMESPACES)}': "pods scraped",
            f'sum(increase(http_requests_total{{namespace="{PROD}"}}[8s])) > {_MIN_REQUESTS}': "traffic",
        }
        waiting = dict(checks)
        try:
            async with asyncio.timeout(self.ready_within), aiohttp.ClientSession() as session:
                while waiting:
                    for query in list(waiting):
                        if await self._holds(session, query):
                            del waiting[query]
                    await asyncio.sleep(0.1)
        except TimeoutError:
            missing = ", ".join(waiting.values())
            raise BackendError(
                f"the world was not ready within {self.ready_within:g} s: no {missing}"
            ) from None

    async def worsen(self) -> None:
        """Spring the fault that is there from the moment the world is ready.

        A pod's kubelet says that it does not serve any more. Raises BackendError when that cannot be said.
        """
        service = self.scenario.unready_service
        if not service:
            return
        pods = f"{self.kube.url}/api/v1/namespaces/{PROD}/pods"
        try:
            async with asyncio.timeout(_UNREADY_SECONDS), self._api() as session:
                selector = {"labelSelector": f"app.kubernetes.io/name={service},track=stable"}
                async with session.get(pods, params=selector, raise_for_status=True) as answer:
                    name = min(pod["metadata"]["name"] for pod in (await answer.json())["items"])
                now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                condition = {
                    "type": SERVING,
                    "status": "False",
                    "lastTransitionTime": now,
                    "reason": "ProbeFailed",
                }
                async with session.patch(
                    f"{pods}/{name}/status",
                    data=json.dumps({"status": {"conditions": [condition]}}),
                    headers={"Content-Type": "application/strategic-merge-patch+json"},
                    raise_for_status=True,
                ):
                    pass
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise BackendError(f"a pod of {service} could not be made unready: {error!r}") from None

    def _api(self) -> aiohttp.ClientSession:
        return api_session(self.world_token, self.cluster.ca_file)

    async def _holds(self, session: aiohttp.ClientSession, query: str) -> bool:
        try:
            async with session.get(f"{self.prometheus.url}/api/v1/query", params={"query": query}) as answer:
                body: dict[str, Any] = await answer.json()
        except (aiohttp.ClientError, ValueError):
            return False
        return body.get("status") == "success" and bool(body["data"]["result"])


@asynccontextmanager
async def running(
    folder: Path, scenario: Scenario, images: Images, *, scrape: float, parts: Parts | None = None
) -> AsyncIterator[Platform]:
    """Start the platform on stand-ins or on other `parts`, its records in `folder`."""
    servers = parts or Embedded()
    async with servers.cluster(folder) as cluster:
        for manifest in manifests.platform(images.stable, images.candidate, lax_service=scenario.lax_service):
            await cluster.api.apply(manifest)
        settings = Settings(
            kube_url=cluster.api.url,
            token=cluster.world_token,
            folder=folder,
            images=images.behaviours(scenario),
            fault=scenario.fault,
            ca_file=str(cluster.ca_file or ""),
            reports_routes=not cluster.routes_reported,
        )
        app = await AppProcess.start(settings)
        try:
            async with (
                servers.metrics(folder, discovery=app.endpoints.discovery, scrape=scrape) as prometheus,
                serving_flags(
                    cluster.api.url,
                    cluster.world_token,
                    namespace=PROD,
                    configmap=FLAGS,
                    ca_file=cluster.ca_file,
                ) as flags,
            ):
                yield Platform(cluster, prometheus, app, flags.url, scenario, servers.ready_within)
        finally:
            await app.stop()
