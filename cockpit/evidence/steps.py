"""Whether each promotion step was earned: the bake, the looks, the agents' verdicts, and their order.

For every recorded `advance` the journal must hold, since the step's last preflight:

- a shift of traffic that was acknowledged, and a bake after it;
- in that bake, counted anew, the plan's required passes, each from answers of its own, ending with a pass
  whose window covers the whole bake and has the plan's least requests;
- never, anywhere before, a breach: a critical failed look, or as many in a row as the plan's limit;
- from each canary-phase agent of the plan an `ok` after the bake, and a pass on every gate which it judged
  under any step; no failed verdict, and none that could not tell unless a pass came after it (the risk
  triggers are judged while it bakes as well). Set aside is a fail where break-glass was in force over its
  gate, and one of a verification a person asked for beside the step: the step's own verdict, and the next
  go/no-go, are what count then.

Steps go in the plan's order, each after the one before it has advanced; `released` comes after all of them.
A breach or a rollback ends it: no step starts or advances after either.

A look outside the bake (while agents judge, while a HALT holds) that fails without being critical breaches
nothing until the limit is reached: that is the plan's rule, not a gap in this one.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from cockpit.base.clock import parse_iso
from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.evidence.checks import Check, said
from cockpit.journal.events import (
    AgentAnswered,
    AnyEvent,
    EffectDone,
    EffectIntended,
    GateJudged,
    LookTaken,
    Released,
    RollbackStarted,
    RunOpened,
    RunResumed,
    StepDecided,
    StepStage,
    StepStarted,
)
from cockpit.journal.events_people import BreakGlassReviewed, BreakGlassUsed, ReverifyAsked
from cockpit.journal.fold_people import PeopleFold
from cockpit.plan.model import Plan
from cockpit.verdicts.approvals import glass_facts

NAME = "steps earned"
Blobs = Callable[[str], bytes]
_CANARY = "canary"
_EPSILON = 1e-6


def steps_earned(events: Sequence[AnyEvent], plan: Plan | None, blob: Blobs) -> Check:
    """Check every `advance` and `released` of a journal against the plan in the pack."""
    claims = [e for e in events if isinstance(e, Released) or (isinstance(e, StepDecided) and _advances(e))]
    if plan is None:
        return Check(
            NAME, not claims, "there is no plan to hold them against" if claims else "no step advanced"
        )
    walk = _Walk(events, plan, blob)
    for event in events:
        walk.take(event)
    good = f"{walk.advanced} of {len(plan.canary.steps)} steps advanced, each earned"
    return Check(NAME, not walk.problems, said(walk.problems, good if claims else "no step advanced"))


def canary_agents(events: Iterable[AnyEvent], plan: Plan) -> set[str]:
    """Return the plan's agents that judge under every step, by the roster the run was opened with."""
    opened = next((event for event in events if isinstance(event, RunOpened)), None)
    entries = opened.roster if opened else []
    return {entry.id for entry in entries if _CANARY in entry.phases and entry.id in plan.agents}


def window_of(stored: bytes) -> float:
    """Return the seconds a stored look is about; raises EvidenceError when it does not tell."""
    try:
        window = json.loads(stored)["rule"]["params"]["window_s"]
    except (ValueError, LookupError, TypeError, RecursionError):
        window = None
    if not isinstance(window, (int, float)):
        raise EvidenceError("the stored look does not tell")
    return float(window)


def _advances(event: StepDecided) -> bool:
    return event.decision == "advance"


