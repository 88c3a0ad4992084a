"""What waits for a person or for its time, as banners, badges and bells: all from where the run stands."""

from __future__ import annotations

from collections.abc import Iterator

from cockpit.base.text import visible
from cockpit.journal.standing import Wait
from cockpit.journal.state_people import RequestView, WaitView
from cockpit.screens.look import seconds_of, span
from cockpit.screens.view import Alert, View
from cockpit.verdicts.approvals import GlassFacts, glass_facts

HARD_STOP = ("incident", "evidence", "notify", "fix_train")
"""The stages of seed section 8 after a rollback, in their order."""

_DECISIONS = ("halt", "question", "approval", "handover")


def decisions(view: View) -> list[Wait]:
    """Return what waits for a person to decide."""
    return [wait for wait in view.stands.waits if wait.kind in _DECISIONS and not _of_halt(wait)]


def _of_halt(wait: Wait) -> bool:
    # The question a HALT puts is the HALT, however often it is put.
    return wait.kind == "question" and {"resume", "stay"} <= set(wait.options)


def called(view: View, wait: Wait) -> WaitView | None:
    """Return who was called for a decision and who attends to it, if anybody was."""
    sitting = view.state.people.sitting
    epoch = view.state.halt.epoch if view.state.halt is not None else 0
    name = {
        "halt": f"halt:{f'{sitting}.' if sitting > 1 else ''}{epoch}",
        "question": f"question:{wait.id}",
        "approval": f"request:{wait.id}",
    }.get(wait.kind, "")
    return next((one for one in view.state.people.waits if one.what == name), None)


def escalated(view: View) -> bool:
    """Tell whether a decision waits that was escalated and that nobody attends to."""
    return any(unattended(view, wait) for wait in decisions(view))


def unattended(view: View, wait: Wait) -> bool:
    """Tell whether a decision was escalated and nobody has acknowledged it."""
    one = called(view, wait)
    return one is not None and one.level == "escalate" and not one.by


def rings(view: View) -> set[str]:
    """Return a name for each thing the bell rings for, once each: a decision, and its escalation."""
    names = set()
    for wait in decisions(view):
        names.add(f"{wait.kind}:{wait.id}")
        if unattended(view, wait):
            names.add(f"escalated:{wait.kind}:{wait.id}")
    return names


def open_requests(view: View) -> list[RequestView]:
    """Return the requests for approval that wait."""
    if view.state.closed is not None:
        return []
    return [one for one in view.state.people.requests if not one.result]


def glass(view: View) -> GlassFacts:
    """Return what broken glass comes to at the moment shown."""
    try:
        return glass_facts(view.state.people.glasses, view.moment)
    except ValueError:
        return GlassFacts()


def overridden(view: View) -> set[str]:
    """Return the phase gates break-glass overrides at the moment shown."""
    return set(glass(view).overridden)


def left(view: View, until: str) -> str:
    """Return how long it is to a moment, in words; empty when there is none."""
    at = seconds_of(until)
    if at is None:
        return ""
    return f"in {span(at - view.now)}" if at > view.now else f"{span(view.now - at)} ago"


# -- alerts -------------------------------------------------------------------------------------------


def wait_alerts(view: View) -> Iterator[Alert]:
    """Yield a line for the approvals, offers and times that wait; HALT and questions have their own."""
    can = view.mode != "replay" and view.desk.control
    waiting = [wait for wait in decisions(view) if wait.kind == "approval"]
    if waiting:
        alarmed = [wait for wait in waiting if unattended(view, wait)]
        first = (alarmed or waiting)[0]
        count = f"{len(waiting)} APPROVALS WAIT" if len(waiting) > 1 else "APPROVAL WAITS"
        count = f"! ESCALATED: {count}" if alarmed else f"? {count}"
        keys = f" ({view.keys['approve']} signs)" if can else ""
        if can and alarmed:
            keys = f" ({view.keys['approve']} signs, {view.keys['acknowledge']} acknowledges)"
        text = f"{count}{keys}: {_short(view, first)}{_attended(view, first)}"
        yield Alert("bad" if alarmed else "warn", text, _requests(view))
    for wait in decisions(view):
        if wait.kind == "handover":
            how = f" · {view.keys['accept']} takes over" if can else ""
            yield Alert("warn", f"? HANDED OVER to {visible(wait.id, limit=60)}, not taken yet{how}")
        elif wait.kind != "approval" and unattended(view, wait):
            how = f" ({view.keys['acknowledge']} acknowledges)" if can else ""
            yield Alert("bad", f"! ESCALATED, nobody attends{how}: {visible(wait.text, limit=120)}")


