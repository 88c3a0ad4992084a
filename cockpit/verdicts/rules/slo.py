"""Service levels now: absolute thresholds and burn rate over stored metrics answers (gate `slo`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cockpit.verdicts.burn import Pair, burn_rate, firing
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, finite, histogram, never_raises, samples, value
from cockpit.verdicts.thresholds import Threshold, parse


@never_raises
def slo_levels(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge `params["levels"]` and `params["burn"]`.

    A level has `metric`, `threshold`, `kind` and the names of its answers: `value` takes one number (the
    worst of several series), `ratio` two counts, `quantile` a histogram with `share` and `scale`. `requests`
    names the count held against `min_requests`. Every level and every burn window must be measured.
    """
    time = {"now": float(params["now"]), "max_age": float(params["max_sample_age"])}
    levels = [(parse(level["threshold"]), level) for level in params["levels"]]
    thresholds = (*(str(threshold) for threshold, _ in levels), "burn==0")
    metrics: Metrics = {}
    if not levels or not params["burn"]["windows"]:
        return Judgement("fail", "there is nothing to judge", metrics, thresholds)
    try:
        requests = value(answers, params["requests"], **time)
        metrics["requests"] = finite(requests)
        least = params["min_requests"]
        if requests < least:
            raise Trouble("low_traffic", f"{requests:.0f} requests in the window, at least {least} needed")
        broken = []
        for threshold, level in levels:
            measured = _level(answers, threshold, level, time)
            metrics[threshold.metric] = finite(measured)
            if not threshold.holds(measured):
                broken.append(f"{threshold.metric} is {measured:.6g}, {threshold} is required")
        count = _burn(answers, params["burn"], time, metrics)
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, thresholds)
    if count:
        broken.append(f"{count} burn-rate alert(s) firing")
    if broken:
        return Judgement("fail", "; ".join(broken), metrics, thresholds)
    return Judgement("pass", "every level holds and no burn-rate alert fires", metrics, thresholds)


def _level(
    answers: Mapping[str, bytes], threshold: Threshold, level: Mapping[str, Any], time: Mapping[str, float]
) -> float:
    names = level["answers"]
    if level["kind"] == "ratio":
        events, total = (value(answers, name, now=time["now"], max_age=time["max_age"]) for name in names)
        if total <= 0:
            raise Trouble("no_data", f"{threshold.metric}: no requests")
        return events / total
    if level["kind"] == "quantile":
        found = histogram(answers, names[0], now=time["now"], max_age=time["max_age"])
        if found.total <= 0:
            raise Trouble("no_data", f"{threshold.metric}: no observations")
        return found.quantile(float(level["share"])) * float(level["scale"])
    if level["kind"] != "value":
        raise Trouble("provider_error", f"{threshold.metric}: a level of unknown kind")
    found_values = [
        sample.value for sample in samples(answers, names[0], now=time["now"], max_age=time["max_age"])
    ]
    worst = threshold.worst(found_values)
    assert worst is not None  # samples() gives at least one
    return worst


def _burn(
    answers: Mapping[str, bytes], burn: Mapping[str, Any], time: Mapping[str, float], metrics: Metrics
) -> int:
    pairs = []
    metrics["burn"] = None
    for index, windows in enumerate(burn["windows"]):
        rates: list[float] = []
        for length in ("long", "short"):
            errors, total = (
                value(answers, f"burn.{length}.{index}.{part}", now=time["now"], max_age=time["max_age"])
                for part in ("errors", "total")
            )
            rate = burn_rate(errors, total, float(burn["objective"]))
            if rate is None:
                raise Trouble("no_data", f"burn over the {length} window: no requests")
            metrics[f"burn_{length}_{index}"] = finite(rate)
            rates.append(rate)
        pairs.append(Pair(rates[0], rates[1], float(windows["factor"])))
    count = firing(pairs)
    if count is None:
        raise Trouble("no_data", "the burn rate was not measured")
    metrics["burn"] = count
    return count
