"""Business figures after a release beside their baseline before it (gate `slo`, seed section 5, P8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.rule import Judgement, Metrics, Outcome
from cockpit.verdicts.rules.reading import Trouble, finite, never_raises, samples, value

_WORST: tuple[Outcome, ...] = ("fail", "provider_error", "no_data", "low_traffic", "pass")


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure: `change` is relative to the baseline, None where the baseline is zero or was not measured.

    `outcome` is one of the five; `regressed` when it lost more than its plan allows.
    """

    name: str
    value: float | None
    baseline: float | None
    change: float | None
    outcome: Outcome
    reason: str

    @property
    def regressed(self) -> bool:
        """Tell whether it got worse by more than is allowed."""
        return self.outcome == "fail"


@never_raises
def kpi_regressions(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every figure of `params["kpis"]`; none at all fails, and the worst outcome of any counts.

    See `compare` for answers and parameters.
    """
    found = compare(answers, params)
    metrics: Metrics = {"kpis": len(found), "regressed": None}
    if not found:
        return Judgement("fail", "no figure was to be compared", metrics, ("regressed==0",))
    for one in found:
        metrics[f"change_{one.name}"] = None if one.change is None else finite(one.change)
    outcome = min((one.outcome for one in found), key=_WORST.index)
    if outcome in ("pass", "fail"):
        metrics["regressed"] = sum(one.regressed for one in found)
    said = "; ".join(one.reason for one in found if one.outcome == outcome)
    return Judgement(outcome, visible(said, limit=1000), metrics, ("regressed==0",))


def compare(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> list[Compared]:
    """Compare each figure: answers `<name>.after` and `<name>.before`, of which one has to be one number.

    `params["kpis"]` gives `name`, `better` (higher, lower) and `max_regression`; `at` the two moments in Unix
    seconds. Where `min_requests` is given, `requests.after` and `requests.before` must reach it: a figure
    made of too few users says nothing.
    """
    thin = _too_few(answers, params)
    return [_compare(answers, params, kpi, thin) for kpi in params["kpis"]]


def _too_few(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Trouble | None:
    least = params.get("min_requests")
    if least is None:
        return None
    for side in ("before", "after"):
        try:
            requests = value(answers, f"requests.{side}", now=params["at"][side], max_age=params["max_age"])
        except Trouble as trouble:
            return trouble
        if requests < least:
            reason = f"{requests:.0f} requests {side} the release, at least {least} needed"
            return Trouble("low_traffic", reason)
    return None


def _compare(
    answers: Mapping[str, bytes], params: Mapping[str, Any], kpi: Mapping[str, Any], thin: Trouble | None
) -> Compared:
    name = str(kpi["name"])
    sides: dict[str, float] = {}
    try:
        for side in ("after", "before"):
            sides[side] = _figure(answers, f"{name}.{side}", params["at"][side], params["max_age"])
        if thin is not None:
            raise thin
    except Trouble as trouble:
        return Compared(
            name, sides.get("after"), sides.get("before"), None, trouble.outcome, f"{name}: {trouble.reason}"
        )
    after, before, most = sides["after"], sides["before"], float(kpi["max_regression"])
    gained = after - before if kpi["better"] == "higher" else before - after
    change = (after - before) / abs(before) if before else (0.0 if after == before else None)
    lost = -gained / abs(before) if before else (math.inf if gained < 0 else 0.0)
    words = f"{name}: {after:.6g} after {before:.6g}"
    if change is not None:
        words += f" ({change:+.1%})"
    if lost > most:
        return Compared(name, after, before, change, "fail", f"{words}, more than {most:.1%} lost")
    return Compared(name, after, before, change, "pass", words)


def _figure(answers: Mapping[str, bytes], answer: str, at: float, max_age: float) -> float:
    found = samples(answers, answer, now=float(at), max_age=float(max_age))
    if len(found) != 1:
        raise Trouble("provider_error", f"{answer}: {len(found)} series where one number is expected")
    if not math.isfinite(found[0].value):
        raise Trouble("provider_error", f"{answer}: {found[0].value:g} is no measurement")
    return found[0].value
