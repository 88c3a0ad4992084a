"""Whether what people made of a bake was kept to: no step decided while it stood, nor before its longer end.

For every recorded `advance` of a step whose bake somebody paused or extended:

- its bake was not paused then;
- since it was last made longer a look of its bake passed, over the plan's time and all it was extended by;
- by then it had baked for as long, with the time it was paused left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cockpit.base.clock import parse_iso
from cockpit.base.errors import CockpitError
from cockpit.evidence.checks import Check, said
from cockpit.evidence.steps import window_of
from cockpit.journal.events import AnyEvent, LookTaken, StepDecided, StepStage, StepStarted
from cockpit.journal.events_people import BakeExtended, BakePaused
from cockpit.plan.model import Plan

BAKES = "bakes kept"
_SLACK = 2.0
"""Seconds: records are stamped when they are written, and clocks are set."""
_EPSILON = 1e-6


def bakes_kept(events: Sequence[AnyEvent], plan: Plan | None, blob: Callable[[str], bytes]) -> Check:
    """Check every step that advanced against what people made of its bake."""
    if plan is None:
        touched = any(isinstance(event, (BakePaused, BakeExtended)) for event in events)
        return Check(BAKES, not touched, "there is no plan to hold them against")
    walk = _Walk(plan, blob)
    for event in events:
        walk.take(event)
    good = (
        f"{walk.kept} paused or longer ones, each to its end" if walk.kept else "none was paused or extended"
    )
    return Check(BAKES, not walk.problems, said(walk.problems, good))


@dataclass(slots=True)
class _Bake:
    """The bake of a step; seconds are those it was not paused."""

    touched: bool = False
    paused: bool = False
    extra: float = 0.0
    longer_since: int = 0
    since: datetime | None = None
    baked: float = 0.0
    looks: list[tuple[LookTaken, float]] = field(default_factory=list)

    def reach(self, at: datetime) -> None:
        """Take in that time has passed."""
        if self.since is not None and not self.paused:
            self.baked += (at - self.since).total_seconds()
        self.since = at if self.since is not None else None


class _Walk:
    """Takes a journal in, record by record."""

    def __init__(self, plan: Plan, blob: Callable[[str], bytes]) -> None:
        self._canary = plan.canary
        self._blob = blob
        self._bake = _Bake()
        self.kept = 0
        self.problems: list[str] = []

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        bake = self._bake
        if isinstance(event, StepStarted):
            self._bake = _Bake()
        elif isinstance(event, StepStage) and event.stage == "bake":
            bake.since, bake.baked, bake.looks = parse_iso(event.at), 0.0, []
        elif isinstance(event, BakePaused):
            bake.reach(parse_iso(event.at))
            bake.touched, bake.paused = True, event.paused
        elif isinstance(event, BakeExtended):
            bake.touched, bake.longer_since = True, event.seq
            bake.extra += event.seconds
        elif isinstance(event, LookTaken) and event.outcome == "pass" and not event.watch:
            bake.reach(parse_iso(event.at))
            if not bake.paused:
                bake.looks.append((event, bake.baked))
        elif isinstance(event, StepDecided) and event.decision == "advance" and bake.touched:
            self.kept += 1
            if problem := self._problem(bake):
                self.problems.append(f"record {event.seq}, step {event.step} advances: {problem}")

    def _problem(self, bake: _Bake) -> str:
        if bake.paused:
            return "its bake is paused"
        wanted = self._canary.bake + bake.extra
        why = "no look passed since its bake was made longer"
        for look, baked in bake.looks:
            if look.seq < bake.longer_since:
                continue
            try:
                window = window_of(self._blob(look.answers))
            except CockpitError as error:
                return f"the window of look {look.look} is not known: {error}"
            if window < wanted - _EPSILON:
                why = f"look {look.look} covers {window:g} s of a bake that people made {wanted:g} s"
            elif baked < wanted - _SLACK:
                why = f"it had baked for {baked:.0f} s of {wanted:g} s, what it was paused left out"
            else:
                return ""
        return why
