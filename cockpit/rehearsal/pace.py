"""How fast a rehearsal goes: bake times, intervals and deadlines of its plan."""

from __future__ import annotations

from dataclasses import dataclass

from cockpit.base.errors import UsageError


@dataclass(frozen=True)
class Pace:
    """The timings of a rehearsal, in seconds except where named otherwise."""

    name: str
    scrape: float
    bake: float
    interval: float
    required_passes: int
    failure_limit: int
    weight_deadline: float
    low_traffic_deadline: float
    provider_grace: float
    load: float
    lease: int
    trigger_for: float
    """How long a risk's trigger must hold."""
    halt_bound: float
    stage_bake: float
    day: float
    """Length of a calendar day, compressed."""
    operator_lost_after: float
    second_step: float
    """From the plan's writing to the middle of the second step, roughly, with bakes twice as long."""


_TABLE = (
    Pace("fast", 0.5, 8, 1, 4, 2, 15, 12, 8, 3, 10, 5, 20, 2, 6, 2, 76),
    Pace("normal", 1, 30, 2, 10, 2, 30, 45, 20, 8, 15, 20, 120, 5, 30, 10, 180),
    Pace("slow", 2, 120, 5, 16, 2, 60, 120, 60, 15, 15, 60, 300, 15, 100, 30, 510),
)

PACES: dict[str, Pace] = {pace.name: pace for pace in _TABLE}
"""All paces by name, the fastest first."""


def pace(name: str) -> Pace:
    """Return the pace called `name`; raises UsageError, which lists the names there are."""
    try:
        return PACES[name]
    except KeyError:
        raise UsageError(f"there is no pace {name!r}", hint="choose one of " + ", ".join(PACES)) from None


def seconds(value: float) -> str:
    """Render seconds as the plan writes them: `8s`, `0.5s`, `2m`."""
    if value >= 60 and value % 60 == 0:
        return f"{value / 60:g}m"
    return f"{value:g}s"
