"""What is watched beside a release: the end of the window in mid-canary, and an operator who is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cockpit.base.clock import Clock, parse_iso
from cockpit.base.errors import JournalError
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.people import People, Stop
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events import AnyEvent, FrontEndSeen, RunResumed
from cockpit.journal.events_people import OperatorLost, RunReopened
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
    What was so under a conductor that was killed is so under the one that takes the run up.
    """
    seen, gone, told = await _as_recorded(recorder, clock)
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


async def _as_recorded(recorder: Recorder, clock: Clock) -> tuple[bool, float, bool]:
    """Return whether anybody had control in this sitting, for how long nobody has, and whether that was told.

    Those who were attached when the conductor was killed have from now on to attach again.
    """
    if not recorder.state().people.taken_up:
        return False, 0.0, False
    try:
        seen, gone_since, told = await recorder.read(lambda: attended(recorder.events()))
    except JournalError:
        return True, 0.0, False  # it cannot be told: rather somebody is missed than nobody
    gone = (clock.now() - parse_iso(gone_since)).total_seconds() if gone_since else 0.0
    return seen, max(0.0, gone), told


def attended(events: Iterable[AnyEvent]) -> tuple[bool, str, bool]:
    """Return whether front ends had control since a sitting began, when the last of them left, and if told.

    The time is RFC 3339, empty where somebody still had control at the journal's end.
    """
    count, seen, gone_since, told = 0, False, "", False
    for event in events:
        if isinstance(event, RunReopened):
            count, seen, gone_since, told = 0, False, "", False
        elif isinstance(event, RunResumed):
            # Whoever was attached lost their conductor, and may come back.
            count, gone_since = 0, gone_since or event.at
        elif isinstance(event, OperatorLost):
            told = True
        elif isinstance(event, FrontEndSeen):
            count = max(0, count + (1 if event.attached else -1))
            seen, told = seen or event.attached, told and not event.attached
            gone_since = "" if count else event.at
    return seen, gone_since, told
