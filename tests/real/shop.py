"""One service on a real control plane, as the conductor's tests have it on the stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cockpit.backends.cluster import DEPLOYMENT, KubernetesCluster
from cockpit.base.errors import BackendError
from cockpit.rehearsal import manifests
from cockpit.rehearsal.kube import KubeServer
from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.conductor.support import OLD, World, route_manifest, whole

_BOUND = 60.0


@asynccontextmanager
async def shop(plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    """Yield a service `web` on two stable pods in a namespace; `conductor` has a cockpit's rights there."""
    await plane.namespace(namespace)
    token = await plane.token_for("conductor", [namespace])
    ours, theirs = (
        KubernetesCluster(plane.url, one, namespace, ca_file=str(plane.ca_file), deadline=10.0)
        for one in (token, plane.admin_token)
    )
    # Nobody starts the stand-in: its faults have no counterpart here.
    made = World(KubeServer({}), ours, theirs, ("web",), plane.url)
    try:
        for client in (ours, theirs):
            await client.connect()
        for track, replicas in (("stable", 2), ("canary", 0)):
            body = manifests.deployment(namespace, "web", track, OLD.format("web"), replicas)  # type: ignore[arg-type]
            body["spec"]["template"]["spec"].pop("readinessGates")
            await made.admin.create(DEPLOYMENT, body)
        route = route_manifest(["web"])
        route["metadata"]["namespace"] = namespace
        path = f"apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/httproutes"
        status, answer = await plane.admin.request("POST", path, route)
        if status != 201:
            raise BackendError(f"{status}: {answer.get('message', '')}", where=path)
        async with asyncio.timeout(_BOUND):
            await whole(made)
        yield made
    finally:
        for client in (ours, theirs):
            await client.close()
