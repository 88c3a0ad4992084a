"""Label and field selectors, in the syntax of list and watch requests."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from cockpit.rehearsal.kube.values import Obj, bad_request

Match = Callable[[Obj], bool]

_SET = re.compile(r"^(\S+)\s+(in|notin)\s*\(([^()]*)\)$")
_EQUAL = re.compile(r"^([^\s=!,]+)\s*(==|=|!=)\s*([^\s=!,]*)$")
_EXISTS = re.compile(r"^(!?)\s*([^\s=!,()]+)$")
_FIELDS = frozenset(
    {
        "metadata.name",
        "metadata.namespace",
        "spec.nodeName",
        "status.phase",
        "type",
        "reason",
        "involvedObject.name",
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.uid",
    }
)


def label_matcher(selector: str) -> Match:
    """Parse a label selector; raises a 400 for one that cannot be read."""
    terms = [_label_term(part.strip()) for part in re.split(r",(?![^(]*\))", selector) if part.strip()]

    def matches(obj: Obj) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(term(labels) for term in terms)

    return matches


def _label_term(part: str) -> Callable[[Mapping[str, Any]], bool]:
    if found := _SET.match(part):
        key, values = found[1], frozenset(value.strip() for value in found[3].split(","))
        # `notin` and `!=` also match objects without the label.
        return (
            (lambda labels: labels.get(key) in values)
            if found[2] == "in"
            else (lambda labels: labels.get(key) not in values)
        )
    if found := _EQUAL.match(part):
        key, value = found[1], found[3]
        if found[2] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(part):
        key = found[2]
        return (lambda labels: key not in labels) if found[1] else (lambda labels: key in labels)
    raise bad_request(f"unable to parse requirement: {part!r}")


def field_matcher(selector: str) -> Match:
    """Parse a field selector; raises a 400 for a field that cannot be selected by."""
    terms: list[tuple[tuple[str, ...], bool, str]] = []
    for part in (piece.strip() for piece in selector.split(",")):
        if not part:
            continue
        found = _EQUAL.match(part)
        if not found:
            raise bad_request(f"invalid selector: {part!r}; can't understand {part!r}")
        if found[1] not in _FIELDS:
            raise bad_request(f'field label not supported: "{found[1]}"')
        terms.append((tuple(found[1].split(".")), found[2] != "!=", found[3]))

    def matches(obj: Obj) -> bool:
        return all((_at(obj, path) == value) is wanted for path, wanted, value in terms)

    return matches


def _at(obj: Any, path: tuple[str, ...]) -> str:
    for step in path:
        obj = obj.get(step) if isinstance(obj, dict) else None
    return "" if obj is None else str(obj)


def selects(selector: Obj | None, labels: Mapping[str, str]) -> bool:
    """Evaluate a `LabelSelector` object of a spec; none selects nothing, an empty one everything."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for term in selector.get("matchExpressions") or []:
        key, operator, values = term.get("key", ""), term.get("operator"), term.get("values") or []
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }
        if not holds.get(str(operator), False):
            return False
    return True
