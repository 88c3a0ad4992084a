"""Objects of the Kubernetes API: versions, conflicts, patches, dry runs, selectors and field ownership."""

from __future__ import annotations

import asyncio

import pytest
from kubernetes.aio.dynamic.exceptions import ConflictError, NotFoundError

from tests.contract.kube_fixtures import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    PODS,
    KubeCluster,
    config_map,
    deployment,
    route,
    until,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster

pytestmark = pytest.mark.contract


async def test_the_dynamic_client_discovers_every_kind_a_release_needs(cluster: KubeCluster) -> None:
    async with cluster.dynamic() as kube:
        for api_version, kind in (
            ("v1", "Pod"),
            ("v1", "Event"),
            ("apps/v1", "Deployment"),
            ("apps/v1", "ReplicaSet"),
            ("batch/v1", "Job"),
            ("coordination.k8s.io/v1", "Lease"),
            ("policy/v1", "PodDisruptionBudget"),
            ("gateway.networking.k8s.io/v1", "HTTPRoute"),
            ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
        ):
            found = await kube.resources.get(api_version=api_version, kind=kind)
            assert found.group_version == api_version
        deployments = await kube.resources.get(api_version="apps/v1", kind="Deployment")
        assert set(deployments.subresources) == {"status", "scale"}


async def test_a_write_based_on_an_old_version_conflicts(cluster: KubeCluster) -> None:
    async with cluster.dynamic() as kube:
        maps = await kube.resources.get(api_version="v1", kind="ConfigMap")
        first = (await maps.create(body=config_map(a="1"), namespace=cluster.namespace)).to_dict()
        await maps.replace(body={**first, "data": {"a": "2"}})
        with pytest.raises(ConflictError) as refused:
            await maps.replace(body={**first, "data": {"a": "3"}})
        assert refused.value.status == 409
        stored = await maps.get(name="settings", namespace=cluster.namespace)
        assert stored.data.a == "2"
        assert int(stored.metadata.resourceVersion) > int(first["metadata"]["resourceVersion"])


