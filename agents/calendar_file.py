"""The release's calendar as entries, and as an iCalendar file (RFC 5545): same input, same bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from cockpit.agentkit.context import Context
from cockpit.base.clock import iso, parse_iso
from cockpit.base.text import visible
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan
from cockpit.verdicts.calendar import closes_at, due, later, next_opening

Kind = Literal["phase", "window", "opening", "freeze", "soak", "kpi", "fix_train"]
DAY_S = 86400.0
_MOST_OPENINGS = 100
_PRODUCT = "-//Release Cockpit//Release calendar//EN"
_DOMAIN = "release-cockpit.dev"
_CONTENT = {
    "P0": "checks, probes, hardening, preview governance",
    "P1": "perf baseline, dashboards, previews",
    "P2": "migrations demo, RLS and pgBouncer",
    "P3": "identity, authorisation and audit proofs",
    "P4": "product tracks, soak",
    "P5": "DR and chaos drills",
    "P6": "release train: promotion by steps",
    "P7": "alerts, runbooks, docs",
    "P8": "GA flip, KPIs compared, regression tickets",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Something in the calendar from `start` to `end` (UTC); `key` tells entries of a kind apart."""

    kind: Kind
    key: str
    title: str
    start: datetime
    end: datetime
    detail: str = ""


def entries(plan: Plan, state: ReleaseState) -> list[Entry]:
    """Return what the calendar of a run holds, in order of time."""
    found = [*_phases(plan), *_windows(plan), *_freezes(plan), *_soak(plan, state), *_kpi(plan)]
    found += _fix_train(state)
    return sorted(found, key=lambda one: (one.start, one.kind, one.key))


def compressed(plan: Plan) -> bool:
    """Tell whether a calendar day is not a day: a rehearsal's is shorter, and every artifact says so."""
    return plan.calendar is not None and plan.calendar.day != DAY_S


def document(plan: Plan, state: ReleaseState) -> dict[str, Any]:
    """Return the calendar as JSON values."""
    day = plan.calendar.day if plan.calendar is not None else DAY_S
    return {
        "version": plan.target_version,
        "rehearsal": plan.rehearsal,
        "compressed": compressed(plan),
        "day_s": day,
        "t0": iso(plan.window_utc.start),
        "entries": [
            {
                "kind": one.kind,
                "key": one.key,
                "title": one.title,
                "start": iso(one.start),
                "end": iso(one.end),
                "detail": one.detail,
            }
            for one in entries(plan, state)
        ],
    }


def render(context: Context) -> bytes:
    """Return the calendar as an iCalendar file.

    UIDs depend on run and entry alone, so a calendar that is imported again updates what it had. The time
    stamp is that of the run's opening: nothing in the file depends on when it is written.
    """
    import icalendar  # slow to load

    plan, state = context.plan, context.state()
    run_id = state.run.run_id if state.run is not None else context.run_dir.name
    stamp = parse_iso(state.run.at) if state.run is not None and state.run.at else plan.window_utc.start
    said = _notes(plan)
    made = icalendar.Calendar()
    made.add("prodid", _PRODUCT)
    made.add("version", "2.0")
    made.add("calscale", "GREGORIAN")
    made.add("method", "PUBLISH")
    made.add("x-wr-calname", f"{_shown(plan.repo)} {plan.target_version}")
    if said:
        made.add("x-wr-caldesc", said)
    for entry in entries(plan, state):
        event = icalendar.Event()
        event.add("uid", f"{_digest(run_id, entry)}@{_DOMAIN}")
        event.add("dtstamp", stamp.astimezone(UTC).replace(microsecond=0))
        event.add("dtstart", entry.start.astimezone(UTC).replace(microsecond=0))
        event.add("dtend", _end(entry))
        prefix = "[REHEARSAL] " if plan.rehearsal else ""
        event.add("summary", f"{prefix}{_shown(plan.repo)} {plan.target_version}: {_shown(entry.title)}")
        event.add("description", "\n".join(text for text in (_shown(entry.detail), said) if text))
        event.add("categories", [entry.kind])
        event.add("transp", "TRANSPARENT")
        made.add_component(event)
    data: bytes = made.to_ical()
    return data


