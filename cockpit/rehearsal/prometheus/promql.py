"""PromQL over the store: a tested subset; whatever lies outside it is an error, never a number.

Semantics are Prometheus 2.42's: ranges and lookback are closed at both ends, staleness markers end a series.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser as ast

from cockpit.rehearsal.prometheus import functions as fn
from cockpit.rehearsal.prometheus.regex import BadPattern, UnknownPattern, compile_pattern
from cockpit.rehearsal.prometheus.store import NAME, Labels, Series, Store
from cockpit.rehearsal.prometheus.syntax import (
    absent_labels,
    has_one_name,
    matchers_of,
    matching_of,
    milliseconds,
    unwrapped,
)
from cockpit.rehearsal.prometheus.vectors import (
    Element,
    Grouping,
    QueryFailed,
    Vector,
    aggregate,
    by_value,
    combine,
    distinct,
    execution,
    scalars,
    set_operation,
    with_scalar,
    without_name,
)

MAX_STEPS = 11_000
MAX_SAMPLES = 5_000_000
SUBQUERY_STEP_MS = 60_000

_PARAMETER_OPS = ("topk", "bottomk", "quantile")


@dataclass(frozen=True, slots=True)
class RangeSeries:
    """One series of a range vector: times in Unix milliseconds and their values."""

    labels: Labels
    times: Sequence[int]
    values: Sequence[float]


Matrix = list[RangeSeries]
Value = float | str | Vector | Matrix


class Evaluator:
    """Evaluates one query; `start_ms` and `end_ms` are what `@ start()` and `@ end()` mean.

    `step_ms` is that of subqueries which name none: the server's evaluation interval.
    """

    def __init__(
        self, store: Store, lookback_ms: int, start_ms: int, end_ms: int, *, step_ms: int = SUBQUERY_STEP_MS
    ) -> None:
        self._store = store
        self._lookback = lookback_ms
        self._start = start_ms
        self._end = end_ms
        self._step = step_ms
        self._loaded = 0
        self._selected: dict[int, tuple[Any, list[Series]]] = {}

    def at(self, expression: Any, t: int) -> Value:
        """Return the value of `expression` at `t` (Unix milliseconds); raises QueryFailed."""
        try:
            return self._value(expression, t)
        except BadPattern as error:
            message = f'invalid parameter "query": parse error: error parsing regexp: {error}'
            raise QueryFailed("bad_data", message) from None
        except UnknownPattern as error:
            raise execution(f"the stand-in does not know this regular expression: {error}") from None
        except RecursionError:
            raise execution("the query is nested too deeply") from None

    def over(self, expression: Any, step_ms: int) -> list[RangeSeries]:
        """Return the range query's matrix from start to end; raises QueryFailed."""
        found: dict[frozenset[tuple[str, str]], tuple[Labels, list[int], list[float]]] = {}
        for t in range(self._start, self._end + 1, step_ms):
            value = self.at(expression, t)
            if isinstance(value, float):
                value = [Element({}, value)]
            for labels, number in _as_vector(value):
                key = frozenset(labels.items())
                _, times, values = found.setdefault(key, (labels, [], []))
                times.append(t)
                values.append(number)
        return [RangeSeries(labels, times, values) for labels, times, values in found.values()]

    def _value(self, node: Any, t: int) -> Value:
        match node:
            case ast.ParenExpr():
                return self._value(node.expr, t)
            case ast.NumberLiteral():
                return float(node.val)
            case ast.StringLiteral():
                return str(node.val)
            case ast.VectorSelector():
                return [Element(one.labels, value) for one, _, value in self._instant(node, t)]
            case ast.MatrixSelector() | ast.SubqueryExpr():
                return self._range(node, t)[0]
            case ast.UnaryExpr():
                return self._negated(self._value(node.expr, t))
            case ast.AggregateExpr():
                return self._aggregate(node, t)
            case ast.BinaryExpr():
                return self._binary(node, t)
            case ast.Call():
                return self._call(node, t)
        raise execution(f"the stand-in does not know {type(node).__name__}")

    def _series(self, selector: Any) -> list[Series]:
        # The selection is the same at each step of a range query; the node is kept, so its id stays its own.
        known = self._selected.get(id(selector))
        if known is None:
            found = sorted(self._store.select(matchers_of(selector)), key=lambda one: one.place)
            known = self._selected[id(selector)] = (selector, found)
        return known[1]

    def _load(self, samples: int) -> None:
        self._loaded += samples
        if self._loaded > MAX_SAMPLES:
            raise execution("query processing would load too many samples into memory in query execution")

    def _moment(self, node: Any, t: int) -> int:
        if node.at is not None:
            kind = str(node.at.type).rsplit(".", 1)[-1]
            if kind == "Start":
                t = self._start
            elif kind == "End":
                t = self._end
            elif kind == "At" and node.at.at is not None:
                t = round(node.at.at.timestamp() * 1000)
            else:
                raise execution("the stand-in does not know this @ modifier")
        return t - milliseconds(node.offset)

    def _instant(self, selector: Any, t: int) -> list[tuple[Series, int, float]]:
        moment = self._moment(selector, t)
        out = []
        series = self._series(selector)
        self._load(len(series))
        for one in series:
            sample = one.latest(moment, self._lookback)
            if sample is not None:
                out.append((one, *sample))
        return out

    def _range(self, node: Any, t: int) -> tuple[Matrix, int, int]:
        """Return a range vector and its bounds in milliseconds."""
        node = unwrapped(node)
        if isinstance(node, ast.SubqueryExpr):
            return self._subquery(node, t)
        if not isinstance(node, ast.MatrixSelector):
            raise execution(f"expected a range vector, not {type(node).__name__}")
        selector = node.vector_selector
        end = self._moment(selector, t)
        start = end - milliseconds(node.range)
        out: Matrix = []
        for one in self._series(selector):
            times, values = one.window(start, end)
            self._load(len(times))
            if times:
                out.append(RangeSeries(one.labels, times, values))
        return out, start, end

    def _subquery(self, node: Any, t: int) -> tuple[Matrix, int, int]:
        end = self._moment(node, t)
        start = end - milliseconds(node.range)
        step = milliseconds(node.step) if node.step is not None else self._step
        first = -(-start // step) * step  # steps are aligned to the epoch, not to the query
        if (end - first) // step > MAX_STEPS:
            raise execution("the subquery has too many steps")
        inner = Evaluator(self._store, self._lookback, self._start, self._end, step_ms=self._step)
        found: dict[frozenset[tuple[str, str]], tuple[Labels, list[int], list[float]]] = {}
        for moment in range(first, end + 1, step):
            value = inner.at(node.expr, moment)
            vector = [Element({}, value)] if isinstance(value, float) else _as_vector(value)
            self._load(len(vector))
            for labels, number in vector:
                _, times, values = found.setdefault(frozenset(labels.items()), (labels, [], []))
                times.append(moment)
                values.append(number)
        return [RangeSeries(*entry) for entry in found.values()], start, end

    def _negated(self, value: Value) -> Value:
        if isinstance(value, float):
            return -value
        return distinct([Element(without_name(e.labels), -e.value) for e in _as_vector(value)])

    def _aggregate(self, node: Any, t: int) -> Vector:
        op = str(node.op)
        vector = _as_vector(self._value(node.expr, t))
        parameter = None
        if node.param is not None:
            if op not in _PARAMETER_OPS:
                raise execution(f"the stand-in does not know the aggregation {op}")
            parameter = self._scalar(node.param, t)
        grouping = Grouping(keep=True, names=frozenset())
        if node.modifier is not None:
            by = str(node.modifier.type).endswith("By")
            grouping = Grouping(keep=by, names=frozenset(node.modifier.labels))
        return aggregate(op, vector, grouping, parameter)

    def _binary(self, node: Any, t: int) -> Value:
        op = str(node.op)
        left, right = self._value(node.lhs, t), self._value(node.rhs, t)
        modifier = node.modifier
        as_bool = bool(modifier is not None and modifier.return_bool)
        if isinstance(left, float) and isinstance(right, float):
            return scalars(op, left, right)
        if isinstance(left, float):
            return with_scalar(op, _as_vector(right), left, scalar_left=True, as_bool=as_bool)
        if isinstance(right, float):
            return with_scalar(op, _as_vector(left), right, scalar_left=False, as_bool=as_bool)
        matching = matching_of(modifier)
        if op in ("and", "or", "unless"):
            return set_operation(op, _as_vector(left), _as_vector(right), matching)
        return combine(op, _as_vector(left), _as_vector(right), matching, as_bool=as_bool)

    def _scalar(self, node: Any, t: int) -> float:
        value = self._value(node, t)
        if not isinstance(value, float):
            raise execution("expected a scalar")
        return value

    def vector(self, node: Any, t: int) -> Vector:
        """Return the value of `node` at `t`, an instant vector or a scalar made one; raises QueryFailed."""
        value = self.at(node, t)
        return [Element({}, value)] if isinstance(value, float) else _as_vector(value)

    def _vector(self, node: Any, t: int) -> Vector:
        return _as_vector(self._value(node, t))

    def _text(self, node: Any, t: int) -> str:
        value = self._value(node, t)
        if not isinstance(value, str):
            raise execution("expected a string")
        return value

    def _call(self, node: Any, t: int) -> Value:
        name, args = str(node.func.name), list(node.args)
        over_range = fn.RANGE_FUNCTIONS.get(name)
        if over_range is not None:
            return self._over_range(over_range, args[0], t, keep_name=name == "last_over_time")
        one_value = fn.MATH_FUNCTIONS.get(name)
        if one_value is not None:
            return _mapped(self._vector(args[0], t), one_value)
        call = _CALLS.get(name)
        if call is None:
            raise execution(f"the stand-in does not know the function {name}()")
        return call(self, args, t)

    def _over_range(
        self, function: fn.RangeFunction, node: Any, t: int, *, keep_name: bool = False
    ) -> Vector:
        matrix, start, end = self._range(node, t)
        out: Vector = []
        for one in matrix:
            value = function(one.times, one.values, start, end)
            if value is not None:
                out.append(Element(one.labels if keep_name else without_name(one.labels), float(value)))
        # Series of one name stay distinct without it, and most selectors are of one name.
        return out if has_one_name(node) else distinct(out)

    def _quantile_over_time(self, args: list[Any], t: int) -> Vector:
        q = self._scalar(args[0], t)
        return self._over_range(lambda times, values, start, end: fn.quantile(q, values), args[1], t)

    def _histogram_quantile(self, args: list[Any], t: int) -> Vector:
        q = self._scalar(args[0], t)
        groups: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for labels, count in self._vector(args[1], t):
            bound = fn.parse_bound(labels.get("le", ""))
            if bound is None:
                continue
            rest = frozenset((k, v) for k, v in labels.items() if k not in (NAME, "le"))
            groups.setdefault(rest, []).append((bound, count))
        return [Element(dict(key), fn.bucket_quantile(q, buckets)) for key, buckets in groups.items()]

    def _absent(self, args: list[Any], t: int) -> Vector:
        return [] if self._vector(args[0], t) else [Element(absent_labels(args[0]), 1.0)]

    def _absent_over_time(self, args: list[Any], t: int) -> Vector:
        return [] if self._range(args[0], t)[0] else [Element(absent_labels(args[0]), 1.0)]

    def _as_scalar(self, args: list[Any], t: int) -> float:
        vector = self._vector(args[0], t)
        return vector[0].value if len(vector) == 1 else math.nan

    def _sorted(self, args: list[Any], t: int, *, descending: bool) -> Vector:
        vector = self._vector(args[0], t)
        sign = -1.0 if descending else 1.0
        return sorted(vector, key=lambda e: by_value(e, sign))

    def _round(self, args: list[Any], t: int) -> Vector:
        nearest = self._scalar(args[1], t) if len(args) > 1 else 1.0
        return _mapped(self._vector(args[0], t), lambda value: fn.round_to(value, nearest))

    def _clamp(self, args: list[Any], t: int) -> Vector:
        low, high = self._scalar(args[1], t), self._scalar(args[2], t)
        if high < low:
            return []
        return _mapped(
            self._vector(args[0], t), lambda value: fn.lower_clamp(fn.upper_clamp(value, high), low)
        )

    def _bounded(self, args: list[Any], t: int, clamp: Callable[[float, float], float]) -> Vector:
        bound = self._scalar(args[1], t)
        return _mapped(self._vector(args[0], t), lambda value: clamp(value, bound))

    def _timestamp(self, args: list[Any], t: int) -> Vector:
        node = unwrapped(args[0])
        if isinstance(node, ast.VectorSelector):
            return distinct(
                [Element(without_name(one.labels), at / 1000) for one, at, _ in self._instant(node, t)]
            )
        return _mapped(self._vector(node, t), lambda value: t / 1000)

    def _label_replace(self, args: list[Any], t: int) -> Vector:
        target, replacement, source, pattern = (self._text(arg, t) for arg in args[1:5])
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", target):
            raise execution(f"invalid destination label name in label_replace(): {target}")
        try:
            regex = compile_pattern(pattern)
        except BadPattern:
            message = f"invalid regular expression in label_replace(): {pattern}"
            raise execution(message) from None
        out: Vector = []
        for element in self._vector(args[0], t):
            labels: Labels = element.labels
            found = regex.fullmatch(labels.get(source, ""))
            if found is not None:
                text = _expand(replacement, found)
                renamed = {name: old for name, old in labels.items() if name != target}
                if text:
                    renamed[target] = text
                labels = renamed
            out.append(Element(labels, element.value))
        return distinct(out)


_CALLS: dict[str, Callable[[Evaluator, list[Any], int], Value]] = {
    "histogram_quantile": Evaluator._histogram_quantile,
    "quantile_over_time": Evaluator._quantile_over_time,
    "absent": Evaluator._absent,
    "absent_over_time": Evaluator._absent_over_time,
    "scalar": Evaluator._as_scalar,
    "vector": lambda self, args, t: [Element({}, self._scalar(args[0], t))],
    "time": lambda self, args, t: t / 1000,
    "sort": lambda self, args, t: self._sorted(args, t, descending=False),
    "sort_desc": lambda self, args, t: self._sorted(args, t, descending=True),
    "round": Evaluator._round,
    "clamp": Evaluator._clamp,
    "clamp_min": lambda self, args, t: self._bounded(args, t, fn.lower_clamp),
    "clamp_max": lambda self, args, t: self._bounded(args, t, fn.upper_clamp),
    "timestamp": Evaluator._timestamp,
    "label_replace": Evaluator._label_replace,
}


def _as_vector(value: Value) -> Vector:
    if isinstance(value, (float, str)) or any(isinstance(entry, RangeSeries) for entry in value):
        raise execution("expected an instant vector")
    return value  # type: ignore[return-value]  # what is no range series is an element


def _mapped(vector: Vector, function: Callable[[float], float]) -> Vector:
    return distinct([Element(without_name(e.labels), function(e.value)) for e in vector])


def _expand(template: str, found: re.Match[str]) -> str:
    """Fill `$1`, `${1}` and `$$` as Go's regexp does; a group that does not exist is empty."""

    def fill(reference: re.Match[str]) -> str:
        if reference.group(0) == "$$":
            return "$"
        name = reference.group(1) or reference.group(2)
        if name.isdigit():
            index = int(name)
            return (found.group(index) or "") if index <= (found.re.groups or 0) else ""
        return (found.group(name) or "") if name in found.re.groupindex else ""

    return re.sub(r"\$(?:\$|\{(\w+)\}|(\w+))", fill, template)
