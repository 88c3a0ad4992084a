"""Quality: the KPIs of a release at +24 h beside their baseline, and an issue for each regression (A43)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents.asking import Asked, ask
from cockpit.agents.common import blocked, fail_unmeasured, judge, reason_of, summary, write_json
from cockpit.base.clock import iso
from cockpit.base.errors import BackendError, EffectRefused, JournalError
from cockpit.base.text import visible
from cockpit.base.threads import BoundedThreads
from cockpit.journal.base import Event
from cockpit.journal.events_work import IssueFiled, KpiMeasured
from cockpit.journal.milestones import milestones
from cockpit.plan.model import Plan
from cockpit.plan.operations import Kpi
from cockpit.verdicts.kpi_times import KpiTimes, kpi_times
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.rules.kpi import Compared, compare

REPORT = "kpi/+24h.json"
ISSUES = "kpi/issues.json"
RULE = "kpi_regressions"
LABELS = ("type:fix", "risk:high", "ga")


class NotYet(Exception):
    """The figures cannot be measured now: nothing is released, it was rolled back, or it is too early."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What the metrics back end said, and what it comes to."""

    times: KpiTimes
    asked: Asked
    params: dict[str, Any]
    compared: tuple[Compared, ...]


async def times_of(context: Context) -> KpiTimes:
    """Return when this release's figures are due; raises NotYet without a release to measure."""
    kpis = context.plan.kpis
    if kpis is None:
        raise NotYet("the plan declares no KPIs (`kpis`)")
    rollback = context.state().rollback
    if rollback is not None:
        raise NotYet(f"the release was rolled back ({rollback.status}): there is nothing to measure")
    try:
        moments = await BoundedThreads("reading the journal", 1).run(
            lambda: milestones(context.run_dir), deadline=context.plan.agent_deadline
        )
    except JournalError as error:
        raise NotYet(f"the journal cannot be read: {visible(str(error), limit=300)}") from None
    if moments.promoted is None or moments.released is None:
        raise NotYet("nothing is released yet")
    return kpi_times(kpis, context.plan.calendar, promoted=moments.promoted, released=moments.released)


async def ready(context: Context) -> KpiTimes:
    """Return the moments when it is time to measure; raises NotYet when it is not."""
    times = await times_of(context)
    if context.clock.now() < times.due:
        raise NotYet(f"the figures are due at {iso(times.due)}")
    return times


def needs(context: Context) -> None:
    """Touch what the figures and their regressions need; raises BackendMissing."""
    _ = context.metrics, context.issues


async def plan(context: Context) -> Outcome:
    """Say what will be measured, from when on."""
    try:
        needs(context)
        times = await ready(context)
    except (BackendMissing, NotYet) as reason:
        return blocked_by(reason)
    kpis = context.plan.kpis
    assert kpis is not None  # ready() has said so before
    window = window_text(times.window_s)
    return Outcome(
        "ok",
        f"VERIFY will compare {len(kpis.items)} KPIs over {window} up to {iso(times.due)} with as much up to "
        f"{iso(times.before)}; APPLY files an issue for each regression",
        "run APPLY",
    )


async def measure(context: Context, times: KpiTimes) -> Measurement:
    """Ask for every figure after and before the release, and compare them."""
    kpis = context.plan.kpis
    assert kpis is not None  # times are only there with KPIs
    window = window_text(times.window_s)
    queries = {kpi.name: kpi.query for kpi in kpis.items}
    total = _traffic(context.plan)
    if total:
        queries["requests"] = total
    moments = {"after": times.due, "before": times.before}
    texts, at = {}, {}
    for name, text in queries.items():
        for side, moment in moments.items():
            texts[f"{name}.{side}"] = text.replace("{window}", window)
            at[f"{name}.{side}"] = moment
    asked = await ask(context, texts, window_s=times.window_s, at=at)
    params: dict[str, Any] = {
        "kpis": [
            {"name": kpi.name, "better": kpi.better, "max_regression": kpi.max_regression}
            for kpi in kpis.items
        ],
        # Moments travel in milliseconds to the back end: the rule must hold answers to the same.
        "at": {side: round(moment.timestamp(), 3) for side, moment in moments.items()},
        "max_age": context.plan.canary.max_sample_age,
    }
    if total:
        params["min_requests"] = context.plan.canary.min_requests
    return Measurement(times, asked, params, tuple(compare(asked.answers, params)))


async def verify(context: Context) -> Outcome:
    """Measure, judge, and write the report."""
    try:
        needs(context)
        found = await measure(context, await ready(context))
    except (BackendMissing, NotYet) as reason:
        return blocked_by(reason)
    except BackendError as error:
        verdict = await fail_unmeasured(context, "slo", "slo", error)
        said = f"the KPIs could not be measured: {visible(str(error), limit=500)}"
        return Outcome("fail", said, "look at the back end, then measure again", verdicts=(verdict,))
    verdict = await judge(context, "slo", "slo", RULE, found.asked.answers, found.params, found.asked.queries)
    artifact = write_json(context, REPORT, {**_report(context, found), "verdict": summary(verdict)})
    regressed = [one.name for one in found.compared if one.regressed]
    following = "EVIDENCE, then go on"
    if regressed:
        following = (
            f"{', '.join(regressed)} regressed; to take the release back: "
            f"cockpit rollback --run {context.run_dir} --reason kpi_regression"
        )
    elif verdict.verdict != "pass":
        following = "look at the metrics, then measure again"
    return Outcome(
        "ok" if verdict.verdict == "pass" else "fail",
        reason_of((verdict,)),
        visible(following, limit=1000),
        artifacts=(artifact,),
        verdicts=(verdict,),
    )


