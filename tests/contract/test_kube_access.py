"""Tokens, rights and access reviews of the Kubernetes API, and the faults a rehearsal can plan."""

from __future__ import annotations

import asyncio
import io
import json

import aiohttp
import pytest
from kubernetes.aio.dynamic.exceptions import ConflictError, ForbiddenError, UnauthorizedError

from cockpit.rehearsal.kube import STAND_IN_VERSION, KubeServer, matching
from tests.contract.kube_fixtures import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    PODS,
    ROUTES,
    KubeCluster,
    config_map,
    deployment,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract

REVIEWS = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


async def test_an_unknown_token_is_unauthorized(cluster: KubeCluster) -> None:
    (await cluster.call("GET", CONFIG_MAPS, token="nobody")).refused(401, "Unauthorized")
    (await cluster.call("GET", "version", token="nobody")).refused(401, "Unauthorized")
    with pytest.raises(UnauthorizedError):
        async with cluster.dynamic("nobody"):
            pass


async def test_without_a_token_one_is_anonymous_and_may_read_the_version(cluster: KubeCluster) -> None:
    assert (await cluster.call("GET", "version", token="")).ok()["major"] == "1"
    for path in (CONFIG_MAPS, "api", "apis/apps/v1", "apis/example.org/v1/namespaces/{ns}/things"):
        message = (await cluster.call("GET", path, token="")).refused(403, "Forbidden")["message"]
        assert 'User "system:anonymous" cannot' in message
    (await cluster.call("POST", REVIEWS, {"spec": {}}, token="")).refused(403, "Forbidden")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", DEPLOYMENTS),
        ("DELETE", f"{DEPLOYMENTS}/web"),
        ("DELETE", f"{PODS}/one"),
        ("PATCH", f"{DEPLOYMENTS}/web/status"),
        ("GET", "api/v1/namespaces/{ns}/secrets"),
        ("GET", "apis/apps/v1/namespaces/default/deployments"),
        ("GET", "apis/apps/v1/deployments"),
        ("GET", "api/v1/namespaces"),
        ("DELETE", ROUTES),
        ("DELETE", f"{LEASES}/one"),
        ("GET", CONFIG_MAPS),
        ("PATCH", f"{DEPLOYMENTS}/web/scale"),
        ("GET", "api/v1/namespaces/{ns}"),
        ("GET", "apis/example.org/v1/namespaces/{ns}/things"),
        ("POST", f"{CONFIG_MAPS}/name"),
    ],
)
async def test_what_a_conductor_may_not_is_forbidden(cluster: KubeCluster, method: str, path: str) -> None:
    body: dict[str, object] | None = {} if method in ("POST", "PATCH") else None
    answer = await cluster.call(
        method, path, body, token=cluster.conductor, content_type="application/merge-patch+json"
    )
    assert f'User "{cluster.user}" cannot' in answer.refused(403, "Forbidden")["message"]


