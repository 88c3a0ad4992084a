"""One look at the canary: three independent judgements that must all pass, one of five outcomes (gates.md).

1. The absolute thresholds (`check.*`). Every series of an answer must meet the threshold: none is averaged
   away.
2. The canary against the stable baseline over the same window (`baseline.*`).
3. The burn rate on canary-labelled series (`burn.*`): none may fire.

How the parts become one outcome, the first that applies:

1. `fail`: something is proven broken by good answers. Another query's error does not unprove it. Critical
   when a critical check or baseline is broken or a burn-rate alert fires; a series that vanished is a fail,
   not critical (one missed scrape must not roll back at once; the consecutive-failure limit does).
2. `provider_error`: an answer is an error, partial, stale, unreadable or was never asked for.
3. `low_traffic`: fewer requests in the window than the plan's minimum, on the canary, or on stable for a
   baseline.
4. `no_data`: an answer is empty or NaN.
5. `pass`: all was answered and all holds.

Thresholds and burn rates prove nothing until the request count is known to suffice: with few or unknown
requests they are not judged, and the look cannot pass. The baseline tests take their own counts into account,
so they do prove a fail at any traffic. At 100 % stable serves nobody; it is then compared as it was in the
last look before (`carried`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cockpit.base.errors import BackendGarbage
from cockpit.base.text import visible
from cockpit.verdicts.answers import Sample, parse_answer, read_error
from cockpit.verdicts.baseline import Comparison, Histogram, compare_histograms, compare_proportions
from cockpit.verdicts.burn import Pair, burn_rate, firing
from cockpit.verdicts.questions import (
    Section,
    error_of,
    look_params,
    queries_for,
    stable_names,
    window_text,
)
from cockpit.verdicts.rule import Judgement, Metrics, Outcome
from cockpit.verdicts.thresholds import parse

_LARGEST_EFFECT = 1e6


@dataclass(frozen=True, slots=True)
class Look:
    """What one look found; `burn` holds the burn rate by window (`8s`), None where it was not measured."""

    outcome: Outcome
    critical: bool
    reason: str
    metrics: Metrics = field(default_factory=dict)
    burn: dict[str, float | None] = field(default_factory=dict)
    requests: float = 0.0
    thresholds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Finding:
    """What is wrong with one part."""

    outcome: Outcome
    reason: str
    critical: bool = False


class _Trouble(Exception):
    """A part that cannot be judged."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.finding = _Finding(outcome, reason)


def judge_look(
    canary: Section | Mapping[str, Any],
    answers: Mapping[str, bytes],
    *,
    window_s: float,
    weight: int,
    now: float,
    seen_before: Collection[str] = (),
    carried: Collection[str] = (),
) -> Look:
    """Judge the raw answers to `queries_for`; the parameters are those of `look_params`."""
    params = look_params(
        canary, window_s=window_s, weight=weight, now=now, seen_before=seen_before, carried=carried
    )
    return look_of(answers, params)


