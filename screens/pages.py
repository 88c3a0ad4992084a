"""The pages behind a key: who decides and what waits, the world, contents, preview, by hand."""

from __future__ import annotations

from collections.abc import Callable

from cockpit.journal.standing import operator_of
from cockpit.journal.state_people import RequestView
from cockpit.screens.alerts import where_to_look
from cockpit.screens.look import number, span
from cockpit.screens.sheet import Sheet
from cockpit.screens.view import View
from cockpit.screens.waits import HARD_STOP, called, decisions, glass, left

TITLES = {
    "people": "Who decides and what waits",
    "world": "In the world: stages, hard stop, incidents, flags, KPIs",
    "contents": "What is in this release",
    "preview": "PLAN: what this run does, and what its agents would do",
    "fallback": "By hand: when the cockpit is the problem",
}


# -- who decides and what waits -------------------------------------------------------------------------


def people(view: View, key: str, sheet: Sheet) -> None:
    """Write who operates, what waits, requests, broken glass, policy and times."""
    _operator(view, sheet)
    _waiting(view, sheet)
    requests = view.state.people.requests
    if requests:
        sheet.head("Approvals")
    for request in sorted(requests, key=lambda one: bool(one.result)):
        _request(view, request, sheet)
    _glass(view, sheet)
    _policy(view, sheet)
    _times(view, sheet)


def _operator(view: View, sheet: Sheet) -> None:
    state = view.state
    sheet.head("Who operates")
    sheet.fact("operator", operator_of(state) or "nobody yet")
    offered, lost = state.people.offered_to, state.people.lost
    sheet.fact("offered to", f"{offered}, not taken yet" if offered else "", "warn")
    sheet.fact("sitting", state.people.sitting if state.people.sitting > 1 else "")
    sheet.fact("watched by", ", ".join(state.front_ends) or "no front end with control")
    sheet.fact("lost", f"no operator was left: the plan says {lost}" if lost else "", "bad")
    sheet.fact("lease", state.lease)


def _waiting(view: View, sheet: Sheet) -> None:
    sheet.head("What waits for a person")
    waiting = decisions(view)
    if not waiting:
        sheet.text("Nothing waits for a decision.", "quiet")
    for wait in waiting:
        options = f" [{' / '.join(wait.options)}]" if wait.options else ""
        # A request is told in full below: its digest would only hide its text here.
        ask = next((one for one in view.state.people.requests if one.request == wait.id), None)
        text = f"{ask.request}: {ask.text}" if ask is not None and wait.kind == "approval" else wait.text
        sheet.fact(f"? {wait.kind}", f"{text}{options}", "warn")
        sheet.fact("", f"asked {view.age(wait.since)}" if wait.since else "")
        sheet.fact("", f"ends {left(view, wait.until)}, at {wait.until}" if wait.until else "")
        one = called(view, wait)
        if one is not None and one.by:
            sheet.fact("", f"✓ {one.by} attends to it", "good")
        elif one is not None and one.level:
            word = "ESCALATED: nobody has acknowledged it" if one.level == "escalate" else "on call was paged"
            sheet.fact("", f"! {word} ({view.age(one.at)})", "bad" if one.level == "escalate" else "warn")


def _request(view: View, request: RequestView, sheet: Sheet) -> None:
    icon = {"granted": "✓", "rejected": "✗", "expired": "○"}.get(request.result, "?")
    role = {"granted": "good", "rejected": "bad", "expired": "warn"}.get(request.result, "warn")
    counted = sum(one.counted and one.decision == "approve" for one in request.statements)
    who = ", ".join(request.groups) or "everybody listed"
    sheet.fact(
        f"{icon} {request.request}",
        f"{request.result or 'waits'}: {request.asked} · {counted} of {request.threshold} of {who}"
        + (", one of each" if request.from_each else ""),
        role,
    )
    sheet.fact("", request.text)
    sheet.fact("", f"asked by {request.requester} {view.age(request.at)}")
    sheet.fact("", f"subject sha256:{request.subject}")
    if request.result:
        by = f" by {', '.join(request.result_by)}" if request.result_by else ""
        sheet.fact("", f"{request.result}{by}: {request.result_reason}")
        sheet.fact("", f"counts until {request.valid_until}" if request.valid_until else "")
    else:
        sheet.fact("", f"expires {left(view, request.expires)}, at {request.expires}")
        sheet.fact("", f"needs a second factor: {request.step_up}" if request.step_up != "none" else "")
    for one in request.statements:
        if one.counted:
            sign, style = ("✓", "good") if one.decision == "approve" else ("✗", "bad")
            sheet.fact("", f"{sign} {one.by} ({one.identity}) {one.decision}: {one.reason}", style)
        else:
            who = one.by or one.identity
            sheet.fact("", f"○ {who} {one.decision}: does not count: {one.problem}", "warn")


