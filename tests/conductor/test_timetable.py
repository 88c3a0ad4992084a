"""Waiting for days and windows over several sittings of one journal, and clocks that were set back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cockpit.base.clock import VirtualClock, iso
from cockpit.base.errors import EffectRefused
from cockpit.conductor.ending import exit_before_traffic
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.timetable import NotYet, Timetable
from cockpit.journal.events import Noted
from cockpit.journal.events_people import CalendarSet, NotDue
from cockpit.plan.model import Plan
from tests.conductor.support import events, plan_of, recording

T0 = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


class SetBack:
    """A virtual clock whose wall time can be set; what has passed goes on."""

    def __init__(self, start: datetime) -> None:
        self.inner = VirtualClock(start, auto=True)
        self.by = timedelta()
        self.sets: dict[float, timedelta] = {}
        """Once so many seconds have passed, the wall clock is off by this."""

    def now(self) -> datetime:
        return self.inner.now() + self.by

    def monotonic(self) -> float:
        return self.inner.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.inner.sleep(seconds)
        for passed in [one for one in self.sets if one <= self.monotonic()]:
            self.by = self.sets.pop(passed)


def planned(**calendar: Any) -> Plan:
    return plan_of(
        VirtualClock(T0), window_utc="2025-09-23 08:00 → 12:00", calendar={"wait": "15m", **calendar}
    )


@asynccontextmanager
async def sitting(
    folder: Path, clock: SetBack | VirtualClock, plan: Plan | None = None
) -> AsyncIterator[tuple[Timetable, Recorder]]:
    async with recording(folder, clock) as recorder:
        yield Timetable(plan or planned(), recorder, clock), recorder


# -- the calendar is recorded ---------------------------------------------------------------------------


async def test_the_calendar_is_recorded_once_over_all_sittings(tmp_path: Path) -> None:
    for _ in range(3):
        async with sitting(tmp_path, VirtualClock(T0)) as (timetable, recorder):
            await timetable.announce()
            [recorded] = await events(recorder, CalendarSet)
    assert recorded.phases["P2"] == iso(T0 - 10 * DAY) and recorded.phases["P6"] == iso(T0)
    assert not recorded.compressed
    async with sitting(tmp_path, VirtualClock(T0), planned(day="1m")) as (timetable, recorder):
        await timetable.announce()
        [_, changed] = await events(recorder, CalendarSet)
    assert changed.compressed and changed.day_s == 60


async def test_a_plan_without_calendar_waits_for_nothing(tmp_path: Path) -> None:
    clock = VirtualClock(T0)
    plan = plan_of(clock, calendar=None)
    async with sitting(tmp_path, clock, plan) as (timetable, recorder):
        await timetable.announce()
        await timetable.wait_for("P8")
        await timetable.wait_open()
        assert not await events(recorder, CalendarSet) and not await events(recorder, NotDue)
        assert timetable.promotion_problem() == ""


# -- waiting --------------------------------------------------------------------------------------------


async def test_what_is_due_is_not_waited_for(tmp_path: Path) -> None:
    clock = VirtualClock(T0 - 10 * DAY)
    async with sitting(tmp_path, clock) as (timetable, recorder):
        await timetable.wait_for("P2")
        assert not await events(recorder, NotDue)


async def test_what_comes_soon_is_waited_for_within_the_sitting(tmp_path: Path) -> None:
    clock = VirtualClock(T0 - 10 * DAY - timedelta(minutes=15), auto=True)
    async with sitting(tmp_path, clock) as (timetable, recorder):
        await timetable.wait_for("P2")
        assert clock.now() == T0 - 10 * DAY
        [waited] = await events(recorder, NotDue)
    assert (waited.what, waited.due) == ("P2", iso(T0 - 10 * DAY))


async def test_what_is_further_away_ends_the_sitting_and_the_next_one_goes_on(tmp_path: Path) -> None:
    clock = VirtualClock(T0 - 10 * DAY - timedelta(minutes=16), auto=True)
    async with sitting(tmp_path, clock) as (timetable, recorder):
        with pytest.raises(NotYet) as error:
            await timetable.wait_for("P2")
        assert (error.value.due, error.value.waits_for) == (T0 - 10 * DAY, "P2")
        assert "P2 is not due before 2025-09-13T08:00:00" in str(error.value)
        assert len(await events(recorder, NotDue)) == 1
    async with sitting(tmp_path, VirtualClock(T0 - 10 * DAY)) as (timetable, _):
        await timetable.wait_for("P2")


async def test_a_clock_set_back_while_waiting_ends_the_sitting_and_starts_nothing(tmp_path: Path) -> None:
    clock = SetBack(T0 - 10 * DAY - timedelta(minutes=10))
    clock.sets[60.0] = -2 * DAY
    async with sitting(tmp_path, clock) as (timetable, _):
        with pytest.raises(NotYet, match="clock was set back"):
            await timetable.wait_for("P2")


# -- promotion ------------------------------------------------------------------------------------------


async def test_promotion_follows_window_freeze_and_recurring_windows(tmp_path: Path) -> None:
    plan = planned(
        freezes=[{"name": "audit", "kind": "promotion", "start": iso(T0), "end": iso(T0 + HOUR)}],
        windows=[{"zone": "Europe/Berlin", "days": ["tue"], "start": "09:00", "end": "13:00"}],
    )
    clock = SetBack(T0 - HOUR)
    async with sitting(tmp_path, clock, plan) as (timetable, _):
        assert "outside the release window" in timetable.promotion_problem()
        clock.by += HOUR
        assert "freeze 'audit'" in timetable.promotion_problem() and timetable.closes_at() is None
        clock.by += HOUR
        assert timetable.promotion_problem() == ""
        assert timetable.closes_at() == T0 + 3 * HOUR
        clock.by += 2 * HOUR
        assert "outside every recurring window" in timetable.promotion_problem()


async def test_an_opening_that_comes_soon_is_waited_for(tmp_path: Path) -> None:
    freeze = {"name": "audit", "kind": "promotion", "start": iso(T0), "end": iso(T0 + HOUR)}
    plan = planned(freezes=[freeze])
    async with sitting(tmp_path / "a", VirtualClock(T0), plan) as (timetable, _):
        with pytest.raises(NotYet) as error:
            await timetable.wait_open()
        assert error.value.due == T0 + HOUR
    clock = VirtualClock(T0 + HOUR - timedelta(minutes=5), auto=True)
    async with sitting(tmp_path / "b", clock, plan) as (timetable, recorder):
        await timetable.wait_open()
        assert clock.now() == T0 + HOUR
        [waited] = await events(recorder, NotDue)
        assert "freeze 'audit'" in waited.reason


async def test_a_window_that_is_over_is_no_waiting(tmp_path: Path) -> None:
    async with sitting(tmp_path, VirtualClock(T0 + 4 * HOUR)) as (timetable, _):
        with pytest.raises(EffectRefused, match="never opens again") as error:
            await timetable.wait_open()
        assert error.value.reason == "window"


# -- a clock set back -----------------------------------------------------------------------------------


async def test_a_clock_set_back_between_sittings_reopens_nothing(tmp_path: Path) -> None:
    async with sitting(tmp_path, VirtualClock(T0 + 5 * HOUR)) as (_, recorder):
        await recorder.record(Noted(level="info", text="later"))
    clock = SetBack(T0 + HOUR)
    async with sitting(tmp_path, clock) as (timetable, _):
        assert "the clock was set back" in timetable.promotion_problem()
        assert timetable.closes_at() is None
        # What expires is measured by the later of both.
        assert timetable.sane_now() == T0 + 5 * HOUR
        with pytest.raises(EffectRefused, match="never opens again"):
            await timetable.wait_open()


async def test_a_clock_behind_within_the_tolerance_counts_as_right_and_still_reopens_nothing(
    tmp_path: Path,
) -> None:
    async with sitting(tmp_path, VirtualClock(T0 + 4 * HOUR)) as (_, recorder):
        await recorder.record(Noted(level="info", text="later"))
    async with sitting(tmp_path, SetBack(T0 + 4 * HOUR - timedelta(seconds=5))) as (timetable, _):
        assert timetable.clock_problem() == ""
        assert "outside the release window" in timetable.promotion_problem()


async def test_a_clock_set_back_within_a_sitting_is_noticed_and_forgiven_once_it_is_right(
    tmp_path: Path,
) -> None:
    clock = SetBack(T0 + HOUR)
    async with sitting(tmp_path, clock) as (timetable, _):
        assert timetable.promotion_problem() == ""
        clock.by = -timedelta(minutes=10)
        assert "600 s before" in timetable.promotion_problem()
        await timetable.wait_open()  # a sitting waits that long for the clock to catch up
        assert clock.now() >= T0 + HOUR and timetable.promotion_problem() == ""


def test_a_sitting_that_ends_for_its_time_exits_60() -> None:
    assert exit_before_traffic(NotYet(T0, "P2")) == 60
