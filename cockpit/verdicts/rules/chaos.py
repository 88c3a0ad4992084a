"""Chaos drills (gate `chaos`, seed sections 5 and 17): what was killed, what came back, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cockpit.base.text import visible
from cockpit.verdicts.gates import THRESHOLDS
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import Trouble, document, finite, never_raises, samples
from cockpit.verdicts.thresholds import parse

_ORDER = ("steady_at", "killed_at", "ready_at", "recovered_at")


def steady_state(
    answers: Mapping[str, bytes],
    checks: Sequence[Mapping[str, Any]],
    *,
    prefix: str,
    now: float,
    max_age: float,
) -> tuple[list[str], Metrics]:
    """Return which checks do not hold in the answers `<prefix>.<metric>`, and what each measured.

    Of several series the worst counts. Raises Trouble for an answer that is no measurement.
    """
    problems: list[str] = []
    measured: Metrics = {}
    for check in checks:
        threshold = parse(check["threshold"])
        found = samples(answers, f"{prefix}.{check['metric']}", now=now, max_age=max_age)
        worst = threshold.worst(sample.value for sample in found)
        measured[threshold.metric] = None if worst is None else finite(worst)
        if worst is None or not threshold.holds(worst):
            said = "nothing" if worst is None else f"{worst:.6g}"
            problems.append(f"{threshold.metric} is {said}, {threshold} is required")
    return problems, measured


@never_raises
def chaos_drill(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge every experiment of `params["experiments"]` (`name`, `service`, `most`, `recovers_within`).

    For each, `<name>.record` has the pods before and after (`name`, `uid`, `ready`), `wanted` replicas, the
    uids killed and the times in Unix seconds (`steady_at`, `killed_at`, `ready_at`, `recovered_at`, and
    `asked` by the back end's clock); `<name>.before.<metric>` and `<name>.after.<metric>` are the steady
    checks as answered, `now.<metric>` and `now.<name>` (pods) those of VERIFY, asked at `params["now"]`.
    `params["window"]` is what the steady checks look back over, in seconds: a look sooner after the kill says
    nothing. `params["rollback"]` are the measured drills of the automatic rollback (`seconds`, `passed`);
    without any, `rollback_s` is absent and not claimed.
    """
    experiments = params["experiments"]
    limits = [f"recovery_s<={max((float(e['recovers_within']) for e in experiments), default=0):.12g}"]
    thresholds = (*limits, *(str(parse(one["threshold"])) for one in params["checks"]))
    metrics: Metrics = {"experiments": len(experiments), "recovery_s": None, "rollback_s": None}
    if not experiments or not params["checks"]:
        return Judgement("fail", "there is nothing to judge", metrics, thresholds)
    rollback, said = _rollback(params["rollback"], metrics)
    if params["rollback"]:
        thresholds = (*thresholds, *THRESHOLDS["chaos"])
    age = float(params["max_age"])
    problems = [*rollback]
    recovered, killed = [], 0
    for one in experiments:
        record = document(answers, f"{one['name']}.record")
        wrong, took = _experiment(answers, one, record, params["checks"], age)
        if took < float(params["window"]):
            wrong.append(f"looked at {took:.1f} s after the kill, over {float(params['window']):g} s")
        problems += [f"{one['name']}: {text}" for text in wrong]
        recovered.append(took)
        killed += len(record.get("killed") or [])
        pods = document(answers, f"now.{one['name']}")
        if len(_ready(pods)) < int(pods["wanted"]):
            problems.append(f"{one['name']}: {len(_ready(pods))} of {pods['wanted']} pods are ready now")
    found, measured = steady_state(
        answers, params["checks"], prefix="now", now=float(params["now"]), max_age=age
    )
    problems += [f"now: {text}" for text in found]
    metrics |= measured
    metrics |= {"pods_killed": killed, "recovery_s": finite(max(recovered))}
    if problems:
        return Judgement("fail", visible("; ".join(problems), limit=1000), metrics, thresholds)
    return Judgement(
        "pass",
        f"{killed} pod(s) killed in {len(experiments)} experiment(s); ready and steady again after "
        f"{max(recovered):.1f} s; {said}",
        metrics,
        thresholds,
    )


def _rollback(drills: Sequence[Mapping[str, Any]], metrics: Metrics) -> tuple[list[str], str]:
    if not drills:
        return [], "the automatic rollback was not drilled in this run: rollback_s is absent"
    threshold = parse(THRESHOLDS["chaos"][0])
    worst = max(float(one["seconds"]) for one in drills)
    metrics["rollback_s"] = finite(worst)
    if not all(one["passed"] is True for one in drills):
        return ["a drill of the automatic rollback did not hold"], ""
    if not threshold.holds(worst):
        return [f"rollback_s is {worst:.6g}, {threshold} is required"], ""
    return [], f"automatic rollback drilled in {worst:.1f} s"


def _experiment(
    answers: Mapping[str, bytes],
    one: Mapping[str, Any],
    record: Mapping[str, Any],
    checks: Sequence[Mapping[str, Any]],
    age: float,
) -> tuple[list[str], float]:
    """Return what is wrong with an experiment, and the seconds it took to recover (infinite: it did not)."""
    name, times = str(one["name"]), record["times"]
    before, killed = _ready(record["before"]), [str(uid) for uid in record["killed"]]
    wrong = []
    if record.get("service") != one["service"]:
        wrong.append("another service was drilled")
    if not killed or len(set(killed)) != len(killed):
        wrong.append("no pod was killed")
    if len(killed) > int(one["most"]):
        wrong.append(f"{len(killed)} pods were killed, at most {one['most']} may be")
    if not set(killed) <= before:
        wrong.append("a pod was killed that was not ready before")
    if len(before) < int(record["before"]["wanted"]):
        wrong.append(f"{len(before)} of {record['before']['wanted']} pods were ready before")
    at = float(record["asked"]["before"])
    problems, _ = steady_state(answers, checks, prefix=f"{name}.before", now=at, max_age=age)
    wrong += [f"before: {text}" for text in problems]
    if times.get("recovered_at") is None:
        reason = visible(str(record.get("reason") or "steady state did not come back"), limit=300)
        return [*wrong, reason], math.inf
    moments = [float(times[moment]) for moment in _ORDER]
    if moments != sorted(moments):
        wrong.append("its times are out of order")
    after = _ready(record["after"])
    if len(after) < int(record["after"]["wanted"]) or after & set(killed):
        wrong.append(f"{len(after)} of {record['after']['wanted']} pods were ready after")
    if int(record["after"]["wanted"]) < int(record["before"]["wanted"]):
        wrong.append("fewer replicas were asked for after than before")
    at = float(record["asked"]["after"])
    problems, _ = steady_state(answers, checks, prefix=f"{name}.after", now=at, max_age=age)
    wrong += [f"after: {text}" for text in problems]
    took = float(times["recovered_at"]) - float(times["killed_at"])
    if not took <= float(one["recovers_within"]):
        wrong.append(f"recovered after {took:.1f} s, {float(one['recovers_within']):g} s are allowed")
    return wrong, took


def _ready(pods: Mapping[str, Any]) -> set[str]:
    """Return the uids of the ready pods of a workload."""
    rows = pods["pods"]
    if not isinstance(rows, list):
        raise Trouble("provider_error", "the pods cannot be read")
    return {str(row["uid"]) for row in rows if row["ready"] is True}