async def test_what_a_conductor_needs_is_granted(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    (await cluster.call("POST", CONFIG_MAPS, config_map())).ok()
    name = config_map()["metadata"]["name"]
    for path in (DEPLOYMENTS, f"{DEPLOYMENTS}/web", PODS, ROUTES, LEASES, f"{CONFIG_MAPS}/{name}"):
        (await cluster.call("GET", path, token=cluster.conductor)).ok()
    (await cluster.call("POST", LEASES, {"metadata": {"name": "l"}}, token=cluster.conductor)).ok()


async def test_the_dynamic_client_raises_forbidden(cluster: KubeCluster) -> None:
    async with cluster.dynamic(cluster.conductor) as kube:
        pods = await kube.resources.get(api_version="v1", kind="Pod")
        with pytest.raises(ForbiddenError) as refused:
            await pods.delete(name="one", namespace=cluster.namespace)
    assert json.loads(refused.value.body or "{}")["reason"] == "Forbidden"


@pytest.mark.parametrize(
    ("verb", "group", "resource", "subresource", "namespace", "allowed"),
    [
        ("patch", "apps", "deployments", "", "{ns}", True),
        ("get", "", "pods", "log", "{ns}", True),
        ("update", "apps", "deployments", "scale", "{ns}", False),
        ("patch", "gateway.networking.k8s.io", "httproutes", "", "{ns}", True),
        ("create", "coordination.k8s.io", "leases", "", "{ns}", True),
        ("delete", "apps", "deployments", "", "{ns}", False),
        ("patch", "apps", "deployments", "", "default", False),
        ("patch", "apps", "deployments", "", "", False),
        ("list", "", "secrets", "", "{ns}", False),
    ],
)
async def test_an_access_review_answers_as_requests_would(
    cluster: KubeCluster,
    verb: str,
    group: str,
    resource: str,
    subresource: str,
    namespace: str,
    allowed: bool,
) -> None:
    asked = {
        "verb": verb,
        "group": group,
        "resource": resource,
        "subresource": subresource,
        "namespace": namespace.format(ns=cluster.namespace),
    }
    body = {"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1"}
    async with cluster.dynamic(cluster.conductor) as kube:
        reviews = await kube.resources.get(
            api_version="authorization.k8s.io/v1", kind="SelfSubjectAccessReview"
        )
        answer = await reviews.create(body={**body, "spec": {"resourceAttributes": asked}})
    assert answer.status.allowed is allowed
    everything = (await cluster.call("POST", REVIEWS, {**body, "spec": {"resourceAttributes": asked}})).ok()
    assert everything["status"]["allowed"] is (namespace == "{ns}")


async def test_the_stand_in_says_what_it_is(seam: KubeCluster, server: KubeServer) -> None:
    assert (await seam.call("GET", "version")).ok()["gitVersion"] == STAND_IN_VERSION
    assert "standin" in STAND_IN_VERSION
    assert server.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    ("status", "reason"), [(429, "TooManyRequests"), (500, "InternalError"), (503, "ServiceUnavailable")]
)
async def test_a_planned_failure_comes_as_often_as_planned(
    seam: KubeCluster, server: KubeServer, status: int, reason: str
) -> None:
    fault = server.faults.fail(matching("list", "configmaps"), status, times=2, retry_after=3)
    for _ in range(2):
        answer = await seam.call("GET", CONFIG_MAPS)
        answer.refused(status, reason)
        assert answer.headers["Retry-After"] == "3"
    (await seam.call("GET", CONFIG_MAPS)).ok()
    assert fault.seen == 2


async def test_a_lost_answer_leaves_its_effect(seam: KubeCluster, server: KubeServer) -> None:
    server.faults.cut(matching("create", "configmaps"), after=True)
    with pytest.raises(aiohttp.ClientError):
        await seam.call("POST", CONFIG_MAPS, config_map())
    (await seam.call("GET", f"{CONFIG_MAPS}/settings")).ok()
    # A PATCH, for the client library repeats PUT and DELETE by itself when a kept connection is cut.
    server.faults.cut(matching("patch", "configmaps"))
    with pytest.raises(aiohttp.ClientError):
        await seam.patch(f"{CONFIG_MAPS}/settings", {"data": {"a": "1"}})
    assert "a" not in (await seam.call("GET", f"{CONFIG_MAPS}/settings")).ok()["data"]


async def test_a_cancelled_call_ends_at_once_and_its_late_twin_conflicts(
    seam: KubeCluster, server: KubeServer
) -> None:
    (await seam.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    async with seam.dynamic() as kube:
        maps = await kube.resources.get(api_version="v1", kind="ConfigMap")
        read = (await maps.get(name="settings", namespace=seam.namespace)).to_dict()
        held = server.faults.delay(matching("update", "configmaps"), 60.0, times=1)
        late = asyncio.create_task(maps.replace(body={**read, "data": {"a": "late"}}))
        async with asyncio.timeout(20):
            while not held.seen:  # noqa: ASYNC110 - a counter, not an event
                await asyncio.sleep(0.01)
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
        await maps.replace(body={**read, "data": {"a": "2"}})
        with pytest.raises(ConflictError):
            await maps.replace(body={**read, "data": {"a": "late"}})
        assert (await maps.get(name="settings", namespace=seam.namespace)).data.a == "2"


async def test_hostile_bodies_are_refused_in_plain_words(cluster: KubeCluster) -> None:
    headers = {"Authorization": f"Bearer {cluster.admin}"}
    url = f"{cluster.url}/{CONFIG_MAPS.format(ns=cluster.namespace)}"
    for raw, status in (
        (b"{", 400),
        (b"[]", 400),
        (b"[" * 100_000, 400),
        (b'"x"', 400),
        (b"x" * (4 << 20), 413),
    ):
        async with cluster.http.post(
            url, data=io.BytesIO(raw), headers={**headers, "Content-Type": "application/json"}
        ) as answer:
            assert answer.status == status
            assert (await answer.json())["kind"] == "Status"
