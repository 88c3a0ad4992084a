"""Reliability economics: the SLO Economist (A54), what a release spent of the error budget."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import Context
from cockpit.agents import kpi
from cockpit.agents.asking import ask
from cockpit.agents.common import GateAgent, Measured, judge, reason_of, summary, write_json
from cockpit.base.clock import iso
from cockpit.plan.model import BaselineCheck, Canary
from cockpit.verdicts.burn import burn_rate
from cockpit.verdicts.kpi_times import DAY_S, KpiTimes
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.rules.economics import Budget, budget_of
from cockpit.verdicts.rules.reading import Trouble, value

REPORT = "slo/economics.json"
PERIOD_DAYS = 30
"""Days an error budget is for: the rolling window of the usual burn-rate alerts."""
_POINTS = 8
_LEAST = timedelta(seconds=1)
_SCARCE = 0.5
"""Share of the period's budget a single release may spend before reliability work comes first."""


class SloEconomist(GateAgent):
    """A54: counts failed requests under the canary and since the release, against the plan's objective."""

    gate = "slo"
    phase_gate = "slo"

    async def plan(self, context: Context) -> Outcome:
        """Say what will be counted; blocked before there is a release."""
        try:
            await kpi.times_of(context)
        except kpi.NotYet as reason:
            return kpi.blocked_by(reason)
        return await super().plan(context)

    async def verify(self, context: Context) -> Outcome:
        """Count, judge, and write the report; blocked before there is a release."""
        try:
            await kpi.times_of(context)
        except kpi.NotYet as reason:
            return kpi.blocked_by(reason)
        return await super().verify(context)

    def needs(self, context: Context) -> str:
        """Need the metrics back end."""
        _ = context.metrics
        return f"count errors since the canary began against a budget of {PERIOD_DAYS} days"

    def blocked(self, context: Context) -> str:
        """Say so when the plan has nothing from which the new version's errors could be counted."""
        if _counts(context.plan.canary) is None:
            return "canary.baseline has no check of kind `proportion`: errors since the release are unknown"
        return ""

    async def measure(self, context: Context) -> Measured:
        """Ask for both parts of the release's life, judge, and write spending, burn-down and priorities."""
        times = await kpi.times_of(context)
        end = max(context.clock.now(), times.released + _LEAST)
        texts, moments, parts = _questions(context.plan.canary, times, end)
        asked = await ask(context, texts, at=moments)
        canary = context.plan.canary
        params: dict[str, Any] = {
            "parts": parts,
            "objective": canary.burn.objective,
            "period_s": PERIOD_DAYS * DAY_S * times.compressed,
            "min_requests": canary.min_requests,
            "max_age": canary.max_sample_age,
        }
        judged = {name: raw for name, raw in asked.answers.items() if not name.startswith("down.")}
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "error_budget",
            judged,
            params,
            {name: asked.queries[name] for name in judged},
        )
        document: dict[str, Any] = {
            "version": context.plan.target_version,
            "objective": canary.burn.objective,
            "period_days": PERIOD_DAYS,
            "compressed": times.compressed < 1,
            "a_day_is_s": DAY_S * times.compressed,
            "verdict": summary(verdict),
        }
        try:
            budget = budget_of(asked.answers, params)
        except Trouble as trouble:
            document["unknown"] = trouble.reason
        else:
            document |= _spending(budget, canary.burn.objective)
            document["burn_down"] = _burn_down(asked.answers, budget, moments, canary.max_sample_age)
            document["priorities"] = priorities(budget, canary.burn.objective)
        artifact = write_json(context, REPORT, document)
        return Measured((verdict,), (artifact,), reason_of((verdict,)), "weigh the priorities of the report")


def _counts(canary: Canary) -> BaselineCheck | None:
    return next((one for one in canary.baseline if one.kind == "proportion"), None)


