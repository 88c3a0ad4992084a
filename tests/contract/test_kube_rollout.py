"""Deployments down to their pods: rollouts, rollbacks, scaling, readiness gates and what is left behind."""

from __future__ import annotations

import json

import pytest

from cockpit.rehearsal.kube import KubeServer
from tests.contract.kube_fixtures import (
    DEPLOYMENTS,
    PODS,
    KubeCluster,
    Obj,
    condition,
    deployment,
    until,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract

REPLICA_SETS = "apis/apps/v1/namespaces/{ns}/replicasets"
REVISION = "deployment.kubernetes.io/revision"


async def items(cluster: KubeCluster, path: str) -> list[Obj]:
    listed: list[Obj] = (await cluster.call("GET", path)).ok()["items"]
    return listed


async def past_statuses(cluster: KubeCluster, since: str) -> list[Obj]:
    """Return every status deployments had after version `since`, as a watch tells them."""
    url = f"{cluster.url}/{DEPLOYMENTS.format(ns=cluster.namespace)}"
    query = {"watch": "true", "resourceVersion": since, "timeoutSeconds": "1"}
    headers = {"Authorization": f"Bearer {cluster.admin}"}
    async with cluster.http.get(url, params=query, headers=headers) as answer:
        return [json.loads(line)["object"].get("status") or {} async for line in answer.content]


async def rolled_out(cluster: KubeCluster, name: str = "web") -> Obj:
    """Wait as `kubectl rollout status` does, and return the deployment."""

    async def done() -> Obj | None:
        found = (await cluster.call("GET", f"{DEPLOYMENTS}/{name}")).ok()
        wanted, status = found["spec"]["replicas"], found.get("status") or {}
        counts = [status.get(field, 0) for field in ("replicas", "updatedReplicas", "availableReplicas")]
        seen = status.get("observedGeneration", 0) >= found["metadata"]["generation"]
        return found if seen and counts == [wanted] * 3 else None

    found: Obj = await until(done)
    return found


async def test_a_deployment_becomes_ready_pods(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2))).ok()
    found = await rolled_out(cluster)
    status = found["status"]
    assert (status["readyReplicas"], status["updatedReplicas"], status.get("unavailableReplicas", 0)) == (
        2,
        2,
        0,
    )
    assert condition(found, "Available")["status"] == "True"
    assert condition(found, "Progressing")["reason"] == "NewReplicaSetAvailable"
    assert found["metadata"]["annotations"][REVISION] == "1"
    (replica_set,) = await items(cluster, REPLICA_SETS)
    hashed = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{hashed}"
    assert replica_set["metadata"]["ownerReferences"][0]["uid"] == found["metadata"]["uid"]
    pods = await items(cluster, PODS)
    assert len(pods) == 2
    for pod in pods:
        assert pod["metadata"]["labels"] == {"app": "web", "pod-template-hash": hashed}
        assert pod["metadata"]["ownerReferences"][0]["uid"] == replica_set["metadata"]["uid"]
        assert (pod["status"]["phase"], condition(pod, "Ready")["status"]) == ("Running", "True")
        assert pod["status"]["podIP"]
        assert pod["spec"]["containers"][0]["ports"][0]["containerPort"] == 8080


async def test_a_new_image_rolls_within_its_bounds(cluster: KubeCluster) -> None:
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=3, strategy=strategy))).ok()
    since = (await rolled_out(cluster))["metadata"]["resourceVersion"]
    image = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "shop/web:2"}]}}}}
    changed = await cluster.patch(f"{DEPLOYMENTS}/web", image, "strategic-merge-patch+json")
    assert changed.ok()["metadata"]["generation"] == 2
    found = await rolled_out(cluster)
    assert found["metadata"]["annotations"][REVISION] == "2"
    assert found["metadata"]["generation"] == 2

    async def settled() -> bool:
        pods = await items(cluster, PODS)
        return len(pods) == 3 and {pod["spec"]["containers"][0]["image"] for pod in pods} == {"shop/web:2"}

    await until(settled)
    old, new = sorted(
        await items(cluster, REPLICA_SETS), key=lambda item: item["metadata"]["annotations"][REVISION]
    )
    assert (old["spec"]["replicas"], new["spec"]["replicas"]) == (0, 3)
    history = await past_statuses(cluster, since)
    assert max(status.get("replicas", 0) for status in history) <= 4
    assert min(status.get("availableReplicas", 0) for status in history) >= 3


async def test_going_back_reuses_the_old_replica_set_under_a_new_revision(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=1))).ok()
    await rolled_out(cluster)
    for image in ("shop/web:2", "shop/web:1"):
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}}
        (await cluster.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()
        found = await rolled_out(cluster)
    assert found["metadata"]["annotations"][REVISION] == "3"
    sets = {
        item["spec"]["template"]["spec"]["containers"][0]["image"]: item
        for item in await items(cluster, REPLICA_SETS)
    }
    assert set(sets) == {"shop/web:1", "shop/web:2"}
    assert sets["shop/web:1"]["metadata"]["annotations"][REVISION] == "3"
    assert sets["shop/web:1"]["spec"]["replicas"] == 1


async def test_scaling_to_nothing_and_back(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2))).ok()
    await rolled_out(cluster)

    async def scale(replicas: int) -> None:
        body = {"spec": {"replicas": replicas}}
        path, kind = f"{DEPLOYMENTS}/web/scale", "application/merge-patch+json"
        (await cluster.call("PATCH", path, body, content_type=kind)).ok()

    await scale(0)

    async def gone() -> bool:
        return not await items(cluster, PODS)

    await until(gone)
    found = await rolled_out(cluster)
    assert "replicas" not in found["status"]
    assert (await cluster.call("GET", f"{DEPLOYMENTS}/web/scale")).ok()["status"]["replicas"] == 0
    await scale(3)
    assert (await rolled_out(cluster))["status"]["readyReplicas"] == 3