def _glass(view: View, sheet: Sheet) -> None:
    glasses = view.state.people.glasses
    if glasses:
        sheet.head("Break-glass")
    facts = glass(view)
    for one in glasses:
        on = one.glass in facts.overridden.values()
        word = f"in force, ends {left(view, one.expires)}" if on else f"ended {left(view, one.expires)}"
        if one.reviewed_by and not one.accepted:
            word = "its review came out against it"
        sheet.fact(f"{'!' if on else '○'} {one.gate}", f"{word}: {one.reason}", "warn" if on else "quiet")
        second = f", with {one.second}" if one.second else ""
        sheet.fact("", f"by {one.by}{second} {view.age(one.at)}; the gate's verdict stays what it is")
        if one.reviewed_by:
            sheet.fact("", f"reviewed by {one.reviewed_by}: {'accepted' if one.accepted else 'NOT accepted'}")
        elif one.review_by:
            sheet.fact("", f"to be reviewed {left(view, one.review_by)}, by {one.review_by}", "warn")
    for problem in facts.problems:
        sheet.text(f"✗ {problem}", "bad")


def _policy(view: View, sheet: Sheet) -> None:
    state = view.state.people
    if state.decisions or state.step_ups:
        sheet.head("Policy and second factors")
    for one in state.decisions:
        icon, role = ("✓ allow", "good") if one.allow and not one.unmet else ("✗ DENY", "bad")
        sheet.fact(one.action, f"{icon} {view.age(one.at)}", role)
        sheet.fact("", f"not met: {', '.join(one.unmet)}" if one.unmet else "", "bad")
        met = [each for each in one.obligations if each not in one.unmet]
        sheet.fact("", f"obligations met: {', '.join(met)}" if met else "")
        for reason in one.reasons:
            sheet.fact("", reason)
    for shown in state.step_ups:
        sheet.fact("second factor", f"{shown.by} by {shown.method}, until {shown.valid_until}")


def _times(view: View, sheet: Sheet) -> None:
    state = view.state.people
    begun = {one.phase for one in view.state.phases if one.status != "pending"}
    rows = [(name, when) for name, when in state.due.items() if name not in begun]
    if rows or state.soak or state.paused or state.extended_s or state.reverified or state.not_due[0]:
        sheet.head("Time" + (" (compressed: a rehearsal)" if state.compressed else ""))
    what, due = state.not_due
    sheet.fact("waits", f"{what} is not due until {due} ({left(view, due)})" if what else "", "busy")
    for name, when in rows:
        sheet.fact(name, f"may begin {left(view, when)}, at {when}")
    if state.soak is not None:
        soak = state.soak
        broken = f", broken {soak.broken}×" if soak.broken else ""
        role = {"running": "busy", "broken": "bad"}.get(soak.state, "good")
        sheet.fact("soak", f"{soak.state} since {soak.since}, until {soak.until}{broken} {soak.reason}", role)
    sheet.fact("bake", "PAUSED: its clock stands still" if state.paused else "", "warn")
    sheet.fact("bake", f"extended by {span(state.extended_s)}" if state.extended_s else "")
    for agent, attempts in state.reverified.items():
        sheet.fact("verified again", f"{agent}: {attempts} attempts")


# -- in the world ---------------------------------------------------------------------------------------


def world(view: View, key: str, sheet: Sheet) -> None:
    """Write stages, hard stop, incidents, issues, flags, KPIs, drills, tags and messages."""
    work = view.state.work
    _stages(view, sheet)
    _hard_stop(view, sheet)
    if work.incidents or work.issues:
        sheet.head("Incidents and issues")
    for one in work.incidents:
        role = "good" if one.state == "resolved" else "bad"
        sheet.fact(one.incident, f"{one.state} {one.severity}: {one.title} ({view.age(one.at)})", role)
        sheet.fact("", one.url)
    for issue in work.issues:
        sheet.fact(f"#{issue.number}", f"{issue.kind}: {issue.title}")
        sheet.fact("", issue.url)
    _flags(view, sheet)
    if work.kpis:
        sheet.head("KPIs beside their baseline")
    for kpi in work.kpis:
        change = "" if kpi.change is None else f" ({kpi.change:+.1%})"
        values = f"{number(kpi.value)} {kpi.unit} was {number(kpi.baseline)}{change}"
        icon, role = ("✗ REGRESSED", "bad") if kpi.regressed else ("✓", "good")
        if kpi.outcome not in ("pass", "fail"):
            icon, role = f"? {kpi.outcome}", "warn"
        sheet.fact(kpi.name, f"{icon} {values} {kpi.reason}".rstrip(), role)
    if work.drills:
        sheet.head("Drills")
    for drill in work.drills:
        icon, role = ("✓ held", "good") if drill.passed else ("✗ DID NOT HOLD", "bad")
        took = f"{number(drill.seconds)} s in {drill.env}, {view.age(drill.at)}"
        sheet.fact(drill.kind, f"{icon}: {drill.drill}, {took} {drill.reason}".rstrip(), role)
    if work.tags:
        sheet.head("Signed tags")
    for tag in work.tags:
        sheet.fact(tag.tag, f"{tag.kind} at {tag.commit}, signed by {tag.fingerprint}")
    if work.posted:
        sheet.head("Messages delivered")
    for macro, webhook in work.posted:
        sheet.fact(webhook, macro)
    if not sheet.rows:
        sheet.text("Nothing was done in the world yet besides what the journal shows.", "quiet")


