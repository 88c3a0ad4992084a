"""The checklist of seed section 20 as a rule: computed again from stored facts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from types import SimpleNamespace
from typing import Any

from cockpit.base.clock import parse_iso
from cockpit.rpc.messages import GoNoGo
from cockpit.verdicts.gates import GateFacts
from cockpit.verdicts.gonogo import compute
from cockpit.verdicts.rule import Judgement, Metrics
from cockpit.verdicts.rules.reading import document, never_raises


@never_raises
def go_no_go(answers: Mapping[str, bytes], params: Mapping[str, Any]) -> Judgement:
    """Judge the answer `facts` (`facts_document`) at `params["now"]`: only a go passes."""
    checklist = checklist_of(document(answers, "facts"), parse_iso(params["now"]))
    not_passed = [gate for gate, result in checklist.gates.items() if result != "pass"]
    metrics: Metrics = {
        "gates_required": len(checklist.gates),
        "gates_not_passed": len(not_passed),
        "no_go_reasons": len(checklist.reasons),
    }
    thresholds = ("gates_not_passed==0", "no_go_reasons==0")
    if checklist.go:
        return Judgement("pass", f"go: {', '.join(checklist.gates)} pass", metrics, thresholds)
    return Judgement("fail", "; ".join(checklist.reasons)[:1000], metrics, thresholds)


def checklist_of(facts: Mapping[str, Any], now: datetime) -> GoNoGo:
    """Compute the checklist from stored facts, by the same function the conductor uses."""
    plan = facts["plan"]
    return compute(
        SimpleNamespace(
            gates=[SimpleNamespace(**row) for row in facts["gates"]],
            risks=[SimpleNamespace(**row) for row in facts["risks"]],
            packs=[SimpleNamespace(**row) for row in facts["packs"]],
        ),
        SimpleNamespace(
            target_version=plan["target_version"],
            headroom_target=float(plan["headroom_target"]),
            risks=[SimpleNamespace(**row) for row in plan["risks"]],
            exceptions=[
                SimpleNamespace(**{**row, "expires": datetime.fromisoformat(row["expires"])})
                for row in plan["exceptions"]
            ],
        ),
        GateFacts(
            images=facts["images"],
            plan_sha256=facts["plan_sha256"],
            required_gates=facts["required_gates"],
            owing=facts["owing"],
            overridden=facts.get("overridden", {}),
            glass_problems=facts.get("glass_problems", []),
        ),
        now=now,
    )
