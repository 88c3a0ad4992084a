"""Program: the Program Scheduler (A2), the calendar of seed section 9, CAB reminders and the fix train."""

from __future__ import annotations

from datetime import timedelta

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import BackendMissing, Context
from cockpit.agents import calendar_file, fix_train
from cockpit.agents.cab_messages import (
    WITHDRAWN,
    Log,
    Reminder,
    post_all,
    receivers,
    reminders,
    waiting,
)
from cockpit.agents.common import blocked
from cockpit.backends.notices import Part
from cockpit.base.clock import iso, parse_iso
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.verdicts.calendar import due, later

_SLACK = timedelta(seconds=5)
"""A phase that waits for its day is recorded a moment after; clocks of two sittings differ a little."""


class ProgramScheduler(Agent):
    """A2: writes the calendar, reminds the CAB once of each matter, and schedules the fix train."""

    async def plan(self, context: Context) -> Outcome:
        """Show what would be scheduled, and who would be told."""
        problem = _missing(context)
        if problem:
            return blocked(problem)
        entries = calendar_file.entries(context.plan, context.state())
        pending = waiting(context, Log.read(context), reminders(context))
        said = [f"{len(entries)} entries: " + ", ".join(f"{one.title} {iso(one.start)}" for one in entries)]
        told = ", ".join(f"{one.macro} to {hook.name}" for one, hook in pending)
        said.append(f"APPLY will post {told}" if told else "every reminder was posted")
        if fix_train.cause(context):
            window = fix_train.window_text(fix_train.window_of(context))
            said.append(f"it will file the issue {fix_train.title(context)!r} and name {window}")
        return Outcome("ok", visible("; ".join(said), limit=4000), "run APPLY")

    async def apply(self, context: Context) -> Outcome:
        """Post every reminder that was not; with `params["fix_train"]` schedule the fix train instead."""
        if context.effects is None:
            raise EffectRefused("only APPLY schedules", reason="capability")
        if fix_train.cause(context):
            return await self._fix_train(context)
        problem = _missing(context)
        if problem:
            return blocked(problem)
        log = Log.read(context)
        pending = waiting(context, log, reminders(context))
        lost = await post_all(context, log, pending)
        said = f"{len(pending) - len(lost)} of {len(pending)} reminders posted"
        notes = visible("; ".join([said, *lost]), limit=2000)
        return Outcome("ok", notes, "run VERIFY", artifacts=log.write(context))

    async def _fix_train(self, context: Context) -> Outcome:
        # In a hard stop what can be done is done: the board is told even where no issue can be filed.
        log = Log.read(context)
        links, problem = await fix_train.schedule(context, log)
        lost = await post_all(context, log, waiting(context, log, [fix_train.reminder(context, log)]))
        artifacts = log.write(context)
        said = [one for one in (problem, *lost) if one]
        if not log.issue:
            notes = visible("; ".join(said), limit=2000)
            again = "mend what is named, then run APPLY again: nothing is filed twice"
            return Outcome("blocked", notes, again, artifacts=artifacts)
        notes = visible("; ".join([f"fix train: {log.issue['url']}", *said]), limit=2000)
        return Outcome("ok", notes, "none", artifacts=artifacts, links=links)

    async def verify(self, context: Context) -> Outcome:
        """Check that phases kept their days and the soak, and that the fix train's issue is there."""
        problem = _missing(context)
        if problem:
            return blocked(problem)
        problems = kept(context)
        try:
            problems += await fix_train.problems(context)
        except BackendMissing as missing:
            return blocked(str(missing))
        except BackendError as error:
            return blocked(visible(f"the fix train's issue cannot be read: {error}", limit=500))
        if problems:
            return Outcome("fail", visible("; ".join(problems), limit=2000), "see each reason")
        lost = waiting(context, Log.read(context), reminders(context))
        told = ", ".join(f"{one.macro} to {hook.name}" for one, hook in lost)
        said = f"the calendar was kept; not delivered: {told}" if told else "the calendar was kept"
        return Outcome("ok", visible(said, limit=2000), "run EVIDENCE")

    async def rollback(self, context: Context) -> Outcome:
        """Withdraw what was scheduled: close the issue, see that it is closed, correct what was posted."""
        if context.effects is None:
            raise EffectRefused("only ROLLBACK withdraws", reason="capability")
        log = Log.read(context)
        told = {hook for macro, hook in log.had(context) if macro != WITHDRAWN}
        if not told and not log.issue:
            return Outcome("ok", "nothing was scheduled: nothing to withdraw", "none")
        problems = await fix_train.withdraw(context, log)
        correction = Reminder(
            WITHDRAWN,
            (
                Part("Withdrawn: what was announced for "),
                Part(context.plan.target_version, "code"),
                Part(" does not take place as scheduled."),
            ),
        )
        pending = [(one, hook) for one, hook in waiting(context, log, [correction]) if hook.name in told]
        problems += await post_all(context, log, pending)
        log.withdrawn = not problems
        artifacts = log.write(context)
        if problems:
            said = visible("; ".join(problems), limit=2000)
            return Outcome("blocked", said, "run ROLLBACK again: nobody is told twice", artifacts=artifacts)
        return Outcome("ok", "withdrawn, and whoever was told knows", "none", artifacts=artifacts)

    async def evidence(self, context: Context) -> Outcome:
        """Write the calendar as iCalendar and as JSON."""
        if context.plan.calendar is None:
            return blocked("the plan has no calendar")
        return Outcome("ok", "calendar written", "none", artifacts=Log.read(context).write(context))


def _missing(context: Context) -> str:
    if context.plan.calendar is None:
        return "the plan has no calendar"
    if not receivers(context):
        return "targets.webhooks names no receiver with the audience cab"
    try:
        _ = context.webhooks
        if fix_train.cause(context):
            _ = context.issues
    except BackendMissing as missing:
        return str(missing)
    return ""


def kept(context: Context) -> list[str]:
    """Return which phases began before their day or before the soak was done."""
    plan, state = context.plan, context.state()
    problems = []
    begun = {one.phase: parse_iso(one.started_at) for one in state.phases if one.started_at}
    for phase, at in begun.items():
        day = due(plan, phase)
        if day is not None and at < day - _SLACK:
            problems.append(f"{phase} began at {iso(at)}, before its day {iso(day)}")
    soak = plan.calendar.soak if plan.calendar is not None and "P4" in plan.phases else None
    after = sorted({"P5", "P6"} & begun.keys())
    if soak is not None and after:
        view = state.people.soak
        if view is None or view.state != "done":
            problems.append(f"{after[0]} began and the soak is not done")
        elif begun[after[0]] < later(parse_iso(view.since), soak.lasts) - _SLACK:
            problems.append(f"{after[0]} began before the soak was over")
    return problems
