"""What a run is at a moment: frozen values that screens, exit codes, packs and the auditor all read.

`ReleaseState` is made only by `fold.Fold`; times are the RFC 3339 UTC strings of the events.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from cockpit.journal.events import Metrics, RosterEntry, RunOpened, ServiceImage
from cockpit.journal.state_people import PeopleView, WorkView

AgentStatus = Literal[
    "idle",
    "running",
    "ok",
    "fail",
    "blocked",
    "needs_approval",
    "invalid",
    "timeout",
    "crash",
    "cancelled",
    "refused",
]
PhaseStatus = Literal["pending", "running", "pass", "fail", "skipped"]
GateStatus = Literal["pass", "fail", "not evaluated"]
RunMode = Literal["opening", "running", "halted", "rolling_back", "released", "closed"]


class AgentView(msgspec.Struct, frozen=True):
    """An agent of the roster and its last call."""

    entry: RosterEntry
    status: str = "idle"
    phase: str = ""
    op: str = ""
    notes: str = ""
    next: str = ""
    took_ms: float = 0.0
    at: str = ""
    calls: int = 0
    response: str = ""


class PhaseView(msgspec.Struct, frozen=True):
    """A phase of the DAG."""

    phase: str
    status: str = "pending"
    started_at: str = ""
    ended_at: str = ""
    reason: str = ""


class GateView(msgspec.Struct, frozen=True):
    """The last verdict of one agent on one phase gate in one environment."""

    gate: str
    phase_gate: str
    agent: str
    phase: str
    env: str
    verdict: str
    outcome: str
    reason: str
    metrics: Metrics
    thresholds: list[str]
    images: dict[str, str]
    plan_sha256: str
    valid_s: float
    verdict_blob: str
    step: int
    at: str
    seq: int


class LookView(msgspec.Struct, frozen=True):
    """The last analysis of the canary."""

    step: int
    look: int
    outcome: str
    critical: bool
    reason: str
    requests: float
    metrics: Metrics
    burn: dict[str, float | None]
    at: str
    failures: int = 0
    """Failed looks in a row, this one included, by whoever took it."""


class CanaryView(msgspec.Struct, frozen=True):
    """The canary: step (from 1; 0 before the first), what is wanted and what is seen, in percent."""

    step: int = 0
    target: int = 0
    stage: str = ""
    detail: str = ""
    desired: int = 0
    desired_at: str = ""
    observed: float | None = None
    observed_at: str = ""
    passes: int = 0
    required: int = 0
    failures: int = 0
    looks: int = 0
    last: LookView | None = None
    decision: str = ""
    reason: str = ""
    moved: bool = False
    """Whether prod traffic was ever shifted, or may have been (an unknown effect counts)."""
    released: bool = False
    replicas: dict[str, list[int]] = {}
    stable_replicas: dict[str, int] = {}
    stable_images: dict[str, str] = {}
    """Stable as it was before the first step, by Deployment."""
    canary_images: dict[str, str] = {}
    """What the canary Deployments, without a pod, asked for then."""


class EffectView(msgspec.Struct, frozen=True):
    """A mutation: status is intended, done, failed or unknown."""

    effect: str
    lane: str
    verb: str
    target: str
    env: str
    by: str
    status: str
    at: str
    reason: str = ""


class HaltView(msgspec.Struct, frozen=True):
    """The HALT in force or the last one."""

    active: bool
    by: str
    trigger: str
    reason: str
    epoch: int
    at: str


class RollbackView(msgspec.Struct, frozen=True):
    """The abort: status is running, verified or unfinished."""

    status: str
    reason: str
    cause: str
    by: str
    stage: str
    at: str
    proof: dict[str, str] = {}
    fallback: list[str] = []


class QuestionView(msgspec.Struct, frozen=True):
    """A question to a person; `answer` is empty while it waits."""

    question: str
    text: str
    options: list[str]
    at: str
    answer: str = ""


class RiskView(msgspec.Struct, frozen=True):
    """A risk of the register."""

    id: str
    state: str
    rating: str
    reason: str
    at: str


class ArtifactView(msgspec.Struct, frozen=True):
    """A file of the run; `bundle` is empty until it is signed."""

    path: str
    sha256: str
    agent: str
    kind: str
    bundle: str = ""
    log_index: int = -1
    entry_id: str = ""


class PackView(msgspec.Struct, frozen=True):
    """A sealed pack."""

    kind: str
    path: str
    sha256: str
    log_index: int
    entry_id: str


class Closed(msgspec.Struct, frozen=True):
    """How the sitting ended."""

    exit: int
    outcome: str
    cause: str
    at: str


class ReleaseState(msgspec.Struct, frozen=True):
    """The whole run as of record `seq`; equal journals give equal states, bit for bit (`encode`)."""

    seq: int
    at: str
    mode: str
    run: RunOpened | None
    phases: tuple[PhaseView, ...]
    agents: tuple[AgentView, ...]
    gates: tuple[GateView, ...]
    required_gates: dict[str, str]
    gate_reasons: dict[str, str]
    go: bool | None
    no_go_reasons: list[str]
    headroom: dict[str, float]
    canary: CanaryView
    effects_open: tuple[EffectView, ...]
    effects_done: int
    effects_unknown: tuple[EffectView, ...]
    halt: HaltView | None
    rollback: RollbackView | None
    questions: tuple[QuestionView, ...]
    risks: tuple[RiskView, ...]
    artifacts: tuple[ArtifactView, ...]
    packs: tuple[PackView, ...]
    pending: tuple[str, ...]
    waivers: tuple[tuple[str, str, str], ...]
    lease: str
    fence: int
    front_ends: tuple[str, ...]
    messages: int
    messages_failed: int
    gaps: int
    errors: tuple[str, ...]
    """The last few errors noted."""
    closed: Closed | None
    people: PeopleView = PeopleView()
    work: WorkView = WorkView()

    @property
    def services(self) -> list[ServiceImage]:
        """Return the services of the release."""
        return self.run.services if self.run else []

    @property
    def reduced(self) -> list[str]:
        """Return why the run is REDUCED; empty when it is whole."""
        return self.run.reduced if self.run else []


def encode(state: ReleaseState) -> bytes:
    """Return the state as JSON with sorted members: the content of `state.json`."""
    return msgspec.json.encode(state, order="deterministic")
