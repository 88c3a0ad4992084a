"""Program: the Risk Officer (A4), the register of seed section 12 measured."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

from cockpit.agentkit.agent import Outcome, ReadOnlyAgent
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.common import blocked, recorded, together, vouch, write_json
from cockpit.base.errors import BackendError, BackendGarbage
from cockpit.base.text import visible
from cockpit.plan.model import Risk, RiskTrigger
from cockpit.verdicts.answers import Sample
from cockpit.verdicts.thresholds import parse

_MOST_POINTS = 200
_FEWEST_POINTS = 5


class RiskOfficer(ReadOnlyAgent):
    """A4: measures each trigger, opens and closes risks, and says whether one of them stops the release."""

    async def plan(self, context: Context) -> Outcome:
        """Say what will be measured."""
        try:
            _ = context.metrics
        except BackendMissing as missing:
            return blocked(str(missing))
        count = sum(len(risk.triggers) for risk in context.plan.risks)
        return Outcome(
            "ok",
            f"APPLY changes nothing. VERIFY will measure {count} triggers of {len(context.plan.risks)} risks",
            "run VERIFY",
        )

    async def verify(self, context: Context) -> Outcome:
        """Measure every trigger and write the register."""
        try:
            _ = context.metrics
            rows = [await _risk(context, risk) for risk in context.plan.risks]
        except BackendMissing as missing:
            return blocked(str(missing))
        except BackendError as error:
            # Not a breach and not an ok: nobody knows.
            return Outcome(
                "blocked",
                f"the risk triggers could not be measured: {visible(str(error), limit=1000)}",
                "look at the metrics back end, then run VERIFY again",
            )
        exceptions = [_exception(context, one) for one in context.plan.exceptions]
        reasons = [f"{row['id']}: {row['reason']}" for row in rows if row["stops"]]
        reasons += [f"{row['id']}: {row['reason']}" for row in exceptions if row["stops"]]
        document = {
            "version": context.plan.target_version,
            "at": context.now(),
            "risks": rows,
            "exceptions": exceptions,
            "no_go": reasons,
        }
        artifact = write_json(context, register_path(context), document)
        opened = [row["id"] for row in rows if row["state"] == "open"]
        if context.step and reasons and all(row["untold"] for row in (*rows, *exceptions) if row["stops"]):
            # Before the canary what is not known is a no-go; under it, it is no breach either (gates.md).
            return Outcome(
                "blocked",
                visible(f"risk triggers give no data: {'; '.join(reasons)}", limit=2000),
                "look at the metrics back end, then run VERIFY again",
                artifacts=(artifact,),
            )
        if reasons:
            return Outcome(
                "fail",
                visible("; ".join(reasons), limit=2000),
                "close the risk or have the exception approved, then run VERIFY again",
                artifacts=(artifact,),
            )
        return Outcome(
            "ok",
            f"{len(rows)} risks, {len(opened)} open and none of them high; {len(exceptions)} exceptions",
            "EVIDENCE, then go on",
            artifacts=(artifact,),
        )

    async def evidence(self, context: Context) -> Outcome:
        """Vouch for the register VERIFY wrote."""
        return vouch(context, recorded(context))


def register_path(context: Context) -> str:
    """Return where this call writes the register: phases run side by side, and each has a file of its own.

    The one of P6, before the canary, is `risk/register.json`: go/no-go reads it.
    """
    phase = context.request.phase
    if context.step:
        return f"risk/register_step_{context.step}.json"
    return "risk/register.json" if phase == "P6" else f"risk/register_{phase.lower()}.json"


def rating(risk: Risk) -> str:
    """Return how a risk is rated: the worse of likelihood and impact; what the plan leaves out is high."""
    order = ("low", "medium", "high")
    return max(risk.likelihood, risk.impact, key=order.index)


async def _risk(context: Context, risk: Risk) -> dict[str, Any]:
    found = await together(
        {str(number): _trigger(context, trigger) for number, trigger in enumerate(risk.triggers)}
    )
    measured = list(found.values())
    fired = [found for found in measured if found["fired"]]
    unknown = [found for found in measured if found["fired"] is None]
    state, reason = risk.state, f"the plan says {risk.state}"
    if fired:
        state, reason = "open", f"trigger {fired[0]['threshold']} has held for {fired[0]['for_s']:g} s"
    elif unknown:
        # Not knowing is no reason to call a risk closed.
        state, reason = "open", f"trigger {unknown[0]['threshold']} gives no data"
    rated = rating(risk)
    return {
        "id": risk.id,
        "owner": risk.owner,
        "likelihood": risk.likelihood,
        "impact": risk.impact,
        "rating": rated,
        "state": state,
        "reason": reason,
        "stops": state == "open" and rated == "high",
        "untold": bool(unknown) and not fired,
        "mitigations": list(risk.mitigations),
        "rollback": risk.rollback,
        "triggers": measured,
    }


async def _trigger(context: Context, trigger: RiskTrigger) -> dict[str, Any]:
    """Evaluate a trigger as an alert with `for`: it fires when it held at every evaluation over that time."""
    threshold = parse(trigger.threshold)
    now = await context.metrics.query(trigger.query, deadline=context.plan.canary.query_deadline)
    if now.warnings:
        raise BackendGarbage(f"a partial answer: {visible(now.warnings[0], limit=200)}")
    values = [one.value for one in now.samples if not math.isnan(one.value)]
    holding = [one for one in now.samples if threshold.holds(one.value)]
    fired: bool | None = None
    if values:
        fired = bool(holding) and (
            trigger.lasts <= 0 or await _lasted(context, trigger, holding, now.evaluated_at)
        )
    return {
        "threshold": trigger.threshold,
        "unit": trigger.unit,
        "for_s": trigger.lasts,
        "query": trigger.query,
        "value": threshold.worst(values) if values and all(map(math.isfinite, values)) else None,
        "series": len(now.samples),
        "fired": fired,
    }


async def _lasted(context: Context, trigger: RiskTrigger, holding: list[Sample], evaluated_at: float) -> bool:
    """Tell whether one series now beyond the threshold was so at every point of the time before."""
    threshold = parse(trigger.threshold)
    step = max(trigger.lasts / _MOST_POINTS, min(1.0, trigger.lasts / _FEWEST_POINTS))
    shift = timedelta(seconds=evaluated_at - context.clock.now().timestamp())
    end = context.clock.now() + shift
    answer = await context.metrics.query_range(
        trigger.query,
        start=end - timedelta(seconds=trigger.lasts),
        end=end,
        step=step,
        deadline=context.plan.canary.query_deadline,
    )
    if answer.warnings:
        raise BackendGarbage(f"a partial answer: {visible(answer.warnings[0], limit=200)}")
    points = math.floor(trigger.lasts / step + 1e-6) + 1
    by_series: dict[frozenset[tuple[str, str]], list[float]] = {}
    for sample in answer.samples:
        by_series.setdefault(frozenset(sample.labels.items()), []).append(sample.value)
    for one in holding:
        values = by_series.get(frozenset(one.labels.items()), [])
        # An alert's `for` starts anew when its series is missing at an evaluation.
        if len(values) >= points and all(threshold.holds(value) for value in values):
            return True
    return False


def _exception(context: Context, one: Any) -> dict[str, Any]:
    expires = one.expires
    reason = ""
    if not one.approved_by.strip():
        reason = "is not approved"
    elif one.approved_by.strip() == one.owner.strip():
        reason = "was approved by its own owner"
    elif expires.tzinfo is None or expires <= context.clock.now():
        reason = "has expired"
    return {
        "id": one.id,
        "owner": one.owner,
        "reason": reason or "approved",
        "why": one.reason,
        "expires": expires.isoformat(),
        "approved_by": one.approved_by,
        "stops": bool(reason),
        "untold": False,
    }
