"""What is watched beside a release: the end of the window in mid-canary, and an operator who is lost."""

from __future__ import annotations

from collections.abc import Callable

from cockpit.base.clock import Clock
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.people import People, Stop
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events_people import OperatorLost
from cockpit.plan.model import Plan

_POLL = 0.25
_BY = "plan"


async def window_end(
    plan: Plan, effects: EffectsGate, people: People, clock: Clock, closed: Callable[[], str]
) -> None:
    """Roll back when the window closes on a canary that has traffic, where the plan says `abort`.

    With `finish` the canary in flight goes on: `closed` then says nothing once traffic has moved. Returns
    when there is nothing more to watch.
    """
    if plan.on_window_end != "abort":
        return
    while not people.ending:
        if effects.prod_shifted and not effects.released and (why := closed()):
            people.stop(Stop("gate_fail", f"the release window closed in mid-canary: {why}", _BY))
            return
        await clock.sleep(_POLL)


async def operator_lost(
    plan: Plan, people: People, recorder: Recorder, clock: Clock, bake: BakeClock
) -> None:
    """Do what the plan says when the front ends that had control have all gone for too long.

    A bake somebody paused goes on then: nobody is left who could end the pause.

    A run nobody ever attached to is unattended, not abandoned. When somebody attaches again it starts anew.
    """
    seen, gone, told = False, 0.0, False
    since = clock.monotonic()
    while not people.ending:
        await clock.sleep(_POLL)
        now = clock.monotonic()
        if people.attached:
            seen, gone, told = True, 0.0, False
        elif seen:
            gone += now - since
        since = now
        if not seen or told or gone < plan.operator_lost_after:
            continue
        told = True
        then = plan.on_operator_lost
        text = f"no operator for {gone:.0f} s"
        await recorder.record_abort(OperatorLost(seconds=round(gone, 1), then=then))
        if bake.paused:
            bake.pause(False, _BY, f"{text}, who had paused it")
        if then == "halt":
            people.halt(_BY, "operator", text)
        elif then == "abort":
            people.stop(Stop("manual", f"{text}, and the plan says on_operator_lost: abort", _BY))
            return
