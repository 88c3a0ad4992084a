"""Composes what a release asks of its surroundings (`conductor/hooks.py`) from the parts a plan names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cockpit.base.clock import Clock
from cockpit.conductor.control import Act
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.hooks import Hooks
from cockpit.conductor.people import People
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.stages import Stages
from cockpit.conductor.timetable import Timetable
from cockpit.conductor.tools import BakeClock, Handover, Reverify
from cockpit.conductor.watches import operator_lost, window_end
from cockpit.plan.model import Plan


class Closed:
    """Why prod must not be promoted now; a canary in flight may finish where the plan says so."""

    def __init__(self, plan: Plan, timetable: Timetable) -> None:
        self._plan = plan
        self._timetable = timetable
        self.in_flight: Callable[[], bool] = lambda: False

    def __call__(self) -> str:
        """Return the reason, or nothing."""
        if self._plan.on_window_end == "finish" and self.in_flight():
            return ""
        return self._timetable.promotion_problem()


def hooks_of(
    plan: Plan,
    *,
    recorder: Recorder,
    clock: Clock,
    effects: EffectsGate,
    people: People,
    timetable: Timetable,
    closed: Closed,
    reverify: Reverify,
    stages: Stages,
) -> Hooks:
    """Return the hooks of a plan."""
    return Hooks(
        due=timetable.wait_for,
        stages=stages.run,
        closed=closed,
        watchers=(
            partial(window_end, plan, effects, people, clock, closed),
            partial(operator_lost, plan, people, recorder, clock),
            reverify.serve,
        ),
    )


def acts_of(bake: BakeClock, reverify: Reverify, handover: Handover) -> dict[str, Act]:
    """Return what takes the operator's commands, by their kind."""
    return {
        "pause": lambda c: bake.pause(True, c.by, c.reason),
        "unpause": lambda c: bake.pause(False, c.by, c.reason),
        "extend": lambda c: bake.extend(c.seconds, c.by, c.reason),
        "reverify": lambda c: reverify.ask(c.agent, c.by, c.reason),
        "handover": lambda c: handover.offer(c.by, c.to, c.reason),
        "accept": lambda c: handover.accept(c.by),
    }
