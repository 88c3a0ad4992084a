"""Who owns which field: `metadata.managedFields` and the conflicts of server-side apply.

Fields are paths in the FieldsV1 form, `("f:spec", "f:containers", 'k:{"name":"app"}', "f:image")`; an item
of a keyed list is itself a field, its path ending in ".". Other lists are atomic.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypeAlias

from cockpit.rehearsal.kube.patching import SETS, identity, list_key, strategic_patch
from cockpit.rehearsal.kube.resources import Resource
from cockpit.rehearsal.kube.values import ApiError, Cause, Obj, bad_request, clone, timestamp

FieldPath: TypeAlias = tuple[str, ...]

_SYSTEM_FIELDS = frozenset(
    {
        "name",
        "namespace",
        "generateName",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "managedFields",
        "selfLink",
    }
)
_MAX_CONFLICTS_SHOWN = 20


@dataclass(frozen=True)
class Manager:
    """A writer of fields: its name, how it writes (`Apply` or `Update`) and through which subresource."""

    name: str
    operation: str = "Update"
    subresource: str = ""


@dataclass(frozen=True)
class _Entry:
    manager: Manager
    fields: frozenset[FieldPath]
    time: str


def flatten(obj: Obj, *, custom: bool) -> dict[FieldPath, Any]:
    """Return the ownable fields of an object with their values."""
    found: dict[FieldPath, Any] = {}
    body = {field: value for field, value in obj.items() if field not in ("apiVersion", "kind", "metadata")}
    metadata = obj.get("metadata") or {}
    body["metadata"] = {field: value for field, value in metadata.items() if field not in _SYSTEM_FIELDS}
    if not body["metadata"]:
        del body["metadata"]
    for field, value in body.items():
        _flatten(value, (f"f:{field}",), field, custom, found)
    return found


def _flatten(value: Any, path: FieldPath, field: str, custom: bool, found: dict[FieldPath, Any]) -> None:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            _flatten(item, (*path, f"f:{name}"), name, custom, found)
    elif isinstance(value, list) and value and field in SETS:
        found.update({(*path, f'v:"{item}"'): item for item in value})
    elif (key := list_key(field, value, custom=custom)) and value:
        for item in value:
            where = (*path, f"k:{identity(item, key)}")
            found[(*where, ".")] = None
            for name, inner in item.items():
                _flatten(inner, (*where, f"f:{name}"), name, custom, found)
    else:
        found[path] = value


def _encode(fields: frozenset[FieldPath]) -> Obj:
    root: Obj = {}
    for path in sorted(fields):
        node = root
        for step in path:
            node = node.setdefault(step, {})
    return root


def _decode(node: Obj, path: FieldPath = ()) -> frozenset[FieldPath]:
    if not node:
        return frozenset({path}) if path else frozenset()
    return frozenset().union(*(_decode(inner, (*path, step)) for step, inner in node.items()))


def _read(obj: Obj) -> list[_Entry]:
    return [
        _Entry(
            Manager(entry["manager"], entry["operation"], entry.get("subresource", "")),
            _decode(entry.get("fieldsV1") or {}),
            entry.get("time", ""),
        )
        for entry in obj["metadata"].get("managedFields") or []
    ]


def _write(resource: Resource, entries: list[_Entry]) -> list[Obj]:
    return [
        {
            "manager": entry.manager.name,
            "operation": entry.manager.operation,
            "apiVersion": resource.group_version,
            "time": entry.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": _encode(entry.fields),
            **({"subresource": entry.manager.subresource} if entry.manager.subresource else {}),
        }
        for entry in entries
        if entry.fields
    ]


def _with(entries: list[_Entry], manager: Manager, fields: frozenset[FieldPath]) -> list[_Entry]:
    """Set one manager's fields; its time moves only when they change."""
    before = next((entry for entry in entries if entry.manager == manager), None)
    if before is not None and before.fields == fields:
        return entries
    return [*(entry for entry in entries if entry.manager != manager), _Entry(manager, fields, timestamp())]


def _show(path: FieldPath) -> str:
    text = ""
    for step in path:
        if step != ".":
            text += f".{step[2:]}" if step.startswith("f:") else f"[{step[2:].strip('{}')}]"
    return text


