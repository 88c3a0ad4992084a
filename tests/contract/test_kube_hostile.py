"""Wrong values in any place of any object: refused or stored, never a crash of server or controllers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.contract.kube_fixtures import (
    DEPLOYMENTS,
    LEASES,
    PODS,
    ROUTES,
    KubeCluster,
    Obj,
    deployment,
    real,
    route,
    stand_in,
    until,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.contract.kube_fixtures import kube_seam as kube_seam

pytestmark = pytest.mark.contract

ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    1.5,
    "",
    "\x00[bold]",
    "9" * 300,
    [],
    [None],
    [[]],
    {},
    {"a": None},
)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the path of every value inside a JSON value."""
    if isinstance(value, dict | list):
        steps: Iterable[Any] = value.items() if isinstance(value, dict) else enumerate(value)
        for step, inner in steps:
            yield (*path, step)
            yield from places(inner, (*path, step))


def with_value(value: Any, path: tuple[str | int, ...], new: Any) -> Any:
    """Return a copy of a JSON value with another value at `path`."""
    if not path:
        return new
    changed: Any = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = with_value(value[path[0]], path[1:], new)
    return changed


def full_deployment() -> Obj:
    body = deployment(
        replicas=1,
        strategy={"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": "25%"}},
        minReadySeconds=0,
        revisionHistoryLimit=1,
        progressDeadlineSeconds=600,
        paused=False,
    )
    body["metadata"].update({"labels": {"a": "b"}, "annotations": {"a": "b"}, "finalizers": []})
    body["spec"]["template"]["metadata"]["annotations"] = {"a": "b"}
    pod = body["spec"]["template"]["spec"]
    pod.update(
        {
            "readinessGates": [{"conditionType": "a/b"}],
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v"}],
        }
    )
    return body


CASES: dict[str, tuple[str, Obj]] = {
    "deployment": (DEPLOYMENTS, full_deployment()),
    "pod": (
        PODS,
        {
            "metadata": {
                "name": "one",
                "labels": {"a": "b"},
                "ownerReferences": [{"uid": "u", "name": "o", "kind": "K"}],
            },
            "spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 1}]}]},
        },
    ),
    "lease": (
        LEASES,
        {
            "metadata": {"name": "l"},
            "spec": {
                "leaseDurationSeconds": 1,
                "leaseTransitions": 0,
                "renewTime": "2025-09-23T08:00:00.000000Z",
            },
        },
    ),
    "route": (ROUTES, {**route("web", 1, 2), "metadata": {"name": "web", "annotations": {"a": "b"}}}),
    "service": (
        "api/v1/namespaces/{ns}/services",
        {"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    ),
    "gateway": (
        "apis/gateway.networking.k8s.io/v1/namespaces/{ns}/gateways",
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": {"name": "edge"},
            "spec": {"gatewayClassName": "g", "listeners": [{"name": "http", "port": 80}]},
        },
    ),
}


@pytest.mark.real
@pytest.mark.parametrize("kind", [kind for kind in CASES if kind != "gateway"])
async def test_the_stand_in_takes_and_refuses_what_a_real_server_does(
    plane: ControlPlane, tmp_path: Path, kind: str
) -> None:
    """Of a Gateway only the name is read by the stand-in; each other kind is held to the real server."""
    path, good = CASES[kind]
    seen: list[tuple[object, ...]] = []
    async with stand_in(tmp_path) as ours, real(plane, tmp_path) as theirs:
        for place in places(good):
            for odd in ODD:
                body = with_value(good, place, odd)
                one, other = [await at.call("POST", path, body, dryRun="All") for at in (ours, theirs)]
                if (one.status < 400) is not (other.status < 400):
                    seen.append((place, odd, one.status, other.status, other.body.get("message")))
    assert not seen, "\n".join(map(str, seen))


@pytest.mark.parametrize("kind", CASES)
async def test_no_wrong_value_breaks_the_server(seam: KubeCluster, kind: str) -> None:
    path, good = CASES[kind]
    name = good["metadata"]["name"]
    for number, place in enumerate(places(good)):
        for odd in ODD:
            body = with_value(good, place, odd)
            answers = [await seam.call("POST", path, body)]
            answers.append(await seam.apply(f"{path}/{name}", body, f"manager-{number}", force=True))
            answers.append(await seam.patch(f"{path}/{name}", body))
            answers.append(await seam.patch(f"{path}/{name}/status", {"status": odd}))
            for answer in answers:
                assert answer.status < 500, (place, odd, answer.status, answer.body)
                assert answer.body["kind"], (place, odd)
            await seam.call("DELETE", f"{path}/{name}", {"gracePeriodSeconds": 0})
    (await seam.call("POST", DEPLOYMENTS, deployment("after", replicas=1))).ok()

    async def ready() -> bool:
        found = (await seam.call("GET", f"{DEPLOYMENTS}/after")).ok()
        return bool((found.get("status") or {}).get("readyReplicas") == 1)

    await until(ready)


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd is not None])
async def test_no_patch_breaks_the_server(seam: KubeCluster, odd: Any) -> None:
    (await seam.call("POST", DEPLOYMENTS, deployment(replicas=1))).ok()
    where = f"{DEPLOYMENTS}/web"
    for kind in ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml"):
        for body in (
            odd,
            {"spec": odd},
            {"metadata": odd},
            [odd],
            [{"op": "add", "path": "/spec/replicas", "value": odd}],
        ):
            for path in (where, f"{where}/scale", f"{where}/status"):
                answer = await seam.patch(path, body, kind, fieldManager="m")
                assert answer.status < 500, (kind, path, body, answer.body)


async def test_odd_queries_are_refused(cluster: KubeCluster) -> None:
    for query in (
        {"resourceVersion": "x", "watch": "1"},
        {"timeoutSeconds": "x", "watch": "1"},
        {"limit": "\u0663"},
        {"continue": "e30="},
        {"continue": "%%%"},
        {"labelSelector": "a in (b"},
        {"fieldSelector": "spec"},
    ):
        answer = await cluster.call("GET", DEPLOYMENTS, **query)
        assert answer.status >= 400 or answer.body["type"] == "ERROR", query
