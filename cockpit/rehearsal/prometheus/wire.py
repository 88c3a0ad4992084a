"""The HTTP API's values in and out: numbers as Go prints them, times, durations, results as JSON."""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import promql_parser as ast

from cockpit.rehearsal.prometheus.promql import RangeSeries, Value
from cockpit.rehearsal.prometheus.store import Labels
from cockpit.rehearsal.prometheus.vectors import QueryFailed

_SECONDS = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_MAX_SECONDS = 9e12


def number(value: float, *, plain: bool = False) -> str:
    """Render a float as Prometheus does: shortest, plain digits from 1e-6 to 1e21 (`plain`: always)."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    text = repr(value)
    size = abs(value)
    if plain or value == 0 or 1e-6 <= size < 1e21:
        text = format(Decimal(text), "f")
        return text[:-2] if text.endswith(".0") else text
    return text


def seconds(time_ms: int) -> int | float:
    """Render a time as Unix seconds, whole ones without a fraction."""
    return time_ms // 1000 if time_ms % 1000 == 0 else time_ms / 1000


def parse_time(text: str, parameter: str) -> int:
    """Read Unix seconds or RFC 3339 into milliseconds; raises QueryFailed(bad_data)."""
    try:
        if _SECONDS.fullmatch(text):
            value = float(text)
            if abs(value) <= _MAX_SECONDS:
                return round(value * 1000)
        elif _RFC3339.fullmatch(text):
            moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
            return round(moment.timestamp() * 1000)
    except ValueError:
        pass
    raise QueryFailed(
        "bad_data", f'invalid parameter "{parameter}": cannot parse "{text[:100]}" to a valid timestamp'
    )


def parse_step(text: str) -> int:
    """Read a step, in seconds or as a duration, into milliseconds; raises QueryFailed(bad_data)."""
    if _SECONDS.fullmatch(text) and abs(float(text)) <= _MAX_SECONDS:
        nanoseconds = int(float(text) * 1e9)
    else:
        try:
            nanoseconds = round(ast.parse_duration(text).total_seconds() * 1e9)
        except (ValueError, OverflowError):
            raise QueryFailed(
                "bad_data", f'invalid parameter "step": cannot parse "{text[:100]}" to a valid duration'
            ) from None
    if nanoseconds <= 0:
        raise QueryFailed(
            "bad_data",
            'invalid parameter "step": zero or negative query resolution step widths are not accepted. '
            "Try a positive integer",
        )
    step = nanoseconds // 1_000_000
    if step == 0:
        # Prometheus means to divide by it, and says so.
        raise QueryFailed("execution", "unexpected error: runtime error: integer divide by zero")
    return step


def metric(labels: Labels) -> dict[str, str]:
    """Return labels in order of name."""
    return dict(sorted(labels.items()))


def series_json(series: RangeSeries) -> dict[str, Any]:
    """Render one series of a matrix."""
    pairs = zip(series.times, series.values, strict=True)
    return {"metric": metric(series.labels), "values": [[seconds(t), number(v)] for t, v in pairs]}


def value_json(value: Value, at_ms: int, *, matrix: bool) -> dict[str, Any]:
    """Render the data of an instant query's answer; `matrix` tells an empty range vector apart."""
    if isinstance(value, float):
        return {"resultType": "scalar", "result": [seconds(at_ms), number(value, plain=True)]}
    if isinstance(value, str):
        return {"resultType": "string", "result": [seconds(at_ms), value]}
    if matrix:
        return matrix_json([entry for entry in value if isinstance(entry, RangeSeries)])
    result = []
    for entry in value:
        assert not isinstance(entry, RangeSeries)
        result.append({"metric": metric(entry.labels), "value": [seconds(at_ms), number(entry.value)]})
    return {"resultType": "vector", "result": result}


def matrix_json(matrix: list[RangeSeries]) -> dict[str, Any]:
    """Render a matrix, series in order of their labels."""
    ordered = sorted(matrix, key=lambda one: sorted(one.labels.items()))
    return {"resultType": "matrix", "result": [series_json(one) for one in ordered]}
