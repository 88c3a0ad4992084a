"""The types of the fields this server reads: wrong ones end here, as when a real API server decodes them.

A shape is a type, a tuple of them, a list of one shape, or a dict of fields (`"*"` stands for all others;
fields not named are not looked at). Null means absent, as in Kubernetes.
"""

from __future__ import annotations

from typing import Any, Final

from cockpit.rehearsal.kube import fields, resources
from cockpit.rehearsal.kube.resources import Resource
from cockpit.rehearsal.kube.values import Obj, bad_request

_STRINGS: Final[Obj] = {"*": str}
_OWNER: Final[Obj] = {"apiVersion": str, "kind": str, "name": str, "uid": str, "controller": bool}
METADATA: Final[Obj] = {
    **dict.fromkeys(("name", "generateName", "namespace", "uid", "resourceVersion"), str),
    "labels": _STRINGS,
    "annotations": _STRINGS,
    "finalizers": [str],
    "ownerReferences": [_OWNER],
    "managedFields": [{}],
}
_CONDITIONS: Final[Any] = [dict.fromkeys(("type", "status", "reason", "message", "lastTransitionTime"), str)]
_SELECTOR: Final[Obj] = {
    "matchLabels": _STRINGS,
    "matchExpressions": [{"key": str, "operator": str, "values": [str]}],
}
_CONTAINER: Final[Obj] = {
    "name": str,
    "image": str,
    "imagePullPolicy": str,
    "env": [{"name": str, "value": str}],
    "ports": [{"containerPort": int, "protocol": str, "name": str}],
    "volumeMounts": [{"name": str, "mountPath": str}],
    "resources": {},
}
_POD_SPEC: Final[Obj] = {
    "containers": [_CONTAINER],
    "initContainers": [_CONTAINER],
    "readinessGates": [{"conditionType": str}],
    "terminationGracePeriodSeconds": int,
    "volumes": [{"name": str}],
    "nodeName": str,
    "imagePullSecrets": [{"name": str}],
    "hostAliases": [{"ip": str}],
    "topologySpreadConstraints": [{"topologyKey": str, "whenUnsatisfiable": str}],
}
_WORKLOAD: Final[Obj] = {
    "replicas": int,
    "selector": _SELECTOR,
    "template": {"metadata": METADATA, "spec": _POD_SPEC},
    "strategy": {"type": str, "rollingUpdate": {"maxSurge": (int, str), "maxUnavailable": (int, str)}},
    "paused": bool,
    **dict.fromkeys(("minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"), int),
}
_COUNTS: Final[Obj] = dict.fromkeys(
    ("replicas", "readyReplicas", "availableReplicas", "updatedReplicas", "observedGeneration"), int
)
_STATUS: Final[Obj] = {**_COUNTS, "conditions": _CONDITIONS}

_SPECS: Final[dict[Resource, Any]] = {
    resources.DEPLOYMENTS: _WORKLOAD,
    resources.REPLICA_SETS: _WORKLOAD,
    resources.PODS: _POD_SPEC,
    resources.SERVICES: {"selector": _STRINGS, "ports": [{"port": int, "protocol": str, "name": str}]},
    resources.LEASES: {
        "holderIdentity": str,
        "leaseDurationSeconds": int,
        "leaseTransitions": int,
        "acquireTime": str,
        "renewTime": str,
    },
    resources.JOBS: {"template": {"spec": _POD_SPEC}},
    resources.DISRUPTION_BUDGETS: {
        "selector": _SELECTOR,
        "minAvailable": (int, str),
        "maxUnavailable": (int, str),
    },
    # Checked by its own schema, which answers as a custom resource's does.
    resources.HTTP_ROUTES: object,
}
_STATUSES: Final[dict[Resource, Any]] = {
    resources.PODS: {
        "phase": str,
        "conditions": _CONDITIONS,
        "containerStatuses": [{"name": str, "state": {"running": {}}}],
    },
    resources.HTTP_ROUTES: {"parents": [{"parentRef": {}, "conditions": _CONDITIONS}]},
}
SCALE: Final[Obj] = {"metadata": METADATA, "spec": {"replicas": int}}
DELETE_OPTIONS: Final[Obj] = {
    "gracePeriodSeconds": int,
    "propagationPolicy": str,
    "preconditions": {"uid": str, "resourceVersion": str},
    "dryRun": [str],
}


def decoded(resource: Resource, body: Any) -> Obj:
    """Return the body of an object without its nulls; raises a 400 that names a field of the wrong type."""
    shape = {
        "apiVersion": str,
        "kind": str,
        "metadata": METADATA,
        "spec": _SPECS.get(resource, {}),
        "status": _STATUSES.get(resource, _STATUS),
        "data": _STRINGS,
    }
    return shaped(fields.known(resource.kind, body), shape, resource.kind)


def shaped(body: Any, shape: Obj, kind: str) -> Obj:
    """Return `body` without its nulls when it has this shape; raises a 400 otherwise."""
    cleaned = _without_nulls(body)
    if wrong := _mismatch(cleaned, shape, ""):
        raise bad_request(f'{kind} in version "v1" cannot be handled as a {kind}: wrong type: {wrong}')
    result: Obj = cleaned
    return result


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {field: _without_nulls(item) for field, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value


def _mismatch(value: Any, shape: Any, where: str) -> str:
    """Return the path of the first value that does not fit, or nothing."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return where or "the body"
        for name, inner in value.items():
            known = shape.get(name, shape.get("*"))
            if known is not None and (wrong := _mismatch(inner, known, f"{where}.{name}")):
                return wrong
        return ""
    if isinstance(shape, list):
        if not isinstance(value, list):
            return where
        for number, item in enumerate(value):
            if wrong := _mismatch(item, shape[0], f"{where}[{number}]"):
                return wrong
        return ""
    if isinstance(value, bool) and shape is not object:
        return "" if shape is bool else where
    if isinstance(value, int) and abs(value) >= 2**63:
        return where
    return "" if isinstance(value, shape) else where