def _end(entry: Entry) -> datetime:
    # A whole second at least: an event that ends when it starts is none.
    start = entry.start.astimezone(UTC).replace(microsecond=0)
    return max(entry.end.astimezone(UTC).replace(microsecond=0), start + timedelta(seconds=1))


def _digest(run_id: str, entry: Entry) -> str:
    return hashlib.sha256(f"{run_id}\n{entry.kind}\n{entry.key}".encode()).hexdigest()[:40]


def _notes(plan: Plan) -> str:
    if not compressed(plan) or plan.calendar is None:
        return ""
    return f"Compressed: a calendar day lasts {plan.calendar.day:g} s."


def _shown(text: str) -> str:
    return visible(text, limit=500)


# -- entries --------------------------------------------------------------------------------------------


def _phases(plan: Plan) -> Iterator[Entry]:
    calendar = plan.calendar
    for phase in plan.phases:
        begins = due(plan, phase)
        if calendar is None or begins is None:
            continue
        day = calendar.phases[phase]
        ends = later(begins, calendar.day)
        yield Entry("phase", phase, f"T{day:+g} {phase}", begins, ends, _CONTENT[phase])


def _windows(plan: Plan) -> Iterator[Entry]:
    window = plan.window_utc
    who = ", ".join(plan.cab) or ", ".join(plan.oncall)
    yield Entry("window", "utc", "release window", window.start, window.end, f"Told: {who}")
    at: datetime | None = window.start
    found: list[tuple[datetime, datetime]] = []
    while at is not None and len(found) < _MOST_OPENINGS:
        opens = next_opening(plan, at, window.end - window.start)
        closes = closes_at(plan, opens) if opens is not None else None
        if opens is not None and closes is not None:
            found.append((opens, closes))
        at = closes
    if found != [(window.start, window.end)]:
        for number, (opens, closes) in enumerate(found, 1):
            yield Entry("opening", str(number), f"promotion open ({number})", opens, closes)


def _freezes(plan: Plan) -> Iterator[Entry]:
    calendar = plan.calendar
    if calendar is None:
        return
    begins = later(plan.window_utc.start, -calendar.day)
    detail = "no new changes to the release; its own promotion goes on"
    yield Entry("freeze", "T-1", "T-1 freeze of critical paths", begins, plan.window_utc.end, detail)
    for number, freeze in enumerate(calendar.freezes, 1):
        title = f"{freeze.kind} freeze: {freeze.name}"
        yield Entry("freeze", str(number), title, freeze.start, freeze.end)


def _soak(plan: Plan, state: ReleaseState) -> Iterator[Entry]:
    if plan.calendar is None or plan.calendar.soak is None:
        return
    soak, view = plan.calendar.soak, state.people.soak
    planned = due(plan, "P4")
    if view is not None:
        detail = f"{view.state}, broken {view.broken} times"
        yield Entry("soak", "stage", "soak in stage", parse_iso(view.since), parse_iso(view.until), detail)
    elif planned is not None:
        ends = later(planned, soak.lasts)
        yield Entry("soak", "stage", "soak in stage", planned, ends, "begins once P4 has passed")


def _kpi(plan: Plan) -> Iterator[Entry]:
    if plan.kpis is None:
        return
    at = later(plan.window_utc.start, plan.kpis.after)
    names = ", ".join(one.name for one in plan.kpis.items)
    yield Entry("kpi", "compare", "KPIs compared", at, later(at, 3600), names)


def _fix_train(state: ReleaseState) -> Iterator[Entry]:
    issue, start, end = state.work.fix_train
    if start and end:
        yield Entry("fix_train", "next", "window for the fix train", parse_iso(start), parse_iso(end), issue)
