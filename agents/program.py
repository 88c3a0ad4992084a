"""Program: the Release Conductor's own judgement (A1), go/no-go and the approvals matrix."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from cockpit.agentkit.agent import Outcome
from cockpit.agentkit.context import Context
from cockpit.agents import tags
from cockpit.agents.common import (
    GateAgent,
    Measured,
    judge,
    query,
    reason_of,
    recorded,
    summary,
    vouch,
    write_json,
)
from cockpit.agents.declared import build, govern, run
from cockpit.base.files import sha256_hex
from cockpit.journal.state_people import RequestView
from cockpit.plan.people import Approvals
from cockpit.plan.registry import entitled
from cockpit.verdicts.approvals import glass_facts
from cockpit.verdicts.gates import owing_of
from cockpit.verdicts.rules.go_no_go import checklist_of

MATRIX = "approvals_matrix.json"
_DUE = ("P0", "P1", "P2", "P3", "P4", "P5", "P6")


class ReleaseConductor(GateAgent):
    """A1: computes the checklist of seed section 20 from the run's state; only a go passes.

    With the parameter `tag` a call is about a tag instead, and gives no verdict.
    """

    gate = "policy"
    phase_gate = "all_required_gates"

    def needs(self, context: Context) -> str:
        """Need nothing but the run's own state."""
        return f"compute go/no-go over {', '.join(context.plan.required_gates)}"

    def blocked(self, context: Context) -> str:
        """Say so in P8, where the conductor itself works and go/no-go is over."""
        done_by_others = "in P8 the flags are A55's, the figures A43's and A54's: no go/no-go is left"
        return done_by_others if context.request.phase == "P8" else ""

    async def plan(self, context: Context) -> Outcome:
        """Say what would be computed, or which tag would be cut."""
        return await (tags.plan(context) if tags.asked(context) else super().plan(context))

    async def apply(self, context: Context) -> Outcome:
        """Cut the tag that is asked for; without one there is nothing to change."""
        return await (tags.apply(context) if tags.asked(context) else super().apply(context))

    async def verify(self, context: Context) -> Outcome:
        """Compute the go/no-go, or read a tag back."""
        return await (tags.verify(context) if tags.asked(context) else super().verify(context))

    async def rollback(self, context: Context) -> Outcome:
        """Take nothing back: traffic is the conductor's rollback, and tags stay."""
        return tags.rollback(context)

    async def measure(self, context: Context) -> Measured:
        """Compute, judge, and write checklist and matrix."""
        facts = facts_document(context)
        # Whole seconds would do; what matters is that recomputing uses the same moment.
        now = context.now()
        verdict = await judge(
            context,
            self.gate,
            self.phase_gate,
            "go_no_go",
            {"facts": json.dumps(facts, sort_keys=True).encode()},
            {"now": now},
            {"facts": query(context, "the run's state", "journal", samples=len(facts["gates"]))},
        )
        checklist = checklist_of(json.loads(json.dumps(facts)), context.clock.now())
        artifacts = (
            write_json(context, "go_no_go.json", checklist.model_dump(mode="json"), "evidence"),
            write_json(context, MATRIX, approvals(context, summary(verdict)), "evidence"),
        )
        return Measured((verdict,), artifacts, reason_of((verdict,)), next="promote")

    async def evidence(self, context: Context) -> Outcome:
        """Vouch for what was written; for the closing pack, tell in the matrix what was decided since."""
        if context.request.inputs.params.get("pack") != "closing":
            return await super().evidence(context)
        matrix = write_json(context, MATRIX, approvals(context, _judged(context)), "evidence")
        others = [one for one in self._written or recorded(context) if one.path != MATRIX]
        self._written = (*others, matrix)
        return vouch(context, self._written)


