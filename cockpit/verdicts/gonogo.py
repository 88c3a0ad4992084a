"""The final checklist the conductor must compute (seed sections 7 and 20): anything unknown is a no-go."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Protocol

from cockpit.rpc.messages import GoNoGo
from cockpit.verdicts.gates import (
    VALIDITY_S,
    GateFacts,
    GateRecord,
    RequiredOutcome,
    evaluate_required,
    overriding,
    void,
)
from cockpit.verdicts.thresholds import number

_HEADROOM = "headroom_"
_GLASS = "break-glass "


class RiskRecord(Protocol):
    """A risk as last recorded (`RiskView`)."""

    @property
    def id(self) -> str: ...
    @property
    def state(self) -> str: ...
    @property
    def rating(self) -> str: ...


class PackRecord(Protocol):
    """A sealed pack (`PackView`)."""

    @property
    def kind(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def log_index(self) -> int: ...
    @property
    def entry_id(self) -> str: ...


class ChecklistState(Protocol):
    """What the checklist reads of the run (`ReleaseState`)."""

    @property
    def gates(self) -> Sequence[GateRecord]: ...
    @property
    def risks(self) -> Sequence[RiskRecord]: ...
    @property
    def packs(self) -> Sequence[PackRecord]: ...


class PlannedRisk(Protocol):
    """A risk of the plan's register."""

    @property
    def id(self) -> str: ...
    @property
    def likelihood(self) -> str: ...
    @property
    def impact(self) -> str: ...
    @property
    def state(self) -> str: ...


class PlannedException(Protocol):
    """An exception of the plan."""

    @property
    def id(self) -> str: ...
    @property
    def expires(self) -> datetime: ...
    @property
    def approved_by(self) -> str: ...
    @property
    def owner(self) -> str: ...


class ChecklistPlan(Protocol):
    """What the checklist reads of the plan (`Plan`)."""

    @property
    def target_version(self) -> str: ...
    @property
    def headroom_target(self) -> float: ...
    @property
    def risks(self) -> Sequence[PlannedRisk]: ...
    @property
    def exceptions(self) -> Sequence[PlannedException]: ...


def compute(
    state: ChecklistState,
    plan: ChecklistPlan,
    facts: GateFacts,
    *,
    now: datetime,
    outcome: RequiredOutcome | None = None,
) -> GoNoGo:
    """Compute the checklist; `outcome` is computed from `state` when it is not given.

    Headroom comes from the metrics `headroom_<service>` of perf verdicts that count, the lowest of each
    service. `drill_recent` is None when the plan does not require `dr`; else it is what the `dr` verdicts
    prove by their metric `drill_age_s` (at most fourteen days). `exceptions` and `risk_open` list what is
    there; unapproved or expired exceptions and open high risks are reasons for a no-go. Break-glass that
    stands in for a failed gate is an exception; one over `perf` or `dr` also answers for the headroom or the
    drill, and one that was not reviewed in time is a reason for a no-go.
    """
    outcome = outcome or evaluate_required(state, facts, now=now)
    reasons = [*_gate_reasons(outcome, facts), *facts.glass_problems]
    glass = overriding(state, facts, now=now)
    headroom = headroom_of(state, facts, now=now)
    if "perf" not in glass:
        reasons += _headroom_reasons(headroom, plan.headroom_target, needed="perf" in facts.required_gates)
    drill = drill_recent(state, facts, now=now) if "dr" in facts.required_gates else None
    if drill is False and "dr" not in glass:
        reasons.append("no recent disaster-recovery drill is proven")
    exceptions, exception_reasons = _exceptions(plan, now)
    risks, risk_reasons = _risks(state, plan)
    exceptions += [_overrides(gate, name) for gate, name in glass.items()]
    reasons += exception_reasons + risk_reasons
    signed = evidence_signed(state)
    if not signed:
        reasons.append("the promotion pack is not sealed and signed")
    return GoNoGo(
        version=plan.target_version,
        gates={gate: outcome.gates.get(gate, "not evaluated") for gate in facts.required_gates},
        headroom=headroom,
        exceptions=exceptions,
        risk_open=risks,
        drill_recent=drill,
        evidence_signed=signed,
        go=not reasons,
        reasons=reasons,
    )


