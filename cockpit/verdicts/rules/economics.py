"""What a release spent of the error budget: under the canary and since it is out (gate `slo`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.verdicts.burn import burn_rate
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, finite, never_raises, value

_EXTRAPOLATED = 1.05
"""Counts over a window are extrapolated to its ends, each series by itself."""

THRESHOLDS = ("burn_release<=1", "budget_spent<1")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the release's life: from `start` to `end` (Unix seconds), its requests and errors."""

    name: str
    start: float
    end: float
    errors: float
    requests: float


@dataclass(frozen=True, slots=True)
class Budget:
    """The error budget of a period, in requests, and what the release spent of it (1 is all of it)."""

    parts: tuple[Part, ...]
    errors: float
    requests: float
    burn: float
    allowed: float
    spent: float


@never_raises
def error_budget(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge `budget_of`: it must not burn faster than the objective allows, nor have used the budget up."""
    metrics: Metrics = {"burn_release": None, "budget_spent": None}
    try:
        found = budget_of(answers, params)
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, THRESHOLDS)
    metrics = {
        "burn_release": finite(found.burn),
        "budget_spent": finite(found.spent),
        "budget_left": finite(1 - found.spent),
        "errors": finite(found.errors),
        "requests": finite(found.requests),
    }
    for part in found.parts:
        rate = burn_rate(part.errors, part.requests, float(params["objective"]))
        metrics[f"burn_{part.name}"] = None if rate is None else finite(rate)
    said = (
        f"{found.errors:.0f} of {found.requests:.0f} requests failed: {found.spent:.2%} of the budget of the "
        f"period spent, burning it {found.burn:.2g} times as fast as the objective allows"
    )
    outcome = "pass" if found.burn <= 1 and found.spent < 1 else "fail"
    return Judgement(outcome, said, metrics, THRESHOLDS)  # type: ignore[arg-type]


def budget_of(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Budget:
    """Add up the parts: answers `<part>.errors` and `<part>.requests`, each one count or one rate.

    `params["parts"]` gives `name`, `start`, `end`, `asked_at` (Unix seconds) and `rate` (whether the answers
    are per second). `objective` is the share of good requests promised over `period_s` seconds; the budget of
    the period assumes the traffic measured since the release. Raises Trouble.
    """
    parts = tuple(_part(answers, params, one) for one in params["parts"])
    errors, requests = sum(part.errors for part in parts), sum(part.requests for part in parts)
    least = params["min_requests"]
    if requests < least:
        raise Trouble("low_traffic", f"{requests:.0f} requests since the canary began, {least} needed")
    objective = float(params["objective"])
    burn = burn_rate(errors, requests, objective)
    traffic = parts[-1]
    if burn is None or traffic.requests <= 0 or traffic.end <= traffic.start:
        raise Trouble("no_data", "no request since the release: its budget cannot be told")
    a_second = traffic.requests / (traffic.end - traffic.start)
    allowed = (1 - objective) * a_second * float(params["period_s"])
    return Budget(parts, errors, requests, burn, allowed, errors / allowed)


def _part(answers: Mapping[str, bytes], params: Mapping[str, Any], one: Mapping[str, Any]) -> Part:
    name, start, end = str(one["name"]), float(one["start"]), float(one["end"])
    time = {"now": float(one["asked_at"]), "max_age": float(params["max_age"])}
    counts = []
    for what in ("errors", "requests"):
        measured = value(answers, f"{name}.{what}", **time)
        counts.append(measured * (end - start) if one["rate"] else measured)
    if counts[0] > counts[1] * _EXTRAPOLATED:
        raise Trouble("provider_error", f"{name}: more errors than requests")
    return Part(name, start, end, counts[0], counts[1])