def look_of(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Look:
    """Judge raw answers by recorded `look_params`; answers may be garbage, parameters may not."""
    return _Judge(answers, params).look()


def rule_look(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """The same as a rule: metrics gain `critical` and `burn_<window>`."""
    look = look_of(answers, params)
    metrics: Metrics = {
        **look.metrics,
        "critical": look.critical,
        **{f"burn_{window}": rate for window, rate in look.burn.items()},
    }
    return Judgement(look.outcome, look.reason, metrics, look.thresholds)


def weight_agrees(share: float | None, weight: int, tolerance: float) -> bool:
    """Tell whether an observed share (0..1) agrees with a desired weight (percent).

    The tolerance is absolute, and never so wide that half the desired share, or none at all, would agree.
    """
    if share is None or not math.isfinite(share):
        return False
    desired = weight / 100
    return abs(share - desired) < min(tolerance, desired / 2) + 1e-9 if desired > 0 else share == 0


class _Judge:
    def __init__(self, answers: Mapping[str, bytes], params: Mapping[str, Any]) -> None:
        self._answers = answers
        self._section: dict[str, Any] = params["canary"]
        self._weight = int(params["weight"])
        self._window_s = float(params["window_s"])
        self._now = float(params["now"])
        self._seen = frozenset(params["seen_before"])
        # Only stable's answers, and only where stable has no traffic, may come from an earlier look.
        allowed = stable_names(self._section) if self._weight >= 100 else ()
        self._carried = frozenset(params["carried"]) & frozenset(allowed)
        self._findings: list[_Finding] = []
        self._metrics: Metrics = {}
        self._burn: dict[str, float | None] = {}

    def look(self) -> Look:
        requests = self._traffic()
        enough = requests is not None and requests >= self._section["min_requests"]
        for check in self._section["checks"]:
            self._guard(self._check, check, enough)
        for check in self._section["baseline"]:
            self._guard(self._baseline, check)
        self._guard(self._burning, enough)
        self._require_all()
        worst = _worst(self._findings)
        return Look(
            outcome=worst.outcome,
            critical=worst.critical,
            reason=self._reason(worst),
            metrics=self._metrics,
            burn=self._burn,
            requests=requests or 0.0,
            thresholds=(*(str(parse(check["threshold"])) for check in self._section["checks"]), "burn==0"),
        )

    def _guard(self, part: Any, *arguments: Any) -> None:
        try:
            part(*arguments)
        except _Trouble as trouble:
            self._findings.append(trouble.finding)

    def _reason(self, worst: _Finding) -> str:
        if worst.outcome == "pass":
            return worst.reason
        said = dict.fromkeys(one.reason for one in self._findings if one.outcome == worst.outcome)
        return visible("; ".join(said), limit=1000)

    # -- reading ---------------------------------------------------------------------------------------

    def _samples(self, name: str) -> tuple[Sample, ...]:
        raw = self._answers.get(name)
        if raw is None:
            raise _Trouble("provider_error", f"{name}: was not asked")
        error = error_of(raw)
        if error is None:
            refused = read_error(raw)
            error = None if refused is None else f"{refused[0]}: {refused[1]}"
        if error is not None:
            raise _Trouble("provider_error", f"{name}: {error}")
        try:
            samples, warnings = parse_answer(raw)
        except BackendGarbage as garbage:
            raise _Trouble("provider_error", f"{name}: {garbage}") from None
        if warnings:
            raise _Trouble("provider_error", f"{name}: a partial answer ({warnings[0]})")
        if name not in self._carried:
            self._fresh(name, samples)
        if not samples:
            if name in self._seen and name not in self._carried:
                raise _Trouble("fail", f"{name}: the series existed before the step and vanished")
            raise _Trouble("no_data", f"{name}: no series")
        return samples

    def _fresh(self, name: str, samples: Iterable[Sample]) -> None:
        most = float(self._section["max_sample_age"])
        for sample in samples:
            age = self._now - sample.timestamp
            if age > most:
                raise _Trouble(
                    "provider_error", f"{name}: a sample {age:.1f} s old, at most {most:g} s allowed"
                )
            if age < -most:
                raise _Trouble("provider_error", f"{name}: a sample from {-age:.1f} s in the future")

    def _values(self, name: str) -> list[float]:
        values = [sample.value for sample in self._samples(name)]
        if any(math.isnan(value) for value in values):
            raise _Trouble("no_data", f"{name}: the value is NaN")
        return values

    def _value(self, name: str) -> float:
        values = self._values(name)
        if len(values) != 1:
            raise _Trouble("provider_error", f"{name}: {len(values)} series where one number is expected")
        if not math.isfinite(values[0]) or values[0] < 0:
            raise _Trouble("provider_error", f"{name}: {values[0]:g} is no count")
        return values[0]

    # -- parts -----------------------------------------------------------------------------------------

    def _traffic(self) -> float | None:
        requests: float | None = None
        try:
            requests = self._value("requests")
        except _Trouble as trouble:
            self._findings.append(trouble.finding)
        self._metrics["requests"] = requests
        least = self._section["min_requests"]
        if requests is not None and requests < least:
            self._findings.append(
                _Finding("low_traffic", f"{requests:.0f} requests in the window, at least {least} are needed")
            )
        try:
            self._metrics["share"] = self._value("share")
        except _Trouble as trouble:
            self._findings.append(trouble.finding)
            self._metrics["share"] = None
        return requests

    def _check(self, check: Mapping[str, Any], enough: bool) -> None:
        metric, threshold = check["metric"], parse(check["threshold"])
        self._metrics[metric] = None
        worst = threshold.worst(self._values(f"check.{metric}"))
        self._metrics[metric] = worst if worst is not None and math.isfinite(worst) else None
        if enough and not threshold.holds(worst):
            said = "nothing" if worst is None else f"{worst:.6g}"
            self._findings.append(
                _Finding("fail", f"{metric} is {said}, {threshold} is required", bool(check["critical"]))
            )

    def _baseline(self, check: Mapping[str, Any]) -> None:
        metric = check["metric"]
        base = f"baseline.{metric}"
        try:
            if check["kind"] == "proportion":
                counts = [self._value(f"{base}.{part}") for part in ("canary", "canary_total")]
                counts += [self._value(f"{base}.{part}") for part in ("stable", "stable_total")]
                self._enough_stable(metric, counts[1], counts[3])
                found = compare_proportions(
                    counts[0],
                    counts[1],
                    counts[2],
                    counts[3],
                    min_effect=check["min_effect"],
                    alpha=check["alpha"],
                )
            else:
                canary, stable = (self._histogram(f"{base}.{part}") for part in ("canary", "stable"))
                self._enough_stable(metric, canary.total, stable.total)
                found = compare_histograms(
                    canary, stable, min_effect=check["min_effect"], alpha=check["alpha"]
                )
        except ValueError as error:
            raise _Trouble("provider_error", f"{base}: {error}") from None
        self._metrics[f"{metric}_p"] = found.p
        self._metrics[f"{metric}_effect"] = max(-_LARGEST_EFFECT, min(_LARGEST_EFFECT, found.effect))
        if found.worse:
            self._findings.append(_Finding("fail", _worse(metric, found), bool(check["critical"])))

    def _enough_stable(self, metric: str, canary: float, stable: float) -> None:
        if round(canary) < 1:
            raise _Trouble("no_data", f"{metric}: no requests on the canary to compare")
        if stable < self._section["min_requests"]:
            raise _Trouble(
                "low_traffic",
                f"{metric}: stable had {stable:.0f} requests in the window to compare with, "
                f"at least {self._section['min_requests']} are needed",
            )

    def _histogram(self, name: str) -> Histogram:
        buckets: dict[float, float] = {}
        for sample in self._samples(name):
            try:
                bound = float(sample.labels["le"])
            except (KeyError, ValueError):
                raise _Trouble("provider_error", f"{name}: a bucket without a bound") from None
            if bound in buckets:
                raise _Trouble("provider_error", f"{name}: the bucket le={bound:g} occurs twice")
            if math.isnan(sample.value):
                raise _Trouble("no_data", f"{name}: the value is NaN")
            buckets[bound] = sample.value
        return Histogram.of(buckets)

    def _burning(self, enough: bool) -> None:
        burn = self._section["burn"]
        pairs: list[Pair] = []
        self._metrics["burn"] = None
        for index, windows in enumerate(burn["windows"]):
            rates: dict[str, float | None] = {}
            for length in ("long", "short"):
                rate: float | None = None
                try:
                    errors = self._value(f"burn.{length}.{index}.errors")
                    total = self._value(f"burn.{length}.{index}.total")
                    rate = burn_rate(errors, total, float(burn["objective"]))
                    if rate is None:
                        self._findings.append(_Finding("no_data", f"burn over {length} window: no requests"))
                except _Trouble as trouble:
                    self._findings.append(trouble.finding)
                rates[length] = rate
                self._burn[window_text(windows[length])] = rate
            pairs.append(Pair(rates["long"], rates["short"], float(windows["factor"])))
        count = firing(pairs)
        self._metrics["burn"] = count
        if enough and count:
            burning = next(pair for pair in pairs if pair.fires)
            self._findings.append(
                _Finding(
                    "fail",
                    f"{count} burn-rate alert(s) firing: {burning.long:.3g} and {burning.short:.3g} "
                    f"times the budget, above {burning.factor:g}",
                    critical=True,
                )
            )

    def _require_all(self) -> None:
        asked = {
            *queries_for(self._section, self._window_s, weight=self._weight),
            *stable_names(self._section),
        }
        missing = sorted(asked - set(self._answers))
        if missing:
            self._findings.append(_Finding("provider_error", f"{missing[0]}: was not asked"))


_ORDER: tuple[Outcome, ...] = ("fail", "provider_error", "low_traffic", "no_data")


def _worst(findings: list[_Finding]) -> _Finding:
    for outcome in _ORDER:
        same = [one for one in findings if one.outcome == outcome]
        if same:
            return _Finding(outcome, same[0].reason, any(one.critical for one in same))
    return _Finding("pass", "thresholds hold, no worse than stable, no burn-rate alert")


def _worse(metric: str, found: Comparison) -> str:
    where = f" ({found.where})" if found.where else ""
    return (
        f"{metric} is worse than on stable: {found.canary:.3%} against {found.stable:.3%}{where}, "
        f"effect {found.effect:.3g}, p {found.p:.2g}"
    )
