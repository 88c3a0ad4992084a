"""A world on real servers: Kubernetes, Prometheus, Sigstore, OPA and registry, as children of the world."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cockpit.base.errors import BackendError
from cockpit.rehearsal.kube.gateway import CONTROLLER_NAME
from cockpit.rehearsal.manifests import GATEWAY_CLASS
from cockpit.rehearsal.pace import Pace
from cockpit.rehearsal.parts import Cluster, ImageStore, Metrics, Policy
from cockpit.rehearsal.real.binaries import CONTROL_PLANE, SIGSTORE
from cockpit.rehearsal.real.control_plane import Api, control_plane
from cockpit.rehearsal.real.opa import opa
from cockpit.rehearsal.real.prometheus import RealPrometheus, prometheus
from cockpit.rehearsal.real.registry import docker_registry
from cockpit.rehearsal.real.servers import Servers
from cockpit.rehearsal.real.sigstore import sigstore
from cockpit.rehearsal.real.versions import versions
from cockpit.rehearsal.sigstore.interface import Sigstore
from cockpit.rehearsal.topology import NAMESPACES, PROD, STAGE, STAGES

NEEDED = (*CONTROL_PLANE, *SIGSTORE, "prometheus", "opa", "docker-registry")
"""The binaries a rehearsal on real servers needs."""
FILES = ("gateway-api", "kwok")
"""The files it needs besides."""

_ACCOUNT = "release-cockpit"
_DAY_SECONDS = 24 * 3600
_READY_SECONDS = 240.0
_SIGNERS = 12
# Prometheus looks each five seconds, at most, whether there are other targets than before.
_DISCOVERY_SECONDS = 6.0
# It gives up a scrape after its interval, and here a dozen servers share the machine with what is scraped.
_SCRAPE_SECONDS = 1.0
_GATEWAYS = "apis/gateway.networking.k8s.io/v1"
_PATHS = {
    "Namespace": "api/v1/namespaces",
    "ConfigMap": "api/v1/namespaces/{space}/configmaps",
    "Service": "api/v1/namespaces/{space}/services",
    "Deployment": "apis/apps/v1/namespaces/{space}/deployments",
    "GatewayClass": f"{_GATEWAYS}/gatewayclasses",
    "Gateway": f"{_GATEWAYS}/namespaces/{{space}}/gateways",
    "HTTPRoute": f"{_GATEWAYS}/namespaces/{{space}}/httproutes",
}


class Real:
    """The real servers; see `parts.Parts`. Forge, receivers of messages, issues and flags are stand-ins."""

    @property
    def profile(self) -> Literal["embedded", "private"]:
        """Fulcio, Rekor and a time-stamp authority, all in one hand."""
        return "private"

    @property
    def ready_within(self) -> float:
        """Longer than with stand-ins: pods pass through controllers, scheduler and nodes."""
        return _READY_SECONDS

    @property
    def signers(self) -> int:
        """Rekor takes a second for an entry, however many come together."""
        return _SIGNERS

    def real(self) -> Mapping[str, str]:
        """Return the servers by the names of the plan's targets, and their versions."""
        names = {
            "kubernetes": "kube-apiserver",
            "etcd": "etcd",
            "nodes (kwok)": "kwok",
            "prometheus": "prometheus",
            "fulcio": "fulcio",
            "ct log": "ctlog",
            "rekor": "rekor",
            "timestamp authority": "timestamp-server",
            "opa": "opa",
            "registry": "docker-registry",
        }
        found = versions(names.values())
        return {name: found[program] for name, program in names.items()}

    def pace(self, pace: Pace) -> Pace:
        """Give the canary's first samples the time Prometheus' discovery takes, and a scrape a second."""
        return replace(
            pace,
            scrape=max(pace.scrape, _SCRAPE_SECONDS),
            weight_deadline=pace.weight_deadline + _DISCOVERY_SECONDS,
            low_traffic_deadline=pace.low_traffic_deadline + _DISCOVERY_SECONDS,
        )

    @asynccontextmanager
    async def cluster(self, place: Path) -> AsyncIterator[Cluster]:
        """Run a control plane; the world is its admin, the releaser an account with its rights by RBAC."""
        folder = place / "real"
        try:
            async with (
                Servers(folder) as servers,
                control_plane(servers, namespaces=NAMESPACES) as plane,
            ):
                api = _Api(plane.url, plane.admin)
                await api.apply(_GATEWAY_CLASS)
                token = await plane.token_for(
                    _ACCOUNT, (PROD, *STAGES), drills=(STAGE,), seconds=_DAY_SECONDS
                )
                yield Cluster(api, plane.admin_token, token, plane.ca_file, routes_reported=False)
        finally:
            # Of no use without its servers, and ten times as large as all else a run leaves.
            shutil.rmtree(folder / "kubernetes" / "etcd", ignore_errors=True)

    @asynccontextmanager
    async def metrics(self, place: Path, *, discovery: str, scrape: float) -> AsyncIterator[Metrics]:
        """Run a Prometheus."""
        async with (
            Servers(place / "real") as servers,
            prometheus(servers, scrape_interval=scrape, http_sd_urls=[discovery], sd_interval=0.25) as server,
        ):
            yield _Metrics(server)

    @asynccontextmanager
    async def signing(self, place: Path) -> AsyncIterator[Sigstore]:
        """Run a private Sigstore, with an issuer of the world's own."""
        async with Servers(place / "real") as servers, sigstore(servers) as running:
            yield running

    @asynccontextmanager
    async def registry(self, place: Path) -> AsyncIterator[ImageStore]:
        """Run a Docker registry."""
        async with docker_registry(place / "real" / "registry") as server:
            yield ImageStore(server.url, server.repository, server.publish)

    @asynccontextmanager
    async def policy(self, place: Path, *, token: str) -> AsyncIterator[Policy]:
        """Run an OPA."""
        async with opa(place / "real" / "opa", token=token) as server:
            yield Policy(server.url, server.token)


_GATEWAY_CLASS = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "GatewayClass",
    "metadata": {"name": GATEWAY_CLASS},
    "spec": {"controllerName": CONTROLLER_NAME},
}


@dataclass(frozen=True)
class _Api:
    """The API server, seeded by server-side apply."""

    url: str
    admin: Api

    async def apply(self, obj: dict[str, Any]) -> object:
        """Create or change an object; raises BackendError when the server refuses it."""
        metadata = obj["metadata"]
        path = _PATHS[obj["kind"]].format(space=metadata.get("namespace", ""))
        status, answer = await self.admin.request(
            "PATCH",
            f"{path}/{metadata['name']}",
            obj,
            content_type="application/apply-patch+yaml",  # JSON is YAML
            fieldManager="rehearsal-world",
            force="true",
        )
        if status not in (200, 201):
            raise BackendError(
                f"the API server refused an object: {status} {answer.get('message', '')}",
                where=f"{obj['kind']} {metadata['name']}",
            )
        return answer


class _Metrics:
    """A real Prometheus, with its way to fail."""

    def __init__(self, server: RealPrometheus) -> None:
        self._server = server

    @property
    def url(self) -> str:
        """Where it listens."""
        return self._server.url

    async def outage(self) -> None:
        """Kill it: connections are refused from now on."""
        await self._server.kill()
