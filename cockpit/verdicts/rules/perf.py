"""Load and headroom over stored runs and utilisation answers (gate `perf`)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.load_result import LoadResult, read_result
from cockpit.verdicts.rules.reading import Trouble, finite, never_raises, raw_of, samples, value
from cockpit.verdicts.thresholds import parse

MAX_LATE_MS = 25.0
"""How late the generator may send: beyond, a run says nothing about the service."""


@never_raises
def load_latency(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Hold every service in every profile of `params["profiles"]` to the latency threshold.

    `threshold` is about p95, in milliseconds from the intended start; `errors` about the share of requests
    without a good answer. The worst service in the worst profile counts.
    """
    latency, errors = parse(params["threshold"]), parse(params["errors"])
    thresholds = (str(latency), str(errors))
    profiles = params["profiles"]
    metrics: Metrics = {}
    if not profiles:
        return Judgement("fail", "no profile was to be run", metrics, thresholds)
    try:
        results = [_run(answers, name, params) for name in profiles]
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, thresholds)
    slowest, most_errors = -math.inf, 0.0
    said = []
    for name, result in zip(profiles, results, strict=True):
        for one in result.services:
            p95 = one.percentile_ms(0.95)
            slowest, most_errors = max(slowest, p95), max(most_errors, one.error_rate)
            if not latency.holds(p95):
                said.append(f"{name}: p95 of {one.service} is {p95:.0f} ms at {result.rps:g}/s")
            if not errors.holds(one.error_rate):
                said.append(f"{name}: {one.error_rate:.1%} of the requests to {one.service} failed")
        metrics[f"p95_ms_{name}"] = finite(max(one.percentile_ms(0.95) for one in result.services))
        metrics[f"requests_{name}"] = result.intended
    metrics[latency.metric], metrics[errors.metric] = finite(slowest), finite(most_errors)
    if said:
        return Judgement("fail", "; ".join(said)[:1000], metrics, thresholds)
    return Judgement("pass", f"p95 is {slowest:.0f} ms at worst", metrics, thresholds)


@never_raises
def latency_now(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Hold the latency users see now to `threshold`: answers `latency` (its worst series) and `requests`.

    Fewer than `min_requests` say nothing.
    """
    threshold = parse(params["threshold"])
    thresholds = (str(threshold),)
    metrics: Metrics = {threshold.metric: None}
    time = {"now": float(params["now"]), "max_age": float(params["max_sample_age"])}
    try:
        requests = value(answers, "requests", now=time["now"], max_age=time["max_age"])
        metrics["requests"] = finite(requests)
        least = params["min_requests"]
        if requests < least:
            raise Trouble("low_traffic", f"{requests:.0f} requests in the window, at least {least} needed")
        found = samples(answers, "latency", now=time["now"], max_age=time["max_age"])
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, thresholds)
    worst = threshold.worst(sample.value for sample in found)
    assert worst is not None  # samples() gives at least one
    metrics[threshold.metric] = finite(worst)
    said = f"{threshold.metric} is {worst:.6g}"
    if threshold.holds(worst):
        return Judgement("pass", said, metrics, thresholds)
    return Judgement("fail", f"{said}, {threshold} is required", metrics, thresholds)


@never_raises
def headroom_load(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Headroom of each service from a stepped load: 1 − target rate ÷ capacity, by its lower bound.

    `params["steps"]` names the runs; `target_rps` is the rate to be carried; `threshold` is about `headroom`.
    Capacity is the best rate of good answers that any step reached, less two standard deviations of its
    count: a service that was never saturated has at least that much.
    """
    threshold = parse(params["threshold"])
    thresholds = (str(threshold),)
    target, services = float(params["target_rps"]), params["services"]
    metrics: Metrics = {threshold.metric: None}
    if not params["steps"] or not services or not target > 0:
        return Judgement("fail", "no load step was to be run", metrics, thresholds)
    try:
        results = [_run(answers, name, params) for name in params["steps"]]
        lower = {}
        for service in services:
            point, lower[service] = headroom(results, service, target)
            metrics[f"headroom_{service}"] = finite(lower[service])
            metrics[f"estimate_{service}"] = finite(point)
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, thresholds)
    return _least(lower, threshold_text=params["threshold"], metrics=metrics)


