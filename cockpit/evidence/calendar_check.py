"""Whether a run kept its calendar: phases on their days, the soak done before what follows, prod in the open.

- A phase began no earlier than its day (seed section 9).
- Where the plan has a soak, P5 and later began after it was done. That it was done, and each time it was
  broken, is judged again from the stored answers by the plan's own checks, over at least its time.
- The first forward shift of prod traffic came in the window, outside of promotion freezes and within the
  recurring windows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta

from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.evidence.checks import Check, said
from cockpit.evidence.texts import recorded
from cockpit.journal.events import AnyEvent, EffectIntended, PhaseStarted
from cockpit.journal.events_people import SoakChanged
from cockpit.plan.calendar import Soak
from cockpit.plan.model import Plan
from cockpit.verdicts.calendar import due, promotion_open
from cockpit.verdicts.rules.soak import soak as rule

CALENDAR = "calendar kept"
_SLACK = timedelta(seconds=5)
"""Clocks of two sittings may differ by this, and an intent is recorded a moment after its permission."""
_AFTER_SOAK = frozenset({"P5", "P6", "P7", "P8"})


def calendar_kept(events: Sequence[AnyEvent], plan: Plan | None, blob: Callable[[str], bytes]) -> Check:
    """Check a journal against the calendar of its plan; a plan without one says so and holds."""
    if plan is None or plan.calendar is None:
        return Check(CALENDAR, True, "the plan has no calendar")
    soak = plan.calendar.soak if "P4" in plan.phases else None
    problems: list[str] = []
    running = done = ""
    shifted = False
    for event in events:
        if isinstance(event, SoakChanged) and soak is not None:
            if event.state == "running":
                running = event.since
                continue
            problem = _soak_problem(event, soak, running, blob)
            problems += [f"record {event.seq}, soak {event.state}: {problem}"] if problem else []
            done, running = (event.since if event.state == "done" else ""), ""
        elif isinstance(event, PhaseStarted):
            day = due(plan, event.phase)
            if day is not None and parse_iso(event.at) < day - _SLACK:
                problems.append(f"{event.phase} began at {event.at}, before its day {iso(day)}")
            if soak is not None and event.phase in _AFTER_SOAK and not done:
                problems.append(f"{event.phase} began before the soak was done")
        elif _first_shift(event) and not shifted:
            shifted = True
            at = parse_iso(event.at)
            closed = promotion_open(plan, at)
            if closed and promotion_open(plan, at - _SLACK):
                problems.append(f"record {event.seq}: prod traffic was shifted {closed}")
    return Check(CALENDAR, not problems, said(problems, "phases, soak and promotion came in their time"))


def _first_shift(event: AnyEvent) -> bool:
    return isinstance(event, EffectIntended) and (event.lane, event.verb, event.env) == (
        "forward",
        "shift",
        "prod",
    )


def _soak_problem(event: SoakChanged, soak: Soak, running: str, blob: Callable[[str], bytes]) -> str:
    try:
        document = json.loads(blob(event.blob))["rule"]
        params = document["params"]
        answers = {str(name): blob(str(digest)) for name, digest in document["answers"].items()}
        since, now = float(params["since"]), float(params["now"])
        step, lasts = float(params["step"]), float(params["lasts"])
    except CockpitError as error:
        return str(error)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return str(EvidenceError("what it rests on cannot be read"))
    checks = [{"metric": one.metric, "threshold": one.threshold} for one in soak.checks]
    if document.get("name") != "soak" or params.get("checks") != checks or lasts != soak.lasts or step <= 0:
        return "it was not judged by the plan's soak"
    if event.since != running or abs(since - parse_iso(running).timestamp()) > 0.01:
        return "it is not about the soak that was running"
    if now > parse_iso(event.at).timestamp() + _SLACK.total_seconds():
        return "it was judged about a time that had not come"
    judged = rule(answers, params)
    wanted = {"pass": "done", "fail": "broken"}.get(judged.outcome, judged.outcome)
    if (event.state, event.reason) != (wanted, recorded(judged.reason)):
        return f"it comes out as {wanted}: {judged.reason}"
    return ""
