"""How a run ends: exit codes (design.md), and the files written on every exit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from cockpit.base.errors import (
    BackendError,
    CockpitError,
    EffectRefused,
    JournalError,
    LockHeld,
    PlanError,
    UsageError,
)
from cockpit.base.files import write_private
from cockpit.base.text import visible
from cockpit.conductor.bake import Breach, Inconclusive
from cockpit.conductor.canary import PreflightFailed
from cockpit.conductor.people import Stop
from cockpit.conductor.phases import Failure, worst
from cockpit.conductor.timetable import NotYet
from cockpit.journal.state import ReleaseState, encode

OUTCOMES: dict[int, str] = {
    0: "released",
    10: "gate failed before prod traffic moved",
    11: "inconclusive before prod traffic moved",
    20: "rolled back and verified",
    21: "rollback not finished: a person must act",
    30: "halted before prod traffic moved",
    40: "waiting for approval",
    50: "back end unreachable before prod traffic moved",
    60: "lock held, or outside the window",
    64: "bad usage or plan",
    70: "internal error",
}
"""Exit code → its word; the contract of design.md."""

_BY_KIND = {"gate": 10, "inconclusive": 11, "unreachable": 50}


class PhaseFailed(CockpitError):
    """A phase before the promotion failed."""

    def __init__(self, failures: list[Failure]) -> None:
        super().__init__("; ".join(failure.text for failure in failures))
        self.kind = worst(failures)


class ApprovalMissing(CockpitError):
    """An approval is needed and not there."""


class ApprovalExpired(ApprovalMissing):
    """Nobody approved in time; a time-out never approves."""


class ApprovalRejected(CockpitError):
    """Somebody who may said no; it binds."""


class Stopped(CockpitError):
    """A person, a signal or the plan decided to end the run."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.cause)
        self.stop = stop


@dataclass(frozen=True, slots=True)
class Ending:
    """The exit code and why."""

    exit: int
    cause: str

    @property
    def outcome(self) -> str:
        """The exit code in words."""
        return OUTCOMES[self.exit]


def exit_before_traffic(error: BaseException) -> int:
    """Return the exit code of what ended a run before prod traffic moved."""
    if isinstance(error, PhaseFailed):
        return _BY_KIND[error.kind]
    if isinstance(error, (Breach, PreflightFailed, ApprovalRejected)):
        return 10
    if isinstance(error, Inconclusive):
        return 11
    if isinstance(error, Stopped):
        return 30
    if isinstance(error, ApprovalMissing):
        return 40
    if isinstance(error, (LockHeld, NotYet)):
        return 60
    if isinstance(error, EffectRefused):
        return {"window": 60, "fence": 60, "halt": 30, "approval": 40, "journal": 70}.get(error.reason, 10)
    if isinstance(error, BackendError):
        return 50
    if isinstance(error, (UsageError, PlanError)):
        return 64
    return 70


def wire_reason(error: BaseException) -> str:
    """Return the reason of Rollback v2 for what ended a promotion."""
    if isinstance(error, Stopped):
        return error.stop.reason
    if isinstance(error, Breach):
        return "slo_breach"
    if isinstance(error, (PreflightFailed, PhaseFailed, ApprovalRejected)):
        return "gate_fail"
    if isinstance(error, Inconclusive):
        return "inconclusive"
    return "crash" if not isinstance(error, (CockpitError, JournalError)) else "gate_fail"


def cause_text(error: BaseException) -> str:
    """Return an error in words for the journal; an unforeseen one by its type and text."""
    if isinstance(error, CockpitError):
        return visible(str(error))
    return visible(f"internal error: {type(error).__name__}: {error}")


def write_results(
    run_dir: Path, state: ReleaseState, ending: Ending, extra: Mapping[str, Any] | None = None
) -> None:
    """Write `state.json`, `summary.json` and `junit.xml` (one case a gate)."""
    write_private(run_dir / "state.json", encode(state))
    summary = {**summary_of(state, ending), **(extra or {})}
    text = json.dumps(summary, indent=2, sort_keys=True, ensure_ascii=False)
    write_private(run_dir / "summary.json", text.encode() + b"\n")
    write_private(run_dir / "junit.xml", junit_of(state, ending))


def summary_of(state: ReleaseState, ending: Ending) -> dict[str, Any]:
    """Return what `summary.json` says."""
    run, canary = state.run, state.canary
    return {
        "exit": ending.exit,
        "outcome": ending.outcome,
        "cause": ending.cause,
        "run_id": run.run_id if run else "",
        "version": run.version if run else "",
        "environment": run.environment if run else "",
        "rehearsal": run.rehearsal if run else False,
        "real_servers": run.real if run else {},
        "reduced": state.reduced,
        "trust_profile": run.trust_profile if run else "",
        "traffic_moved": canary.moved,
        "released": canary.released,
        "step": canary.step,
        "weights": {
            "desired": canary.desired if canary.desired_at else None,
            "desired_at": canary.desired_at,
            "observed": canary.observed,
            "observed_at": canary.observed_at,
        },
        "replicas": {name: {"wanted": n[0], "ready": n[1]} for name, n in canary.replicas.items()},
        "digests": {service.name: service.digest for service in state.services},
        "gates": state.required_gates,
        "gate_reasons": state.gate_reasons,
        "rollback": {"status": state.rollback.status, "proof": state.rollback.proof}
        if state.rollback
        else None,
        "effects_unknown": [effect.target for effect in state.effects_unknown],
        "evidence": {pack.kind: {"path": pack.path, "sha256": pack.sha256} for pack in state.packs},
        "pending": list(state.pending),
        "records": state.seq + 1,
    }


def junit_of(state: ReleaseState, ending: Ending) -> bytes:
    """Return JUnit XML: a suite of the required gates, and one with each verdict."""
    root = ElementTree.Element("testsuites", name=f"release {state.run.version if state.run else ''}")
    required = ElementTree.SubElement(root, "testsuite", name="required gates")
    for gate, result in state.required_gates.items():
        case = ElementTree.SubElement(required, "testcase", classname="required", name=gate)
        if result == "fail":
            _add(case, "failure", state.gate_reasons.get(gate, "failed"))
        elif result != "pass":
            _add(case, "error", f"not evaluated: {state.gate_reasons.get(gate, ending.cause)}")
    verdicts = ElementTree.SubElement(root, "testsuite", name="phase gates")
    for view in state.gates:
        name = f"{view.phase_gate} by {view.agent} ({view.env})"
        case = ElementTree.SubElement(verdicts, "testcase", classname=view.gate, name=name)
        if view.verdict != "pass":
            _add(case, "failure", f"{view.outcome}: {view.reason}")
    for suite in (required, verdicts):
        cases = list(suite)
        suite.set("tests", str(len(cases)))
        suite.set("failures", str(sum(case.find("failure") is not None for case in cases)))
        suite.set("errors", str(sum(case.find("error") is not None for case in cases)))
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"


def _add(case: ElementTree.Element, kind: str, message: str) -> None:
    ElementTree.SubElement(case, kind, message=visible(message, limit=1000))