class _Walk:
    """Takes a journal in, record by record."""

    def __init__(self, events: Sequence[AnyEvent], plan: Plan, blob: Blobs) -> None:
        self._plan = plan
        self._canary = plan.canary
        self._blob = blob
        self._agents = canary_agents(events, plan)
        # What is judged under one step is owed under every step; what a person asked for beside it is not.
        asked = {e.agent for e in events if isinstance(e, ReverifyAsked)} - self._agents
        self._owed = {
            (e.agent, e.phase_gate)
            for e in events
            if isinstance(e, GateJudged) and e.step > 0 and e.agent in plan.agents and e.agent not in asked
        }
        self._asked: Counter[str] = Counter()
        self._asked_for: Counter[tuple[str, str]] = Counter()
        self._step = 0
        self._failed = self._number = 0
        self._attempt: list[AnyEvent] = []
        self._over = ""
        self._glass = PeopleFold()
        self._excused: set[int] = set()
        self._beside: set[int] = set()
        self.advanced = 0
        self.problems: list[str] = []

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        if isinstance(event, (BreakGlassUsed, BreakGlassReviewed)):
            self._glass.handlers[type(event)](event)
        elif isinstance(event, ReverifyAsked):
            self._asked[event.agent] += 1
        elif isinstance(event, GateJudged) and _stands_against(event):
            self._excuse(event)
        if isinstance(event, RunOpened):
            self._roster(event)
        elif isinstance(event, StepStarted):
            self._started(event)
        elif isinstance(event, StepStage) and event.stage == "preflight":
            self._attempt = []
        elif isinstance(event, LookTaken):
            self._looked(event)
        elif isinstance(event, StepDecided) and _advances(event):
            self._decided(event)
        elif isinstance(event, Released):
            self._released(event)
        elif isinstance(event, RollbackStarted):
            self._over = f"the rollback of record {event.seq}"
        elif isinstance(event, RunResumed) and event.into != "continue":
            self._over = f"the crash told in record {event.seq}"
        self._attempt.append(event)

    def _excuse(self, event: GateJudged) -> None:
        glasses = self._glass.snapshot().glasses
        if glasses and event.phase_gate in glass_facts(glasses, parse_iso(event.at)).overridden:
            self._excused.add(event.seq)
        elif self._asked_for[event.agent, event.phase_gate] < self._asked[event.agent]:
            self._asked_for[event.agent, event.phase_gate] += 1
            self._beside.add(event.seq)

    def _found(self, event: AnyEvent, what: str, problem: str) -> None:
        self.problems.append(f"record {event.seq}, {what}: {problem}")

    def _roster(self, event: RunOpened) -> None:
        missing = sorted(set(self._plan.agents) - {entry.id for entry in event.roster})
        if missing:
            self._found(event, "the roster", f"it leaves out {', '.join(missing)} of the plan")

    def _started(self, event: StepStarted) -> None:
        what, steps = f"step {event.step}", self._canary.steps
        if event.step != self._step + 1 or self._step != self.advanced:
            self._found(event, what, f"it starts after step {self._step}, with {self.advanced} advanced")
        if not 1 <= event.step <= len(steps) or event.weight != steps[event.step - 1]:
            self._found(event, what, f"the plan has no such step to {event.weight} %")
        if self._over:
            self._found(event, what, f"it starts after {self._over}")
        self._step, self._attempt = event.step, []

    def _looked(self, event: LookTaken) -> None:
        # Counted anew: a look that tells nothing neither adds to the failures nor excuses them, and one
        # that is numbered lower than the one before belongs to a watch of its own.
        if event.outcome == "pass" or event.look <= self._number:
            self._failed = 0
        self._failed += event.outcome == "fail"
        self._number = event.look
        if event.outcome != "fail":
            return
        if event.critical or max(self._failed, event.failures) >= self._canary.failure_limit:
            self._over = f"the breach of record {event.seq}, look {event.look} of step {event.step}"

    def _decided(self, event: StepDecided) -> None:
        what = f"step {event.step} advances"
        if self._over:
            self._found(event, what, f"after {self._over}")
        if event.step != self._step or event.step != self.advanced + 1:
            self._found(event, what, f"step {self._step} is under way, {self.advanced} have advanced")
            return
        if event.weight != self._canary.steps[event.step - 1]:
            self._found(event, what, f"at {event.weight} %, which is not the plan's weight")
        self.advanced = event.step
        for problem in self._unearned(event.step):
            self._found(event, what, problem)

    def _released(self, event: Released) -> None:
        what, steps = "released", len(self._canary.steps)
        if self.advanced != steps:
            self._found(event, what, f"after {self.advanced} of {steps} steps")
        if event.version != self._plan.target_version:
            self._found(event, what, "another version than the plan's")
        if self._over:
            self._found(event, what, f"after {self._over}")

    # -- one step -------------------------------------------------------------------------------------

    def _unearned(self, step: int) -> list[str]:
        stages = [
            at
            for at, event in enumerate(self._attempt)
            if isinstance(event, StepStage) and event.stage == "bake" and event.step == step
        ]
        if not stages:
            return ["it was never baked"]
        before, after = self._attempt[: stages[-1]], self._attempt[stages[-1] + 1 :]
        problems = [] if self._shifted(before) else ["no traffic was shifted before its bake"]
        looks = [e for e in after if isinstance(e, LookTaken) and e.step == step and not e.watch]
        problems += self._passes_problem(_of_the_bake(looks))
        return problems + self._verdict_problems(step, after)

    def _shifted(self, before: Sequence[AnyEvent]) -> bool:
        sent = {
            event.effect
            for event in before
            if isinstance(event, EffectIntended)
            and (event.verb, event.lane, event.env) == ("shift", "forward", self._plan.environment)
        }
        return any(isinstance(event, EffectDone) and event.effect in sent for event in before)

    def _passes_problem(self, looks: Sequence[LookTaken]) -> list[str]:
        required, least = self._canary.required_passes, self._canary.min_requests
        answers: set[str] = set()
        why = ""
        for look in looks:
            if look.outcome != "pass":
                continue
            if look.answers in answers:
                return [f"record {look.seq} counts the answers of another look again"]
            answers.add(look.answers)
            if len(answers) < required:
                continue
            try:
                window = window_of(self._blob(look.answers))
            except CockpitError as error:
                return [f"the window of look {look.look} is not known: {error}"]
            if look.requests < least:
                why = f"look {look.look} passed with {look.requests:g} requests, {least} are needed"
            elif window < self._canary.bake - _EPSILON:
                why = f"look {look.look} covers {window:g} s of a bake of {self._canary.bake:g} s"
            else:
                return []
        return [why or f"{len(answers)} looks passed in its bake, {required} are required"]

    def _verdict_problems(self, step: int, after: Sequence[AnyEvent]) -> list[str]:
        given = [event for event in after if isinstance(event, GateJudged) and event.step == step]
        passed = {(one.agent, one.phase_gate): one.seq for one in given if not _stands_against(one)}
        problems = [
            f"{one.agent} judged {one.phase_gate}: {one.outcome or one.verdict} (record {one.seq})"
            for one in given
            if _stands_against(one)
            and one.seq not in self._excused | self._beside
            and not (_untold(one) and passed.get((one.agent, one.phase_gate), 0) > one.seq)
        ]
        judged = passed.keys() | {(one.agent, one.phase_gate) for one in given if one.seq in self._excused}
        problems += [
            f"{agent} gave no verdict on {gate} under it"
            if all((agent, gate) != (one.agent, one.phase_gate) for one in given)
            else f"{agent} did not pass {gate} under it"
            for agent, gate in sorted(self._owed - judged)
        ]
        fine = {
            event.agent
            for event in after
            if isinstance(event, AgentAnswered)
            and (event.op, event.phase, event.result) == ("VERIFY", "P6", "ok")
        } | {one.agent for one in given if one.seq in self._excused}
        return problems + [f"{agent} did not verify it" for agent in sorted(self._agents - fine)]


def _stands_against(event: GateJudged) -> bool:
    return event.verdict != "pass" or event.outcome != "pass"


def _untold(event: GateJudged) -> bool:
    return event.verdict != "pass" and event.outcome in ("low_traffic", "no_data", "provider_error")


def _of_the_bake(looks: Sequence[LookTaken]) -> list[LookTaken]:
    """Return the looks of the bake alone: a watch that begins beside it counts from 1 again."""
    found: list[LookTaken] = []
    for look in looks:
        if found and look.look <= found[-1].look:
            break
        found.append(look)
    return found
