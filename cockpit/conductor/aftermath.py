"""P8: the GA flags flip when the release is out, its KPIs are measured a day later (seed section 9).

The two halves are apart in time. What is due within the time a sitting waits is measured in the same one;
for the rest the run stays open to `cockpit kpi`.
"""

from __future__ import annotations

from typing import Final

from cockpit.base.clock import Clock, iso
from cockpit.conductor.kpis import MEASURING, measure_kpis
from cockpit.conductor.phases import Failure, Phases
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events_people import NotDue
from cockpit.journal.milestones import milestones
from cockpit.plan.model import Plan
from cockpit.verdicts.kpi_times import kpi_times

_BUTLER, _CONDUCTOR = "A55", "A1"
_PHASE: Final = "P8"


class Aftermath:
    """Runs P8 of one release."""

    def __init__(self, plan: Plan, phases: Phases, recorder: Recorder, clock: Clock) -> None:
        self._plan = plan
        self._phases = phases
        self._recorder = recorder
        self._clock = clock

    async def run(self) -> list[Failure]:
        """Flip the flags, and measure what is due; return what failed."""
        await self._phases.start(_PHASE)
        failures = await self._flip()
        if not failures and self._plan.kpis is not None and not await self._due():
            return []  # the phase ends when its figures are there
        if not failures:
            failures = await self._measure()
        await self._phases.end(_PHASE, failures)
        return failures

    async def measure(self) -> list[Failure]:
        """Measure in a sitting of its own; return what failed, regressions included."""
        await self._phases.start(_PHASE)
        failures = await self._measure()
        await self._phases.end(_PHASE, failures)
        return failures

    async def _flip(self) -> list[Failure]:
        butler = self._phases.find(_BUTLER)
        failures: list[Failure] = []
        if butler is not None and _PHASE in butler.phases and self._plan.ga_flags:
            failures = await self._phases.all_ops(_PHASE, butler, params={"flip": True})
        others = [
            info for info in self._phases.agents(_PHASE) if info.id not in (*MEASURING, _BUTLER, _CONDUCTOR)
        ]
        return failures + await self._phases.side_by_side(_PHASE, others)

    async def _due(self) -> bool:
        """Wait for the day after where it is near; tell whether it has come."""
        kpis, calendar = self._plan.kpis, self._plan.calendar
        assert kpis is not None
        seen = milestones(self._recorder.run_dir)
        if seen.promoted is None or seen.released is None:
            return False
        due = kpi_times(kpis, calendar, promoted=seen.promoted, released=seen.released).due
        left = (due - self._clock.now()).total_seconds()
        if left > (calendar.wait if calendar is not None else 0.0):
            reason = "the figures are compared a day after: `cockpit kpi PLAN`"
            await self._recorder.record(NotDue(what="KPIs", due=iso(due), reason=reason))
            return False
        while (left := (due - self._clock.now()).total_seconds()) > 0:
            await self._clock.sleep(min(left, 1.0))
        return True

    async def _measure(self) -> list[Failure]:
        if not any(info.id in MEASURING for info in self._phases.agents(_PHASE)):
            return []
        return await measure_kpis(self._phases, self._recorder.run_dir, self._plan.target_version)
