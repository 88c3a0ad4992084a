"""When what may happen: pure functions of a plan's calendar and a moment (seed section 9; gates.md, 7, 14).

Moments are aware datetimes. A recurring window is open exactly while the wall clock of its zone shows a time
in it: an hour that daylight saving skips is never in it, and one that comes twice is in it twice.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

MOST = timedelta(days=1100)
"""No search goes further than this."""
_LONGEST_WINDOW_S = 86400.0
"""A window that never closes is told as the day it opens on."""
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LAST = datetime.max.replace(tzinfo=UTC) - 3 * _DAY
_FIRST = datetime.min.replace(tzinfo=UTC) + 3 * _DAY


class Span(Protocol):
    """A time from `start` up to, not including, `end`."""

    @property
    def start(self) -> datetime: ...
    @property
    def end(self) -> datetime: ...


class PlannedFreeze(Span, Protocol):
    """A freeze of the plan; `kind` is code or promotion."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...


class WallWindow(Protocol):
    """A recurring window: days as `mon`, times as `HH:MM` of the zone's wall clock."""

    @property
    def zone(self) -> str: ...
    @property
    def days(self) -> Sequence[str]: ...
    @property
    def start(self) -> str: ...
    @property
    def end(self) -> str: ...


class PlannedCalendar(Protocol):
    """The plan's calendar; `day` is the length of a calendar day in seconds."""

    @property
    def day(self) -> float: ...
    @property
    def phases(self) -> Mapping[str, float]: ...
    @property
    def freezes(self) -> Sequence[PlannedFreeze]: ...
    @property
    def windows(self) -> Sequence[WallWindow]: ...


class CalendarPlan(Protocol):
    """What of a plan is about time."""

    @property
    def window_utc(self) -> Span: ...
    @property
    def calendar(self) -> PlannedCalendar | None: ...


def due(plan: CalendarPlan, phase: str) -> datetime | None:
    """Return from when on a phase may begin; None where the plan has no calendar or the phase no day."""
    calendar = plan.calendar
    if calendar is None or phase not in calendar.phases:
        return None
    return later(plan.window_utc.start, calendar.phases[phase] * calendar.day)


def promotion_open(plan: CalendarPlan, now: datetime, *, own: bool = True) -> str:
    """Return why prod must not be promoted now, or nothing when it may.

    `own=False` leaves `window_utc` out: when would any release of this calendar be let through?
    """
    if own and not _within(plan.window_utc, now):
        return f"outside the release window {_said(plan.window_utc.start)} → {_said(plan.window_utc.end)}"
    calendar = plan.calendar
    if calendar is None:
        return ""
    for freeze in calendar.freezes:
        if freeze.kind == "promotion" and _within(freeze, now):
            return f"in the promotion freeze {freeze.name!r} until {_said(freeze.end)}"
    if calendar.windows and not any(shows(window, now) for window in calendar.windows):
        said = "; ".join(f"{','.join(w.days)} {w.start}–{w.end} {w.zone}" for w in calendar.windows[:5])
        return f"outside every recurring window ({said})"
    return ""


def shows(window: WallWindow, now: datetime) -> bool:
    """Tell whether the zone's wall clock shows, at `now`, a time in the window."""
    wall = now.astimezone(ZoneInfo(window.zone))
    start, end, at = _clock(window.start), _clock(window.end), wall.time()
    today = _DAYS[wall.weekday()] in window.days
    if start < end:
        return today and start <= at < end
    yesterday = _DAYS[wall.weekday() - 1] in window.days
    return (today and at >= start) or (yesterday and at < end)


def next_opening(
    plan: CalendarPlan, now: datetime, horizon: timedelta, *, own: bool = True
) -> datetime | None:
    """Return the first moment from `now` on, within `horizon`, at which prod may be promoted.

    None when there is none; `own` as in `promotion_open`. No search goes beyond `MOST`.
    """
    if not promotion_open(plan, now, own=own):
        return now
    end = later(now, min(horizon, MOST).total_seconds())
    if own:
        end = min(end, plan.window_utc.end)
        now = max(now, min(plan.window_utc.start - _SECOND, _LAST))
    return next((at for at in _edges(plan, now, end) if not promotion_open(plan, at, own=own)), None)


