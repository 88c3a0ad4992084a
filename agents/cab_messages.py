"""Messages to the change advisory board: once each, and what `calendar.json` keeps of them.

What was delivered is known from the journal and from the rows of the file. A message whose outcome nobody
recorded is sent again with the same key and the same time. A receiver that does not answer is recorded and
tried again by the next APPLY; it never fails a release.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from cockpit.agentkit.context import Context
from cockpit.agents import calendar_file
from cockpit.agents.common import together, write_json
from cockpit.backends.notices import About, Message, Part, ServiceFact
from cockpit.base.clock import iso
from cockpit.base.errors import BackendError
from cockpit.base.text import visible
from cockpit.journal.base import Event
from cockpit.journal.events import MessagePosted
from cockpit.journal.events_work import FixTrainScheduled, IssueFiled
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Webhook
from cockpit.rpc.messages import Artifact

CALENDAR = "calendar.json"
FILE = "calendar.ics"
FIX_TRAIN = "fix_train"
WITHDRAWN = "cab.withdrawn"
_PLAIN = ("generic", "slack")
"""Alertmanager, pagers and CDEvents take alerts and occurrences; a reminder is neither."""


@dataclass(frozen=True, slots=True)
class Reminder:
    """A message to the board; `macro` names it within the run."""

    macro: str
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Log:
    """What `calendar.json` keeps besides the calendar: messages, the fix train's issue and window."""

    rows: list[dict[str, Any]]
    issue: dict[str, Any]
    window: tuple[str, str]
    withdrawn: bool

    @classmethod
    def read(cls, context: Context) -> Log:
        """Return what is known; a file that cannot be read says nothing, and then the journal counts."""
        try:
            found = json.loads(context.artifacts.path(CALENDAR).read_bytes())
            rows = [row for row in found["reminders"] if {"macro", "webhook", "ok", "at"} <= row.keys()]
            train = found["fix_train"]
            window = (str(train["start"]), str(train["end"]))
            log = cls(rows, dict(train["issue"]), window, bool(found["withdrawn"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            log = cls([], {}, ("", ""), withdrawn=False)
        filed = [one for one in context.state().work.issues if one.kind == FIX_TRAIN]
        if filed and not log.issue:
            last = filed[-1]
            log.issue = {"number": last.number, "url": last.url, "title": last.title, "key": last.key}
            log.window = context.state().work.fix_train[1:]
        return log

    def write(self, context: Context) -> tuple[Artifact, ...]:
        """Write the calendar, as iCalendar and as JSON with this log in it."""
        made = calendar_file.document(context.plan, context.state())
        start, end = self.window
        made["reminders"] = sorted(self.rows, key=lambda row: (row["macro"], row["webhook"]))
        made["fix_train"] = {"issue": self.issue, "start": start, "end": end}
        made["withdrawn"] = self.withdrawn
        return (
            context.artifacts.write(FILE, calendar_file.render(context), "report"),
            write_json(context, CALENDAR, made),
        )

    def had(self, context: Context) -> set[tuple[str, str]]:
        """Return what was delivered: macro and webhook."""
        delivered = {(row["macro"], row["webhook"]) for row in self.rows if row["ok"]}
        return delivered | {one for one in context.state().work.posted if one[0].startswith("cab.")}


def receivers(context: Context) -> list[Webhook]:
    """Return the webhooks the board listens to, of the kinds that take a plain message."""
    return [one for one in context.plan.targets.webhooks if "cab" in one.audience and one.kind in _PLAIN]


def reminders(context: Context) -> list[Reminder]:
    """Return what the board is to be reminded of: the window, freezes that are not over, the KPIs."""
    plan, now = context.plan, context.clock.now()
    window = plan.window_utc
    version = Part(plan.target_version, "code")
    who = Part(f" CAB: {', '.join(plan.cab)}.", "outside") if plan.cab else Part("")
    when = Part(f" is promoted in the window {span(window.start, window.end)}.")
    found = [Reminder("cab.window", (version, when, who))]
    for entry in calendar_file.entries(plan, context.state()):
        if entry.kind == "freeze" and entry.end > now and entry.start < window.end:
            said = (Part(entry.title, "outside"), Part(f": {span(entry.start, entry.end)}."), who)
            found.append(Reminder(f"cab.freeze.{entry.key}", said))
        if entry.kind == "kpi":
            at = Part(f" are compared at {minute(entry.start)}.")
            found.append(Reminder("cab.kpi", (Part("KPIs of "), version, at, who)))
    return found


def waiting(context: Context, log: Log, wanted: list[Reminder]) -> list[tuple[Reminder, Webhook]]:
    """Return which of the messages have not been delivered to whom."""
    had = log.had(context)
    return [(one, hook) for one in wanted for hook in receivers(context) if (one.macro, hook.name) not in had]


async def post_all(context: Context, log: Log, pending: list[tuple[Reminder, Webhook]]) -> list[str]:
    """Post messages, keep in the log what came of it, and return why any was not delivered."""
    posted = await together(
        {f"{one.macro}\n{hook.name}": _post(context, log, one, hook) for one, hook in pending}
    )
    fresh = list(posted.values())
    again = {(row["macro"], row["webhook"]) for row in fresh}
    log.rows = [row for row in log.rows if (row["macro"], row["webhook"]) not in again] + fresh
    return [f"{row['macro']} to {row['webhook']}: {row['reason']}" for row in fresh if not row["ok"]]


async def _post(context: Context, log: Log, reminder: Reminder, hook: Webhook) -> dict[str, Any]:
    earlier = [row for row in log.rows if (row["macro"], row["webhook"]) == (reminder.macro, hook.name)]
    of = about(context)
    message = Message(
        key=f"{of.run_id}:{reminder.macro}",
        kind=reminder.macro,
        parts=reminder.parts,
        about=of,
        at=earlier[0]["at"] if earlier else context.now(),
        trace_id=context.request.trace_id,
    )
    row = {
        "macro": reminder.macro,
        "webhook": hook.name,
        "text": visible(message.text, limit=2000),
        "at": message.at,
        "ok": False,
        "reason": "",
        "trace_id": context.request.trace_id,
    }
    effects = context.effects
    assert effects is not None  # APPLY and ROLLBACK have checked
    try:
        await effects.forward(
            "post",
            f"webhook {hook.name}: {reminder.macro}",
            lambda: context.webhooks.send(hook, message),
            env="all",
            by=context.info.id,
            detail=message.key,
        )
    except BackendError as error:
        return {**row, "reason": visible(str(error), limit=300)}
    return {**row, "ok": True}


def about(context: Context) -> About:
    """Return which release and run a message is of."""
    plan, run = context.plan, context.state().run
    return About(
        run_id=run.run_id if run is not None else context.run_dir.name,
        repo=plan.repo,
        version=plan.target_version,
        environment=plan.environment,
        rehearsal=plan.rehearsal,
        services=tuple(ServiceFact(one.name, one.image.text) for one in plan.services),
    )


def span(start: datetime, end: datetime) -> str:
    """Return a time from, to, for people."""
    return f"{minute(start)} → {minute(end)}"


def minute(moment: datetime) -> str:
    """Return a moment to the minute where it is a UTC one."""
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment.utcoffset() == timedelta(0) else iso(moment)


def events_of(document: dict[str, Any], trace_id: str, state: ReleaseState) -> list[Event]:
    """Return what a call that wrote `calendar.json` means for the journal: messages, issue, fix train."""
    try:
        return _events(document, trace_id, state)
    except (KeyError, TypeError, AttributeError):  # written by an agent that is not ours
        return []


def _events(document: dict[str, Any], trace_id: str, state: ReleaseState) -> list[Event]:
    found: list[Event] = [
        MessagePosted(
            macro=row["macro"], webhook=row["webhook"], ok=row["ok"], text=row["text"], reason=row["reason"]
        )
        for row in document.get("reminders", [])
        if row.get("trace_id") == trace_id
    ]
    train = document.get("fix_train") or {}
    issue = train.get("issue") or {}
    if issue.get("trace_id") == trace_id:
        found.append(
            IssueFiled(
                kind=FIX_TRAIN,
                key=issue["key"],
                number=issue["number"],
                url=issue["url"],
                title=issue["title"],
                known=issue["known"],
            )
        )
    said = (str(issue.get("url", "")), str(train.get("start", "")), str(train.get("end", "")))
    if document.get("withdrawn"):
        said = ("", "", "")
    if said != state.work.fix_train:
        found.append(FixTrainScheduled(issue=said[0], window_start=said[1], window_end=said[2]))
    return found
