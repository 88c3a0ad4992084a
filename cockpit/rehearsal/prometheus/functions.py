"""PromQL's arithmetic: over the samples of a range, over single values and over histogram buckets.

Each follows the Prometheus 2.42 sources, including what happens to NaN, infinities and counter resets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

INF = math.inf
NAN = math.nan

RangeFunction = Callable[[Sequence[int], Sequence[float], int, int], float | None]
"""(times in ms, values, range start in ms, range end in ms) → value, None for no result."""


def extrapolated(
    times: Sequence[int],
    values: Sequence[float],
    start_ms: int,
    end_ms: int,
    *,
    counter: bool,
    per_second: bool,
) -> float | None:
    """Return rate, increase or delta: the change seen, extrapolated towards the edges of the range.

    A counter that falls has been reset; the extrapolation of a counter stops where it would be zero.
    """
    if len(values) < 2:
        return None
    change = values[-1] - values[0]
    if counter:
        previous = 0.0
        for value in values:
            if value < previous:
                change += previous
            previous = value
    to_start = (times[0] - start_ms) / 1000
    to_end = (end_ms - times[-1]) / 1000
    sampled = (times[-1] - times[0]) / 1000
    spacing = sampled / (len(values) - 1)
    if counter and change > 0 and values[0] >= 0:
        to_start = min(to_start, sampled * (values[0] / change))
    threshold = spacing * 1.1
    covered = sampled
    covered += to_start if to_start < threshold else spacing / 2
    covered += to_end if to_end < threshold else spacing / 2
    factor = covered / sampled
    if per_second:
        factor /= (end_ms - start_ms) / 1000
    return change * factor


def instant(
    times: Sequence[int], values: Sequence[float], start_ms: int, end_ms: int, *, rate: bool
) -> float | None:
    """Return irate or idelta: the change between the last two samples."""
    if len(values) < 2:
        return None
    last, before = values[-1], values[-2]
    change = last if rate and last < before else last - before
    return change / ((times[-1] - times[-2]) / 1000) if rate else change


def quantile(q: float, values: Sequence[float]) -> float:
    """Return the q-quantile by linear interpolation between closest ranks; NaN sorts lowest."""
    if not values or math.isnan(q):
        return NAN
    if q < 0:
        return -INF
    if q > 1:
        return INF
    ordered = sorted(values, key=lambda value: (not math.isnan(value), value))
    rank = q * (len(ordered) - 1)
    low = max(0, math.floor(rank))
    high = min(len(ordered) - 1, low + 1)
    weight = rank - math.floor(rank)
    return ordered[low] * (1 - weight) + ordered[high] * weight


def largest(values: Sequence[float]) -> float:
    """Return the maximum; NaN only when there is nothing else."""
    return max((value for value in values if not math.isnan(value)), default=NAN)


def smallest(values: Sequence[float]) -> float:
    """Return the minimum; NaN only when there is nothing else."""
    return min((value for value in values if not math.isnan(value)), default=NAN)


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean as aggregations take it: no overflow, infinities stay."""
    middle = 0.0
    for count, value in enumerate(values, 1):
        if not _settled(middle, value):
            middle += value / count - middle / count
    return middle


def variance(values: Sequence[float]) -> float:
    """Return the population variance as aggregations take it (Welford)."""
    middle, total = values[0], 0.0
    for count, value in enumerate(values[1:], 2):
        delta = value - middle
        middle += delta / count
        total += delta * (value - middle)
    return total / len(values)


def deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation as aggregations take it."""
    return _root(variance(values))


def sum_over_time(values: Sequence[float]) -> float:
    """Return the sum with what is lost in each step carried along (Kahan, Neumaier)."""
    total = carry = 0.0
    for value in values:
        total, carry = _carried(value, total, carry)
    return total if math.isinf(total) else total + carry


def mean_over_time(values: Sequence[float]) -> float:
    """Return the mean, carried like the sum; infinities stay."""
    middle = carry = 0.0
    for count, value in enumerate(values, 1):
        if not _settled(middle, value):
            middle, carry = _carried(value / count - middle / count, middle, carry)
    return middle if math.isinf(middle) else middle + carry


def variance_over_time(values: Sequence[float]) -> float:
    """Return the population variance, carried like the sum."""
    middle = middle_carry = total = carry = 0.0
    for count, value in enumerate(values, 1):
        delta = value - (middle + middle_carry)
        middle, middle_carry = _carried(delta / count, middle, middle_carry)
        total, carry = _carried(delta * (value - (middle + middle_carry)), total, carry)
    return (total + carry) / len(values)


def _carried(value: float, total: float, carry: float) -> tuple[float, float]:
    after = total + value
    large, little = (total, value) if abs(total) >= abs(value) else (value, total)
    return after, carry + ((large - after) + little)


def _settled(middle: float, value: float) -> bool:
    """Tell whether a mean is infinite and `value` leaves it so."""
    return math.isinf(middle) and (value == middle or math.isfinite(value))


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else NAN


def _changes(values: Sequence[float]) -> float:
    pairs = pairwise(values)
    return float(sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in pairs))


def _resets(values: Sequence[float]) -> float:
    return float(sum(b < a for a, b in pairwise(values)))


def _over(function: Callable[[Sequence[float]], float]) -> RangeFunction:
    def over_time(times: Sequence[int], values: Sequence[float], start: int, end: int) -> float | None:
        return function(values) if values else None

    return over_time


RANGE_FUNCTIONS: dict[str, RangeFunction] = {
    "rate": partial(extrapolated, counter=True, per_second=True),
    "increase": partial(extrapolated, counter=True, per_second=False),
    "delta": partial(extrapolated, counter=False, per_second=False),
    "irate": partial(instant, rate=True),
    "idelta": partial(instant, rate=False),
    "sum_over_time": _over(sum_over_time),
    "avg_over_time": _over(mean_over_time),
    "min_over_time": _over(smallest),
    "max_over_time": _over(largest),
    "count_over_time": _over(lambda values: float(len(values))),
    "last_over_time": _over(lambda values: values[-1]),
    "present_over_time": _over(lambda values: 1.0),
    "stddev_over_time": _over(lambda values: _root(variance_over_time(values))),
    "stdvar_over_time": _over(variance_over_time),
    "changes": _over(_changes),
    "resets": _over(_resets),
}
"""Functions of one range vector and nothing else."""


def bucket_quantile(q: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Return the q-quantile of a classic histogram given as (upper bound, cumulative count).

    NaN without a +Inf bucket, with one bucket only, or without observations. Counts that fall are raised to
    the bucket before; a quantile in the last bucket is its lower bound.
    """
    if not buckets:
        return NAN
    if math.isnan(q):
        return NAN
    if q < 0:
        return -INF
    if q > 1:
        return INF
    merged: dict[float, float] = {}
    for bound, count in sorted(buckets, key=lambda bucket: bucket[0]):
        merged[bound] = merged.get(bound, 0.0) + count
    bounds, counts = list(merged), list(merged.values())
    if bounds[-1] != INF:
        return NAN
    for i in range(1, len(counts)):
        if counts[i] < counts[i - 1]:
            counts[i] = counts[i - 1]
    if len(counts) < 2 or counts[-1] == 0 or math.isnan(counts[-1]):
        return NAN
    rank = q * counts[-1]
    index = next((i for i in range(len(counts) - 1) if counts[i] >= rank), len(counts) - 1)
    if index == len(counts) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    lower, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    return lower + (bounds[index] - lower) * divide(rank - below, counts[index] - below)


def parse_bound(text: str) -> float | None:
    """Return a bucket's upper bound from its `le` label, None when it is no number."""
    if not text or "_" in text or text != text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        return None


def divide(a: float, b: float) -> float:
    """Divide as IEEE 754 does: no exception, but NaN and signed infinities."""
    if b:
        return a / b
    if a == 0 or math.isnan(a) or math.isnan(b):
        return NAN
    return math.copysign(INF, a) * math.copysign(1.0, b)


def modulo(a: float, b: float) -> float:
    """Return the remainder with the sign of the dividend; NaN where there is none."""
    try:
        return math.fmod(a, b)
    except ValueError:
        return NAN


def power(a: float, b: float) -> float:
    """Return a to the power of b; NaN where that is complex, infinite where it overflows."""
    try:
        return math.pow(a, b)
    except OverflowError:
        return -INF if a < 0 and b % 2 == 1 else INF
    except ValueError:
        if a == 0:  # a negative power of zero
            return math.copysign(INF, a) if b % 2 == 1 else INF
        return NAN


ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": divide,
    "%": modulo,
    "^": power,
}
COMPARISON: dict[str, Callable[[float, float], bool]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
}


def _whole(function: Callable[[float], int]) -> Callable[[float], float]:
    return lambda value: float(function(value)) if math.isfinite(value) else value


def _guarded(function: Callable[[float], float], at_zero: float) -> Callable[[float], float]:
    """Logarithms and roots: a value for zero, NaN below it."""

    def guarded(value: float) -> float:
        if value == 0:
            return at_zero
        return NAN if value < 0 else function(value)

    return guarded


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return INF


MATH_FUNCTIONS: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": _whole(math.ceil),
    "floor": _whole(math.floor),
    "exp": _exp,
    "sqrt": _guarded(math.sqrt, 0.0),
    "ln": _guarded(math.log, -INF),
    "log2": _guarded(math.log2, -INF),
    "log10": _guarded(math.log10, -INF),
    "sgn": lambda value: value if value == 0 or math.isnan(value) else math.copysign(1.0, value),
}
"""Functions of one value and nothing else."""


def round_to(value: float, nearest: float) -> float:
    """Round to a multiple of `nearest`, halves upwards."""
    inverse = divide(1.0, nearest)
    scaled = value * inverse + 0.5
    return divide(math.floor(scaled), inverse) if math.isfinite(scaled) else scaled / inverse


def upper_clamp(value: float, bound: float) -> float:
    """Return the smaller one; NaN wins over everything but minus infinity, as in Go."""
    if -INF in (value, bound):
        return -INF
    return NAN if math.isnan(value) or math.isnan(bound) else min(value, bound)


def lower_clamp(value: float, bound: float) -> float:
    """Return the larger one; NaN wins over everything but infinity, as in Go."""
    if INF in (value, bound):
        return INF
    return NAN if math.isnan(value) or math.isnan(bound) else max(value, bound)