def updated(resource: Resource, old: Obj | None, new: Obj, manager: Manager) -> list[Obj]:
    """Return the managedFields after a write that was no apply: the writer takes the fields it changed."""
    after = flatten(new, custom=resource.custom)
    before = flatten(old, custom=resource.custom) if old else {}
    changed = frozenset(path for path, value in after.items() if path not in before or before[path] != value)
    entries = _read(old) if old else []
    mine: frozenset[FieldPath] = frozenset()
    kept = []
    for entry in entries:
        fields = entry.fields & after.keys()
        if entry.manager == manager:
            mine = frozenset(fields)
            kept.append(entry)
        else:
            fields -= changed
            kept.append(_Entry(entry.manager, frozenset(fields), entry.time))
    return _write(resource, _with(kept, manager, mine | changed))


def applied(resource: Resource, old: Obj | None, config: Obj, manager: Manager, *, force: bool) -> Obj:
    """Merge an applied configuration into `old` and return the object with its new managedFields.

    Fields this manager applied before and now leaves out are removed unless somebody else owns them.
    Raises a 409 that names every field another manager owns with a different value, unless `force`.
    """
    if (config.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    base: Obj = old if old is not None else {"metadata": {}}
    merged: Obj = strategic_patch(base, config, custom=resource.custom, applying=True)
    wanted = flatten(config, custom=resource.custom)
    before = flatten(base, custom=resource.custom)
    after = flatten(merged, custom=resource.custom)
    entries = _read(base)
    changed = frozenset(path for path in wanted if path in before and before[path] != after.get(path))
    disputes = [
        (entry.manager, path)
        for entry in entries
        if entry.manager != manager
        for path in sorted(entry.fields & changed)
    ]
    if disputes and not force:
        raise _apply_conflict(disputes)
    mine = next((entry.fields for entry in entries if entry.manager == manager), frozenset[FieldPath]())
    others = [
        _Entry(entry.manager, entry.fields - changed, entry.time)
        for entry in entries
        if entry.manager != manager
    ]
    owned = frozenset[FieldPath]().union(*(entry.fields for entry in others))
    abandoned = sorted(mine - wanted.keys() - owned, key=len, reverse=True)
    if abandoned:
        merged = clone(merged)  # it shares its untouched parts with the stored object
    for path in abandoned:
        _drop(merged, path, owned)
    left = frozenset(flatten(merged, custom=resource.custom))
    kept = [_Entry(entry.manager, entry.fields & left, entry.time) for entry in others]
    own = [entry for entry in entries if entry.manager == manager]
    merged["metadata"] = {
        **merged["metadata"],
        "managedFields": _write(resource, _with([*kept, *own], manager, frozenset(wanted) & left)),
    }
    return merged


def _apply_conflict(disputes: list[tuple[Manager, FieldPath]]) -> ApiError:
    shown = disputes[:_MAX_CONFLICTS_SHOWN]
    listed = ", ".join(f'conflict with "{manager.name}": {_show(path)}' for manager, path in shown)
    plural = "conflict" if len(disputes) == 1 else "conflicts"
    return ApiError(
        409,
        "Conflict",
        f"Apply failed with {len(disputes)} {plural}: {listed}",
        causes=[
            Cause("FieldManagerConflict", f'conflict with "{manager.name}"', _show(path))
            for manager, path in shown
        ],
    )


def _drop(obj: Obj, path: FieldPath, owned: frozenset[FieldPath]) -> None:
    """Remove a field and emptied parents; a list item goes only when nobody owns anything inside it."""
    item = path[-1] == "."
    if item and any(other[: len(path) - 1] == path[:-1] for other in owned):
        return
    *way, last = path[:-1] if item else path
    node: Any = obj
    parents: list[tuple[Obj, str]] = []
    for step in way:
        if step.startswith("f:"):
            if not isinstance(node, dict) or step[2:] not in node:
                return
            parents.append((node, step[2:]))
            node = node[step[2:]]
        else:
            position = _find(node, step[2:])
            if position is None:
                return
            node = node[position]
    if last.startswith("f:"):
        if isinstance(node, dict):
            node.pop(last[2:], None)
    elif last.startswith("v:"):
        node[:] = [value for value in node if f'"{value}"' != last[2:]]
    elif (position := _find(node, last[2:])) is not None:
        del node[position]
    for parent, field in reversed(parents):
        if parent[field] not in ({}, []):
            break
        del parent[field]


def _find(items: Any, name: str) -> int | None:
    key = tuple(json.loads(name))
    for position, item in enumerate(items if isinstance(items, list) else []):
        if identity(item, key) == name:
            return position
    return None