def _judged(context: Context) -> dict[str, Any]:
    """Return the go/no-go verdict the matrix was first written with; empty when there is none."""
    try:
        told = json.loads(context.artifacts.path(MATRIX).read_bytes())["go_no_go"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return told if isinstance(told, dict) else {}


def facts_document(context: Context) -> dict[str, Any]:
    """Return what the checklist is computed from, as JSON values."""
    state, plan = context.state(), context.plan
    due = [phase for phase in _DUE if phase in plan.phases]
    roster = (*build.ENTRIES, *run.ENTRIES, *govern.ENTRIES)
    glass = glass_facts(state.people.glasses, context.clock.now())
    return {
        "plan": {
            "target_version": plan.target_version,
            "headroom_target": plan.headroom_target,
            "risks": [
                {"id": one.id, "likelihood": one.likelihood, "impact": one.impact, "state": one.state}
                for one in plan.risks
            ],
            "exceptions": [
                {
                    "id": one.id,
                    "owner": one.owner,
                    "approved_by": one.approved_by,
                    "expires": one.expires.isoformat(),
                }
                for one in plan.exceptions
            ],
        },
        "plan_sha256": context.plan_sha256,
        "images": {one.name: one.image.digest for one in plan.services},
        "required_gates": list(plan.required_gates),
        "owing": {
            gate: list(agents) for gate, agents in owing_of(roster, listed=plan.agents, due=due).items()
        },
        "gates": msgspec.to_builtins(state.gates),
        "risks": [*msgspec.to_builtins(state.risks), *_measured_risks(context)],
        "packs": msgspec.to_builtins(state.packs),
        "overridden": dict(glass.overridden),
        "glass_problems": list(glass.problems),
    }


_UNMEASURED = {"id": "risk-register-not-measured", "state": "open", "rating": "high"}


def _measured_risks(context: Context) -> list[dict[str, Any]]:
    """Return the risks as the Risk Officer last measured them; without his register, one that says so."""
    if "A4" not in context.plan.agents:
        return []
    recorded = {one.path: one.sha256 for one in context.state().artifacts}
    try:
        raw = context.artifacts.path("risk/register.json").read_bytes()
        if sha256_hex(raw) != recorded.get("risk/register.json"):
            return [_UNMEASURED]
        return [
            {"id": row["id"], "state": row["state"], "rating": row["rating"]}
            for row in json.loads(raw)["risks"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return [_UNMEASURED]


def approvals(context: Context, verdict: dict[str, Any]) -> dict[str, Any]:
    """Return who approved what, what was waived outright, and which exceptions there are."""
    plan, state = context.plan, context.state()
    waived = {one.what: one for one in plan.waivers}
    matrix = []
    for what in ("approvals", "standby"):
        waiver = waived.get(what)
        if waiver is None and what == "approvals" and plan.approvals is not None:
            matrix += _rule_rows(plan.approvals)
            continue
        matrix.append(
            {
                "what": what,
                "state": "waived" if waiver is not None else "required",
                "owner": waiver.owner if waiver is not None else "",
                "reason": waiver.reason if waiver is not None else "",
                "recorded": any(row[0] == what for row in state.waivers),
            }
        )
    return {
        "version": plan.target_version,
        "matrix": matrix,
        "approvals": [_request_row(one) for one in state.people.requests],
        "break_glass": msgspec.to_builtins(state.people.glasses),
        "questions": msgspec.to_builtins(state.questions),
        "exceptions": [
            {
                "id": one.id,
                "owner": one.owner,
                "reason": one.reason,
                "expires": one.expires.isoformat(),
                "approved_by": one.approved_by,
            }
            for one in plan.exceptions
        ],
        "oncall": list(plan.oncall),
        "go_no_go": verdict,
    }


def _rule_rows(approvals: Approvals) -> list[dict[str, Any]]:
    """Return who may approve what, and how many of them have to."""
    return [
        {
            "what": rule.asked,
            "state": "required",
            "threshold": rule.threshold,
            "groups": list(rule.groups),
            "from_each": rule.from_each,
            "step_up": rule.step_up,
            "people": [one.id for one in approvals.people if entitled(one, rule.groups)],
        }
        for rule in approvals.rules
    ]


def _request_row(request: RequestView) -> dict[str, Any]:
    """Return what became of a request; the statements themselves are in the pack, by their digests."""
    return {
        "request": request.request,
        "asked": request.asked,
        "subject": request.subject,
        "text": request.text,
        "requester": request.requester,
        "asked_at": request.at,
        "expires": request.expires,
        "document": request.blob,
        "result": request.result or "open",
        "by": list(request.result_by),
        "reason": request.result_reason,
        "valid_until": request.valid_until,
        "statements": msgspec.to_builtins(request.statements),
    }
