"""Whether each go/no-go follows: from its own lines, from the verdicts before it, and computed again.

At every decision the checklist is computed anew, with the rules the conductor uses, from the journal folded
up to there, the plan in the pack and the time of the record. Who owed a verdict is not in a journal: it is
taken from who gave one by then (an agent judges all it owes each time it judges), so an agent that owed one
and never gave any is not missed here. Hence a no-go may be stricter than what comes out here; a `go`, and
each gate that passes, must come out the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from cockpit.base.clock import parse_iso
from cockpit.base.errors import CockpitError, EvidenceError
from cockpit.evidence.checks import Check, said
from cockpit.evidence.steps import canary_agents
from cockpit.evidence.texts import written
from cockpit.journal.events import AnyEvent, GateJudged, GoNoGoComputed, RequiredGates, RunOpened
from cockpit.journal.fold import Fold
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan
from cockpit.rpc.messages import GoNoGo
from cockpit.rpc.validate import check as check_message
from cockpit.verdicts.approvals import glass_facts
from cockpit.verdicts.gates import ENVIRONMENTS, PHASE_GATES, GateFacts, evaluate_required
from cockpit.verdicts.gonogo import compute, consistent

NAME = "go/no-go follows from the verdicts"
Blobs = Callable[[str], bytes]
_DUE = ("P0", "P1", "P2", "P3", "P4", "P5", "P6")


def decisions(events: Sequence[AnyEvent], blob: Blobs, plan: Plan | None) -> Check:
    """Check every go/no-go and every computation of the required gates in a journal."""
    walk = _Walk(events, blob, plan)
    for event in events:
        walk.take(event)
    good = f"{walk.count} decisions"
    if walk.count:
        good += ", computed again; who owed a verdict is known from who gave one"
    return Check(NAME, not walk.problems, said(walk.problems, good))


@dataclass
class _Walk:
    events: Sequence[AnyEvent]
    blob: Blobs
    plan: Plan | None

    def __post_init__(self) -> None:
        self.problems: list[str] = []
        self.count = 0
        self._fold = Fold()
        self._before: ReleaseState | None = None
        self._given: list[GateJudged] = []
        self._required: RequiredGates | None = None
        self._opened: RunOpened | None = None
        self._stepwise: frozenset[str] = frozenset()
        if self.plan is not None:
            judging = {e.agent for e in self.events if isinstance(e, GateJudged) and e.step > 0}
            self._stepwise = frozenset(canary_agents(self.events, self.plan) | judging)

    def take(self, event: AnyEvent) -> None:
        """Take in one record."""
        if isinstance(event, RunOpened):
            self._opened = event
        elif isinstance(event, GateJudged):
            self._given.append(event)
        elif isinstance(event, RequiredGates):
            # The checklist beside it was computed from what was there before either was recorded.
            self._before, self._required = self._fold.snapshot(), event
            glass = glass_facts(self._before.people.glasses, parse_iso(event.at))
            overridden = frozenset(glass.overridden)
            self._found(event, _unfounded(event, _last(self._given), self._opened, overridden))
        elif isinstance(event, GoNoGoComputed):
            self.count += 1
            try:
                self._found(event, self._decided(event))
            except (CockpitError, ValueError) as error:
                self._found(event, [str(error)])
        self._fold.apply(event)

    def _found(self, event: AnyEvent, problems: Iterable[str]) -> None:
        self.problems += [f"record {event.seq}: {problem}" for problem in problems]

    def _decided(self, event: GoNoGoComputed) -> list[str]:
        document = check_message(GoNoGo, self.blob(event.blob))
        problem = _contradiction(event, document, self._required, self._opened)
        return [problem] if problem else self._again(event, document)

    def _again(self, event: GoNoGoComputed, document: GoNoGo) -> list[str]:
        """Compute the checklist anew; return how the recorded one differs."""
        if self.plan is None:
            raise EvidenceError("there is no plan to compute it again with")
        now = parse_iso(event.at)
        state = self._before or self._fold.snapshot()
        glass = glass_facts(state.people.glasses, now)
        facts = replace(
            self._facts(self.plan, event.step),
            overridden=glass.overridden,
            glass_problems=glass.problems,
        )
        outcome = evaluate_required(state, facts, now=now)
        fresh = compute(state, self.plan, facts, now=now, outcome=outcome)
        problems = [
            f"gate {gate} passes and comes out as {outcome.gates.get(gate)}: {outcome.reasons.get(gate, '')}"
            for gate, result in document.gates.items()
            if result == "pass" and outcome.gates.get(gate) != "pass"
        ]
        for name, told, found in (
            ("headroom", document.headroom, fresh.headroom),
            ("exceptions", document.exceptions, fresh.exceptions),
            ("open risks", document.risk_open, fresh.risk_open),
            ("recent drill", document.drill_recent, fresh.drill_recent),
            ("signed evidence", document.evidence_signed, fresh.evidence_signed),
        ):
            if told != found:
                problems.append(f"{name} is told as {told} and comes out as {found}")
        if document.go and not fresh.go and not problems:
            problems.append(f"it says go and comes out as no-go: {'; '.join(fresh.reasons)}")
        return problems

    def _facts(self, plan: Plan, step: int) -> GateFacts:
        opened = self._opened
        due = {phase for phase in _DUE if phase in plan.phases} | ({"canary"} if step > 1 else set())
        phases = {entry.id: set(entry.phases) for entry in (opened.roster if opened else [])}
        owing: dict[str, dict[str, None]] = {}
        for one in self._given:
            if one.agent in plan.agents and phases.get(one.agent, due) & due:
                owing.setdefault(one.phase_gate, {})[one.agent] = None
        return GateFacts(
            images={service.name: service.image.digest for service in plan.services},
            plan_sha256=opened.plan_sha256 if opened else "",
            required_gates=plan.required_gates,
            owing={gate: tuple(agents) for gate, agents in owing.items()},
            step=step,
            stepwise=self._stepwise,
        )


def _last(given: Iterable[GateJudged]) -> Iterable[GateJudged]:
    return {(one.phase_gate, one.agent, one.env): one for one in given}.values()


def _unfounded(
    event: RequiredGates,
    given: Iterable[GateJudged],
    opened: RunOpened | None,
    overridden: frozenset[str],
) -> list[str]:
    problems = []
    standing = list(given)
    for gate, result in event.gates.items():
        if result != "pass":
            continue
        about = [
            one
            for one in standing
            if one.phase_gate in PHASE_GATES.get(gate, ())
            and one.env in ENVIRONMENTS
            and opened is not None
            and one.plan_sha256 == opened.plan_sha256
        ]
        binding = [one for one in about if one.verdict != "pass" and one.phase_gate not in overridden]
        if len(binding) == len(about):
            problems.append(f"gate {gate} passes without any verdict")
        problems += [f"gate {gate} passes over {one.agent}'s fail" for one in binding]
    return problems


def _contradiction(
    event: GoNoGoComputed, document: GoNoGo, required: RequiredGates | None, opened: RunOpened | None
) -> str:
    if (event.go, list(event.reasons)) != (document.go, written(list(document.reasons))):
        return "the record is not the checklist"
    if event.headroom != document.headroom:
        return "the record tells another headroom than the checklist"
    if dict(document.gates) != (dict(required.gates) if required else {}):
        return "the checklist names other gate results than those computed before it"
    if opened is None or document.version != opened.version:
        return "the checklist is of another release"
    if set(document.gates) != set(opened.required_gates):
        return "the checklist is not about the gates the plan requires"
    return "; ".join(consistent(document))