def _short(view: View, wait: Wait) -> str:
    ask = next((one for one in view.state.people.requests if one.request == wait.id), None)
    if ask is None:
        return visible(wait.text, limit=120)
    counted = sum(one.counted and one.decision == "approve" for one in ask.statements)
    count = f"{visible(ask.asked, limit=30)} {counted}/{ask.threshold}"
    return f"{count}, expires {left(view, ask.expires)}: {visible(ask.text, limit=90)}"


def _attended(view: View, wait: Wait) -> str:
    one = called(view, wait)
    return f" · {visible(one.by, limit=30)} attends" if one is not None and one.by else ""


def _requests(view: View) -> tuple[str, ...]:
    return tuple(
        f"{one.request} {one.asked} for {one.requester}: {one.text}; expires {one.expires}"
        for one in open_requests(view)
    )


def time_alerts(view: View) -> Iterator[Alert]:
    """Yield what waits for its time, and a bake that stands still."""
    state, people = view.state, view.state.people
    if state.closed is not None:
        return
    if people.paused:
        can = view.mode != "replay" and view.desk.control
        how = f" · {view.keys['pause_bake']} lets it go on" if can else ""
        yield Alert("warn", f"| BAKE PAUSED: its clock stands still, the analysis goes on{how}")
    if people.hard_stop:
        done = {one.stage: one.ok for one in people.hard_stop}
        marks = [f"{'·' if name not in done else '✓' if done[name] else '✗'} {name}" for name in HARD_STOP]
        yield Alert("busy", f"■ HARD STOP  {'  '.join(marks)}  ({view.keys['world']})")
    if people.lost:
        yield Alert("bad", f"! NO OPERATOR: no front end was left; the plan says {people.lost}")
    soak = people.soak
    if soak is not None and soak.state == "broken":
        yield Alert(
            "warn", f"! SOAK BROKEN ({soak.broken}×), it starts again: {visible(soak.reason, limit=120)}"
        )
    for wait in view.stands.waits:
        if wait.kind in ("due", "soak"):
            yield Alert("busy", f"· {visible(wait.text, limit=100)}: {left(view, wait.until)} ({wait.until})")


def people_alerts(view: View) -> Iterator[Alert]:
    """Yield broken glass, unmet obligations and a hard stop that is not finished."""
    people = view.state.people
    facts = glass(view)
    for gate, name in facts.overridden.items():
        one = next(one for one in people.glasses if one.glass == name)
        who = f"{one.by} and {one.second}" if one.second else f"{one.by}, to be reviewed by {one.review_by}"
        text = f"! BREAK-GLASS over {gate}, ends {left(view, one.expires)}: {visible(one.reason, limit=90)}"
        more = (f"by {who}", "The gate's verdict stays what it is.")
        yield Alert("warn", text, more, banner=view.state.closed is None)
    for problem in facts.problems:
        yield Alert("bad", f"! {problem}")
    for decision in people.decisions:
        if decision.unmet:
            unmet = ", ".join(decision.unmet)
            yield Alert(
                "warn", f"policy: {decision.action} lacks {unmet}", tuple(decision.reasons), banner=False
            )
    for stage in people.hard_stop:
        if not stage.ok:
            yield Alert(
                "bad", f"hard stop: {stage.stage} NOT DONE: {visible(stage.detail, limit=160)}", banner=False
            )
