"""When what may happen: days before the release, soak, freezes and recurring windows (seed section 9)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from cockpit.plan.checks import MetricCheck
from cockpit.plan.values import PositiveSeconds, Seconds, Strict

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
_CLOCK = r"^([01]\d|2[0-3]):[0-5]\d$"

SEED_DAYS: dict[str, float] = {
    "P0": -14, "P1": -14, "P2": -10, "P3": -7, "P4": -5, "P5": -3, "P6": 0, "P7": 0, "P8": 1,
}  # fmt: skip
"""Seed section 9: the day, counted from T-0, from which a phase may begin. The release freeze is T-1."""


class Freeze(Strict):
    """A time without changes. `code`: no new changes to the release; `promotion`: no promotion either."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    kind: Literal["code", "promotion"]
    start: datetime
    end: datetime

    @model_validator(mode="after")
    def _ordered(self) -> Freeze:
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError("freeze times need a zone, e.g. 2025-12-20T00:00:00+01:00")
        if self.end <= self.start:
            raise ValueError("the freeze ends before it starts")
        return self


class RecurringWindow(Strict):
    """Hours in which prod may be promoted, by the wall clock of a time zone, daylight saving included.

    `end` before `start` is past midnight.
    """

    zone: str
    days: Annotated[tuple[Day, ...], Field(min_length=1)]
    start: Annotated[str, Field(pattern=_CLOCK)]
    end: Annotated[str, Field(pattern=_CLOCK)]

    @field_validator("zone")
    @classmethod
    def _known(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone!r} is no time zone; write it like Europe/Berlin") from None
        return zone

    @model_validator(mode="after")
    def _long(self) -> RecurringWindow:
        if self.start == self.end:
            raise ValueError("the window has no length")
        return self


class Soak(Strict):
    """P4's candidate must run this long in stage without a breach; a failing check starts it again."""

    lasts: PositiveSeconds = 48 * 3600.0
    interval: PositiveSeconds = 300.0
    checks: Annotated[tuple[MetricCheck, ...], Field(min_length=1)]


class Calendar(Strict):
    """T-14 → T+1 around the start of `window_utc`, which is T-0."""

    day: PositiveSeconds = 86400.0
    """Length of a calendar day; a rehearsal compresses it, and every artifact says so."""
    phases: dict[str, float] = Field(default_factory=lambda: dict(SEED_DAYS))
    """Phase → the day (-14 is T-14) from which it may begin."""
    wait: Seconds = 900.0
    """A sitting waits this long for what is next; for what is further away it closes and is reopened."""
    soak: Soak | None = None
    freezes: tuple[Freeze, ...] = ()
    windows: tuple[RecurringWindow, ...] = ()
    """Besides `window_utc`, which always binds: promotion needs to be inside one of these, if any."""

    @field_validator("phases")
    @classmethod
    def _phases(cls, days: dict[str, float]) -> dict[str, float]:
        if unknown := [phase for phase in days if phase not in SEED_DAYS]:
            raise ValueError(f"no such phase: {', '.join(unknown)}")
        return {**SEED_DAYS, **days}
