"""Whether what changed the world came when it might: after go, outside of a HALT, before an abort.

- A shift of traffic comes after the promotion pack was sealed and after a `go` since its step's preflight.
- Stable is replaced, and traffic given back to it, only after every step advanced and a `go` since then.
- Nothing forward goes out in a HALT, nor after a rollback began or a crash was taken up into an abort: what
  was only intended then must have been held back, and the journal must say so. What a crash cut off counts
  as sent when it was found in the world afterwards.
- The abort lane takes traffic off the canary; it never moves any on to it.
- A verified rollback began, and its shift was acknowledged.
"""

from __future__ import annotations

from collections.abc import Sequence

from cockpit.evidence.checks import Check, said
from cockpit.journal.events import (
    AnyEvent,
    EffectDone,
    EffectFailed,
    EffectIntended,
    EffectUnknown,
    EvidenceSealed,
    GoNoGoComputed,
    HaltBegan,
    HaltEnded,
    JournalGap,
    RollbackStarted,
    RollbackVerified,
    RunResumed,
    StepDecided,
    StepStage,
    StepStarted,
)
from cockpit.journal.events_people import EffectResolved, RunReopened
from cockpit.plan.model import Plan

EFFECTS = "effects in their place"
ROLLBACKS = "rollbacks proven"
_PROMOTING = frozenset({"shift", "promote"})
_FORWARD = frozenset({"scale", "shift", "promote", "flip"})
_TO_ZERO = "canary weight 0"


def effects_in_place(events: Sequence[AnyEvent], plan: Plan | None) -> Check:
    """Check when every effect of a journal was intended."""
    intended = [event for event in events if isinstance(event, EffectIntended)]
    if plan is None:
        shifts = [event for event in intended if event.verb in _PROMOTING]
        return Check(
            EFFECTS, not shifts, "there is no plan to hold them against" if shifts else "none of a promotion"
        )
    walk = _Walk(plan, unsent(events))
    for event in events:
        walk.take(event)
    return Check(EFFECTS, not walk.problems, said(walk.problems, f"{len(intended)} effects"))


def rollbacks_proven(events: Sequence[AnyEvent]) -> Check:
    """Check that each verified rollback was begun and took the traffic off the canary."""
    problems: list[str] = []
    elsewhere, count = 0, 0
    begun = shifted = gap = False
    shifts: set[str] = set()
    for event in events:
        if isinstance(event, RollbackStarted):
            begun, shifted, gap, shifts = True, False, False, set()
        elif isinstance(event, EffectIntended) and (event.lane, event.verb) == ("abort", "shift"):
            shifts.add(event.effect)
        elif isinstance(event, EffectDone) and event.effect in shifts:
            shifted = True
        elif isinstance(event, JournalGap) and event.records:
            gap = True
        elif isinstance(event, RollbackVerified):
            count += 1
            if not begun:
                problems.append(f"record {event.seq}: a rollback is verified that never began")
            elif not shifted and not gap:
                problems.append(f"record {event.seq}: a rollback is verified without its shift to 0")
            # An abort goes on when the journal cannot be written; its gap record stands for what is missing.
            elsewhere += not shifted and gap
            begun = False
    good = f"{count} verified" + (
        f", {elsewhere} of them with records outside the journal" if elsewhere else ""
    )
    return Check(ROLLBACKS, not problems, said(problems, good if count else "none was verified"))


def unsent(events: Sequence[AnyEvent]) -> frozenset[int]:
    """Return the records of intents that never went out: held back by the gate, or cut off by a crash."""
    ends: dict[str, AnyEvent] = {}
    resolved: dict[str, bool] = {}
    crashed = False
    found: set[int] = set()
    for event in reversed(events):
        if isinstance(event, EffectResolved):
            resolved[event.effect] = event.happened
        elif isinstance(event, (EffectDone, EffectFailed, EffectUnknown)):
            ends[event.effect] = event
        elif isinstance(event, RunResumed):
            # Numbers begin again in the process that takes a run up.
            ends, crashed = {}, True
        elif isinstance(event, EffectIntended):
            end = ends.pop(event.effect, None)
            if (isinstance(end, EffectFailed) and not end.sent) or (
                end is None and crashed and not resolved.get(event.effect, False)
            ):
                found.add(event.seq)
    return frozenset(found)


class _Walk:
    """Takes a journal in, record by record."""

    def __init__(self, plan: Plan, unsent: frozenset[int]) -> None:
        self._plan = plan
        self._unsent = unsent
        self._step = self._advanced = 0
        self._go = self._sealed = False
        self._stopped = ""
        self._over = ""
        self.problems: list[str] = []

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        if isinstance(event, EffectIntended):
            if event.seq not in self._unsent:
                self._intended(event)
        elif isinstance(event, StepStarted):
            self._step, self._go = event.step, False
        elif isinstance(event, StepStage) and event.stage == "preflight":
            self._go = False
        elif isinstance(event, StepDecided) and event.decision == "advance":
            self._advanced, self._go = event.step, False
        elif isinstance(event, GoNoGoComputed):
            after = len(self._plan.canary.steps) + 1
            self._go = event.go and event.step in (self._step, *((after,) if self._complete() else ()))
        elif isinstance(event, EvidenceSealed):
            self._sealed = self._sealed or event.kind == "promotion"
        elif isinstance(event, HaltBegan):
            self._stopped = f"in the HALT of record {event.seq}"
        elif isinstance(event, HaltEnded):
            if event.choice == "resume":
                self._stopped = ""
            else:
                self._over = f"after the {event.choice} that ended the HALT in record {event.seq}"
        elif isinstance(event, RunResumed):
            if event.into != "continue":
                self._stopped = ""
                self._over = f"after the crash told in record {event.seq}"
        elif isinstance(event, RunReopened):
            self._stopped = ""
        elif isinstance(event, RollbackStarted):
            self._over = f"after the rollback of record {event.seq} began"

    def _complete(self) -> bool:
        return self._advanced == len(self._plan.canary.steps)

    def _intended(self, event: EffectIntended) -> None:
        for problem in self._abort(event) if event.lane == "abort" else self._forward(event):
            self.problems.append(f"record {event.seq}, {event.verb} {event.target}: {problem}")

    def _abort(self, event: EffectIntended) -> list[str]:
        if event.verb == "promote" or (event.verb == "shift" and event.target != _TO_ZERO):
            return ["this is no step of an abort"]
        return []

    def _forward(self, event: EffectIntended) -> list[str]:
        problems = []
        if event.lane != "forward":
            problems.append("it went out in no lane there is")
        if self._stopped:
            problems.append(f"it went out {self._stopped}")
        if event.env != self._plan.environment:
            return problems
        if self._over and event.verb in _FORWARD:
            problems.append(f"it went out {self._over}")
        if event.verb not in _PROMOTING:
            return problems
        if not self._sealed:
            problems.append("the promotion pack was not sealed before it")
        if not self._go:
            problems.append(f"there was no go before it (step {self._step}, {self._advanced} advanced)")
        if event.verb == "promote" and not self._complete():
            problems.append(f"stable is replaced after {self._advanced} steps")
        return problems