@never_raises
def headroom_utilisation(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Headroom of each service from its utilisation now: 1 − busy ÷ workers (utilisation law).

    Answers `busy` (busy worker-seconds a second) and `workers`, by label `service`; every service of
    `params["services"]` must be in both.
    """
    threshold = parse(params["threshold"])
    metrics: Metrics = {threshold.metric: None}
    services = params["services"]
    time = {"now": float(params["now"]), "max_age": float(params["max_sample_age"])}
    if not services:
        return Judgement("fail", "no service to look at", metrics, (str(threshold),))
    try:
        busy, workers = (_by_service(answers, name, time) for name in ("busy", "workers"))
        headrooms = {}
        for service in services:
            if service not in busy or service not in workers or workers[service] <= 0:
                raise Trouble("no_data", f"the utilisation of {service} is not measured")
            headrooms[service] = 1 - busy[service] / workers[service]
            metrics[f"headroom_{service}"] = finite(headrooms[service])
    except Trouble as trouble:
        return Judgement(trouble.outcome, trouble.reason, metrics, (str(threshold),))
    return _least(headrooms, threshold_text=params["threshold"], metrics=metrics)


def headroom(results: list[LoadResult], service: str, target_rps: float) -> tuple[float, float]:
    """Return (estimate, lower bound) of a service's headroom; raises Trouble when it gave no good answer."""
    point = lower = -math.inf
    for result in results:
        for one in result.services:
            if one.service == service and one.good_in_window > 0:
                n = one.good_in_window
                point = max(point, n / result.seconds)
                lower = max(lower, (n - 2 * math.sqrt(n)) / result.seconds)
    if point <= 0:
        raise Trouble("no_data", f"{service} gave no good answer under load")
    return 1 - target_rps / point, 1 - target_rps / lower if lower > 0 else -math.inf


def _run(answers: Mapping[str, bytes], name: str, params: Mapping[str, Any]) -> LoadResult:
    result = read_result(raw_of(answers, name))
    if result.profile != name:
        raise Trouble("provider_error", f"{name}: the answer is about {result.profile[:80]!r}")
    if {one.service for one in result.services} != set(params["services"]):
        raise Trouble("no_data", f"{name}: not every service was loaded")
    least = params["min_requests"]
    for one in result.services:
        if one.intended < least:
            raise Trouble("low_traffic", f"{name}: {one.intended} requests to {one.service}, {least} needed")
        if not one.late_ms <= MAX_LATE_MS:
            # Its own delay would be taken for the service's.
            raise Trouble("provider_error", f"{name}: the generator was {one.late_ms:.0f} ms behind")
    return result


def _by_service(answers: Mapping[str, bytes], name: str, time: Mapping[str, float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for sample in samples(answers, name, now=time["now"], max_age=time["max_age"]):
        service = sample.labels.get("service", "")
        if not service or service in found or not math.isfinite(sample.value) or sample.value < 0:
            raise Trouble("provider_error", f"{name}: not one measurement for each service")
        found[service] = sample.value
    return found


def _least(headrooms: Mapping[str, float], *, threshold_text: str, metrics: Metrics) -> Judgement:
    threshold = parse(threshold_text)
    service, least = min(headrooms.items(), key=lambda item: item[1])
    metrics = {**metrics, threshold.metric: finite(least)}
    said = f"headroom of {service} is at least {least:.2f}, the least of {len(headrooms)}"
    if threshold.holds(least):
        return Judgement("pass", said, metrics, (str(threshold),))
    return Judgement("fail", f"{said}; {threshold} is required", metrics, (str(threshold),))
