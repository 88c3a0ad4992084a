"""The soak: every interval since it began was observed, and none of them breaks a threshold (reading 14)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.answers import Sample, parse_answer, read_error
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, never_raises, raw_of
from cockpit.verdicts.thresholds import parse

_SLACK = 0.01


def points(params: Mapping[str, Any]) -> int:
    """Return how many whole steps lie between `since` and `now`."""
    return max(0, math.floor((float(params["now"]) - float(params["since"])) / float(params["step"]) + 1e-6))


@never_raises
def soak(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge `check.<metric>`: each check asked over a step, at the end of each step from `since` to `now`.

    `params`: `checks` (`metric`, `threshold`), `since` and `now` (Unix seconds), `step` and `lasts`
    (seconds). One value beyond a threshold fails; averaging would hide a short breach in a long time. A step
    counts as soaked when every check has a number for it: what was not observed is made up for at the end,
    and until enough is soaked the outcome is `no_data`, or `provider_error` where that is why.
    """
    checks = [(parse(check["threshold"]), f"check.{check['metric']}") for check in params["checks"]]
    thresholds = tuple(str(threshold) for threshold, _ in checks)
    asked, lasts, step = points(params), float(params["lasts"]), float(params["step"])
    if not checks:
        return Judgement("fail", "there is nothing to judge", {}, thresholds)
    observed = set(range(1, asked + 1))
    metrics: Metrics = {"soak_steps": asked}
    broken: list[str] = []
    troubles: list[Trouble] = []
    for threshold, name in checks:
        try:
            found = _by_step(_samples(answers, name), params)
        except Trouble as trouble:
            troubles.append(trouble)
            observed = set()
            continue
        values = [value for group in found.values() for value in group if not math.isnan(value)]
        worst = threshold.worst(values)
        metrics[threshold.metric] = worst if worst is not None and math.isfinite(worst) else None
        if worst is not None and not threshold.holds(worst):
            broken.append(f"{threshold.metric} was {worst:.6g}, {threshold} is required")
        observed &= {
            index for index, group in found.items() if group and not any(math.isnan(one) for one in group)
        }
    soaked = len(observed) * step
    metrics |= {"soaked_s": round(soaked, 3), "soak_missing": asked - len(observed)}
    if broken:
        return Judgement("fail", visible("; ".join(broken), limit=1000), metrics, thresholds)
    if troubles:
        return Judgement(troubles[0].outcome, visible(troubles[0].reason, limit=1000), metrics, thresholds)
    if soaked + 1e-6 < lasts:
        said = f"soaked for {soaked:.0f} s of {lasts:.0f} s; {asked - len(observed)} of {asked} looks empty"
        return Judgement("no_data", said, metrics, thresholds)
    return Judgement("pass", f"soaked for {soaked:.0f} s without a breach", metrics, thresholds)


def _samples(answers: Mapping[str, bytes], name: str) -> tuple[Sample, ...]:
    raw = raw_of(answers, name)
    refused = read_error(raw)
    if refused is not None:
        raise Trouble("provider_error", f"{name}: {refused[0]}: {refused[1]}")
    found, warnings = parse_answer(raw)
    if warnings:
        raise Trouble("provider_error", f"{name}: a partial answer ({visible(warnings[0], limit=200)})")
    return found


def _by_step(samples: tuple[Sample, ...], params: Mapping[str, Any]) -> dict[int, list[float]]:
    """Return the values of all series by the step they belong to; those of other moments are left out."""
    since, step, last = float(params["since"]), float(params["step"]), points(params)
    found: dict[int, list[float]] = {}
    for sample in samples:
        index = round((sample.timestamp - since) / step)
        off = abs(sample.timestamp - since - index * step)
        if 1 <= index <= last and off <= _SLACK * step + 0.002:
            found.setdefault(index, []).append(sample.value)
    return found