def closes_at(plan: CalendarPlan, now: datetime, *, own: bool = True) -> datetime | None:
    """Return when prod may no longer be promoted; None when it may not now.

    What stays open for longer than `MOST` is said to close then.
    """
    if promotion_open(plan, now, own=own):
        return None
    end = later(now, MOST.total_seconds())
    return next((at for at in _edges(plan, now, end) if promotion_open(plan, at, own=own)), end)


def next_window(plan: CalendarPlan, now: datetime, horizon: timedelta) -> tuple[datetime, datetime] | None:
    """Return the next whole window after the one open now: when it opens and closes.

    First those within `window_utc`; after them, for a release to come, those by the recurring windows and
    freezes alone. None when the calendar knows no further one.
    """
    for own in (True, False):
        if not own and (plan.calendar is None or not plan.calendar.windows):
            return None
        after = closes_at(plan, now, own=own) or now
        opens = next_opening(plan, after, horizon, own=own)
        closes = None if opens is None else closes_at(plan, opens, own=own)
        if opens is not None and closes is not None:
            return opens, min(closes, later(opens, _LONGEST_WINDOW_S))
    return None


# -- edges ----------------------------------------------------------------------------------------------


def _edges(plan: CalendarPlan, after: datetime, until: datetime) -> Iterator[datetime]:
    """Yield, in order, every moment in (after, until] where `promotion_open` may change, and some more."""
    calendar = plan.calendar
    spans: list[Span] = [plan.window_utc, *(calendar.freezes if calendar is not None else ())]
    fixed = sorted(at for span in spans for at in (span.start, span.end) if after < at <= until)
    windows = calendar.windows if calendar is not None else ()
    last = after
    for at in heapq.merge(fixed, _wall_edges(windows, after, until)):
        if at > last:
            last = at
            yield at


def _wall_edges(windows: Sequence[WallWindow], after: datetime, until: datetime) -> Iterator[datetime]:
    zones = {window.zone: ZoneInfo(window.zone) for window in windows}
    at = after.astimezone(UTC)
    while windows and at <= until and at < _LAST:
        ahead = at + _DAY
        found: set[datetime] = set()
        for zone in zones.values():
            found.update(_transitions(zone, at, ahead))
        for window in windows:
            first = at.astimezone(zones[window.zone]).date() - _DAY
            for number in range(4):
                found.update(_moments(first + number * _DAY, window, zones[window.zone]))
        yield from sorted(one for one in found if at < one <= ahead and one <= until)
        at = ahead


def _moments(day: date, window: WallWindow, zone: ZoneInfo) -> Iterator[datetime]:
    # A time that comes twice has two moments; one that is skipped has none, and then the transition counts.
    for clock in (window.start, window.end):
        for fold in (0, 1):
            yield datetime.combine(day, _clock(clock), zone).replace(fold=fold).astimezone(UTC)


def _transitions(zone: ZoneInfo, start: datetime, end: datetime) -> Iterator[datetime]:
    """Yield each moment in (start, end] from which on the zone's offset is another, to the second."""
    at = start
    while at < end:
        ahead = min(at + _HOUR, end)
        if _offset(zone, at) != _offset(zone, ahead):
            low, high = at, ahead
            while high - low > _SECOND:
                middle = low + (high - low) // 2
                low, high = (middle, high) if _offset(zone, middle) == _offset(zone, at) else (low, middle)
            yield high.replace(microsecond=0)
        at = ahead


def _offset(zone: ZoneInfo, at: datetime) -> timedelta | None:
    return at.astimezone(zone).utcoffset()


# -- small ----------------------------------------------------------------------------------------------


def _within(span: Span, now: datetime) -> bool:
    return span.start <= now < span.end


def _clock(text: str) -> time:
    return time(int(text[:2]), int(text[3:5]))


def later(moment: datetime, seconds: float) -> datetime:
    """Return `moment` moved by `seconds`, within what a datetime can hold; in UTC."""
    try:
        return min(max(moment.astimezone(UTC) + timedelta(seconds=seconds), _FIRST), _LAST)
    except (OverflowError, ValueError):
        return _LAST if seconds > 0 else _FIRST


def _said(moment: datetime) -> str:
    try:
        return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:  # the last day there is, in a zone west of Greenwich
        return moment.isoformat()