async def apply(context: Context) -> Outcome:
    """File one issue for each regression, unless it is filed already."""
    if context.effects is None:
        raise EffectRefused("issues are only filed by APPLY", reason="capability")
    try:
        needs(context)
        found = await measure(context, await ready(context))
    except (BackendMissing, NotYet) as reason:
        return blocked_by(reason)
    regressed = [one for one in found.compared if one.regressed]
    rows = [await _file(context, found, one) for one in regressed]
    if not rows:
        return Outcome("ok", "no KPI regressed: there is nothing to file", "run VERIFY")
    artifact = write_json(context, ISSUES, {"issues": rows})
    said = ", ".join(f"{row['name']} #{row['number']}{' (known)' if row['known'] else ''}" for row in rows)
    return Outcome("ok", f"regressions filed: {said}", "run VERIFY", artifacts=(artifact,))


def blocked_by(reason: Exception) -> Outcome:
    """Return the outcome of a measurement that cannot be done now."""
    if isinstance(reason, BackendMissing):
        return blocked(str(reason))
    return Outcome("blocked", str(reason), "measure when it is due, with `cockpit kpi`")


def _traffic(plan: Plan) -> str:
    """Return the query of what stable served: before the release the old version, after it the new one."""
    return next((one.stable_total for one in plan.canary.baseline if one.kind == "proportion"), "")


def _report(context: Context, found: Measurement) -> dict[str, Any]:
    times, kpis = found.times, _by_name(context)
    return {
        "version": context.plan.target_version,
        "released_at": iso(times.released),
        "measured_for": iso(times.due),
        "baseline_until": iso(times.before),
        "window_s": times.window_s,
        "compressed": times.compressed < 1,
        "a_day_is_s": 86400 * times.compressed,
        "kpis": [
            {
                "name": one.name,
                "unit": kpis[one.name].unit,
                "better": kpis[one.name].better,
                "max_regression": kpis[one.name].max_regression,
                "value": one.value,
                "baseline": one.baseline,
                "change": one.change,
                "regressed": one.regressed,
                "outcome": one.outcome,
                "reason": one.reason,
            }
            for one in found.compared
        ],
    }


def _by_name(context: Context) -> Mapping[str, Kpi]:
    assert context.plan.kpis is not None
    return {kpi.name: kpi for kpi in context.plan.kpis.items}


async def _file(context: Context, found: Measurement, one: Compared) -> dict[str, Any]:
    version = context.plan.target_version
    key = f"kpi:{version}:{one.name}"
    change = "" if one.change is None else f" by {abs(one.change):.1%}"
    title = f"KPI {one.name} regressed{change} after {version}"
    effects = context.effects
    assert effects is not None  # apply() has checked
    filed = await effects.forward(
        "file",
        f"issue {key}",
        lambda: context.issue_tracker.file_once("regression", key, title, _body(context, found, one), LABELS),
        env="all",
        by=context.info.id,
        detail=title,
    )
    return {
        "name": one.name,
        "kind": "regression",
        "key": key,
        "number": filed.number,
        "url": filed.url,
        "title": title,
        "known": filed.known,
        "at": context.now(),
        "trace_id": context.request.trace_id,
    }


def _body(context: Context, found: Measurement, one: Compared) -> str:
    kpi, times = _by_name(context)[one.name], found.times
    text = visible(kpi.query.replace("{window}", window_text(times.window_s)), newlines=True).replace(
        "`", "'"
    )
    unit = f" {visible(kpi.unit, limit=40)}" if kpi.unit else ""
    note = "\n**A rehearsal: nothing of this happened to users.**\n" if context.plan.rehearsal else ""
    return (
        f"{visible(one.reason, limit=500)}\n{note}\n"
        f"| | value | window ends |\n| --- | --- | --- |\n"
        f"| after {context.plan.target_version} | {_number(one.value)}{unit} | {iso(times.due)} |\n"
        f"| before | {_number(one.baseline)}{unit} | {iso(times.before)} |\n\n"
        f"{kpi.better.capitalize()} is better; at most {kpi.max_regression:.1%} may be lost. Each window is "
        f"{window_text(times.window_s)} long.\n\n```\n{text}\n```\n\n"
        f"Evidence: `{REPORT}` in the pack of {context.plan.target_version}. The release can be taken back "
        "with `cockpit rollback --reason kpi_regression`.\n"
    )


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.6g}"


def events_of(report: Mapping[str, Any], issues: Mapping[str, Any], trace_id: str) -> list[Event]:
    """Return the figures of a report and the issues one call filed, as events; what is no row gives none."""
    found: list[Event] = []
    for row in _rows(report, "kpis"):
        found.append(
            KpiMeasured(
                name=visible(str(row.get("name")), limit=100),
                unit=visible(str(row.get("unit")), limit=40),
                value=_figure(row.get("value")),
                baseline=_figure(row.get("baseline")),
                change=_figure(row.get("change")),
                regressed=row.get("regressed") is True,
                outcome=visible(str(row.get("outcome")), limit=40),
                reason=visible(str(row.get("reason")), limit=500),
            )
        )
    for row in _rows(issues, "issues"):
        number = row.get("number")
        if row.get("trace_id") == trace_id and isinstance(number, int):
            found.append(
                IssueFiled(
                    kind="regression",
                    key=visible(str(row.get("key")), limit=200),
                    number=number,
                    url=visible(str(row.get("url")), limit=500),
                    title=visible(str(row.get("title")), limit=300),
                    known=row.get("known") is True,
                )
            )
    return found


def _rows(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    rows = document.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _figure(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
