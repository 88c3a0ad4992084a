"""The starter prompt of seed section 18, filled in from roster and plan, for a person or a language model.

What is answered is held to the same rules as any agent's answer: `problems_of` says what is wrong with one.
"""

from __future__ import annotations

import json
from typing import Any

from cockpit.agentkit.external import told
from cockpit.agentkit.info import AgentInfo
from cockpit.base.errors import MessageInvalid
from cockpit.base.text import visible
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.rpc.messages import AgentRequest, AgentResponse
from cockpit.rpc.validate import check, encode, schema_of
from cockpit.verdicts.gates import GA_GATES, P1_GATES, PHASE_GATES
from cockpit.verdicts.rules.external import external_statement

_OPS = {
    "PLAN": "say what APPLY would change, as a diff a person can read, and what it needs; change nothing",
    "APPLY": "make the change, idempotently, having recorded what was there before",
    "VERIFY": "measure the world again, apart from APPLY, and give the verdicts; change nothing",
    "ROLLBACK": "restore what APPLY recorded, then verify that it is restored",
    "EVIDENCE": "write the artifacts; change nothing else",
}
_DASHBOARDS = {
    "slo": "SLO",
    "perf": "Perf headroom",
    "supply_chain": "Supply chain",
    "migrations": "SLO",
    "policy": "Supply chain",
    "dr": "DR freshness",
}
_UNKNOWN = "– (no plan was given)"
_TEMPLATE = """\
You are {name}. Phase {phase} → {op}.

Goal: {goal}

Paths (IaC/code) to modify/add: {paths}
Checks to satisfy: {checks}
Artifacts to output: {artifacts}
Dashboards to verify: {dashboards}
Risk IDs: {risks}

Return Agent RPC v2 response with artifacts (path+sha256+sig), links (PRs,runs,dashboards), \
verdicts (gates), notes, next, trace_id.
Emit OTEL spans + JSON logs with release/env/tenant/trace_id/sha.

Rules:
- {op}: {meaning}.
- `agent` is exactly {agent_json}; `phase` and `trace_id` are those of the request.
- Answer with one JSON object that keeps to the schema below and with nothing else; any other answer fails.
- Only VERIFY may give a passing verdict. A pass names a threshold at least, and its metrics meet each one.
- A verdict is about `params.release.judged` of the request: copy it, with `valid_s` of the gate, into \
`details.judged`.
- Files lie below `{id}/` of the run's artifacts. What cannot be reached is `blocked`, never `ok`.

## Request

```json
{request}
```

## JSON Schema of the response

```json
{schema}
```
"""


def prompt_of(info: AgentInfo, request: AgentRequest, loaded: LoadedPlan | None) -> str:
    """Return the prompt for one operation of an agent; what only a plan knows is left open without one."""
    plan = loaded.plan if loaded is not None else None
    sent = told(info, request, loaded) if loaded is not None else request
    return _TEMPLATE.format(
        name=f"{info.name} ({info.id})",
        agent_json=json.dumps(info.name),
        id=info.id,
        phase=request.phase,
        op=request.op,
        meaning=_OPS[request.op],
        goal=info.summary,
        paths=_paths(info, plan),
        checks=_checks(info, plan),
        artifacts=_listed(f"{info.id}/{path}" for path in info.artifacts),
        dashboards=_dashboards(info),
        risks=_listed(risk.id for risk in plan.risks) if plan is not None else _UNKNOWN,
        request=json.dumps(json.loads(encode(sent)), indent=2, ensure_ascii=False),
        schema=json.dumps(schema_of(AgentResponse), indent=2, ensure_ascii=False, sort_keys=True),
    )


