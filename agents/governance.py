"""Governance and finances: the CAB Secretary (A46), approvals, exceptions and the log of decisions."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from cockpit.agentkit.context import Context
from cockpit.agents.common import GateAgent, Measured, judge, query, reason_of, summary, write_json
from cockpit.base.clock import iso, parse_iso
from cockpit.base.text import visible
from cockpit.journal.state import ReleaseState
from cockpit.plan.exceptions import about
from cockpit.plan.model import ExceptionEntry
from cockpit.rpc.approval import digest_of
from cockpit.verdicts.rules.cab import exception_problem

DECISIONS = "approvals/decisions.json"


class CabSecretary(GateAgent):
    """A46: judges what was approved, excepted and overridden, and keeps the log of who decided what."""

    gate = "policy"
    phase_gate = "policy_ci"

    def needs(self, context: Context) -> str:
        """Need nothing but the run's own state."""
        plan = context.plan
        rules = len(plan.approvals.rules) if plan.approvals is not None else 0
        return f"hold {rules} approval rules and {len(plan.exceptions)} exceptions against the journal"

    async def measure(self, context: Context) -> Measured:
        """Judge the record and write the decisions."""
        record = record_document(context)
        now = _now(context)
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "cab_record",
            {"record": json.dumps(record, sort_keys=True).encode()},
            {"now": now},
            {"record": query(context, "approvals and exceptions", "journal", samples=_size(record))},
        )
        artifact = write_json(
            context, DECISIONS, decisions(context, record, now, summary(verdict)), "evidence"
        )
        return Measured((verdict,), (artifact,), reason_of((verdict,)))


def record_document(context: Context) -> dict[str, Any]:
    """Return what the rule judges, as JSON values: the plan's rules and exceptions beside what was said."""
    plan, state = context.plan, context.state()
    recorded = {row[0] for row in state.waivers}
    waived = any(one.what == "approvals" for one in plan.waivers)
    how = "waived" if waived else "missing"
    rules = plan.approvals.rules if plan.approvals is not None else ()
    return {
        "approvals": "configured" if plan.approvals is not None else how,
        "rules": [rule.model_dump(mode="json") for rule in rules],
        "waivers": [
            {"what": one.what, "owner": one.owner, "reason": one.reason, "recorded": one.what in recorded}
            for one in plan.waivers
        ],
        "exceptions": [_exception(one) for one in plan.exceptions],
        "requests": msgspec.to_builtins(state.people.requests),
        "glasses": msgspec.to_builtins(state.people.glasses),
    }


def _exception(one: ExceptionEntry) -> dict[str, str]:
    return {
        "id": one.id,
        "owner": one.owner,
        "reason": one.reason,
        "expires": one.expires.isoformat(),
        "approved_by": one.approved_by,
        "subject": digest_of(about(one)),
    }


def decisions(context: Context, record: dict[str, Any], now: str, verdict: dict[str, Any]) -> dict[str, Any]:
    """Return the log of decisions: approvals, exceptions and what counts against them, overrides, answers."""
    state, moment = context.state(), parse_iso(now)
    exceptions = []
    for one in record["exceptions"]:
        problem = exception_problem(one, record, moment)
        exceptions.append({**one, "counts": not problem, "problem": problem})
    return {
        "version": context.plan.target_version,
        "at": now,
        "board": list(context.plan.cab),
        "approvals": record["approvals"],
        "rules": record["rules"],
        "waivers": record["waivers"],
        "requests": record["requests"],
        "exceptions": exceptions,
        "break_glass": record["glasses"],
        "policy_decisions": msgspec.to_builtins(state.people.decisions),
        "go_no_go": {"go": state.go, "reasons": list(state.no_go_reasons)},
        "log": log(state),
        "verdict": verdict,
    }


def log(state: ReleaseState) -> list[dict[str, str]]:
    """Return who decided what, in order of time."""
    rows = []
    for request in state.people.requests:
        what = f"{request.asked} ({request.request})"
        rows.append(_row(request.at, "asked", what, request.requester, request.text))
        for one in request.statements:
            said = one.decision if one.counted else f"{one.decision}, which does not count"
            rows.append(_row(one.at, said, what, one.by, one.reason if one.counted else one.problem))
    for glass in state.people.glasses:
        who = " and ".join(name for name in (glass.by, glass.second) if name)
        rows.append(_row(glass.at, "break-glass", glass.gate, who, glass.reason))
    for question in state.questions:
        if question.answer:
            rows.append(_row(question.at, question.answer, question.text, "", ""))
    if state.halt is not None:
        rows.append(_row(state.halt.at, "HALT", state.halt.trigger, state.halt.by, state.halt.reason))
    if state.rollback is not None:
        rollback = state.rollback
        rows.append(_row(rollback.at, "rollback", rollback.reason, rollback.by, rollback.cause))
    return sorted(rows, key=lambda row: row["at"])


def _row(at: str, decision: str, what: str, by: str, reason: str) -> dict[str, str]:
    shown = {"decision": decision, "what": what, "by": by, "reason": reason}
    return {"at": at, **{name: visible(text, limit=500) for name, text in shown.items()}}


def _now(context: Context) -> str:
    # A clock that was set back does not give an exception or a grant more time.
    now, at = context.clock.now(), context.state().at
    return iso(max(now, parse_iso(at)) if at else now)


def _size(record: dict[str, Any]) -> int:
    return sum(len(record[name]) for name in ("rules", "waivers", "exceptions", "requests", "glasses"))
