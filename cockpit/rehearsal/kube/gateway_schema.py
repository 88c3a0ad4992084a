"""The structural schema of HTTPRoute: the part of the Gateway API's CRD (v1, standard channel) checked here.

Custom resources are pruned of unknown fields, defaulted and validated against their schema, in this order.
Matches and filters are checked for their number and left as they are otherwise; they are not pruned.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from cockpit.rehearsal.kube.values import Cause, Obj, clone

MAX_RULES = 16
MAX_WEIGHT = 1_000_000

_NAME: Obj = {"type": "string", "minLength": 1, "maxLength": 253}
_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
_GROUP: Obj = {"type": "string", "maxLength": 253, "pattern": f"^$|{_SUBDOMAIN}"}
_SECTION: Obj = {**_NAME, "pattern": _SUBDOMAIN}
_DURATION: Obj = {"type": "string", "pattern": r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"}
_KIND: Obj = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": r"^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
}
_NAMESPACE: Obj = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
}
_PORT: Obj = {"type": "integer", "minimum": 1, "maximum": 65535}
_OPEN: Obj = {"type": "array", "items": {"type": "object"}}
_FILTERS: Obj = {"type": "array", "maxItems": 16, "items": {"type": "object", "required": ["type"]}}

_BACKEND_REF: Obj = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": {**_GROUP, "default": ""},
        "kind": {**_KIND, "default": "Service"},
        "name": _NAME,
        "namespace": _NAMESPACE,
        "port": _PORT,
        "weight": {"type": "integer", "minimum": 0, "maximum": MAX_WEIGHT, "default": 1},
        "filters": _FILTERS,
    },
}
_RULE: Obj = {
    "type": "object",
    "properties": {
        "name": _SECTION,
        "matches": {**_OPEN, "maxItems": 64, "default": [{"path": {"type": "PathPrefix", "value": "/"}}]},
        "filters": _FILTERS,
        "backendRefs": {"type": "array", "maxItems": 16, "items": _BACKEND_REF},
        "timeouts": {
            "type": "object",
            "properties": {"request": _DURATION, "backendRequest": _DURATION},
        },
    },
}
_PARENT_REF: Obj = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "group": {**_GROUP, "default": "gateway.networking.k8s.io"},
        "kind": {**_KIND, "default": "Gateway"},
        "name": _NAME,
        "namespace": _NAMESPACE,
        "sectionName": _SECTION,
        "port": _PORT,
    },
}
HTTP_ROUTE_SPEC: Obj = {
    "type": "object",
    "properties": {
        "hostnames": {
            "type": "array",
            "maxItems": 16,
            "items": {
                "type": "string",
                "minLength": 1,
                "maxLength": 253,
                "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
            },
        },
        "parentRefs": {"type": "array", "maxItems": 32, "items": _PARENT_REF},
        "rules": {
            "type": "array",
            "maxItems": MAX_RULES,
            "items": _RULE,
            "default": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}],
        },
    },
}


def pruned(value: Any, schema: Obj) -> Any:
    """Return `value` without the fields its schema does not know, and with the defaults it gives."""
    if schema.get("type") == "array" and isinstance(value, list):
        return [pruned(item, schema.get("items", {})) for item in value]
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)  # 1.0 is an integer, and comes back as one
    known: Obj | None = schema.get("properties")
    if known is None or not isinstance(value, dict):
        return value
    kept = {name: pruned(item, known[name]) for name, item in value.items() if name in known}
    for name, inner in known.items():
        if name not in kept and "default" in inner:
            kept[name] = clone(inner["default"])
    return kept


def problems(spec: Any) -> Iterable[Cause]:
    """Yield what is wrong with the spec of an HTTPRoute."""
    errors: list[ValidationError] = sorted(
        Draft202012Validator(HTTP_ROUTE_SPEC).iter_errors(spec),
        key=lambda error: list(map(str, error.absolute_path)),
    )
    for error in errors[:20]:
        yield _cause(error)
    if errors:
        text = "some validation rules were not checked because the object was invalid"
        yield Cause("FieldValueInvalid", f"Invalid value: null: {text}", "<nil>")
    else:
        yield from _port_problems(spec)


def _cause(error: ValidationError) -> Cause:
    where = "spec"
    for step in error.absolute_path:
        where += f"[{step}]" if isinstance(step, int) else f".{step}"
    shown = repr(error.instance)[:100]
    wanted: Any = error.validator_value
    given: Any = error.instance
    match error.validator:
        case "required":
            missing = next(name for name in wanted if name not in given)
            return Cause("FieldValueRequired", "Required value", f"{where}.{missing}")
        case "maxItems":
            text = f"Too many: must have at most {error.validator_value} items"
            return Cause("FieldValueTooMany", text, where)
        case "type":
            text = f"Invalid value: {shown}: {where} in body must be of type {error.validator_value}"
            return Cause("FieldValueTypeInvalid", text, where)
        case "minimum" | "maximum":
            side = "greater" if error.validator == "minimum" else "less"
            text = f"{where} in body should be {side} than or equal to {error.validator_value}"
            return Cause("FieldValueInvalid", f"Invalid value: {shown}: {text}", where)
    return Cause("FieldValueInvalid", f"Invalid value: {shown}: {error.message[:200]}", where)


def _port_problems(spec: Obj) -> Iterable[Cause]:
    # In the CRD a CEL rule: a Service cannot be referred to without a port.
    for number, rule in enumerate(spec.get("rules") or []):
        for position, backend in enumerate(rule.get("backendRefs") or []):
            service = (backend.get("group"), backend.get("kind")) == ("", "Service")
            if service and "port" not in backend:
                yield Cause(
                    "FieldValueInvalid",
                    'Invalid value: "object": Must have port for Service reference',
                    f"spec.rules[{number}].backendRefs[{position}]",
                )
