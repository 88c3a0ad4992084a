"""JSON Patch, JSON Merge Patch and strategic merge, and the list keys the last two kinds of merging need."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from cockpit.rehearsal.kube.values import ApiError, Obj, clone

# How lists of the built-in kinds merge: the fields that name an item. Of several candidates the one whose
# first field the items carry is used (`ports` of a container and of a service share their name).
_LIST_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "containers": (("name",),),
    "initContainers": (("name",),),
    "ephemeralContainers": (("name",),),
    "env": (("name",),),
    "volumes": (("name",),),
    "volumeMounts": (("mountPath",),),
    "ports": (("containerPort", "protocol"), ("port", "protocol")),
    "conditions": (("type",),),
    "ownerReferences": (("uid",),),
    "imagePullSecrets": (("name",),),
    "hostAliases": (("ip",),),
    "topologySpreadConstraints": (("topologyKey", "whenUnsatisfiable"),),
}
_CUSTOM_KEYS = {name: _LIST_KEYS[name] for name in ("conditions", "ownerReferences")}
SETS = frozenset({"finalizers"})
"""Lists of plain strings that merge as sets."""


def list_key(field: str, items: Any, *, custom: bool) -> tuple[str, ...] | None:
    """Return the fields by which the items of list `field` are told apart; None for an atomic list."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    for candidate in (_CUSTOM_KEYS if custom else _LIST_KEYS).get(field, ()):
        if all(candidate[0] in item for item in items):
            return candidate
    return None


def identity(item: Obj, key: tuple[str, ...]) -> str:
    """Return an item's identity in its list as server-side apply writes it, e.g. `{"name":"app"}`."""
    named = {field: item.get(field, "TCP" if field == "protocol" else None) for field in key}
    return json.dumps(named, sort_keys=True, separators=(",", ":"))


