from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cockpit.plan.calendar import SEED_DAYS, Calendar, Day, RecurringWindow
from cockpit.plan.values import Window
from cockpit.verdicts.calendar import (
    closes_at,
    due,
    next_opening,
    next_window,
    promotion_open,
    shows,
)

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
NOW = datetime(2025, 9, 23, 8, 0, tzinfo=UTC)
WEEK: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
fixed = settings(derandomize=True, deadline=None, max_examples=60)

# A moment a few hours around which the zone's clock is put forward or back, or skips a whole day.
CHANGES = (
    ("Europe/Berlin", datetime(2025, 3, 30, 1, 0, tzinfo=UTC)),
    ("Europe/Berlin", datetime(2025, 10, 26, 1, 0, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 3, 9, 7, 0, tzinfo=UTC)),
    ("America/New_York", datetime(2025, 11, 2, 6, 0, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 10, 4, 15, 30, tzinfo=UTC)),
    ("Australia/Lord_Howe", datetime(2025, 4, 5, 15, 0, tzinfo=UTC)),
    ("America/Santiago", datetime(2025, 9, 7, 4, 0, tzinfo=UTC)),
    ("Pacific/Apia", datetime(2011, 12, 30, 10, 0, tzinfo=UTC)),
    ("Pacific/Chatham", datetime(2025, 4, 5, 14, 0, tzinfo=UTC)),
    ("Asia/Kathmandu", datetime(2025, 6, 1, 0, 0, tzinfo=UTC)),
)


@dataclass(frozen=True)
class Planned:
    window_utc: Window = field(default_factory=lambda: Window(start=NOW, end=NOW + 4 * HOUR))
    calendar: Calendar | None = None


def planned(
    start: datetime = NOW, lasts: timedelta = 4 * HOUR, calendar: Mapping[str, Any] | None = None
) -> Planned:
    made = None if calendar is None else Calendar.model_validate(calendar)
    return Planned(Window(start=start, end=start + lasts), made)


def freeze(kind: str, start: datetime, lasts: timedelta) -> dict[str, Any]:
    return {"name": f"the {kind} freeze", "kind": kind, "start": start, "end": start + lasts}


# -- days -----------------------------------------------------------------------------------------------


def test_the_days_of_the_seed_count_from_the_window() -> None:
    plan = planned(calendar={})
    found = {phase: due(plan, phase) for phase in SEED_DAYS}
    assert found["P0"] == found["P1"] == datetime(2025, 9, 9, 8, 0, tzinfo=UTC)
    assert found["P2"] == datetime(2025, 9, 13, 8, 0, tzinfo=UTC)
    assert found["P6"] == found["P7"] == NOW
    assert found["P8"] == NOW + DAY
    assert due(plan, "P9") is None


def test_a_compressed_day_and_a_plan_without_calendar() -> None:
    assert due(planned(calendar={"day": 60, "phases": {"P5": -2.5}}), "P5") == NOW - timedelta(seconds=150)
    assert due(planned(), "P0") is None


def test_a_day_too_long_for_any_calendar_is_no_crash() -> None:
    plan = planned(calendar={"day": 1e15})
    early, late = due(plan, "P0"), due(plan, "P8")
    assert early is not None and late is not None and early < NOW < late
    assert promotion_open(plan, NOW) == ""


def test_no_code_freeze_binds_the_promotion() -> None:
    plan = planned(calendar={"freezes": [freeze("code", NOW, HOUR)]})
    assert promotion_open(plan, NOW) == ""


# -- promotion ------------------------------------------------------------------------------------------


def test_the_release_window_always_binds() -> None:
    without: Mapping[str, Any] | None = None
    for calendar in (without, {}):
        plan = planned(calendar=calendar)
        assert "outside the release window" in promotion_open(plan, NOW - MINUTE)
        assert promotion_open(plan, NOW) == ""
        assert "outside the release window" in promotion_open(plan, NOW + 4 * HOUR)