async def test_a_deleted_pod_ends_gracefully_and_is_replaced(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=1))).ok()
    await rolled_out(cluster)
    (pod,) = await items(cluster, PODS)
    name = pod["metadata"]["name"]
    answer = (await cluster.call("DELETE", f"{PODS}/{name}")).ok()
    assert answer["kind"] == "Pod"
    assert answer["metadata"]["deletionGracePeriodSeconds"] == 30

    async def replaced() -> bool:
        names = [item["metadata"]["name"] for item in await items(cluster, PODS)]
        return len(names) == 1 and name not in names

    await until(replaced)
    await rolled_out(cluster)


async def test_deleting_the_deployment_collects_what_it_owned(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2))).ok()
    await rolled_out(cluster)
    (await cluster.call("DELETE", f"{DEPLOYMENTS}/web", propagationPolicy="Background")).ok()

    async def empty() -> bool:
        return not await items(cluster, REPLICA_SETS) and not await items(cluster, PODS)

    await until(empty)


async def test_a_readiness_gate_holds_a_pod_until_it_is_opened(cluster: KubeCluster) -> None:
    body = deployment(replicas=1)
    gate = "rehearsal.cockpit/serving"
    body["spec"]["template"]["spec"]["readinessGates"] = [{"conditionType": gate}]
    (await cluster.call("POST", DEPLOYMENTS, body)).ok()

    async def running() -> Obj | None:
        pods = await items(cluster, PODS)
        return pods[0] if pods and pods[0]["status"]["phase"] == "Running" else None

    pod = await until(running)
    assert condition(pod, "ContainersReady")["status"] == "True"
    assert condition(pod, "Ready")["reason"] == "ReadinessGatesNotReady"
    where = f"{PODS}/{pod['metadata']['name']}"
    announced = {"metadata": {"annotations": {"rehearsal.cockpit/address": "127.0.0.1:8080"}}}
    (await cluster.patch(where, announced)).ok()
    opened = {"status": {"conditions": [{"type": gate, "status": "True"}]}}
    (await cluster.patch(f"{where}/status", opened, "strategic-merge-patch+json")).ok()
    assert (await rolled_out(cluster))["status"]["readyReplicas"] == 1
    closed = {"status": {"conditions": [{"type": gate, "status": "False"}]}}
    (await cluster.patch(f"{where}/status", closed, "strategic-merge-patch+json")).ok()

    async def unavailable() -> bool:
        found = (await cluster.call("GET", f"{DEPLOYMENTS}/web")).ok()
        return bool(condition(found, "Available")["status"] == "False")

    await until(unavailable)


async def test_an_image_that_cannot_be_pulled_stops_the_rollout(
    seam: KubeCluster, server: KubeServer
) -> None:
    (await seam.call("POST", DEPLOYMENTS, deployment(replicas=2, progressDeadlineSeconds=1))).ok()
    await rolled_out(seam)
    server.faults.unpullable.add("shop/web:broken")
    patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "shop/web:broken"}]}}}}
    (await seam.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()

    async def given_up() -> Obj | None:
        found = (await seam.call("GET", f"{DEPLOYMENTS}/web")).ok()
        return found if condition(found, "Progressing")["reason"] == "ProgressDeadlineExceeded" else None

    found = await until(given_up)
    assert condition(found, "Available")["status"] == "True"
    assert found["status"]["availableReplicas"] == 2
    reasons = [
        (pod["status"]["containerStatuses"][0]["state"].get("waiting") or {}).get("reason")
        for pod in await items(seam, PODS)
    ]
    assert "ImagePullBackOff" in reasons


async def test_a_ready_pod_is_available_only_after_its_time(cluster: KubeCluster) -> None:
    since = (await cluster.call("GET", DEPLOYMENTS)).ok()["metadata"]["resourceVersion"]
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=1, minReadySeconds=2))).ok()
    await rolled_out(cluster)
    history = await past_statuses(cluster, since)
    counts = [(status.get("readyReplicas", 0), status.get("availableReplicas", 0)) for status in history]
    assert counts.index((1, 0)) < counts.index((1, 1))


async def test_recreate_never_runs_two_versions_at_once(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2, strategy={"type": "Recreate"}))).ok()
    await rolled_out(cluster)
    seen: set[frozenset[str]] = set()

    async def look() -> bool:
        images = {pod["spec"]["containers"][0]["image"] for pod in await items(cluster, PODS)}
        seen.add(frozenset(images))
        return images == {"shop/web:2"}

    patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "shop/web:2"}]}}}}
    (await cluster.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()
    await until(look)
    assert all(len(images) <= 1 for images in seen)
    assert (await rolled_out(cluster))["status"]["updatedReplicas"] == 2


async def test_controllers_write_nothing_when_nothing_changes(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=2))).ok()
    found = await rolled_out(cluster)
    since = found["metadata"]["resourceVersion"]
    assert await past_statuses(cluster, since) == []
