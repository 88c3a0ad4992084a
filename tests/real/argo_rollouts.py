"""Argo Rollouts, the field's canary controller, on the control plane the cockpit is tried on.

It is the yardstick of the long tier and of a benchmark: nothing of the cockpit knows it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from cockpit.base.errors import BackendError
from cockpit.rehearsal.kube.access import User
from cockpit.rehearsal.real import pki
from cockpit.rehearsal.real.binaries import CONTROL_PLANE, binary, share
from cockpit.rehearsal.real.control_plane import Api, ControlPlane
from cockpit.rehearsal.real.rights import RBAC, Obj
from cockpit.rehearsal.real.servers import Running, Servers, free_ports

NEEDED = (*CONTROL_PLANE, "argo-rollouts")
HOME = "argo-rollouts"
"""The controller's own namespace."""
_GROUP = "argoproj.io"
_API = f"apis/{_GROUP}/v1alpha1"
_DEFINITIONS = "apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_SERVED = {"rollouts", "experiments", "analysisruns", "analysistemplates", "clusteranalysistemplates"}
_WITHIN = 60.0
_POLL = 0.05


@dataclass(frozen=True)
class Rollouts:
    """The controller, and what an operator does with its Rollouts in one namespace.

    Each act is one request, as its kubectl plugin sends it.
    """

    api: Api
    namespace: str
    running: Running

    async def create(self, kind: str, spec: Obj, name: str) -> None:
        """Create a Rollout or AnalysisTemplate; raises BackendError."""
        body = {"apiVersion": f"{_GROUP}/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        await self._ask("POST", self._path(f"{kind.lower()}s"), body)

    async def get(self, name: str) -> Obj:
        """Return a Rollout; raises BackendError."""
        return await self._ask("GET", self._path(f"rollouts/{name}"))

    async def analyses(self, name: str) -> list[Obj]:
        """Return the AnalysisRuns of a Rollout; raises BackendError."""
        return _owned(await self._ask("GET", self._path("analysisruns")), name)

    async def set_image(self, name: str, image: str) -> None:
        """Ask for another image in the one container of a Rollout's template; raises BackendError."""
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image}]
        await self._ask("PATCH", self._path(f"rollouts/{name}"), patch, "application/json-patch+json")

    async def abort(self, name: str) -> None:
        """Ask for an abort; what comes of it is to be looked for. Raises BackendError."""
        await self._status(name, {"abort": True})

    async def retry(self, name: str) -> None:
        """Take an abort back; raises BackendError."""
        await self._status(name, {"abort": False})

    async def delete(self, name: str) -> None:
        """Delete a Rollout, and with it its ReplicaSets; raises BackendError."""
        await self._ask("DELETE", self._path(f"rollouts/{name}"))

    async def sets(self, name: str) -> dict[str, Obj]:
        """Return the ReplicaSets of a Rollout by the image of their one container; raises BackendError."""
        listed = await self._ask("GET", f"apis/apps/v1/namespaces/{self.namespace}/replicasets")
        return {
            one["spec"]["template"]["spec"]["containers"][0]["image"]: one for one in _owned(listed, name)
        }

    async def _status(self, name: str, status: Obj) -> None:
        path = self._path(f"rollouts/{name}/status")
        await self._ask("PATCH", path, {"status": status}, "application/merge-patch+json")

    def _path(self, rest: str) -> str:
        return f"{_API}/namespaces/{self.namespace}/{rest}"

    async def _ask(
        self, method: str, path: str, body: object = None, content_type: str = "application/json"
    ) -> Obj:
        status, answer = await self.api.request(method, path, body, content_type=content_type)
        if status not in (200, 201, 202):
            raise BackendError(f"{status}: {answer.get('message', '')}", where=f"{method} {path}")
        return answer


