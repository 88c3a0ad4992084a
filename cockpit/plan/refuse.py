"""Plans that can never fail, or never pass, are refused when loaded (gates.md, end of the five outcomes)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from cockpit.plan.calendar import Soak
from cockpit.plan.checks import MetricCheck
from cockpit.plan.model import BaselineCheck, BurnRate, Canary, Plan
from cockpit.verdicts.calendar import MOST, next_opening
from cockpit.verdicts.thresholds import Threshold, parse

Problem = tuple[str, str, str]
"""Field path (`canary.failure_limit`), what is wrong, what would be right."""

_FEWEST_REQUESTS = 10
_OTHER_DRILLS = frozenset({"resilience", "drain"})
"""Evidence of A28 and A29 lies in the same folder."""
_RATIO = re.compile(r"(^|_)(error_rate|ratio|share|parity|availability)$")


def unfailable(plan: Plan) -> list[Problem]:
    """Return every field whose judgement cannot fail or cannot be reached; empty when there is none."""
    canary = plan.canary
    problems = [*_steps(canary), *_counts(canary), *_checks(canary), *_burn(canary.burn)]
    for index, check in enumerate(canary.baseline):
        problems += _baseline(f"canary.baseline[{index}]", check)
    if plan.targets.load is not None:
        problems += _threshold("targets.load.threshold", plan.targets.load.threshold)
    for number, risk in enumerate(plan.risks):
        for index, trigger in enumerate(risk.triggers):
            problems += _trigger(f"risks[{number}].triggers[{index}].threshold", trigger.threshold)
    if plan.calendar is not None:
        problems += _opens(plan)
        if plan.calendar.soak is not None:
            problems += _soak(plan.calendar.soak)
            if "P4" not in plan.phases:
                problems.append(("calendar.soak", "without P4 nothing would be soaked", "add P4 to phases"))
    problems += _unique("services", [service.name for service in plan.services])
    problems += _unique("targets.webhooks", [hook.name for hook in plan.targets.webhooks])
    problems += _unique("phases", plan.phases)
    problems += _unique("agents", plan.agents)
    problems += _after_release(plan)
    problems += _drills(plan)
    if "P6" not in plan.phases:
        problems.append(("phases", "without P6, the release train, nothing would be released", "add P6"))
    return problems + _unique("required_gates", plan.required_gates)


def _after_release(plan: Plan) -> list[Problem]:
    """What would only be found missing when prod traffic has moved: flags in the canary, KPIs a day later."""
    problems: list[Problem] = []
    if "A55" in plan.agents:
        right = "give it, or leave A55 out of the agents"
        if plan.targets.flags is None:
            problems.append(("targets.flags", "A55 has no flags to look at under the canary", right))
        if not plan.ga_flags:
            problems.append(("ga_flags", "A55 has no flag to look at under the canary", right))
        if plan.auto_ramp_flags and not plan.pilot_tenants:
            problems.append(("pilot_tenants", "flags ramp to pilot tenants alone, and there are none", right))
    if plan.kpis is not None:
        problems += _unique("kpis.items", [kpi.name for kpi in plan.kpis.items])
    elif "A43" in plan.agents and "P8" in plan.phases:
        problems.append(("kpis", "A43 has nothing to compare in P8", "declare KPIs, or leave P8 out"))
    return problems


def _drills(plan: Plan) -> list[Problem]:
    """Drills in prod, of what is not released, or that cannot end in time."""
    chaos, problems = plan.chaos, []
    if chaos is None:
        if "A36" in plan.agents:
            problems.append(("chaos", "A36 has no drill to hold", "give it, or leave A36 out of the agents"))
        return problems
    if chaos.namespace == plan.targets.kubernetes.namespace:
        problems.append(("chaos.namespace", "this is prod: drills are never held there", "stage's namespace"))
    for index, check in enumerate(chaos.steady):
        problems += _check(f"chaos.steady[{index}].threshold", check)
    problems += _unique("chaos.steady", [check.metric for check in chaos.steady])
    problems += _unique("chaos.experiments", [one.name for one in chaos.experiments])
    services = {service.name for service in plan.services}
    for index, one in enumerate(chaos.experiments):
        field = f"chaos.experiments[{index}]"
        if one.service not in services:
            problems.append(
                (f"{field}.service", f"{one.service} is no service of the release", "one of them")
            )
        if one.recovers_within <= chaos.window:
            said = f"the steady state is looked at over {chaos.window:g} s after the kill"
            problems.append((f"{field}.recovers_within", said, f"more than {chaos.window:g} s"))
        if one.name in _OTHER_DRILLS:
            problems.append((f"{field}.name", "another agent's evidence has this name", "another name"))
    needed = sum(one.recovers_within for one in chaos.experiments)
    if needed >= plan.agent_deadline:
        right = f"less than {plan.agent_deadline:g} s together, or a longer agent_deadline"
        problems.append(("chaos.experiments", f"recovering may take {needed:g} s", right))
    return problems


def looks_in_bake(canary: Canary) -> int:
    """Return how many looks a step's bake has room for."""
    return int(canary.bake / canary.interval + 1e-9)


