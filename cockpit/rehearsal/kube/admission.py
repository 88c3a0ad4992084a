"""What happens to an object before it is stored: defaults are filled in and wrong ones refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from cockpit.rehearsal.kube import gateway_schema, resources
from cockpit.rehearsal.kube.resources import Resource
from cockpit.rehearsal.kube.selectors import selects
from cockpit.rehearsal.kube.values import Cause, Obj, bad_request, clone, invalid

_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
_LABEL_VALUE = re.compile(r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")
_MICRO_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)$")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_ENVIRONMENT = re.compile(r"[ -<>-~]+")
_MAX_PORT = 65535
_MAX_COUNT = 2**31 - 1
_COUNTS = ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds")


def admit(resource: Resource, obj: Obj, old: Obj | None) -> Obj:
    """Return `obj` with its defaults; raises a 400 for wrong types and a 422 that names what is wrong."""
    admitted = clone(obj)
    defaults, checks = _RULES.get(resource, (None, None))
    try:
        if defaults is not None:
            defaults(admitted)
        causes = [*_metadata_problems(admitted["metadata"]), *(checks(admitted, old) if checks else ())]
    except (AttributeError, TypeError, KeyError) as error:
        # Something is a list, a string or null where the kind has an object.
        raise bad_request(
            f"{resource.kind} in version v1 cannot be handled: wrong type of a field"
        ) from error
    if causes:
        raise invalid(resource.qualified_kind, str(admitted["metadata"].get("name", "")), causes)
    return admitted


def _wrong(field: str, value: Any, why: str) -> Cause:
    return Cause("FieldValueInvalid", f"Invalid value: {str(value)[:100]!r}: {why}", field)


def _metadata_problems(metadata: Obj) -> Iterable[Cause]:
    name = metadata.get("name")
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    elif not isinstance(name, str) or len(name) > 253 or not _NAME.match(name):
        yield _wrong("metadata.name", name, "a lowercase RFC 1123 subdomain is required")
    for value in (metadata.get("labels") or {}).values():
        if len(value) > 63 or not _LABEL_VALUE.match(value):
            yield _wrong(
                "metadata.labels", value, "a valid label is at most 63 alphanumerics, '-', '_' or '.'"
            )
    for number, owner in enumerate(metadata.get("ownerReferences") or []):
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                text = f"metadata.ownerReferences[{number}].{field}"
                yield Cause("FieldValueRequired", "Required value", text)


def _default_pod_spec(spec: Obj) -> None:
    spec.setdefault("restartPolicy", "Always")
    if spec.setdefault("terminationGracePeriodSeconds", 30) < 0:
        spec["terminationGracePeriodSeconds"] = 1  # as the API has always read it
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("securityContext", {})
    for container in spec.get("containers") or []:
        tag = str(container.get("image", "")).rpartition("/")[2]
        latest = "@" not in tag and (":" not in tag or tag.endswith(":latest"))
        container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
        container.setdefault("resources", {})
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for port in container.get("ports") or []:
            port.setdefault("protocol", "TCP")


def _default_workload(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    _default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))


def _default_deployment(obj: Obj) -> None:
    _default_workload(obj)
    spec = obj["spec"]
    strategy = spec.setdefault("strategy", {})
    if not strategy.get("type"):
        strategy["type"] = "RollingUpdate"
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxUnavailable", "25%")
        rolling.setdefault("maxSurge", "25%")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)


def _default_service(obj: Obj) -> None:
    spec = obj.setdefault("spec", {})
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in spec.get("ports") or []:
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))


def _prune_route(obj: Obj) -> None:
    if "spec" in obj:
        obj["spec"] = gateway_schema.pruned(obj["spec"], gateway_schema.HTTP_ROUTE_SPEC)


def _counts_wrong(spec: Obj, where: str, fields: Iterable[str]) -> Iterable[Cause]:
    for field in fields:
        value = spec.get(field, 0)
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(field)
        if not 0 <= value <= _MAX_COUNT:
            yield _wrong(f"{where}.{field}", value, "must be greater than or equal to 0")


def _named(value: Any, pattern: re.Pattern[str], limit: int, field: str, why: str) -> Iterable[Cause]:
    if not value:
        yield Cause("FieldValueRequired", "Required value", field)
    elif len(value) > limit or not pattern.fullmatch(value):
        yield _wrong(field, value, why)


def _port_problems(port: Obj, name: str, where: str) -> Iterable[Cause]:
    if not 1 <= port.get(name, 0) <= _MAX_PORT:
        yield _wrong(f"{where}.{name}", port.get(name, 0), f"must be between 1 and {_MAX_PORT}, inclusive")


def _pod_problems(spec: Obj, where: str) -> Iterable[Cause]:
    containers = spec.get("containers")
    if not containers:
        yield Cause("FieldValueRequired", "Required value", f"{where}.containers")
    for number, gate in enumerate(spec.get("readinessGates") or []):
        field, kind = f"{where}.readinessGates[{number}].conditionType", gate.get("conditionType") or ""
        yield from _named(kind.rpartition("/")[2], _QUALIFIED, 63, field, "not a qualified name")
    for number, volume in enumerate(spec.get("volumes") or []):
        field = f"{where}.volumes[{number}].name"
        yield from _named(volume.get("name"), _LABEL, 63, field, "a lowercase RFC 1123 label is required")
    names: set[str] = set()
    for number, container in enumerate(containers or []):
        place, name = f"{where}.containers[{number}]", container.get("name")
        yield from _named(name, _LABEL, 63, f"{place}.name", "a lowercase RFC 1123 label is required")
        if not container.get("image"):
            yield Cause("FieldValueRequired", "Required value", f"{place}.image")
        if name in names:
            yield Cause("FieldValueDuplicate", "Duplicate value", f"{place}.name")
        names.add(str(name))
        for position, port in enumerate(container.get("ports") or []):
            yield from _port_problems(port, "containerPort", f"{place}.ports[{position}]")
        for position, entry in enumerate(container.get("env") or []):
            field = f"{place}.env[{position}].name"
            yield from _named(entry.get("name"), _ENVIRONMENT, 65536, field, "not an environment variable")


def _workload_problems(obj: Obj, old: Obj | None) -> Iterable[Cause]:
    spec = obj["spec"]
    yield from _counts_wrong(spec, "spec", _COUNTS)
    selector, template = spec.get("selector"), spec["template"]
    yield from _metadata_problems({"name": "template", **(template.get("metadata") or {})})
    kind = (spec.get("strategy") or {}).get("type")
    if kind not in (None, "Recreate", "RollingUpdate"):
        text = f'Unsupported value: {kind[:40]!r}: supported values: "Recreate", "RollingUpdate"'
        yield Cause("FieldValueNotSupported", text, "spec.strategy")
    for field, value in ((spec.get("strategy") or {}).get("rollingUpdate") or {}).items():
        if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}|\d{1,3}%", str(value)):
            yield _wrong(f"spec.strategy.rollingUpdate.{field}", value, "must be a number or a percentage")
    if not selector:
        yield Cause("FieldValueRequired", "Required value", "spec.selector")
    elif not any(selector.get(part) for part in ("matchLabels", "matchExpressions")):
        yield _wrong("spec.selector", selector, "empty selector is invalid for deployment")
    elif not selects(selector, (template.get("metadata") or {}).get("labels") or {}):
        yield _wrong("spec.template.metadata.labels", "", "`selector` does not match template `labels`")
    if old is not None and selector != old["spec"].get("selector"):
        yield _wrong("spec.selector", selector, "field is immutable")
    yield from _pod_problems(template["spec"], "spec.template.spec")


def _config_problems(obj: Obj, _: Obj | None) -> Iterable[Cause]:
    for key in obj.get("data") or {}:
        if len(key) > 253 or not _CONFIG_KEY.fullmatch(key) or key in (".", ".."):
            yield _wrong(
                f"data[{key[:80]}]", key, "a valid config key consists of alphanumerics, '-', '_', '.'"
            )


def _service_problems(obj: Obj, _: Obj | None) -> Iterable[Cause]:
    spec = obj["spec"]
    if not spec.get("ports") and spec["type"] != "ExternalName" and spec.get("clusterIP") != "None":
        yield Cause("FieldValueRequired", "Required value", "spec.ports")
    for number, port in enumerate(spec.get("ports") or []):
        yield from _port_problems(port, "port", f"spec.ports[{number}]")
    yield from _metadata_problems({"name": "selector", "labels": spec.get("selector")})


def _event_problems(obj: Obj, _: Obj | None) -> Iterable[Cause]:
    about = (obj.get("involvedObject") or {}).get("namespace", "")
    if about != obj["metadata"]["namespace"]:
        yield _wrong("involvedObject.namespace", about, "does not match event.namespace")


def _only_pod_problems(obj: Obj, old: Obj | None) -> Iterable[Cause]:
    yield from _pod_problems(obj.get("spec") or {}, "spec")
    # Of a running pod's spec only the images may change (and a few fields nobody uses here).
    if old is not None and _without_images(obj["spec"]) != _without_images(old["spec"]):
        yield Cause(
            "FieldValueForbidden", "Forbidden: pod updates may not change fields other than image", "spec"
        )


def _without_images(spec: Obj) -> Obj:
    containers = [{**item, "image": "", "imagePullPolicy": ""} for item in spec.get("containers") or []]
    return {**spec, "containers": containers}


def _lease_problems(obj: Obj, _: Obj | None) -> Iterable[Cause]:
    spec = obj.get("spec") or {}
    for field in ("acquireTime", "renewTime"):
        value = spec.get(field)
        if value is not None and not (isinstance(value, str) and _MICRO_TIME.match(value)):
            raise TypeError(field)
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        yield _wrong("spec.leaseDurationSeconds", duration, "must be greater than 0")
    if transitions is not None and transitions < 0:
        yield _wrong("spec.leaseTransitions", transitions, "must be greater than or equal to 0")


def _route_problems(obj: Obj, _: Obj | None) -> Iterable[Cause]:
    if "spec" not in obj:
        return [Cause("FieldValueRequired", "Required value", "spec")]
    return gateway_schema.problems(obj["spec"])


_RULES: dict[
    Resource,
    tuple[Callable[[Obj], None] | None, Callable[[Obj, Obj | None], Iterable[Cause]] | None],
] = {
    resources.DEPLOYMENTS: (_default_deployment, _workload_problems),
    resources.REPLICA_SETS: (_default_workload, _workload_problems),
    resources.PODS: (lambda obj: _default_pod_spec(obj.setdefault("spec", {})), _only_pod_problems),
    resources.SERVICES: (_default_service, _service_problems),
    resources.CONFIG_MAPS: (None, _config_problems),
    resources.EVENTS: (None, _event_problems),
    resources.LEASES: (None, _lease_problems),
    resources.HTTP_ROUTES: (_prune_route, _route_problems),
}
