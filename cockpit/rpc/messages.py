"""Agent RPC v2 request and response (seed 3), verdicts (seed 11), Promote and Rollback v2 (seed 7)."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Op = Literal["PLAN", "APPLY", "VERIFY", "ROLLBACK", "EVIDENCE"]
Phase = Literal["P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8"]
Result = Literal["ok", "fail", "needs_approval", "blocked"]
WireGate = Literal["slo", "perf", "supply_chain", "migrations", "policy", "dr", "chaos"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
TraceId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
RelPath = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9+_][A-Za-z0-9+_.-]*(/[A-Za-z0-9+_][A-Za-z0-9+_.-]*)*$", max_length=300)
]
THRESHOLD = re.compile(r"^[a-z][a-z0-9_]*\s*(<=|>=|==|<|>)\s*-?\d+(\.\d+)?$")
Threshold = Annotated[str, Field(pattern=THRESHOLD.pattern)]


class Message(BaseModel):
    """Base of everything on the wire: frozen, closed to unknown fields, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Scope(Message):
    """What an operation is about."""

    env: Literal["dev", "stage", "prod", "all"]
    services: Annotated[list[str], Field(min_length=1, max_length=200)] = ["*"]
    tenants: Annotated[list[str], Field(min_length=1, max_length=1000)] = ["*"]


class Inputs(Message):
    """Parameters of an operation."""

    params: dict[str, Any] = {}
    feature_flags: dict[str, bool] = {}
    budgets: dict[str, Any] = {}
    risk_ids: list[str] = []


class AgentRequest(Message):
    """What the conductor asks of an agent."""

    phase: Phase
    op: Op
    scope: Scope
    inputs: Inputs = Inputs()
    capabilities: list[str] = []
    trace_id: TraceId


class Artifact(Message):
    """A file an agent wrote; `sig` is the path of its signature bundle, empty until the notary has signed."""

    path: RelPath
    sha256: Sha256
    sig: Annotated[str, Field(max_length=300)] = ""
    type: Literal["sbom", "slsa", "report", "dash", "schema", "evidence"]


class Links(Message):
    """Where to look further."""

    prs: list[str] = []
    runs: list[str] = []
    dashboards: list[str] = []
    releases: list[str] = []


class Judged(Message):
    """What a verdict is about (gates.md, reading 4); another digest or plan voids it."""

    images: dict[str, Digest]
    env: Literal["dev", "stage", "prod", "all"]
    plan_sha256: Sha256
    valid_s: Annotated[float, Field(gt=0)]


class Query(Message):
    """One question put to a back end, with the raw answer stored by digest."""

    text: Annotated[str, Field(max_length=4000)]
    backend: Literal[
        "prometheus", "kubernetes", "registry", "forge", "policy", "journal", "load", "http", "files"
    ]
    asked_at: str
    evaluated_at: str = ""
    clock_offset_s: float | None = None
    window_s: float | None = None
    samples: int = 0
    answer: Annotated[str, Field(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""


class EvidenceRef(Message):
    """A file that supports a verdict."""

    path: RelPath
    sha256: Sha256
    sig: str = ""


class GateVerdict(Message):
    """An expanded gate verdict (seed section 11); the gate's own rule rides in `details` for recomputing."""

    gate: WireGate
    env: Literal["dev", "stage", "prod", "all"]
    verdict: Literal["pass", "fail"]
    metrics: dict[str, float | int | str | bool | None] = {}
    thresholds: list[Threshold] = []
    evidence: list[EvidenceRef] = []
    details: VerdictDetails


class VerdictDetails(Message):
    """`phase_gate` is the gate of seed section 5; `outcome` one of the five of gates.md."""

    phase_gate: Annotated[str, Field(pattern=r"^[a-z_]+$")]
    outcome: Literal["pass", "fail", "no_data", "low_traffic", "provider_error"]
    reason: Annotated[str, Field(max_length=2000)] = ""
    judged: Judged
    queries: list[Query] = []
    rule: dict[str, Any] = {}
    """What `evidence verify --recompute` needs beside the answers: the rule's name and parameters."""


class AgentResponse(Message):
    """What an agent answers."""

    phase: Phase
    agent: Annotated[str, Field(max_length=80)]
    result: Result
    artifacts: Annotated[list[Artifact], Field(max_length=500)] = []
    links: Links = Links()
    verdicts: Annotated[list[GateVerdict], Field(max_length=100)] = []
    notes: Annotated[str, Field(max_length=4000)]
    next: Annotated[str, Field(max_length=1000)]
    trace_id: TraceId


class AbortOn(Message):
    """When a promotion is aborted (seed section 7)."""

    slo: str = "burn>0"
    perf: str = "headroom<0.20"
    supply_chain: str = "attest/sign missing"


class Promote(Message):
    """Promote v2."""

    version: str
    canary: Annotated[list[int], Field(min_length=1)] = [10, 50, 100]
    required_gates: Annotated[list[WireGate], Field(min_length=1)]
    auto_ramp_flags: bool = True
    abort_on: AbortOn = AbortOn()
    trace_id: TraceId


class Rollback(Message):
    """Rollback v2; `manual` and `halt` are the operator's own."""

    version: str
    reason: Literal[
        "gate_fail", "slo_breach", "kpi_regression", "manual", "halt", "inconclusive", "crash", "signal"
    ]
    trace_id: TraceId


class GoNoGo(Message):
    """The final checklist the conductor must compute (seed section 20)."""

    version: str
    gates: dict[str, Literal["pass", "fail", "not evaluated"]]
    headroom: dict[str, float]
    exceptions: list[str]
    risk_open: list[str]
    drill_recent: bool | None
    evidence_signed: bool
    go: bool
    reasons: list[str] = []


GateVerdict.model_rebuild()
AgentResponse.model_rebuild()