def _steps(canary: Canary) -> list[Problem]:
    steps, problems = canary.steps, []
    right = "ascending percentages that end at 100, e.g. [10, 50, 100]"
    if steps[-1] != 100:
        problems.append(
            ("canary.steps", f"the last step is {steps[-1]} %: the release is never judged whole", right)
        )
    if any(later <= earlier for earlier, later in pairwise(steps)):
        problems.append(("canary.steps", f"the steps {list(steps)} do not rise", right))
    if steps[0] == 100:
        problems.append(
            (
                "canary.steps",
                "the first step is 100 %: stable has no traffic to compare the canary with",
                right,
            )
        )
    return problems


def _counts(canary: Canary) -> list[Problem]:
    looks, problems = looks_in_bake(canary), []
    room = f"a bake of {canary.bake:g} s has room for {looks} looks every {canary.interval:g} s"
    if canary.failure_limit > looks:
        problems.append(
            (
                "canary.failure_limit",
                f"{canary.failure_limit} failures in a row cannot be reached: {room}",
                f"at most {max(1, looks)}",
            )
        )
    if canary.required_passes > looks:
        problems.append(
            (
                "canary.required_passes",
                f"{canary.required_passes} passes cannot be reached: {room}",
                f"at most {max(1, looks)}, or a longer bake",
            )
        )
    if canary.min_requests < _FEWEST_REQUESTS:
        problems.append(
            (
                "canary.min_requests",
                f"{canary.min_requests} requests prove nothing about error rates or quantiles",
                f"at least {_FEWEST_REQUESTS}; 50 is usual",
            )
        )
    return problems


def _checks(canary: Canary) -> list[Problem]:
    problems = _unique("canary.checks", [check.metric for check in canary.checks])
    if not any(check.critical for check in canary.checks):
        problems.append(
            ("canary.checks", "no check is critical: nothing rolls back at once", "mark one `critical: true`")
        )
    for index, check in enumerate(canary.checks):
        field = f"canary.checks[{index}].threshold"
        problems += _check(field, check)
    return problems


def _check(field: str, check: MetricCheck) -> list[Problem]:
    problems = _threshold(field, check.threshold)
    if not problems and parse(check.threshold).metric != check.metric:
        problems.append(
            (
                field,
                f"{check.threshold!r} is not about the metric {check.metric!r}",
                f"write it about {check.metric}",
            )
        )
    return problems


def _soak(soak: Soak) -> list[Problem]:
    problems = _unique("calendar.soak.checks", [check.metric for check in soak.checks])
    for index, check in enumerate(soak.checks):
        problems += _check(f"calendar.soak.checks[{index}].threshold", check)
    if soak.interval > soak.lasts:
        problems.append(
            (
                "calendar.soak.interval",
                f"the soak is over after {soak.lasts:g} s, before the first look",
                f"at most {soak.lasts:g}",
            )
        )
    return problems