def _stages(view: View, sheet: Sheet) -> None:
    if view.state.work.stages:
        sheet.head("Stages before prod")
    for one in view.state.work.stages:
        icon, role = {"pass": ("✓", "good"), "fail": ("✗", "bad")}.get(one.result, ("▶", "busy"))
        at = one.result or f"{one.stage} {one.weight} %"
        sheet.fact(f"{icon} {one.env}", f"{at} {one.reason or one.detail}".rstrip(), role)
        others = {name: digest for name, digest in one.running.items() if one.images.get(name) != digest}
        if one.running and not others:
            sheet.fact("", f"{len(one.running)} services run the digests of this release")
        for service, digest in sorted(others.items()):
            sheet.fact("", f"{service} runs {digest}, NOT WHAT WAS DEPLOYED", "bad")


def _hard_stop(view: View, sheet: Sheet) -> None:
    stages = {one.stage: one for one in view.state.people.hard_stop}
    if not stages:
        return
    sheet.head("Hard stop, after HALT and ROLLBACK")
    for name in (*HARD_STOP, *(extra for extra in stages if extra not in HARD_STOP)):
        one = stages.get(name)
        if one is None:
            word = "not done" if view.state.closed is not None else "waiting"
            sheet.fact(f"· {name}", word, "quiet")
        else:
            icon, role = ("✓", "good") if one.ok else ("✗", "bad")
            sheet.fact(f"{icon} {name}", f"{one.detail} ({view.age(one.at)})", role)
    issue, start, end = view.state.work.fix_train
    window = f"window {start} to {end}" if start else "no window can take it yet"
    sheet.fact("fix train", f"{issue}, {window}" if issue else "")


def _flags(view: View, sheet: Sheet) -> None:
    seen = {one.flag: one for one in view.state.work.flags}
    names = [*view.plan.flags, *(name for name in seen if name not in view.plan.flags)]
    if names:
        sheet.head("Feature flags")
    for name in names:
        one = seen.get(name)
        text = f"{one.now} for {one.scope}, by {one.by} {view.age(one.at)}" if one else "not set by this run"
        sheet.fact(name, text, "text" if one else "quiet")


# -- contents, preview, by hand -------------------------------------------------------------------------


def contents(view: View, key: str, sheet: Sheet) -> None:
    """Write images, tags and flags; the release notes follow when they have been read."""
    run = view.state.run
    if run is None:
        return sheet.text("Nothing is recorded yet.")
    sheet.head(f"{run.repo} {run.version} to {run.environment}")
    images = dict(view.plan.images)
    for one in run.services:
        sheet.fact(one.name, images.get(one.name) or one.digest)
    for tag in view.state.work.tags:
        sheet.fact("tag", f"{tag.tag} at {tag.commit}")
    return _flags(view, sheet)


def preview(view: View, key: str, sheet: Sheet) -> None:
    """Write what the plan says the run does; what agents answered to PLAN follows when it was read."""
    run = view.state.run
    if run is None:
        return sheet.text("Nothing is recorded yet.")
    sheet.head(f"{run.version} to {run.environment}, plan sha256:{run.plan_sha256}")
    if not view.plan.known:
        sheet.text("The plan cannot be read here: its stored copy is not in the run folder.", "warn")
    for label, text in view.plan.lines:
        sheet.fact(label, text)
    for reason in run.reduced:
        sheet.fact("REDUCED", reason, "warn")
    sheet.text("A fresh preview, changing nothing: cockpit run PLAN --preview", "quiet")
    return None


def fallback(view: View, key: str, sheet: Sheet) -> None:
    """Write what to do when no conductor can do it; the commands follow when they have been read."""
    sheet.head("The release is aborted without the cockpit like this")
    rollback = view.state.rollback
    if rollback is not None and rollback.fallback:
        sheet.text("Recorded when the rollback could not be finished; in this order:", "bad")
        for line in rollback.fallback:
            sheet.text(f"  {line}")
        return
    for line in where_to_look(view):
        sheet.text(f"  {line}")


WRITERS: dict[str, Callable[[View, str, Sheet], None]] = {
    "people": people,
    "world": world,
    "contents": contents,
    "preview": preview,
    "fallback": fallback,
}