def problems_of(raw: bytes, info: AgentInfo, request: AgentRequest, *, any_trace: bool = False) -> list[str]:
    """Return what is wrong with an answer to a request, empty when it would be taken.

    Whether its files are there is seen only where they lie. `any_trace`: the trace id is not compared.
    """
    try:
        response = check(AgentResponse, raw)
    except MessageInvalid as error:
        return [str(error)]
    found = []
    if not any_trace and response.trace_id != request.trace_id:
        found.append(f"trace_id: the request has {request.trace_id}")
    if response.phase != request.phase:
        found.append(f"phase: the request is of {request.phase}")
    if response.agent != info.name:
        found.append(f"agent: it must be {info.name!r}, not {visible(response.agent, limit=80)!r}")
    found += [
        f"artifacts: {one.path} is not below {info.id}/"
        for one in response.artifacts
        if not one.path.startswith(f"{info.id}/")
    ]
    for index, verdict in enumerate(response.verdicts):
        gate = verdict.details.phase_gate
        if verdict.verdict == "pass" and request.op != "VERIFY":
            found.append(f"verdicts/{index}: {request.op} must not give a passing verdict")
        if gate not in PHASE_GATES.get(verdict.gate, (verdict.gate,)) and not (
            verdict.gate == "policy" and gate in {*GA_GATES, *P1_GATES, "all_required_gates"}
        ):
            found.append(f"verdicts/{index}: a verdict on {gate} cannot travel as {verdict.gate}")
        judgement = external_statement({"response": raw}, {"index": index})
        if verdict.verdict == "pass" and not judgement.passed:
            found.append(f"verdicts/{index}: it would count as {judgement.outcome}: {judgement.reason}")
    if request.op == "VERIFY" and response.result == "ok":
        given = {verdict.details.phase_gate for verdict in response.verdicts}
        found += [f"verdicts: {info.id} owes one on {gate}" for gate in info.gates if gate not in given]
    return found


def request_for(phase: str, op: Any, env: Any, info: AgentInfo, trace_id: str) -> AgentRequest:
    """Return the request the prompt is about."""
    return AgentRequest.model_validate(
        {
            "phase": phase,
            "op": op,
            "scope": {"env": env},
            "capabilities": list(info.capabilities),
            "trace_id": trace_id,
        }
    )


def _listed(items: Any) -> str:
    return ", ".join(items) or "–"


def _paths(info: AgentInfo, plan: Plan | None) -> str:
    if plan is None:
        return _UNKNOWN
    targets, kube, has = plan.targets, plan.targets.kubernetes, set(info.capabilities)
    found = []
    if has & {"git", "forge", "helm", "terraform"}:
        source = targets.repository
        found.append(f"repository {source.path} ({source.from_ref}..{source.to_ref})")
    if has & {"kubernetes", "helm", "terraform"}:
        names = [name for one in plan.services for name in (one.stable_deployment, one.canary_deployment)]
        found.append(f"namespace {kube.namespace}: Deployments {', '.join(names)}; HTTPRoute {kube.route}")
    if has & {"registry", "cosign"}:
        found.append("images " + ", ".join(one.image.text for one in plan.services))
    if has & {"rego", "opa"}:
        found.append(f"policy package {targets.policy.package}")
    if has & {"prometheus", "grafana"}:
        found.append("rules and queries of the metrics back end")
    if not info.mutates:
        found.append("nothing is to be modified: this agent only measures")
    return "; ".join(found) or "–"


def _checks(info: AgentInfo, plan: Plan | None) -> str:
    if not info.gates:
        return "– (this agent owes no verdict)"
    return "; ".join(_check(gate, plan) for gate in info.gates)


def _check(phase_gate: str, plan: Plan | None) -> str:
    wire = next((gate for gate, parts in PHASE_GATES.items() if phase_gate in parts), "policy")
    if phase_gate == "chaos":
        wire = "chaos"
    bounds = _bounds(phase_gate, plan) if plan is not None else []
    said = f": {', '.join(bounds)}" if bounds else ""
    return f"{phase_gate}=pass (travels as `{wire}`{said})"


def _bounds(phase_gate: str, plan: Plan) -> list[str]:
    match phase_gate:
        case "slo" | "product_slos":
            return [one.threshold for one in plan.canary.checks] + ["burn==0"]
        case "ingest_lag":
            return ["ingest_lag_s<60"]
        case "perf":
            return [f"headroom>={plan.headroom_target:g}"]
        case "supply_chain":
            added = plan.budgets.vulnerabilities_added
            return [f"{severity}_added<={most}" for severity, most in sorted(added.items())]
        case "migrations" | "reindex_parity":
            return ["shadow_parity>=0.995"]
        case "dr":
            return [f"rto_s<={plan.rto:g}", f"rpo_s<={plan.rpo:g}"]
        case "chaos":
            return ["rollback_s<=300"]
        case "preview_budget":
            return [f"preview_day_usd<={plan.budgets.preview_day_usd:g}"]
        case _:
            return []


def _dashboards(info: AgentInfo) -> str:
    found = []
    for phase_gate in info.gates:
        wire = next((gate for gate, parts in PHASE_GATES.items() if phase_gate in parts), "")
        name = "Alert hygiene" if phase_gate in GA_GATES else _DASHBOARDS.get(wire, "")
        if name and name not in found:
            found.append(name)
    return _listed(found)