def consistent(document: GoNoGo) -> list[str]:
    """Return what contradicts itself in a checklist: the conclusion must follow from its lines."""
    problems = []
    if document.go and document.reasons:
        problems.append("says go and gives reasons against")
    if document.go and (not document.gates or any(v != "pass" for v in document.gates.values())):
        problems.append("says go with a gate that does not pass")
    if document.go and not document.evidence_signed:
        problems.append("says go without signed evidence")
    drilled = document.drill_recent is (True if "dr" in document.gates else None)
    excused = any(one.startswith(_GLASS) and one.endswith(" overrides dr") for one in document.exceptions)
    if document.go and not drilled and not excused:
        problems.append("says go without a recent drill")
    if not document.go and not document.reasons:
        problems.append("says no-go and gives no reason")
    return problems


def headroom_of(state: ChecklistState, facts: GateFacts, *, now: datetime) -> dict[str, float]:
    """Return the lowest headroom of each service (0..1) among the perf verdicts that are not void."""
    found: dict[str, float] = {}
    for record in state.gates:
        if record.phase_gate != "perf" or void(record, facts, now=now):
            continue
        for name, value in record.metrics.items():
            measured = number(value)
            if not name.startswith(_HEADROOM) or measured is None or not math.isfinite(measured):
                continue
            service = name.removeprefix(_HEADROOM)
            found[service] = min(measured, found.get(service, measured))
    return dict(sorted(found.items()))


def drill_recent(state: ChecklistState, facts: GateFacts, *, now: datetime) -> bool:
    """Tell whether a passing `dr` verdict that counts proves a drill of the last fourteen days."""
    for record in state.gates:
        if record.phase_gate != "dr" or record.verdict != "pass" or void(record, facts, now=now):
            continue
        age = number(record.metrics.get("drill_age_s"))
        if age is not None and 0 <= age <= VALIDITY_S["dr"]:
            return True
    return False


def evidence_signed(state: ChecklistState) -> bool:
    """Tell whether a promotion pack is sealed and its signature logged."""
    return any(
        pack.kind == "promotion" and pack.sha256 and pack.log_index >= 0 and pack.entry_id
        for pack in state.packs
    )


def _overrides(gate: str, glass: str) -> str:
    return f"{_GLASS}{glass} overrides {gate}"


def _gate_reasons(outcome: RequiredOutcome, facts: GateFacts) -> list[str]:
    if not facts.required_gates:
        return ["the plan requires no gate"]
    reasons = []
    for gate in facts.required_gates:
        result = outcome.gates.get(gate, "not evaluated")
        if result != "pass":
            why = outcome.reasons.get(gate, "")
            reasons.append(f"gate {gate}: {result}" + (f" ({why})" if why else ""))
    return reasons


def _headroom_reasons(headroom: Mapping[str, float], target: float, *, needed: bool) -> list[str]:
    if not headroom:
        return ["the headroom is not known"] if needed else []
    return [
        f"headroom of {service} is {value:.2f}, at least {target:.2f} is required"
        for service, value in headroom.items()
        if not value >= target
    ]


def _exceptions(plan: ChecklistPlan, now: datetime) -> tuple[list[str], list[str]]:
    listed, reasons = [], []
    for one in plan.exceptions:
        listed.append(one.id)
        if not one.approved_by.strip():
            reasons.append(f"exception {one.id} is not approved")
        elif one.approved_by.strip() == one.owner.strip():
            reasons.append(f"exception {one.id} was approved by its own owner")
        if one.expires.tzinfo is None or one.expires <= now:
            reasons.append(f"exception {one.id} has expired")
    return listed, reasons


def _risks(state: ChecklistState, plan: ChecklistPlan) -> tuple[list[str], list[str]]:
    # What was recorded last wins over the plan; a rating other than low or medium counts as high.
    known: dict[str, tuple[str, str]] = {
        risk.id: (risk.state, "high" if "high" in (risk.likelihood, risk.impact) else "medium")
        for risk in plan.risks
    }
    known.update({risk.id: (risk.state, risk.rating) for risk in state.risks})
    listed, reasons = [], []
    for name, (status, rating) in sorted(known.items()):
        if status in ("closed", "mitigated"):
            continue
        listed.append(name)
        if rating not in ("low", "medium"):
            reasons.append(f"risk {name} is open and rated {rating or 'nothing, which counts as high'}")
    return listed, reasons