def test_a_promotion_freeze_closes_the_window_for_its_time() -> None:
    plan = planned(calendar={"freezes": [freeze("promotion", NOW + HOUR, HOUR)]})
    assert promotion_open(plan, NOW) == ""
    assert "the promotion freeze" in promotion_open(plan, NOW + HOUR)
    assert closes_at(plan, NOW) == NOW + HOUR
    assert next_opening(plan, NOW + HOUR, DAY) == NOW + 2 * HOUR
    assert closes_at(plan, NOW + HOUR) is None
    assert closes_at(plan, NOW + 2 * HOUR) == NOW + 4 * HOUR


def test_a_freeze_over_the_whole_window_leaves_no_opening() -> None:
    plan = planned(calendar={"freezes": [freeze("promotion", NOW - DAY, 3 * DAY)]})
    assert next_opening(plan, NOW - 10 * DAY, 30 * DAY) is None


def test_a_window_past_midnight_belongs_to_the_day_it_begins_on() -> None:
    window = RecurringWindow(zone="UTC", days=("fri",), start="22:00", end="02:00")
    friday = datetime(2025, 9, 26, tzinfo=UTC)
    assert [shows(window, friday + hours * HOUR) for hours in (1, 21, 22, 25, 26)] == [
        False, False, True, True, False,
    ]  # fmt: skip


def test_an_hour_that_is_skipped_never_opens_a_window_and_one_that_comes_twice_opens_it_twice() -> None:
    window = {"zone": "Europe/Berlin", "days": list(WEEK), "start": "02:15", "end": "02:45"}
    spring = planned(datetime(2025, 3, 30, tzinfo=UTC), DAY, {"windows": [window]})
    assert next_opening(spring, spring.window_utc.start, DAY) is None
    autumn = planned(datetime(2025, 10, 26, tzinfo=UTC), DAY, {"windows": [window]})
    first = datetime(2025, 10, 26, 0, 15, tzinfo=UTC)
    assert next_opening(autumn, autumn.window_utc.start, DAY) == first
    assert closes_at(autumn, first) == first + 30 * MINUTE
    assert next_opening(autumn, first + 30 * MINUTE, DAY) == first + HOUR


@pytest.mark.parametrize(("zone", "change"), CHANGES)
def test_daylight_saving_keeps_the_wall_clock(zone: str, change: datetime) -> None:
    window = RecurringWindow(zone=zone, days=WEEK, start="09:00", end="17:00")
    for days in (-2, 2):
        wall = datetime.combine((change + days * DAY).date(), time(9), ZoneInfo(zone))
        assert shows(window, wall.astimezone(UTC))
        assert not shows(window, wall.astimezone(UTC) - MINUTE)


# -- against brute force --------------------------------------------------------------------------------

clocks = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.sampled_from((0, 1, 15, 30, 59)))


@st.composite
def calendars(draw: st.DrawFn) -> tuple[Planned, datetime]:
    """A plan whose recurring windows, freezes and release window lie around a change of some clock."""
    zone, change = draw(st.sampled_from(CHANGES))
    zones = [zone, draw(st.sampled_from([name for name, _ in CHANGES] + ["UTC"]))]
    windows = []
    for name in zones[: draw(st.integers(1, 2))]:
        opens, closes = draw(clocks), draw(clocks)
        days = draw(st.sets(st.sampled_from(WEEK), min_size=3))
        if opens != closes:
            windows.append({"zone": name, "days": sorted(days), "start": opens, "end": closes})
    minutes = st.integers(-20 * 60, 20 * 60)
    freezes = [
        freeze(kind, change + draw(minutes) * MINUTE, draw(st.integers(1, 600)) * MINUTE)
        for kind in draw(st.lists(st.sampled_from(("promotion", "code")), max_size=2))
    ]
    start = change + draw(st.integers(-20 * 60, -60)) * MINUTE
    plan = planned(start, draw(st.integers(60, 36 * 60)) * MINUTE, {"windows": windows, "freezes": freezes})
    return plan, change


def brute(plan: Planned, now: datetime) -> bool:
    """Whether prod may be promoted, told from the definition: a day's window on the naive wall clock."""
    calendar = plan.calendar
    assert calendar is not None
    if not plan.window_utc.start <= now < plan.window_utc.end:
        return False
    if any(one.kind == "promotion" and one.start <= now < one.end for one in calendar.freezes):
        return False
    return not calendar.windows or any(_brute_window(one, now) for one in calendar.windows)