async def test_a_write_that_changes_nothing_makes_no_new_version(cluster: KubeCluster) -> None:
    first = (await cluster.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    again = (await cluster.patch(f"{CONFIG_MAPS}/settings", {"data": {"a": "1"}})).ok()
    assert again["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_names_are_generated_checked_and_taken_once(cluster: KubeCluster) -> None:
    body = {"metadata": {"generateName": "run-"}}
    names = {(await cluster.call("POST", CONFIG_MAPS, body)).ok()["metadata"]["name"] for _ in range(3)}
    assert len(names) == 3
    assert all(name.startswith("run-") and len(name) == 9 for name in names)
    (await cluster.call("POST", CONFIG_MAPS, config_map())).ok()
    (await cluster.call("POST", CONFIG_MAPS, config_map())).refused(409, "AlreadyExists")
    status = (await cluster.call("POST", CONFIG_MAPS, config_map("No_Name"))).refused(422, "Invalid")
    assert status["details"]["causes"][0]["field"] == "metadata.name"
    nowhere = CONFIG_MAPS.replace("{ns}", "nowhere")
    (await cluster.everywhere("POST", nowhere, config_map())).refused(404, "NotFound")


async def test_a_dry_run_answers_as_if_and_stores_nothing(cluster: KubeCluster) -> None:
    async with cluster.dynamic() as kube:
        deployments = await kube.resources.get(api_version="apps/v1", kind="Deployment")
        shown = await deployments.create(body=deployment(), namespace=cluster.namespace, dry_run="All")
        assert shown.spec.strategy.rollingUpdate.maxSurge == "25%"
        with pytest.raises(NotFoundError):
            await deployments.get(name="web", namespace=cluster.namespace)
        made = await deployments.create(body=deployment(), namespace=cluster.namespace)
        patched = await deployments.patch(
            name="web", namespace=cluster.namespace, body={"spec": {"replicas": 7}}, dry_run="All"
        )
        assert patched.spec.replicas == 7
        await deployments.delete(name="web", namespace=cluster.namespace, dry_run="All")
        kept = await deployments.get(name="web", namespace=cluster.namespace)
        assert (kept.spec.replicas, kept.metadata.uid) == (2, made.metadata.uid)
    refused = (await cluster.call("POST", CONFIG_MAPS, config_map(), dryRun="Some")).refused(422, "Invalid")
    assert [cause["field"] for cause in refused["details"]["causes"]] == ["dryRun"]


async def test_generation_counts_changes_of_the_spec_only(cluster: KubeCluster) -> None:
    made = (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    assert made["metadata"]["generation"] == 1
    labelled = await cluster.patch(f"{DEPLOYMENTS}/web", {"metadata": {"labels": {"tier": "front"}}})
    assert labelled.ok()["metadata"]["generation"] == 1
    scaled = await cluster.patch(f"{DEPLOYMENTS}/web", {"spec": {"replicas": 1}})
    assert scaled.ok()["metadata"]["generation"] == 2


async def test_status_and_spec_are_written_apart(cluster: KubeCluster) -> None:
    pod = {"metadata": {"name": "one"}, "spec": {"containers": [{"name": "app", "image": "shop/web:1"}]}}
    (await cluster.call("POST", PODS, {**pod, "status": {"phase": "Failed"}})).ok()

    async def running() -> bool:
        return bool((await cluster.call("GET", f"{PODS}/one")).ok()["status"]["phase"] == "Running")

    await until(running)
    spec = (
        await cluster.patch(f"{PODS}/one", {"status": {"message": "no"}, "metadata": {"labels": {"a": "b"}}})
    ).ok()
    assert "message" not in spec["status"]
    assert spec["metadata"]["labels"] == {"a": "b"}
    change = {"status": {"message": "yes"}, "spec": {"nodeName": "elsewhere"}}
    status = (await cluster.patch(f"{PODS}/one/status", change)).ok()
    assert status["status"]["message"] == "yes"
    assert status["spec"]["nodeName"] == spec["spec"]["nodeName"]


async def test_scale_changes_replicas_and_nothing_else(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    async with cluster.dynamic(cluster.admin) as kube:
        deployments = await kube.resources.get(api_version="apps/v1", kind="Deployment")
        before = (await deployments.get(name="web", namespace=cluster.namespace)).to_dict()
        scale = (
            await deployments.subresources["scale"].get(name="web", namespace=cluster.namespace)
        ).to_dict()
        assert (scale["kind"], scale["spec"], scale["status"]["replicas"]) == ("Scale", {}, 0)
        change = {"spec": {"replicas": 3, "paused": True}}
        await deployments.subresources["scale"].patch(
            name="web", namespace=cluster.namespace, body=change, content_type="application/merge-patch+json"
        )
        after = (await deployments.get(name="web", namespace=cluster.namespace)).to_dict()
    assert after["spec"] == {**before["spec"], "replicas": 3}
    stale = {"metadata": scale["metadata"], "spec": {"replicas": 9}}
    (await cluster.patch(f"{DEPLOYMENTS}/web/scale", stale)).refused(409, "Conflict")


async def test_strategic_merge_goes_by_the_keys_of_lists(cluster: KubeCluster) -> None:
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    container = {"name": "app", "image": "shop/web:2", "env": [{"name": "B", "value": "2"}]}
    patch = {"spec": {"template": {"spec": {"containers": [container]}}}}
    body = (await cluster.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()
    (merged,) = body["spec"]["template"]["spec"]["containers"]
    assert merged["image"] == "shop/web:2"
    assert [item["name"] for item in merged["env"]] == ["B", "A"]
    assert merged["ports"][0]["containerPort"] == 8080
    removal = {"name": "app", "env": [{"name": "A", "$patch": "delete"}]}
    patch = {"spec": {"template": {"spec": {"containers": [removal]}}}}
    body = (await cluster.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()
    assert [item["name"] for item in body["spec"]["template"]["spec"]["containers"][0]["env"]] == ["B"]
    for names, order in (("CD", "CDB"), ("ED", "ECDB"), ("BF", "ECDBF")):
        change = {"name": "app", "env": [{"name": name, "value": "1"} for name in names]}
        patch = {"spec": {"template": {"spec": {"containers": [change]}}}}
        body = (await cluster.patch(f"{DEPLOYMENTS}/web", patch, "strategic-merge-patch+json")).ok()
        ordered = body["spec"]["template"]["spec"]["containers"][0]["env"]
        assert "".join(item["name"] for item in ordered) == order


async def test_a_json_patch_applies_wholly_or_not_at_all(cluster: KubeCluster) -> None:
    (await cluster.call("POST", CONFIG_MAPS, config_map(a="1"))).ok()
    where = f"{CONFIG_MAPS}/settings"
    test = {"op": "test", "path": "/data/a", "value": "1"}
    done = await cluster.patch(
        where,
        [
            test,
            {"op": "add", "path": "/metadata/annotations", "value": {}},
            {"op": "add", "path": "/metadata/annotations/example.org~1b", "value": "2"},
        ],
        "json-patch+json",
    )
    assert done.ok()["metadata"]["annotations"] == {"example.org/b": "2"}
    slash = [{"op": "add", "path": "/data/b~1c", "value": "2"}]
    status = (await cluster.patch(where, slash, "json-patch+json")).refused(422, "Invalid")
    assert status["details"]["causes"][0]["field"] == "data[b/c]"
    wrong = [{"op": "replace", "path": "/data/a", "value": "9"}, {**test, "value": "1"}]
    (await cluster.patch(where, wrong, "json-patch+json")).refused(422, "Invalid")
    assert (await cluster.call("GET", where)).ok()["data"]["a"] == "1"


async def test_custom_resources_take_no_strategic_merge(cluster: KubeCluster) -> None:
    (
        await cluster.call(
            "POST", "apis/gateway.networking.k8s.io/v1/namespaces/{ns}/httproutes", route("web", 1)
        )
    ).ok()
    where = "apis/gateway.networking.k8s.io/v1/namespaces/{ns}/httproutes/web"
    answer = await cluster.patch(where, {"metadata": {"labels": {"a": "b"}}}, "strategic-merge-patch+json")
    answer.refused(415, "UnsupportedMediaType")


async def test_apply_tells_managers_apart(cluster: KubeCluster) -> None:
    where = f"{DEPLOYMENTS}/web"
    (await cluster.apply(where, deployment(replicas=0), "pipeline")).ok()
    mine = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replicas": 1}}
    status = (await cluster.apply(where, mine, "cockpit")).refused(409, "Conflict")
    assert "pipeline" in status["message"]
    (cause,) = status["details"]["causes"]
    assert (cause["reason"], cause["field"]) == ("FieldManagerConflict", ".spec.replicas")
    forced = (await cluster.apply(where, mine, "cockpit", force=True)).ok()
    owners = {item["manager"]: item for item in forced["metadata"]["managedFields"]}
    assert owners["cockpit"]["fieldsV1"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in owners["pipeline"]["fieldsV1"]["f:spec"]
    # The loser may go on with everything else, and must give way over what it lost.
    (await cluster.apply(where, deployment(replicas=0), "pipeline")).refused(409, "Conflict")


async def test_an_applied_field_left_out_later_is_removed(cluster: KubeCluster) -> None:
    where = f"{CONFIG_MAPS}/settings"
    (await cluster.apply(where, config_map(a="1", b="2"), "pipeline")).ok()
    shared = (await cluster.apply(where, config_map(b="2"), "cockpit")).ok()
    assert shared["data"] == {"a": "1", "b": "2"}
    left = (await cluster.apply(where, config_map(), "pipeline")).ok()
    assert left["data"] == {"b": "2"}
    version = left["metadata"]["resourceVersion"]
    assert (await cluster.apply(where, config_map(), "pipeline")).ok()["metadata"][
        "resourceVersion"
    ] == version


async def test_a_patch_takes_the_fields_it_changes_from_an_applier(cluster: KubeCluster) -> None:
    where = f"{CONFIG_MAPS}/settings"
    (await cluster.apply(where, config_map(a="1"), "pipeline")).ok()
    taken = (await cluster.patch(where, {"data": {"a": "2"}}, fieldManager="by-hand")).ok()
    assert [item["manager"] for item in taken["metadata"]["managedFields"]] == ["by-hand"]
    status = (await cluster.apply(where, config_map(a="1"), "pipeline")).refused(409, "Conflict")
    assert "by-hand" in status["message"]


async def test_lists_select_by_labels_and_fields_and_come_in_pages(cluster: KubeCluster) -> None:
    for number in range(5):
        body = config_map(f"item-{number}")
        body["metadata"]["labels"] = {"parity": "even" if number % 2 == 0 else "odd", f"n{number}": "x"}
        (await cluster.call("POST", CONFIG_MAPS, body)).ok()

    async def names(**query: str) -> list[str]:
        listed = (await cluster.call("GET", CONFIG_MAPS, **query)).ok()["items"]
        return [item["metadata"]["name"] for item in listed]

    assert await names(labelSelector="parity=even,!n0") == ["item-2", "item-4"]
    assert await names(labelSelector="parity notin (even)") == ["item-1", "item-3"]
    assert await names(labelSelector="n3") == ["item-3"]
    assert await names(fieldSelector="metadata.name=item-4") == ["item-4"]
    (await cluster.call("GET", CONFIG_MAPS, fieldSelector="data.a=1")).refused(400, "BadRequest")
    page = (await cluster.call("GET", CONFIG_MAPS, limit="3")).ok()
    rest = await names(limit="3", **{"continue": page["metadata"]["continue"]})
    assert [item["metadata"]["name"] for item in page["items"]] + rest == [
        f"item-{number}" for number in range(5)
    ]


async def test_one_of_many_wins_a_lease(cluster: KubeCluster) -> None:
    body = {"metadata": {"name": "release"}, "spec": {"leaseDurationSeconds": 15}}
    lease = (await cluster.call("POST", LEASES, body, token=cluster.conductor)).ok()

    async def take(holder: str) -> int:
        claim = {**lease, "spec": {"holderIdentity": holder, "renewTime": "2025-09-23T08:00:00.000000Z"}}
        return (await cluster.call("PUT", f"{LEASES}/release", claim, token=cluster.conductor)).status

    results = await asyncio.gather(*(take(f"holder-{number}") for number in range(8)))
    assert sorted(results) == [200] + [409] * 7
    held = (await cluster.call("GET", f"{LEASES}/release")).ok()
    assert held["spec"]["holderIdentity"] == f"holder-{results.index(200)}"


async def test_a_lease_needs_a_version_to_be_replaced_and_times_in_microseconds(cluster: KubeCluster) -> None:
    body = {"metadata": {"name": "release"}, "spec": {"holderIdentity": "a"}}
    (await cluster.call("POST", LEASES, body)).ok()
    (await cluster.call("PUT", f"{LEASES}/release", body)).refused(422, "Invalid")
    wrong = {"spec": {"renewTime": "2025-09-23 08:00"}}
    assert (await cluster.patch(f"{LEASES}/release", wrong)).status in (400, 422)


async def test_finalizers_hold_an_object_until_they_are_taken_off(cluster: KubeCluster) -> None:
    body = config_map()
    body["metadata"]["finalizers"] = ["example.org/wait"]
    (await cluster.call("POST", CONFIG_MAPS, body)).ok()
    where = f"{CONFIG_MAPS}/settings"
    (await cluster.call("DELETE", where)).ok()
    assert "deletionTimestamp" in (await cluster.call("GET", where)).ok()["metadata"]
    (await cluster.patch(where, {"metadata": {"finalizers": None}})).ok()
    (await cluster.call("GET", where)).refused(404, "NotFound")


async def test_a_delete_holds_to_its_preconditions(cluster: KubeCluster) -> None:
    made = (await cluster.call("POST", CONFIG_MAPS, config_map())).ok()
    where = f"{CONFIG_MAPS}/settings"
    stale = {"preconditions": {"uid": "another"}}
    (await cluster.call("DELETE", where, stale)).refused(409, "Conflict")
    gone = (await cluster.call("DELETE", where, {"preconditions": {"uid": made["metadata"]["uid"]}})).ok()
    assert (gone["status"], gone["details"]["uid"]) == ("Success", made["metadata"]["uid"])


async def test_wrong_deployments_are_refused_with_their_causes(cluster: KubeCluster) -> None:
    body = deployment()
    body["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    status = (await cluster.call("POST", DEPLOYMENTS, body)).refused(422, "Invalid")
    assert {cause["field"] for cause in status["details"]["causes"]} == {"spec.template.metadata.labels"}
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=-1))).refused(422, "Invalid")
    body = deployment()
    body["spec"]["replicas"] = "two"
    (await cluster.call("POST", DEPLOYMENTS, body)).refused(400, "BadRequest")
    (await cluster.call("POST", DEPLOYMENTS, deployment(replicas=0))).ok()
    moved = {"spec": {"selector": {"matchLabels": {"app": "web", "more": "x"}}}}
    (await cluster.patch(f"{DEPLOYMENTS}/web", moved)).refused(422, "Invalid")


async def test_what_is_not_served_is_not_found(cluster: KubeCluster) -> None:
    nothing = await cluster.call("GET", "apis/example.org/v1/namespaces/{ns}/things")
    assert (nothing.status, nothing.body) == (404, {"text": "404 page not found\n"})
    (await cluster.call("GET", "apis/apps/v1/namespaces/{ns}/things")).refused(404, "NotFound")
    (await cluster.call("GET", f"{CONFIG_MAPS}/none")).refused(404, "NotFound")
    (await cluster.call("POST", f"{CONFIG_MAPS}/name", config_map())).refused(405, "MethodNotAllowed")


async def test_a_patch_takes_nothing_away_that_every_object_has(cluster: KubeCluster) -> None:
    body = {"metadata": {"name": "release"}, "spec": {"holderIdentity": "a"}}
    (await cluster.call("POST", LEASES, body)).ok()
    lease = f"{LEASES}/release"
    (await cluster.patch(lease, {"metadata": None})).refused(400, "BadRequest")
    (await cluster.patch(lease, {"metadata": {"resourceVersion": None}})).refused(422, "Invalid")
    (await cluster.patch(lease, {"metadata": {"uid": ""}})).ok()
    assert (await cluster.patch(lease, {"metadata": {"uid": "another"}})).status in (409, 422)
    stored = (await cluster.patch(lease, {"data": {"a": "1"}})).ok()
    assert "data" not in stored
    (await cluster.patch(lease, [None], "json-patch+json")).refused(422, "Invalid")
    (await cluster.patch(lease, [{"op": True, "path": "/spec"}], "json-patch+json")).refused(
        400, "BadRequest"
    )
