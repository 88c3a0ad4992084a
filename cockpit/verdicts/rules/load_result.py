"""The result of an open-loop load run, as measured and as stored."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.base.errors import BackendGarbage
from cockpit.base.text import visible

_GROWTH = 1.01  # relative width of a bucket: a percentile is overstated by at most 1 %
_LOG_GROWTH = math.log(_GROWTH)

BUILT_IN = "the built-in generator"
"""Who measured, where a stored result does not say: older ones could have had no other."""


@dataclass(frozen=True, slots=True)
class ServiceLoad:
    """What came of one service's requests.

    `good` answers have a status below 500; `good_in_window` of them came before the sending ended.
    `dropped`: never sent; `cut`: no answer. `buckets`: latency bucket number → count of answers; bucket n
    holds up to 1.01ⁿ milliseconds.
    """

    service: str
    intended: int
    good: int
    good_in_window: int
    errors: int
    dropped: int
    cut: int
    buckets: Mapping[int, int]
    late: Mapping[int, int]
    """How late requests were sent, by the same buckets."""

    @property
    def error_rate(self) -> float:
        """Return the share of intended requests without a good answer; NaN when there were none."""
        return 1 - self.good / self.intended if self.intended else math.nan

    @property
    def late_ms(self) -> float:
        """Return how late, in ms, the generator sent all but 5 % of its requests; NaN when it sent none."""
        return percentile(self.late, sum(self.late.values()), 0.95)

    def percentile_ms(self, share: float) -> float:
        """Return the latency not exceeded by `share` of all intended requests, in ms, from above.

        Requests without an answer are infinitely late; NaN when nothing was intended.
        """
        return percentile(self.buckets, self.intended, share)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a run measured, and `by` which generator. `raw` is the JSON document it can be read from again."""

    profile: str
    rps: float
    seconds: float
    services: tuple[ServiceLoad, ...]
    raw: bytes
    by: str = BUILT_IN

    @property
    def intended(self) -> int:
        """Return the number of requests that were to be sent."""
        return sum(one.intended for one in self.services)


def bucket_of(latency_s: float) -> int:
    """Return the bucket of a latency in seconds; bucket n holds up to 1.01ⁿ milliseconds."""
    return max(0, math.ceil(math.log(max(latency_s * 1000, 1.0)) / _LOG_GROWTH))


def percentile(buckets: Mapping[int, int], intended: int, share: float) -> float:
    """Return the upper end of the bucket in which `share` of `intended` requests is reached, in ms."""
    if intended <= 0:
        return math.nan
    wanted = math.ceil(share * intended)
    seen = 0
    for index in sorted(buckets):
        seen += buckets[index]
        if seen >= wanted:
            return _GROWTH**index
    return math.inf


def read_result(raw: bytes) -> LoadResult:
    """Read a result from its JSON document; raises BackendGarbage when it is none or contradicts itself."""
    try:
        document: dict[str, Any] = json.loads(raw)
        services = tuple(_service(name, one) for name, one in sorted(document["services"].items()))
        result = LoadResult(
            profile=str(document["profile"]),
            rps=float(document["rps"]),
            seconds=float(document["seconds"]),
            services=services,
            raw=raw,
            by=visible(str(document.get("by", BUILT_IN)), limit=100),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BackendGarbage("not a load result") from None
    if not result.rps > 0 or not result.seconds > 0 or not math.isfinite(result.rps * result.seconds):
        raise BackendGarbage("a load result without rate or duration")
    return result


def _service(name: str, one: Mapping[str, Any]) -> ServiceLoad:
    figures = {key: one[key] for key in ("intended", "good", "good_in_window", "errors", "dropped", "cut")}
    buckets, late = ({int(index): n for index, n in one[name].items()} for name in ("buckets", "late"))
    if not all(
        type(value) is int and value >= 0 for value in (*figures.values(), *buckets.values(), *late.values())
    ):
        raise ValueError("a count is no count")
    answered = figures["good"] + figures["errors"]
    if (
        answered + figures["dropped"] + figures["cut"] != figures["intended"]
        or sum(buckets.values()) != answered
        or figures["good_in_window"] > figures["good"]
        or sum(late.values()) != figures["intended"] - figures["dropped"]
        or not all(0 <= index < 4000 for index in (*buckets, *late))
    ):
        raise ValueError("the counts do not add up")
    return ServiceLoad(service=name, buckets=buckets, late=late, **figures)