@asynccontextmanager
async def argo_rollouts(servers: Servers, plane: ControlPlane, namespace: str) -> AsyncIterator[Rollouts]:
    """Start the controller on `plane` with the rights it publishes; yield it for Rollouts in `namespace`.

    It listens on all interfaces, which the network namespace of the servers contains. Raises BackendError,
    and UsageError without its binary or outside such a namespace.
    """
    program, files = binary("argo-rollouts"), share("argo-rollouts")
    await plane.namespace(HOME)
    await _define(plane.admin, sorted(files.glob("*-crd.yaml")))
    token = await plane.token_of(User(HOME), HOME)
    await _bind(plane.admin, (files / "argo-rollouts-clusterrole.yaml").read_bytes())
    folder = servers.folder / HOME
    folder.mkdir(parents=True, exist_ok=True)
    config = pki.write_private(folder / "kubeconfig", json.dumps(_kubeconfig(plane, token)).encode())
    metrics, health = free_ports(2)
    running = await servers.start(
        HOME,
        [
            program,
            f"--kubeconfig={config}",
            f"--metricsPort={metrics}",
            f"--healthzPort={health}",
            "--leader-elect=false",
            "--loglevel=warn",
        ],
        ready=f"http://127.0.0.1:{health}/healthz",
        within=_WITHIN,
    )
    try:
        yield Rollouts(plane.admin, namespace, running)
    finally:
        await running.stop()


async def _define(admin: Api, definitions: Sequence[Path]) -> None:
    for path in definitions:
        status, answer = await admin.request(
            "POST", _DEFINITIONS, path.read_bytes(), content_type="application/yaml"
        )
        if status not in (201, 409):  # an earlier controller on this control plane has brought them
            raise BackendError(f"{status}: {answer.get('message', '')}", where=path.name)
    try:
        async with asyncio.timeout(_WITHIN):
            while not await _served(admin):  # noqa: ASYNC110 - the server is asked, there is no event
                await asyncio.sleep(_POLL)
    except TimeoutError:
        raise BackendError(f"the API server does not serve {_GROUP} within {_WITHIN:g} s") from None


async def _served(admin: Api) -> bool:
    listed = await admin.reads(_API)
    return listed is not None and {one["name"] for one in listed["resources"]} >= _SERVED


async def _bind(admin: Api, role: bytes) -> None:
    """Give the controller's account the role its makers publish, and nothing else."""
    path = f"apis/{RBAC}/v1/clusterroles"
    status, answer = await admin.request("POST", path, role, content_type="application/yaml")
    if status not in (201, 409):
        raise BackendError(f"{status}: {answer.get('message', '')}", where=path)
    await admin.make(
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": HOME},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": HOME},
            "subjects": [{"kind": "ServiceAccount", "name": HOME, "namespace": HOME}],
        }
    )


def _owned(listed: Obj, name: str) -> list[Obj]:
    """Return what of a list belongs to a Rollout."""
    return [
        one
        for one in listed["items"]
        for owner in one["metadata"].get("ownerReferences", ())
        if (owner["kind"], owner["name"]) == ("Rollout", name)
    ]


def _kubeconfig(plane: ControlPlane, token: str) -> Obj:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "real", "cluster": {"server": plane.url, "certificate-authority": str(plane.ca_file)}}
        ],
        "users": [{"name": HOME, "user": {"token": token}}],
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": HOME}}],
        "current-context": "real",
    }


def rollout(
    image: str, *, replicas: int, steps: Sequence[Obj], labels: dict[str, str], **canary: object
) -> Obj:
    """Return the spec of a Rollout by replica counts: with no traffic router, its weights are pods."""
    container = {"name": "app", "image": image, "ports": [{"containerPort": 8080}]}
    return {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        "strategy": {"canary": {"maxSurge": "20%", "maxUnavailable": 0, "steps": list(steps), **canary}},
    }


def analysis(prometheus: str, query: str, *, below: float) -> Obj:
    """Return the spec of an AnalysisTemplate: `query` asked every second, bad at once when not `below`."""
    return {
        "metrics": [
            {
                "name": "errors",
                "interval": "1s",
                "failureLimit": 0,
                "successCondition": f"result[0] < {below}",
                "provider": {"prometheus": {"address": prometheus, "query": query}},
            }
        ]
    }
