"""Thresholds as on the wire, `metric op value`: parsed, never evaluated as code (gates.md, reading 2)."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, cast

from cockpit.rpc.messages import THRESHOLD

Op = Literal["<", "<=", ">", ">=", "=="]

_PARTS = re.compile(r"([a-z][a-z0-9_]*)\s*(<=|>=|==|<|>)\s*(-?\d+(?:\.\d+)?)", re.ASCII)
_HOLDS: dict[Op, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
}


@dataclass(frozen=True, slots=True)
class Threshold:
    """`metric op value`; `==` compares exactly (it is meant for counts)."""

    metric: str
    op: Op
    value: float

    def holds(self, measured: float | None) -> bool:
        """Tell whether a measured value meets the threshold; an absent or NaN value never does."""
        if measured is None or math.isnan(measured):
            return False
        return _HOLDS[self.op](measured, self.value)

    def worst(self, measured: Iterable[float]) -> float | None:
        """Return the value furthest from meeting the threshold: NaN before any other, None of nothing."""
        values = list(measured)
        if not values:
            return None
        if any(math.isnan(value) for value in values):
            return math.nan
        if self.op in ("<", "<="):
            return max(values)
        if self.op in (">", ">="):
            return min(values)
        return max(values, key=lambda value: abs(value - self.value))

    def __str__(self) -> str:
        return f"{self.metric}{self.op}{self.value:.12g}"


def parse(text: str) -> Threshold:
    """Read `p95_ms<=150`; raises ValueError for anything else than `metric op number`."""
    match = _PARTS.fullmatch(text)
    # `$` of the wire's pattern would let a trailing newline through: fullmatch does not.
    if match is None or THRESHOLD.match(text) is None:
        raise ValueError(f"{text!r} is not a threshold; write it like p95_ms<=150")
    value = float(match[3])
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a threshold: its number is too large")
    return Threshold(match[1], cast(Op, match[2]), value)


def number(value: object) -> float | None:
    """Return a metric as a number; decimal text counts (`"burn":"0"` in seed section 11), else None."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    if isinstance(value, str) and re.fullmatch(r"-?\d+(\.\d+)?", value, re.ASCII):
        return float(value)
    return None