def _questions(
    canary: Canary, times: KpiTimes, end: datetime
) -> tuple[dict[str, str], dict[str, datetime], list[dict[str, Any]]]:
    """Return queries, their moments, and the parts they count.

    Under the canary it was the canary's series, by the rates of the burn rate; since then it is stable's, by
    the counts of the baseline. `down.<n>` count from the release on up to growing moments.
    """
    check = _counts(canary)
    assert check is not None  # blocked() has said so before
    texts: dict[str, str] = {}
    moments: dict[str, datetime] = {}
    parts: list[dict[str, Any]] = []

    def add(name: str, start: datetime, until: datetime, errors: str, requests: str) -> None:
        window = window_text((until - start).total_seconds())
        for what, text in (("errors", errors), ("requests", requests)):
            texts[f"{name}.{what}"] = text.replace("{window}", window)
            moments[f"{name}.{what}"] = until

    for name, start, until, rate in (
        ("canary", times.before, times.released, True),
        ("since", times.released, end, False),
    ):
        if rate:
            add(name, start, until, canary.burn.errors, canary.burn.total)
        else:
            add(name, start, until, check.stable, check.stable_total)
        moment = round(until.timestamp(), 3)
        parts.append(
            {
                "name": name,
                "start": round(start.timestamp(), 3),
                "end": moment,
                "asked_at": moment,
                "rate": rate,
            }
        )
    for point in range(1, _POINTS):
        until = times.released + (end - times.released) * point / _POINTS
        add(f"down.{point}", times.released, until, check.stable, check.stable_total)
    return texts, moments, parts


def _spending(budget: Budget, objective: float) -> dict[str, Any]:
    return {
        "budget_requests": round(budget.allowed, 3),
        "spent": round(budget.spent, 6),
        "left": round(1 - budget.spent, 6),
        "burn": round(budget.burn, 6),
        "parts": [
            {
                "name": part.name,
                "seconds": round(part.end - part.start, 3),
                "requests": round(part.requests, 3),
                "errors": round(part.errors, 3),
                "spent": round(part.errors / budget.allowed, 6),
                "burn": burn_rate(part.errors, part.requests, objective),
            }
            for part in budget.parts
        ],
    }


def _burn_down(
    answers: dict[str, bytes], budget: Budget, moments: dict[str, datetime], max_age: float
) -> list[dict[str, Any]]:
    """Return the budget left at moments since the canary began; a point that was not measured has none."""
    canary, since = budget.parts
    points: list[dict[str, Any]] = [
        {"at": _iso(canary.start), "left": 1.0},
        {"at": _iso(canary.end), "left": round(1 - canary.errors / budget.allowed, 6)},
    ]
    for point in range(1, _POINTS):
        name = f"down.{point}.errors"
        moment = moments[name]
        left = None
        try:
            errors = value(answers, name, now=moment.timestamp(), max_age=max_age)
            left = round(1 - (canary.errors + errors) / budget.allowed, 6)
        except Trouble:
            pass  # the report shows the gap
        points.append({"at": iso(moment), "left": left})
    return [*points, {"at": _iso(since.end), "left": round(1 - budget.spent, 6)}]


def _iso(seconds: float) -> str:
    return iso(datetime.fromtimestamp(seconds, UTC))


def priorities(budget: Budget, objective: float) -> list[dict[str, str]]:
    """Return what the spending means for the work ahead, most urgent first."""
    rates = {part.name: burn_rate(part.errors, part.requests, objective) or 0.0 for part in budget.parts}
    found: list[dict[str, str]] = []
    if budget.spent >= 1:
        found.append(_priority("high", "no feature work until the budget recovers", "the budget is used up"))
    if rates["since"] > 1:
        found.append(
            _priority(
                "high",
                "find and mend what fails since the release, or take it back",
                f"the budget burns {rates['since']:.2g} times too fast and will not last the period",
            )
        )
    if rates["canary"] > 1 >= rates["since"]:
        found.append(
            _priority(
                "medium",
                "judge canaries by tighter limits, or at smaller first steps",
                f"under the canary the budget burned {rates['canary']:.2g} times too fast, now it does not",
            )
        )
    if _SCARCE <= budget.spent < 1:
        found.append(
            _priority(
                "medium",
                "reliability work before the next release",
                f"one release spent {budget.spent:.0%} of the budget of the period",
            )
        )
    if not found:
        found.append(
            _priority(
                "low",
                "features as planned",
                f"{1 - budget.spent:.1%} of the budget is left and it burns slower than the objective allows",
            )
        )
    return found


def _priority(rank: str, what: str, why: str) -> dict[str, str]:
    return {"rank": rank, "what": what, "why": why}
