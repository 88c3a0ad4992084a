"""Samples as OpenMetrics text, which is how the past is put into a real Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

NAME = "__name__"
Points = Iterable[tuple[float, float]]
"""Unix seconds and value, oldest first."""


def openmetrics(series: Iterable[tuple[Mapping[str, str], Points]]) -> str:
    """Return series, `__name__` among their labels, as OpenMetrics with timestamps to the millisecond.

    All are of type unknown, so that any name will do. NaN arrives as NaN, never as a staleness marker.
    """
    families: dict[str, list[str]] = {}
    for labels, points in series:
        name = labels[NAME]
        inner = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items() if label != NAME)
        family = families.setdefault(name, [f"# TYPE {name} unknown"])
        family += [f"{name}{{{inner}}} {_number(value)} {round(t * 1000) / 1000:.3f}" for t, value in points]
    # The samples of a family must stand together.
    return "\n".join([*(line for family in families.values() for line in family), "# EOF\n"])


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