def merge_patch(target: Any, patch: Any) -> Any:
    """Apply a JSON Merge Patch (RFC 7396); null removes a member."""
    if not isinstance(patch, dict):
        return clone(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for field, value in patch.items():
        if value is None:
            merged.pop(field, None)
        else:
            merged[field] = merge_patch(merged.get(field), value)
    return merged


def strategic_patch(
    target: Any, patch: Any, *, custom: bool = False, applying: bool = False, field: str = ""
) -> Any:
    """Apply a strategic merge patch with `$patch`, `$retainKeys` and `$deleteFromPrimitiveList`.

    Server-side apply merges by the same rules, without directives, and adds new items of a list at its end.
    """
    if isinstance(patch, dict):
        return _strategic_object(target if isinstance(target, dict) else {}, patch, custom, applying)
    if not isinstance(patch, list) or not isinstance(target, list):
        return clone(patch)
    if field in SETS:
        both = [*target, *(item for item in patch if item not in target)]
        return both if applying else _in_order(both, target, patch, lambda item: str(item))
    key = list_key(
        field, [*target, *(item for item in patch if item != {"$patch": "replace"})], custom=custom
    )
    return clone(patch) if key is None else _strategic_list(target, patch, key, custom, applying)


def _strategic_object(target: Obj, patch: Obj, custom: bool, applying: bool) -> Obj:
    directive = patch.get("$patch")
    if directive == "replace":
        return {field: clone(value) for field, value in patch.items() if field != "$patch"}
    if directive == "delete":
        return {}
    retained = patch.get("$retainKeys")
    merged = {field: value for field, value in target.items() if retained is None or field in retained}
    for field, value in patch.items():
        if field.startswith("$deleteFromPrimitiveList/"):
            name = field.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
        elif field.startswith("$"):
            continue
        elif value is None:
            merged.pop(field, None)
        else:
            merged[field] = strategic_patch(
                merged.get(field), value, custom=custom, applying=applying, field=field
            )
    return merged


def _in_order(
    merged: list[Any], target: list[Any], patch: list[Any], named: Callable[[Any], str]
) -> list[Any]:
    """Return merged items as the API orders them: those of the patch in its order, and among them the others.

    One that is not in the patch comes before the first of the patch's that it preceded in the target.
    """
    place = {named(item): number for number, item in enumerate(target)}
    order = {named(item): number for number, item in enumerate(patch)}
    theirs = sorted((item for item in merged if named(item) in order), key=lambda item: order[named(item)])
    kept = [item for item in merged if named(item) not in order]
    made: list[Any] = []
    while kept and theirs:
        ours, other = place[named(kept[0])], place.get(named(theirs[0]))
        made.append(kept.pop(0) if other is not None and ours < other else theirs.pop(0))
    return [*made, *kept, *theirs]


def _strategic_list(
    target: list[Obj], patch: list[Obj], key: tuple[str, ...], custom: bool, applying: bool
) -> list[Obj]:
    if {"$patch": "replace"} in patch:
        return [clone(item) for item in patch if item != {"$patch": "replace"}]
    merged = {identity(item, key): item for item in target}
    for item in patch:
        name = identity(item, key)
        if item.get("$patch") == "delete":
            merged.pop(name, None)
        else:
            merged[name] = strategic_patch(merged.get(name), item, custom=custom, applying=applying)
    if applying:
        return list(merged.values())
    given = [item for item in patch if item.get("$patch") != "delete"]
    return _in_order(list(merged.values()), target, given, lambda item: identity(item, key))


def json_patch(document: Obj, operations: Any) -> Obj:
    """Apply a JSON Patch (RFC 6902) of at most 10,000 operations, as a whole or not at all.

    Raises a 400 for something that is no patch and a 422 for one that does not fit the document.
    """
    if not isinstance(operations, list) or len(operations) > 10_000:
        raise ApiError(400, "BadRequest", "a JSON patch is a list of at most 10000 operations")
    root: Any = clone(document)
    for operation in operations:
        if operation is None:
            text = "the server rejected our request due to an error in our request"
            raise ApiError(422, "Invalid", text)
        if not isinstance(operation, dict) or not all(
            isinstance(operation.get(field, ""), str) for field in ("op", "path")
        ):
            raise ApiError(400, "BadRequest", "each operation of a JSON patch needs an op and a path")
        try:
            root = _operate(root, operation)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            where = operation.get("path", "")
            text = f"the server rejected our request due to an error in our request: {where}"
            raise ApiError(422, "Invalid", text) from error
    if not isinstance(root, dict):
        raise ApiError(422, "Invalid", "the patched document is no object")
    return root


def _operate(root: Any, operation: Obj) -> Any:
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _set(root, path, clone(operation["value"]), insert=True)
        case "replace":
            _get(root, path)
            return _set(root, path, clone(operation["value"]), insert=False)
        case "remove":
            return _remove(root, path)
        case "move":
            source = _pointer(operation["from"])
            value = _get(root, source)
            return _set(_remove(root, source), path, value, insert=True)
        case "copy":
            return _set(root, path, clone(_get(root, _pointer(operation["from"]))), insert=True)
        case "test":
            if _get(root, path) != operation.get("value"):
                raise ValueError("test failed")
            return root
    raise ValueError("unknown operation")


def _pointer(text: str) -> list[str]:
    if text and not text.startswith("/"):
        raise ValueError(text)
    return [step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:]]


def _index(step: str, size: int) -> int:
    if not step.isdigit() or not 0 <= int(step) < size:
        raise IndexError(step)
    return int(step)


def _get(node: Any, path: list[str]) -> Any:
    for step in path:
        node = node[_index(step, len(node))] if isinstance(node, list) else node[step]
    return node


def _set(root: Any, path: list[str], value: Any, *, insert: bool) -> Any:
    if not path:
        return value
    parent, last = _get(root, path[:-1]), path[-1]
    if not isinstance(parent, list):
        parent[last] = value
    elif not insert:
        parent[_index(last, len(parent))] = value
    else:
        parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)
    return root


def _remove(root: Any, path: list[str]) -> Any:
    parent, last = _get(root, path[:-1]), path[-1]
    if isinstance(parent, list):
        del parent[_index(last, len(parent))]
    else:
        del parent[last]
    return root
