"""Instant vectors: matching two of them, and aggregating one, as Prometheus 2.42 does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cockpit.rehearsal.prometheus.functions import (
    ARITHMETIC,
    COMPARISON,
    deviation,
    largest,
    mean,
    quantile,
    smallest,
    variance,
)
from cockpit.rehearsal.prometheus.store import NAME, LabelKey, Labels


class QueryFailed(Exception):
    """A query that gets no answer; `kind` is Prometheus's errorType (`bad_data`, `execution`)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def execution(message: str) -> QueryFailed:
    """Return the error of a query that is well formed but cannot be evaluated."""
    return QueryFailed("execution", message)


class Element(NamedTuple):
    """One element of an instant vector."""

    labels: Labels
    value: float


Vector = list[Element]


def without_name(labels: Labels) -> dict[str, str]:
    """Return the labels less the metric name."""
    return {name: value for name, value in labels.items() if name != NAME}


def distinct(vector: Vector) -> Vector:
    """Return `vector`; raise when two elements have the same labels."""
    if len({frozenset(element.labels.items()) for element in vector}) != len(vector):
        raise execution("vector cannot contain metrics with the same labelset")
    return vector


@dataclass(frozen=True, slots=True)
class Grouping:
    """A set of labels to keep (`by`, `on`) or to leave out (`without`, `ignoring`)."""

    keep: bool
    names: frozenset[str]

    def of(self, labels: Labels) -> dict[str, str]:
        """Return the labels that count; the metric name does so only when it is asked for by name."""
        if self.keep:
            return {name: value for name, value in labels.items() if name in self.names}
        return {name: value for name, value in labels.items() if name != NAME and name not in self.names}

    def key(self, labels: Labels) -> LabelKey:
        """Return the same as a hashable value."""
        return frozenset(self.of(labels).items())


_LARGEST = float(1 << 63)

ALL_LABELS = Grouping(keep=False, names=frozenset())

_REDUCERS: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "avg": mean,
    "min": smallest,
    "max": largest,
    "count": lambda values: float(len(values)),
    "group": lambda values: 1.0,
    "stddev": deviation,
    "stdvar": variance,
}


def aggregate(op: str, vector: Vector, grouping: Grouping, parameter: float | None) -> Vector:
    """Aggregate by groups; `parameter` is the first argument of topk, bottomk and quantile."""
    groups: dict[LabelKey, Vector] = {}
    for element in vector:
        groups.setdefault(grouping.key(element.labels), []).append(element)
    if op in ("topk", "bottomk") and parameter is not None:
        return [element for group in groups.values() for element in _extremes(op, group, parameter)]
    if op == "quantile" and parameter is not None:
        q = parameter
        return [Element(dict(key), quantile(q, [e.value for e in group])) for key, group in groups.items()]
    reducer = _REDUCERS.get(op)
    if reducer is None:
        raise execution(f"the stand-in does not know the aggregation {op}")
    return [Element(dict(key), reducer([e.value for e in group])) for key, group in groups.items()]


def by_value(element: Element, sign: float) -> tuple[bool, float]:
    """Return a sort key: rising for sign 1, falling for -1, NaN last either way."""
    if math.isnan(element.value):
        return True, 0.0
    return False, sign * element.value


def _extremes(op: str, group: Vector, parameter: float) -> Vector:
    if not -_LARGEST <= parameter < _LARGEST:
        raise execution(f"Scalar value {parameter} overflows int64")
    sign = -1.0 if op == "topk" else 1.0
    ordered = sorted(group, key=lambda element: by_value(element, sign))
    return ordered[: max(0, int(parameter))]


@dataclass(frozen=True, slots=True)
class Matching:
    """How two vectors meet: on which labels, with how many partners, taking which labels along."""

    grouping: Grouping = ALL_LABELS
    many: str = ""  # "left" for group_left, "right" for group_right
    include: tuple[str, ...] = ()


def set_operation(op: str, left: Vector, right: Vector, matching: Matching) -> Vector:
    """Return left `and`, `or`, `unless` right."""
    key = matching.grouping.key
    if op == "or":
        held = {key(element.labels) for element in left}
        return left + [element for element in right if key(element.labels) not in held]
    held = {key(element.labels) for element in right}
    return [element for element in left if (key(element.labels) in held) == (op == "and")]


def combine(op: str, left: Vector, right: Vector, matching: Matching, *, as_bool: bool) -> Vector:
    """Apply an arithmetic or comparison operator to matching elements."""
    if not left or not right:
        return []
    key = matching.grouping.key
    swapped = matching.many == "right"
    many, one = (right, left) if swapped else (left, right)
    partners: dict[LabelKey, Element] = {}
    for element in one:
        signature = key(element.labels)
        if signature in partners:
            side = "left" if swapped else "right"
            raise execution(
                f"found duplicate series for the match group {dict(sorted(signature))} on the {side} "
                "hand-side of the operation; many-to-many matching not allowed: "
                "matching labels must be unique on one side"
            )
        partners[signature] = element
    out: Vector = []
    taken: set[LabelKey] = set()
    for element in many:
        signature = key(element.labels)
        partner = partners.get(signature)
        if partner is None:
            continue
        a, b = (partner.value, element.value) if swapped else (element.value, partner.value)
        value = _operate(op, a, b, kept=a, as_bool=as_bool)
        if value is None:
            continue
        labels = _result_labels(op, element.labels, partner.labels, matching, as_bool=as_bool)
        mark = frozenset(labels.items()) if matching.many else signature
        if mark in taken:
            raise execution(
                "multiple matches for labels: "
                + (
                    "grouping labels must ensure unique matches"
                    if matching.many
                    else "many-to-one matching must be explicit (group_left/group_right)"
                )
            )
        taken.add(mark)
        out.append(Element(labels, value))
    return distinct(out)


def with_scalar(op: str, vector: Vector, scalar: float, *, scalar_left: bool, as_bool: bool) -> Vector:
    """Apply an operator between each element and a scalar; a comparison keeps the element's own value."""
    out: Vector = []
    for labels, own in vector:
        a, b = (scalar, own) if scalar_left else (own, scalar)
        value = _operate(op, a, b, kept=own, as_bool=as_bool)
        if value is not None:
            out.append(Element(without_name(labels) if op in ARITHMETIC or as_bool else labels, value))
    return distinct(out)


def scalars(op: str, a: float, b: float) -> float:
    """Apply an operator to two scalars; a comparison gives 0 or 1."""
    value = _operate(op, a, b, kept=a, as_bool=True)
    return math.nan if value is None else value


def _operate(op: str, a: float, b: float, *, kept: float, as_bool: bool) -> float | None:
    arithmetic = ARITHMETIC.get(op)
    if arithmetic is not None:
        return arithmetic(a, b)
    comparison = COMPARISON.get(op)
    if comparison is None:
        raise execution(f"the stand-in does not know the operator {op}")
    holds = comparison(a, b)
    if as_bool:
        return float(holds)
    return kept if holds else None


def _result_labels(
    op: str, many: Labels, one: Labels, matching: Matching, *, as_bool: bool
) -> dict[str, str]:
    labels = dict(many)
    if op in ARITHMETIC or as_bool:
        labels.pop(NAME, None)
    if not matching.many:
        names = matching.grouping.names
        keep = matching.grouping.keep
        labels = {name: value for name, value in labels.items() if (name in names) == keep}
    for name in matching.include:
        if one.get(name):
            labels[name] = one[name]
        else:
            labels.pop(name, None)
    return labels
