"""The conductor's hold on time: what is due, whether prod may be promoted now, and a clock that was set back.

A sitting waits for up to `calendar.wait`. For what is further away it ends (exit 60) and the same journal is
taken up again by a later sitting. Times are aware UTC datetimes.
"""

from __future__ import annotations

from datetime import datetime

from cockpit.base.clock import Clock, iso, parse_iso
from cockpit.base.errors import CockpitError, EffectRefused
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import CalendarSet, NotDue
from cockpit.plan.model import Plan
from cockpit.verdicts.calendar import MOST, closes_at, due, next_opening, promotion_open

TOLERANCE_S = 5.0
"""Seconds a clock may be behind the journal before it counts as set back."""
PROMOTION = "promotion"
_LOOK_S = 30.0
"""The wall clock is looked at this often while something is waited for: it may be set."""
_DAY_S = 86400.0


class NotYet(CockpitError):
    """Something is further away than a sitting waits: end it, and take the run up again at `due`."""

    def __init__(self, due: datetime, waits_for: str, why: str = "") -> None:
        said = f": {why}" if why else ""
        super().__init__(
            f"{waits_for} is not due before {iso(due)}{said}",
            hint="the run stays open: go on with it then, `cockpit run PLAN --run DIR`",
        )
        self.due = due
        self.waits_for = waits_for


class Timetable:
    """When the phases and the promotion of one plan may begin; a plan without calendar waits for nothing."""

    def __init__(self, plan: Plan, recorder: Recorder, clock: Clock) -> None:
        self._plan = plan
        self._recorder = recorder
        self._clock = clock
        self._shown = clock.now()

    # -- the clock ----------------------------------------------------------------------------------------

    def sane_now(self) -> datetime:
        """Return the present time, never before what was recorded: for expiries and validities."""
        return max(self._clock.now(), self._known())

    def clock_problem(self) -> str:
        """Return why the clock cannot be trusted, or nothing.

        It is behind the journal's last record, or what it showed earlier in this sitting, by more than
        `TOLERANCE_S`. That ends once it shows a later time again.
        """
        behind = (self._known() - self._clock.now()).total_seconds()
        if behind <= TOLERANCE_S:
            return ""
        return (
            f"the clock was set back: it shows {iso(self._clock.now())}, {behind:.0f} s before what it "
            "has shown in this run; set it right"
        )

    def _known(self) -> datetime:
        self._shown = max(self._shown, self._clock.now())
        at = self._recorder.state().at  # never goes back, whatever the clock does
        return max(self._shown, parse_iso(at)) if at else self._shown

    # -- promotion ----------------------------------------------------------------------------------------

    def promotion_problem(self) -> str:
        """Return why prod must not be promoted now, or nothing: what effects gate and preflight ask."""
        problem = self.clock_problem()
        if problem:
            return problem
        # A clock that is behind by less than the tolerance must not reopen what has closed.
        return promotion_open(self._plan, self._clock.now()) or promotion_open(self._plan, self.sane_now())

    def closes_at(self) -> datetime | None:
        """Return when the promotion's window closes; None when it is not open now."""
        return None if self.promotion_problem() else closes_at(self._plan, self.sane_now())

    # -- waiting ------------------------------------------------------------------------------------------

    async def announce(self) -> None:
        """Record the calendar, once a run: a later sitting with the same plan has nothing to add."""
        calendar = self._plan.calendar
        if calendar is None:
            return
        phases: dict[str, str] = {}
        for phase in self._plan.phases:
            moment = due(self._plan, phase)
            if moment is not None:
                phases[phase] = iso(moment)
        people = self._recorder.state().people
        compressed = calendar.day != _DAY_S
        if people.due == phases and people.compressed == compressed:
            return
        await self._recorder.record(CalendarSet(day_s=calendar.day, phases=phases, compressed=compressed))

    async def wait_for(self, phase: str) -> None:
        """Return when a phase is due; raises NotYet for one further away than a sitting waits."""
        moment = due(self._plan, phase)
        if moment is not None:
            await self.wait_until(moment, phase)

    async def wait_open(self) -> None:
        """Return when prod may be promoted; raises NotYet, or EffectRefused when it never will be again."""
        if self._plan.calendar is None:
            return
        while problem := self.promotion_problem():
            opens = next_opening(self._plan, self.sane_now(), MOST)
            if opens is None:
                raise EffectRefused(f"the promotion never opens again: {problem}", reason="window")
            await self.wait_until(opens, PROMOTION, problem)

    async def wait_until(self, moment: datetime, waits_for: str, why: str = "") -> None:
        """Return once the wall clock shows `moment`; raises NotYet when that is too far away."""
        calendar = self._plan.calendar
        longest = calendar.wait if calendar is not None else 0.0
        recorded = False
        while (left := (moment - self._clock.now()).total_seconds()) > 0:
            problem = self.clock_problem() or why
            if not recorded:
                await self._recorder.record(
                    NotDue(what=waits_for, due=iso(moment), reason=problem or "its day has not come")
                )
                recorded = True
            if left > longest:
                raise NotYet(moment, waits_for, problem)
            await self._clock.sleep(min(left, _LOOK_S))