def _brute_window(window: RecurringWindow, now: datetime) -> bool:
    offset = now.astimezone(ZoneInfo(window.zone)).utcoffset()
    assert offset is not None
    wall = now.replace(tzinfo=None) + offset
    for back in (0, 1):
        midnight = datetime.combine(wall.date() - back * DAY, time())
        start = midnight + timedelta(hours=int(window.start[:2]), minutes=int(window.start[3:]))
        end = midnight + timedelta(hours=int(window.end[:2]), minutes=int(window.end[3:]))
        end += DAY if end < start else timedelta()
        if WEEK[midnight.weekday()] in window.days and start <= wall < end:
            return True
    return False


@fixed
@given(calendars())
def test_openings_and_closings_are_those_of_brute_force_by_the_minute(made: tuple[Planned, datetime]) -> None:
    plan, change = made
    begin = change - 24 * HOUR
    minutes = [begin + number * MINUTE for number in range(48 * 60)]
    is_open = [brute(plan, at) for at in minutes]
    assert [not promotion_open(plan, at) for at in minutes] == is_open
    flips = [n for n in range(1, len(minutes)) if is_open[n] != is_open[n - 1]]
    # From the beginning, walk from opening to closing: every edge must be found, and no other.
    found, at = [], begin
    while True:
        opens = next_opening(plan, at, 3 * DAY)
        if opens is None or opens > minutes[-1]:
            break
        closes = closes_at(plan, opens)
        assert closes is not None
        found += [opens, closes]
        at = closes
    assert [one for one in found if minutes[0] < one <= minutes[-1]] == [minutes[n] for n in flips]


@fixed
@given(calendars(), st.integers(-30 * 60, 30 * 60))
def test_an_answer_from_any_moment_is_consistent(made: tuple[Planned, datetime], minute: int) -> None:
    plan, change = made
    now = change + minute * MINUTE
    opens = next_opening(plan, now, 4 * DAY)
    if opens is not None:
        assert opens >= now and promotion_open(plan, opens) == ""
        assert opens == now or promotion_open(plan, opens - timedelta(seconds=1))
    closes = closes_at(plan, now)
    assert (closes is None) == bool(promotion_open(plan, now))
    if closes is not None:
        assert promotion_open(plan, closes) and not promotion_open(plan, closes - timedelta(seconds=1))


# -- the next window ------------------------------------------------------------------------------------


def test_the_horizon_bounds_the_search() -> None:
    plan = planned(calendar={})
    assert next_opening(plan, NOW - 2 * DAY, DAY) is None
    assert next_opening(plan, NOW - 2 * DAY, 3 * DAY) == NOW


def test_the_next_window_of_a_fix_is_a_recurring_one_once_this_release_s_is_over() -> None:
    window = {"zone": "Europe/Berlin", "days": ["tue", "thu"], "start": "10:00", "end": "14:00"}
    freezes = [freeze("promotion", NOW + 2 * DAY - HOUR, DAY)]
    plan = planned(calendar={"windows": [window], "freezes": freezes})
    # Tuesday is under way, Thursday is frozen; the Tuesday after is the first that can take a fix.
    assert next_window(plan, NOW + HOUR, 30 * DAY) == (NOW + 7 * DAY, NOW + 7 * DAY + 4 * HOUR)
    assert next_window(plan, NOW + HOUR, 3 * DAY) is None
    assert next_window(plan, NOW - DAY, 30 * DAY) == (NOW, NOW + 4 * HOUR)


def test_without_recurring_windows_no_further_window_is_known() -> None:
    assert next_window(planned(calendar={}), NOW + HOUR, 365 * DAY) is None
    assert next_window(planned(), NOW + HOUR, 365 * DAY) is None
    assert next_window(planned(), NOW - HOUR, DAY) == (NOW, NOW + 4 * HOUR)


def test_a_window_open_all_the_time_is_searched_within_bounds() -> None:
    halves = [
        {"zone": "UTC", "days": list(WEEK), "start": "00:00", "end": "12:00"},
        {"zone": "UTC", "days": list(WEEK), "start": "12:00", "end": "00:00"},
    ]
    plan = planned(lasts=10_000 * DAY, calendar={"windows": halves})
    closes = closes_at(plan, NOW)
    assert closes is not None and closes > NOW + 1000 * DAY
