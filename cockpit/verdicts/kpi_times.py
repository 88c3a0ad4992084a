"""When KPIs are measured: `+24 h` in days of the calendar, which a rehearsal makes shorter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

DAY_S = 86400.0


class PlannedKpis(Protocol):
    """The plan's KPIs: when, and over which window, in seconds of a day that is not compressed."""

    @property
    def after(self) -> float: ...
    @property
    def window(self) -> float: ...
    @property
    def items(self) -> Sequence[object]: ...


class PlannedDay(Protocol):
    """The plan's calendar: `day` is the length of a day in seconds."""

    @property
    def day(self) -> float: ...


@dataclass(frozen=True, slots=True)
class KpiTimes:
    """The figures cover `window_s` seconds up to `due`, their baseline as many up to `before`.

    `compressed` is the length of a day, 1 for a whole one.
    """

    before: datetime
    released: datetime
    due: datetime
    window_s: float
    compressed: float


def kpi_times(
    kpis: PlannedKpis, calendar: PlannedDay | None, *, promoted: datetime, released: datetime
) -> KpiTimes:
    """Return when the figures of a release are due, and over which window they are taken."""
    scale = min(1.0, calendar.day / DAY_S) if calendar is not None else 1.0
    return KpiTimes(
        before=promoted,
        released=released,
        due=released + timedelta(seconds=kpis.after * scale),
        window_s=kpis.window * scale,
        compressed=scale,
    )
