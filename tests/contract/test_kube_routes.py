"""HTTPRoutes: weights change only from the version that was read, wrong ones are refused, status is told."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.aio.dynamic.exceptions import ConflictError, UnprocessibleEntityError

from cockpit.rehearsal.kube import KubeServer
from tests.contract.kube_fixtures import ROUTES, KubeCluster, Obj, condition, route, until
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam
from tests.contract.kube_fixtures import kube_server as kube_server

pytestmark = pytest.mark.contract

MERGE = "application/merge-patch+json"


def weights(obj: Obj) -> list[int]:
    return [item["weight"] for item in obj["spec"]["rules"][0]["backendRefs"]]


async def test_weights_move_only_from_the_version_read(cluster: KubeCluster) -> None:
    (await cluster.call("POST", ROUTES, route("web", 100, 0))).ok()
    async with cluster.dynamic(cluster.conductor) as kube:
        routes = await kube.resources.get(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute")
        read = (await routes.get(name="web", namespace=cluster.namespace)).to_dict()

        async def shift(stable: int, canary: int, version: str) -> Any:
            body = {"metadata": {"resourceVersion": version}, "spec": route("web", stable, canary)["spec"]}
            return await routes.patch(name="web", namespace=cluster.namespace, body=body, content_type=MERGE)

        moved = (await shift(90, 10, read["metadata"]["resourceVersion"])).to_dict()
        assert weights(moved) == [90, 10]
        assert moved["metadata"]["generation"] == read["metadata"]["generation"] + 1
        with pytest.raises(ConflictError) as refused:
            await shift(0, 100, read["metadata"]["resourceVersion"])
        assert refused.value.status == 409
        assert weights((await routes.get(name="web", namespace=cluster.namespace)).to_dict()) == [90, 10]


@pytest.mark.parametrize("weight", [-1, 1_000_001, "10", 1.5, True, [], {}])
async def test_a_wrong_weight_is_invalid(cluster: KubeCluster, weight: object) -> None:
    (await cluster.call("POST", ROUTES, route("web", 100, 0))).ok()
    status = (await cluster.patch(f"{ROUTES}/web", {"spec": route("web", 100, weight)["spec"]})).refused(
        422, "Invalid"
    )
    assert status["details"]["causes"][0]["field"] == "spec.rules[0].backendRefs[1].weight"
    assert weights((await cluster.call("GET", f"{ROUTES}/web")).ok()) == [100, 0]


async def test_the_dynamic_client_raises_for_a_wrong_weight(cluster: KubeCluster) -> None:
    async with cluster.dynamic() as kube:
        routes = await kube.resources.get(api_version="gateway.networking.k8s.io/v1", kind="HTTPRoute")
        with pytest.raises(UnprocessibleEntityError):
            await routes.create(body=route("web", -1), namespace=cluster.namespace)


async def test_the_shape_of_a_route_is_checked(cluster: KubeCluster) -> None:
    rule = {"backendRefs": [{"name": "web-0", "port": 80}]}
    for spec, field in (
        ({"rules": [rule] * 17}, "spec.rules"),
        ({"rules": [{"backendRefs": [{"port": 80}]}]}, "spec.rules[0].backendRefs[0].name"),
        ({"rules": [{"backendRefs": [{"name": "web-0"}]}]}, "spec.rules[0].backendRefs[0]"),
        ({"rules": [{"backendRefs": [{"name": "web-0", "port": 0}]}]}, "spec.rules[0].backendRefs[0].port"),
        ({"rules": [{"backendRefs": {"name": "web-0"}}]}, "spec.rules[0].backendRefs"),
        ({"hostnames": ["no spaces"]}, "spec.hostnames[0]"),
    ):
        body = {**route("web", 1), "spec": spec}
        status = (await cluster.call("POST", ROUTES, body)).refused(422, "Invalid")
        assert field in {cause["field"].rstrip(".") for cause in status["details"]["causes"]}
    for number, rules in enumerate(([rule] * 16, [])):
        body = {**route(f"web-{number}", 1), "spec": {"rules": rules}}
        assert len((await cluster.call("POST", ROUTES, body)).ok()["spec"]["rules"]) == len(rules)
    whole = (await cluster.call("POST", ROUTES, route("whole", 1.0))).ok()
    assert [(weight, type(weight)) for weight in weights(whole)] == [(1, int)]


async def test_defaults_are_filled_in_and_unknown_fields_dropped(cluster: KubeCluster) -> None:
    body = route("web", 1)
    body["spec"]["rules"][0]["backendRefs"] = [{"name": "web-0", "port": 80, "wieght": 7}]
    stored = (await cluster.call("POST", ROUTES, body)).ok()
    (backend,) = stored["spec"]["rules"][0]["backendRefs"]
    assert backend == {"group": "", "kind": "Service", "name": "web-0", "port": 80, "weight": 1}
    assert stored["spec"]["parentRefs"][0]["kind"] == "Gateway"


async def test_a_route_is_accepted_by_its_gateway_once_its_services_exist(
    seam: KubeCluster, server: KubeServer
) -> None:
    (await seam.call("POST", ROUTES, route("web", 100, 0))).ok()
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "spec": {"gatewayClassName": "edge"},
    }
    await server.apply({**gateway, "metadata": {"name": "edge", "namespace": seam.namespace}})

    async def parent(resolved: str) -> Obj:
        stored = (await seam.call("GET", f"{ROUTES}/web")).ok()
        for found in (stored.get("status") or {}).get("parents") or []:
            if condition({"status": found}, "ResolvedRefs")["status"] == resolved:
                return {**found, "generation": stored["metadata"]["generation"]}
        return {}

    unresolved = await until(lambda: parent("False"))
    assert condition({"status": unresolved}, "Accepted")["status"] == "True"
    assert condition({"status": unresolved}, "ResolvedRefs")["reason"] == "BackendNotFound"
    for name in ("web-0", "web-1"):
        service = {"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}
        await server.apply({**service, "metadata": {"name": name, "namespace": seam.namespace}})
    resolved = await until(lambda: parent("True"))
    assert resolved["parentRef"]["name"] == "edge"
    assert condition({"status": resolved}, "ResolvedRefs")["observedGeneration"] == resolved["generation"]
