"""From phase gates to the gates PROMOTE requires (gates.md): which verdict counts, what a gate came to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol

from cockpit.base.clock import parse_iso
from cockpit.verdicts.thresholds import number, parse

GateResult = Literal["pass", "fail", "not evaluated"]

_DAY = 86400.0

PHASE_GATES: dict[str, tuple[str, ...]] = {
    "slo": ("slo", "product_slos", "ingest_lag"),
    "perf": ("perf",),
    "supply_chain": ("supply_chain",),
    "migrations": ("migrations", "reindex_parity"),
    "policy": ("policy_ci", "hardening", "tenant_isolation", "identity", "authz", "audit"),
    "dr": ("dr", "chaos"),
}
"""Required gate → the phase gates of seed section 5 it is made of."""

GA_GATES = ("alert_hygiene", "doc_lint")
"""Phase gates that judge GA, after P7, and never the promotion."""

P1_GATES = ("preview_budget",)
"""Phase gates that gate P1 alone (gates.md, reading 11)."""

THRESHOLDS: dict[str, tuple[str, ...]] = {
    "slo": ("p95_ms<=150", "error_rate<0.01", "burn==0"),
    "ingest_lag": ("ingest_lag_s<60",),
    "perf": ("headroom>=0.20",),
    "migrations": ("shadow_parity>=0.995",),
    "dr": ("rto_s<=1800", "rpo_s<=300"),
    "chaos": ("rollback_s<=300",),
}
"""Phase gate → thresholds of the seed, for the rules that judge it; a plan may be stricter."""

VALIDITY_S: dict[str, float] = {
    "supply_chain": _DAY,
    "policy": _DAY,
    "migrations": 14 * _DAY,
    "dr": 14 * _DAY,
    "chaos": 14 * _DAY,
    "perf": _DAY,
    # Until the step after, which `GateFacts.stepwise` enforces; the seconds only bound a step that never
    # ends.
    "slo": _DAY,
}
"""How long a verdict is valid by wire gate, in seconds (gates.md, reading 4)."""

ENVIRONMENTS = frozenset({"stage", "prod", "all"})
"""Environments whose verdicts can vouch for a promotion to prod; a verdict about dev cannot."""

_CLOCK_SLACK_S = 5.0


class GateRecord(Protocol):
    """A recorded verdict (`GateView` of the journal's state)."""

    @property
    def gate(self) -> str: ...
    @property
    def phase_gate(self) -> str: ...
    @property
    def agent(self) -> str: ...
    @property
    def phase(self) -> str: ...
    @property
    def env(self) -> str: ...
    @property
    def verdict(self) -> str: ...
    @property
    def outcome(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, Any]: ...
    @property
    def thresholds(self) -> Sequence[str]: ...
    @property
    def images(self) -> Mapping[str, str]: ...
    @property
    def plan_sha256(self) -> str: ...
    @property
    def valid_s(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def at(self) -> str: ...


class GateState(Protocol):
    """What gates are computed from (`ReleaseState`)."""

    @property
    def gates(self) -> Sequence[GateRecord]: ...


class RosterLine(Protocol):
    """An agent of the roster (`AgentInfo`)."""

    @property
    def id(self) -> str: ...
    @property
    def phases(self) -> Sequence[str]: ...
    @property
    def gates(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class GateFacts:
    """What the verdicts are held against.

    `images`: service → digest to release. `owing`: phase gate → agents that owe it a verdict by now
    (`owing_of`). `step`: the promotion step about to begin, from 1; 0 outside promotion. `stepwise`: agents
    that judge anew in every step: before step n only their verdicts on `slo` of step n - 1 or later count,
    before step 1 those of P1. `overridden`: phase gate → break-glass in force over it: what failed there does
    not stand in the way, what is missing or void does. `glass_problems`: no-go reasons of break-glass.
    """

    images: Mapping[str, str]
    plan_sha256: str
    required_gates: Sequence[str]
    owing: Mapping[str, Sequence[str]]
    step: int = 0
    stepwise: frozenset[str] = frozenset()
    environments: frozenset[str] = ENVIRONMENTS
    overridden: Mapping[str, str] = field(default_factory=dict)
    glass_problems: Sequence[str] = ()


@dataclass(frozen=True)
class RequiredOutcome:
    """Each required gate's result, and why where it is not a pass, or one only by break-glass."""

    gates: dict[str, GateResult]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def all_pass(self) -> bool:
        """Tell whether every gate passes; nothing required is not a pass."""
        return bool(self.gates) and all(result == "pass" for result in self.gates.values())


def owing_of(
    roster: Iterable[RosterLine], *, listed: Iterable[str], due: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """Return phase gate → agents that owe it a verdict: those the plan lists and whose phase is due.

    `due` holds phases (P0…P7) and `canary` once a step has been judged. P8's verdicts judge GA, so P8 is
    never due.
    """
    wanted, phases = set(listed), set(due) - {"P8"}
    found: dict[str, list[str]] = {}
    for agent in roster:
        if agent.id in wanted and phases.intersection(agent.phases):
            for gate in agent.gates:
                found.setdefault(gate, []).append(agent.id)
    return {gate: tuple(agents) for gate, agents in found.items()}


def evaluate_required(state: GateState, facts: GateFacts, *, now: datetime) -> RequiredOutcome:
    """Compute the plan's required gates from the recorded verdicts; what is missing, void or late fails.

    A gate for which no agent of the plan owes any verdict is `not evaluated`, which is a no-go as well.
    """
    gates: dict[str, GateResult] = {}
    reasons: dict[str, str] = {}
    for gate in facts.required_gates:
        result, reason = _required(gate, state, facts, now)
        gates[gate] = result
        if reason:
            reasons[gate] = reason
    return RequiredOutcome(gates, reasons)


def phase_gate_problems(phase_gate: str, state: GateState, facts: GateFacts, *, now: datetime) -> list[str]:
    """Return why a phase gate does not pass: empty when every agent that owes it gave a `pass` that counts.

    With nobody owing a verdict there is one problem: nothing was checked.
    """
    agents = facts.owing.get(phase_gate, ())
    if not agents:
        return [f"{phase_gate}: no agent of the plan owes a verdict"]
    found = (_agent_problem(phase_gate, agent, state, facts, now) for agent in agents)
    return [f"{phase_gate}: {problem}" for problem in found if problem]


def overriding(state: GateState, facts: GateFacts, *, now: datetime) -> dict[str, str]:
    """Return phase gate → glass where break-glass stands in for what failed: a current fail, owed and given.

    The verdict itself stays what it is.
    """
    found = {}
    for gate, glass in sorted(facts.overridden.items()):
        agents = facts.owing.get(gate, ())
        failed = (one for one in state.gates if one.phase_gate == gate and one.agent in agents)
        if any(one.verdict != "pass" and not void(one, facts, now=now) for one in failed):
            found[gate] = glass
    return found


def void(record: GateRecord, facts: GateFacts, *, now: datetime) -> str:
    """Return why a verdict does not count for this release now, `""` when it does (gates.md, reading 4)."""
    if record.env not in facts.environments:
        return f"is about {record.env}"
    if record.plan_sha256 != facts.plan_sha256:
        return "judged another plan"
    if not record.images or dict(record.images) != dict(facts.images):
        return "judged other images"
    try:
        age = (now - parse_iso(record.at)).total_seconds()
    except ValueError:
        return "carries no time"
    if age < -_CLOCK_SLACK_S:
        return "comes from the future"
    if not (math.isfinite(record.valid_s) and age <= record.valid_s):
        return f"is {age:.0f} s old, valid for {record.valid_s:.0f} s"
    longest = VALIDITY_S.get(record.gate, 0.0)
    if age > longest:
        return f"is {age:.0f} s old, {record.gate} verdicts count for {longest:.0f} s at most"
    if record.gate == "slo" and record.agent in facts.stepwise and record.step < facts.step - 1:
        return f"judged step {record.step}, step {facts.step} needs one of step {facts.step - 1}"
    return ""


def contradiction(record: GateRecord) -> str:
    """Return how a verdict's own metrics contradict a pass, nothing when they do not.

    A threshold it lists must be met by a metric it gives: a pass without the number is no proof.
    """
    for text in record.thresholds:
        try:
            threshold = parse(text)
        except ValueError as error:
            return str(error)
        if not threshold.holds(number(record.metrics.get(threshold.metric))):
            said = record.metrics.get(threshold.metric, "missing")
            return f"says pass, but {threshold.metric} is {said} and {threshold} is required"
    return ""


def _required(gate: str, state: GateState, facts: GateFacts, now: datetime) -> tuple[GateResult, str]:
    parts = PHASE_GATES.get(gate)
    if parts is None:
        return "not evaluated", f"{gate} is not made of any phase gate"
    owed = [part for part in parts if facts.owing.get(part)]
    if not owed:
        return "not evaluated", f"no agent of the plan owes a verdict on {', '.join(parts)}"
    problems = [problem for part in owed for problem in phase_gate_problems(part, state, facts, now=now)]
    if problems:
        return "fail", "; ".join(problems)
    glass = overriding(state, facts, now=now)
    said = [f"{part} overridden by break-glass {glass[part]}" for part in owed if part in glass]
    return "pass", "; ".join(said)


def _agent_problem(phase_gate: str, agent: str, state: GateState, facts: GateFacts, now: datetime) -> str:
    given = [
        one
        for one in state.gates
        if one.phase_gate == phase_gate and one.agent == agent and one.phase != "P8"
    ]
    if not given:
        return f"{agent} has given no verdict"
    counting, voided = [], []
    overridden = False
    for record in given:
        why = void(record, facts, now=now)
        if why:
            voided.append(f"{agent}'s verdict ({record.env}) {why}")
        # A fail about this release binds whatever its age: only a new verdict replaces it.
        if record.verdict != "pass" and not _about_something_else(record, facts):
            if not why and phase_gate in facts.overridden:
                overridden = True
                continue
            return f"{agent}: {record.outcome}" + (f", {record.reason}" if record.reason else "")
        if not why:
            counting.append(record)
    if not counting:
        return "" if overridden else "; ".join(voided)
    for record in counting:
        if record.outcome != "pass":
            return f"{agent}'s verdict says pass with the outcome {record.outcome}"
        wrong = contradiction(record)
        if wrong:
            return f"{agent} {wrong}"
    return ""


def _about_something_else(record: GateRecord, facts: GateFacts) -> bool:
    return (
        record.env not in facts.environments
        or record.plan_sha256 != facts.plan_sha256
        or dict(record.images) != dict(facts.images)
    )