def _opens(plan: Plan) -> list[Problem]:
    if next_opening(plan, plan.window_utc.start, MOST) is None:
        return [
            (
                "calendar",
                "freezes and recurring windows leave no moment of window_utc to promote prod in",
                "a window_utc that meets one of the windows outside the freezes",
            )
        ]
    return []


def _baseline(field: str, check: BaselineCheck) -> list[Problem]:
    problems = []
    if check.canary == check.stable:
        problems.append(
            (f"{field}.stable", "canary and stable are the same query", "select the stable track's series")
        )
    if check.kind == "proportion":
        if check.min_effect >= 1:
            problems.append(
                (
                    f"{field}.min_effect",
                    f"two proportions cannot differ by {check.min_effect:g}",
                    "a difference below 1, e.g. 0.02",
                )
            )
        for name in ("canary_total", "stable_total"):
            if not getattr(check, name):
                problems.append(
                    (f"{field}.{name}", "a proportion needs its trials", "a query of all requests")
                )
        if check.canary_total and check.canary == check.canary_total:
            problems.append((f"{field}.canary", "events and trials are the same query", "count the events"))
    return problems


def _burn(burn: BurnRate) -> list[Problem]:
    problems = []
    most = 1 / (1 - burn.objective)
    for index, window in enumerate(burn.windows):
        field = f"canary.burn.windows[{index}]"
        if window.factor >= most:
            problems.append(
                (
                    f"{field}.factor",
                    f"no burn rate exceeds {most:.6g} at an objective of {burn.objective:g}: it never fires",
                    f"below {most:.6g}",
                )
            )
        if window.short >= window.long:
            problems.append((f"{field}.short", "the short window is not shorter", f"below {window.long:g} s"))
    return problems


def _threshold(field: str, text: str) -> list[Problem]:
    try:
        threshold = parse(text)
    except ValueError as error:
        return [(field, str(error), "metric op value, e.g. p95_ms<=150")]
    if _always(threshold):
        return [
            (field, f"{text!r} holds for every value {threshold.metric} can have", "a bound that can break")
        ]
    if _never(threshold):
        return [
            (field, f"{text!r} holds for no value {threshold.metric} can have", "a bound that can be met")
        ]
    return []


def _trigger(field: str, text: str) -> list[Problem]:
    # A trigger is the opposite of a check: one that can never hold never opens its risk.
    try:
        threshold = parse(text)
    except ValueError as error:
        return [(field, str(error), "metric op value, e.g. lag_p95>800")]
    if _never(threshold):
        return [(field, f"{text!r} can never hold: the risk is never opened", "a bound that can be reached")]
    return []


def _always(threshold: Threshold) -> bool:
    # What is measured here is never negative; headroom alone can be.
    if threshold.op in (">", ">=") and threshold.metric != "headroom":
        return threshold.value < 0 or (threshold.op == ">=" and threshold.value == 0)
    if _RATIO.search(threshold.metric):
        return (threshold.op == "<" and threshold.value > 1) or (
            threshold.op == "<=" and threshold.value >= 1
        )
    return False


def _never(threshold: Threshold) -> bool:
    if threshold.metric != "headroom":
        if threshold.value < 0 and threshold.op in ("<", "<=", "=="):
            return True
        if threshold.op == "<" and threshold.value == 0:
            return True
    top = 1.0 if _RATIO.search(threshold.metric) or threshold.metric == "headroom" else None
    if top is None:
        return False
    return (threshold.op in (">=", "==") and threshold.value > top) or (
        threshold.op == ">" and threshold.value >= top
    )


def _unique(field: str, names: Sequence[str]) -> list[Problem]:
    twice = sorted({name for name in names if names.count(name) > 1})
    return [(field, f"{name} is listed twice", "each once") for name in twice]
