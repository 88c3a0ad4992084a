"""Fields a kind does not have, or that are given twice: refused, warned of or dropped (`fieldValidation`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cockpit.rehearsal.kube import fields
from cockpit.rehearsal.real.control_plane import ControlPlane
from tests.contract.kube_fixtures import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    LEASES,
    ROUTES,
    KubeCluster,
    Obj,
    config_map,
    deployment,
    route,
)
from tests.contract.kube_fixtures import both_planes as both_planes
from tests.contract.kube_fixtures import kube_cluster as kube_cluster
from tests.real.kube_fields import KINDS, table_of, text_of

pytestmark = pytest.mark.contract
WARNED = ("Warn", "", None)
STRICT = "strict decoding error: "


async def sent(
    cluster: KubeCluster, method: str, path: str, body: object, mode: str | None, **options: str
) -> tuple[int, Obj, list[str]]:
    """Send a body, JSON text as it is; return status, answer and warnings."""
    kind = options.pop("kind", "json")
    query = {**options, **({} if mode is None else {"fieldValidation": mode})}
    headers = {"Authorization": f"Bearer {cluster.admin}", "Content-Type": f"application/{kind}"}
    data = body if isinstance(body, str) else json.dumps(body)
    url = f"{cluster.url}/{path.format(ns=cluster.namespace)}"
    async with cluster.http.request(method, url, data=data, headers=headers, params=query) as answer:
        document: Obj = json.loads(await answer.text())
        return answer.status, document, answer.headers.getall("Warning", [])


def warnings(*problems: str) -> list[str]:
    quoted = (problem.replace('"', '\\"') for problem in problems)
    return [f'299 - "{problem}"' for problem in quoted]


def wrong_deployment() -> Obj:
    made = deployment("odd", replicas=0, nope=None, nopes=[1])
    made["spec"]["template"]["spec"]["containers"][0] |= {"imag": "x", "env": [{"name": "A", "vlaue": "1"}]}
    return {**made, "metadata": {"name": "odd", "foo": {"bar": 1}}, "Spec": {}}


WRONG = (
    'unknown field "metadata.foo"',
    'unknown field "spec.template.spec.containers[0].env[0].vlaue"',
    'unknown field "spec.template.spec.containers[0].imag"',
    'unknown field "spec.nope"',
    'unknown field "spec.nopes"',
    'unknown field "Spec"',
)
TWICE = """
{"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "two", "name": "two"},
 "spec": {"replicas": 0, "replicas": 0, "nope": 1, "selector": {"matchLabels": {"app": "two", "app": "two"}},
  "template": {"metadata": {"labels": {"app": "two"}},
   "spec": {"containers": [{"name": "a", "name": "a", "image": "a"}]}}}}"""
TWO = (
    'duplicate field "metadata.name"',
    'duplicate field "spec.replicas"',
    'unknown field "spec.nope"',
    'duplicate field "spec.selector.matchLabels.app"',
    'duplicate field "spec.template.spec.containers[0].name"',
)


@pytest.mark.parametrize(("body", "problems"), [(wrong_deployment(), WRONG), (TWICE, TWO)])
async def test_what_a_kind_has_not_and_what_is_there_twice(
    cluster: KubeCluster, body: Any, problems: tuple[str, ...]
) -> None:
    status, answer, warned = await sent(cluster, "POST", DEPLOYMENTS, body, "Strict")
    said = 'Deployment in version "v1" cannot be handled as a Deployment: ' + STRICT + ", ".join(problems)
    assert (status, answer["reason"], answer["message"], warned) == (400, "BadRequest", said, [])
    for mode in WARNED:
        status, answer, warned = await sent(cluster, "POST", DEPLOYMENTS, body, mode, dryRun="All")
        assert (status, warned) == (201, warnings(*problems))
    status, answer, warned = await sent(cluster, "POST", DEPLOYMENTS, body, "Ignore")
    assert (status, warned) == (201, [])
    assert not {"nope", "nopes"} & set(answer["spec"]) and "foo" not in answer["metadata"]
    assert "imag" not in answer["spec"]["template"]["spec"]["containers"][0]


async def test_a_body_that_is_right_is_taken_strictly(cluster: KubeCluster) -> None:
    lease = {"metadata": {"name": "l"}, "spec": {"holderIdentity": "me", "leaseDurationSeconds": 1}}
    for path, body in (
        (DEPLOYMENTS, deployment(replicas=0)),
        (ROUTES, route("web", 1)),
        (CONFIG_MAPS, config_map(a="b")),
        (LEASES, lease),
    ):
        status, made, warned = await sent(cluster, "POST", path, body, "Strict")
        assert (status, warned) == (201, [])
        again = await sent(cluster, "PUT", f"{path}/{made['metadata']['name']}", made, "Strict")
        assert again[0] in (200, 409) and again[2] == []  # its controller may have been there before


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CONFIG_MAPS, {**config_map(), "spec": {}}, "ConfigMap"),
        (LEASES, {"metadata": {"name": "l"}, "spec": {}, "status": {}}, "Lease"),
    ],
)
async def test_a_part_that_a_kind_has_not(cluster: KubeCluster, path: str, body: Obj, kind: str) -> None:
    status, answer, _ = await sent(cluster, "POST", path, body, "Strict")
    field = "spec" if kind == "ConfigMap" else "status"
    said = f'{kind} in version "v1" cannot be handled as a {kind}: {STRICT}unknown field "{field}"'
    assert (status, answer["message"]) == (400, said)


async def test_updates_and_patches(cluster: KubeCluster) -> None:
    made = (await cluster.call("POST", DEPLOYMENTS, deployment("web", replicas=0))).ok()
    where = f"{DEPLOYMENTS}/web"
    nope, twice = {"spec": {"nope": 1}}, '{"spec": {"paused": false, "paused": false}}'
    adds = [{"op": "add", "path": "/spec/nope", "value": 1}]
    operation = '[{"op": "add", "op": "add", "path": "/spec/paused", "value": false, "foo": 1}]'
    unknown, duplicate = 'unknown field "spec.nope"', 'duplicate field "spec.paused"'
    operations = ('json patch duplicate field "[0].op"', 'json patch unknown field "[0].foo"')
    named = {"name": "web", "namespace": cluster.namespace}
    scale = {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": named, **nope}
    cases: tuple[tuple[str, str, object, tuple[str, ...]], ...] = (
        ("merge-patch+json", where, nope, (unknown,)),
        ("merge-patch+json", where, twice, (duplicate,)),
        ("strategic-merge-patch+json", where, nope, (unknown,)),
        ("strategic-merge-patch+json", where, twice, (duplicate,)),
        ("json-patch+json", where, adds, (unknown,)),
        ("json-patch+json", where, operation, operations),
        ("merge-patch+json", f"{where}/status", {"status": {"nope": 1}}, ('unknown field "status.nope"',)),
    )
    for kind, path, body, problems in cases:
        status, answer, _ = await sent(cluster, "PATCH", path, body, "Strict", kind=kind)
        [cause] = answer["details"]["causes"]
        assert (status, cause["field"], cause["reason"]) == (422, "patch", "FieldValueInvalid")
        assert answer["message"].startswith(' "" is invalid: patch: Invalid value: ')
        assert answer["message"].endswith(STRICT + ", ".join(problems))
        for mode in WARNED:
            status, answer, warned = await sent(cluster, "PATCH", path, body, mode, kind=kind)
            assert (status, warned) == (200, warnings(*problems))
            assert "nope" not in answer["spec"] and "nope" not in answer["status"]
        assert (await sent(cluster, "PATCH", path, body, "Ignore", kind=kind))[2] == []
    made["spec"]["nope"] = 1
    made["metadata"].pop("resourceVersion")
    for path, whole, kind in ((where, made, "Deployment"), (f"{where}/scale", scale, "Scale")):
        status, answer, _ = await sent(cluster, "PUT", path, whole, "Strict")
        said = f'{kind} in version "v1" cannot be handled as a {kind}: {STRICT}{unknown}'
        assert (status, answer["message"]) == (400, said)
        status, answer, warned = await sent(cluster, "PUT", path, whole, "Warn")
        assert (status, warned) == (200, warnings(unknown))


async def test_a_custom_resource(cluster: KubeCluster) -> None:
    made = {**route("web", 1), "zzz": 1}
    made["metadata"]["foo"] = 1
    made["spec"]["nope"] = 1
    made["spec"]["rules"][0]["backendRefs"][0]["weigth"] = 1
    problems = (
        'unknown field "metadata.foo"',
        'unknown field "spec.nope"',
        'unknown field "spec.rules[0].backendRefs[0].weigth"',
        'unknown field "zzz"',
    )
    start = 'HTTPRoute in version "v1" cannot be handled as a HTTPRoute: ' + STRICT
    status, answer, _ = await sent(cluster, "POST", ROUTES, made, "Strict")
    assert (status, answer["message"]) == (400, start + ", ".join(problems))
    assert (await sent(cluster, "POST", ROUTES, made, "Warn", dryRun="All"))[2] == warnings(*problems)
    twice = json.dumps(route("two", 1)).replace('"name": "two"', '"name": "two", "name": "two"', 1)
    status, answer, _ = await sent(cluster, "POST", ROUTES, twice, "Strict")
    assert (status, answer["message"]) == (400, start + 'duplicate field "metadata.name"')
    (await cluster.call("POST", ROUTES, route("web", 1))).ok()
    patch, where = {"spec": {"nope": 1}}, f"{ROUTES}/web"
    status, answer, _ = await sent(cluster, "PATCH", where, patch, "Strict", kind="merge-patch+json")
    assert status == 422 and answer["message"].endswith(STRICT + 'unknown field "spec.nope"')
    _, answer, warned = await sent(cluster, "PATCH", where, patch, None, kind="merge-patch+json")
    assert warned == warnings('unknown field "spec.nope"') and "nope" not in answer["spec"]


async def test_there_are_three_ways_to_validate(cluster: KubeCluster) -> None:
    for mode in ("strict", "bogus"):
        status, answer, _ = await sent(cluster, "POST", DEPLOYMENTS, deployment(), mode)
        said = f'Unsupported value: "{mode}": supported values: "", "Ignore", "Strict", "Warn"'
        assert (status, answer["details"]["causes"]) == (
            422,
            [{"reason": "FieldValueNotSupported", "message": said, "field": "fieldValidation"}],
        )


@pytest.mark.real
async def test_the_table_is_what_the_server_publishes(plane: ControlPlane) -> None:
    documents = {path: (await plane.admin.request("GET", f"openapi/v3/{path}"))[1] for path in KINDS}
    file = Path(fields.__file__).with_suffix(".json")
    assert text_of(table_of(documents)) == file.read_text(encoding="utf-8")
