"""Taking a run up again: what is behind it, whether it may go on, and what became of what was cut off.

An effect whose result was never recorded is looked up in the world (design decision 1): it is never assumed
to have happened, nor not to have.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cockpit.conductor.abort import Stable
from cockpit.conductor.gatekeeper import PROMOTION_PHASES, facts_for
from cockpit.conductor.phases import RosterInfo
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import Targets
from cockpit.journal.events_people import EffectResolved
from cockpit.journal.state import EffectView, ReleaseState
from cockpit.plan.model import Plan
from cockpit.verdicts.gates import void

MOST_TAKEN_UP = 3
"""A run that was taken up this often and ended again is aborted: something ends it that will end it again."""
_SHIFT = re.compile(r"canary weight (\d+)(, stable is new)?")
_SCALE = re.compile(r"(\S+) to (\d+)")
_IMAGE = re.compile(r"(\S+) (\S+)")


@dataclass(frozen=True)
class Progress:
    """What a run has behind it.

    `promoting`: all that P6 does before the first step is done, its pack sealed. `step`: the promotion step
    to do next, from 1; one more than the plan has when only stable is left to replace; 0 before the canary.
    `started`: that step has begun. `doubt`: why it was inconclusive, which sticks. `replacing`: stable had
    begun to take the new images. `carried`: it is out.
    """

    promoting: bool = False
    passed: frozenset[str] = frozenset()
    stable: Stable = field(default_factory=Stable)
    step: int = 0
    started: bool = False
    doubt: str = ""
    replacing: bool = False
    carried: bool = False


def progress_of(
    state: ReleaseState,
    plan: Plan,
    plan_sha256: str,
    roster: Sequence[RosterInfo],
    now: datetime,
) -> Progress:
    """Return what counts of what was done: phases whose verdicts still do, and the canary's steps."""
    canary = state.canary
    passed = {view.phase for view in state.phases if view.status == "pass"}
    stale = False
    facts = facts_for(plan, plan_sha256, roster)
    for info in roster:
        if info.id not in plan.agents:
            continue
        given = [one for one in state.gates if one.agent == info.id]
        for gate in info.gates:
            fresh = [one for one in given if one.phase_gate == gate and one.verdict == "pass"]
            if not any(void(one, facts, now=now) == "" for one in fresh):
                passed -= set(info.phases)  # asked again, whatever it said once
                stale = stale or bool(set(info.phases) & set(PROMOTION_PHASES))
    if not canary.stable_replicas:
        # No traffic moved: what the pack and the approvals are about still stands where nothing is to be
        # judged anew; stable is looked at again.
        sealed = canary.step == 1 and any(pack.kind == "promotion" for pack in state.packs)
        return Progress(
            promoting=sealed and not stale,
            passed=frozenset(passed - {"P6"}),
            step=min(canary.step, 1),
            started=canary.step == 1,
        )
    advanced = canary.step if canary.decision == "advance" else max(0, canary.step - 1)
    return Progress(
        promoting=True,
        # What the canary was begun on counted then; its verdicts are held against their age at each step.
        passed=frozenset(view.phase for view in state.phases if view.status == "pass"),
        stable=Stable.recorded(canary),
        step=advanced + 1,
        started=canary.step > advanced,
        doubt=canary.reason if canary.decision == "inconclusive" else "",
        replacing=canary.stage == "promote",
        carried=canary.released,
    )


def must_abort(state: ReleaseState, plan: Plan, *, told: str = "") -> str:
    """Return why a run that was killed must not go on, nothing when it may. `told`: somebody asked for it."""
    canary = state.canary
    if told:
        return told
    if state.rollback is not None:
        verified = state.rollback.status == "verified"
        return "it was rolled back" if verified else "a rollback was under way"
    if state.people.kind != "run":
        return f"the sitting was for {state.people.kind}"
    if state.people.stopped:
        return f"a stop was decided: {state.people.stopped}"
    if state.halt is not None and state.halt.active:
        return "a HALT was in force"
    if canary.last is not None and not canary.released and canary.last.outcome == "fail":
        last = canary.last
        if last.critical or max(last.failures, canary.failures) >= plan.canary.failure_limit:
            return f"the canary had failed: {last.reason}"
    if plan.on_crash == "abort":
        return "the plan says on_crash: abort"
    if state.people.taken_up >= MOST_TAKEN_UP:
        return f"the conductor has ended {state.people.taken_up + 1} times"
    return ""


async def resolve(recorder: Recorder, targets: Targets, state: ReleaseState, environment: str) -> None:
    """Look at the world for every effect of the promotion without a result, and record what is found.

    Raises BackendError when the world cannot be looked at: then nothing may go on.
    """
    for effect in state.effects_unknown:
        if effect.env != environment:
            continue  # an agent's own: done again, which is harmless by its contract
        found = await _look(effect, targets)
        if found is not None:
            happened, detail = found
            await recorder.record(
                EffectResolved(effect=effect.effect, happened=happened, detail=f"{effect.target}: {detail}")
            )


async def _look(effect: EffectView, targets: Targets) -> tuple[bool, str] | None:
    if effect.verb == "shift" and (match := _SHIFT.fullmatch(effect.target)):
        weight = await targets.weight()
        return weight == int(match[1]), f"the route says {weight} %"
    if effect.verb == "scale" and (match := _SCALE.fullmatch(effect.target)):
        seen = {one.name: one for one in (*await targets.stable(), *await targets.canary())}.get(match[1])
        return None if seen is None else (seen.wanted == int(match[2]), f"{seen.wanted} replicas wanted")
    if effect.verb in ("promote", "redeploy") and (match := _IMAGE.fullmatch(effect.target)):
        seen = {one.name: one for one in (*await targets.stable(), *await targets.canary())}.get(match[1])
        return None if seen is None else (seen.image == match[2], f"it runs {seen.image}")
    return None
