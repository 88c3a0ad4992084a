"""Which fields each kind has, as an API server publishes it: makes the stand-in's `fields.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Schemas = Mapping[str, Any]
Table = dict[str, dict[str, str]]

KINDS: Mapping[str, tuple[str, ...]] = {
    "api/v1": tuple(
        f"core.v1.{kind}" for kind in ("Namespace", "Pod", "Service", "ConfigMap", "Secret", "Event")
    ),
    "apis/apps/v1": ("apps.v1.Deployment", "apps.v1.ReplicaSet", "autoscaling.v1.Scale"),
    "apis/batch/v1": ("batch.v1.Job",),
    "apis/coordination.k8s.io/v1": ("coordination.v1.Lease",),
    "apis/policy/v1": ("policy.v1.PodDisruptionBudget",),
    "apis/gateway.networking.k8s.io/v1": ("gateway.v1.Gateway", "gateway.v1.HTTPRoute"),
}
"""The kinds of the stand-in, by the document (below `/openapi/v3`) in which their schemas are."""


def table_of(documents: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return the types of all kinds, in the form of `cockpit.rehearsal.kube.fields`."""
    types: Table = {}
    for path, kinds in KINDS.items():
        schemas: Schemas = documents[path]["components"]["schemas"]
        for kind in kinds:
            name = next(one for one in schemas if one.endswith(f".{kind}"))
            _put(kind.rpartition(".")[2], schemas[name], schemas, types)
    return types


def text_of(table: Table) -> str:
    """Return the file's text: a type a line."""
    lines = (json.dumps({name: fields}, separators=(",", ":"))[1:-1] for name, fields in _sorted(table))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _sorted(table: Table) -> list[tuple[str, dict[str, str]]]:
    return sorted((name, dict(sorted(fields.items()))) for name, fields in table.items())


def _put(name: str, schema: Schemas, schemas: Schemas, types: Table) -> None:
    if name not in types:
        types[name] = {}  # some hold themselves
        fields = schema["properties"].items()
        types[name] = {field: _type(inner, schemas, types, f"{name}.{field}") for field, inner in fields}


def _type(schema: Schemas, schemas: Schemas, types: Table, where: str) -> str:
    if len(schema.get("allOf", ())) == 1:
        schema = schema["allOf"][0]
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if "properties" not in schemas[name]:
            return ""
        short: str = name.rpartition(".")[2]
        _put(short, schemas[name], schemas, types)
        return short
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return ""
    if schema.get("type") == "array":
        inner = _type(schema["items"], schemas, types, where)
        return f"[{inner}" if inner else ""
    if "properties" in schema:
        _put(where, schema, schemas, types)
        return where
    if isinstance(schema.get("additionalProperties"), dict):
        inner = _type(schema["additionalProperties"], schemas, types, where)
        return f"{{{inner}" if inner else ""
    return ""
