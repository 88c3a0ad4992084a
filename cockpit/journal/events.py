"""Every type of event a journal holds. A changed meaning gets a new version and an upcaster (`upcast.py`)."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from cockpit.journal.base import Event
from cockpit.journal.events_people import (
    ApprovalReceived,
    ApprovalRequested,
    ApprovalSettled,
    BakeExtended,
    BakePaused,
    BreakGlassRefused,
    BreakGlassReviewed,
    BreakGlassUsed,
    CalendarSet,
    DecisionAcknowledged,
    DecisionWaits,
    EffectResolved,
    HandoverAccepted,
    HandoverOffered,
    HardStopStage,
    NotDue,
    OperatorLost,
    PolicyDecided,
    ReverifyAsked,
    RunReopened,
    SoakChanged,
    StepUpSeen,
    StopDecided,
)
from cockpit.journal.events_work import (
    DrillRun,
    FixTrainScheduled,
    FlagChanged,
    IncidentChanged,
    IssueFiled,
    KpiMeasured,
    StageEnded,
    StageSeen,
    StageStarted,
    TagCut,
)

Metrics: TypeAlias = dict[str, float | int | str | bool | None]


class ServiceImage(msgspec.Struct, frozen=True):
    """A service and the image it is to run: `sha256:…`, or the text of a mutable reference."""

    name: str
    digest: str


class RosterEntry(msgspec.Struct, frozen=True):
    """An agent as the roster declared it when the run opened; `required`: the plan lists it."""

    id: str
    name: str
    domain: str
    phases: list[str]
    built: bool
    required: bool


# -- the run ------------------------------------------------------------------------------------------


class RunOpened(Event, frozen=True, tag="run.opened.v1"):
    """A run began. Times are RFC 3339 UTC; `reduced` says why it proves less than a whole release."""

    run_id: str
    version: str
    repo: str
    environment: str
    plan_sha256: str
    plan_blob: str
    rehearsal: bool
    reduced: list[str]
    trust_profile: str
    operator: str
    host: str
    run_key: str
    steps: list[int]
    services: list[ServiceImage]
    phases: list[str]
    required_gates: list[str]
    window_start: str
    window_end: str
    roster: list[RosterEntry]
    ga_flags: list[str] = []
    headroom_target: float = 0.2
    real: dict[str, str] = {}
    """In a rehearsal: the real servers and their versions; every other back end is a stand-in."""


class RunResumed(Event, frozen=True, tag="run.resumed.v1"):
    """A conductor took up a run again after a crash; `into` says what it may do (this build: abort)."""

    reason: str
    into: str


class RunClosed(Event, frozen=True, tag="run.closed.v1"):
    """The terminal record of a sitting. `exit` is the documented exit code, `outcome` its word."""

    exit: int
    outcome: str
    cause: str


class WaiverRecorded(Event, frozen=True, tag="waiver.recorded.v1"):
    """The plan goes without something and says so."""

    what: str
    owner: str
    reason: str


class Noted(Event, frozen=True, tag="log.noted.v1"):
    """Something worth knowing; `level` is info, warning or error."""

    level: str
    text: str


class JournalGap(Event, frozen=True, tag="journal.gap.v1"):
    """Records could not be written here at the time; `records` were kept elsewhere (`where`) or lost."""

    reason: str
    records: int
    where: str = ""


class HeadWritten(Event, frozen=True, tag="journal.head.v1"):
    """A signed checkpoint over the first `size` lines was put outside the file."""

    name: str
    size: int
    root: str


# -- phases, agents, gates ----------------------------------------------------------------------------


class PhaseStarted(Event, frozen=True, tag="phase.started.v1"):
    """A phase of seed section 5 began."""

    phase: str


class PhaseEnded(Event, frozen=True, tag="phase.ended.v1"):
    """A phase ended: result is pass, fail, or skipped (not in the plan)."""

    phase: str
    result: str
    reason: str = ""


class AgentCalled(Event, frozen=True, tag="agent.called.v1"):
    """A request went to an agent; `call` names it until its answer."""

    call: str
    agent: str
    phase: str
    op: str
    env: str
    trace_id: str
    attempt: int = 1


class AgentAnswered(Event, frozen=True, tag="agent.answered.v1"):
    """A valid response came; `response` is the digest of its stored text."""

    call: str
    agent: str
    phase: str
    op: str
    result: str
    notes: str
    next: str
    took_ms: float
    response: str = ""


class AgentFailed(Event, frozen=True, tag="agent.failed.v1"):
    """No valid response: kind is invalid, timeout, crash, cancelled or refused. Never a pass."""

    call: str
    agent: str
    phase: str
    op: str
    kind: str
    reason: str
    took_ms: float


class ArtifactWritten(Event, frozen=True, tag="artifact.written.v1"):
    """An agent wrote a file below `artifacts/` of the run folder."""

    agent: str
    path: str
    sha256: str
    kind: str


class ArtifactSigned(Event, frozen=True, tag="artifact.signed.v1"):
    """The notary signed a file; `bundle` is the path of the Sigstore bundle."""

    path: str
    sha256: str
    bundle: str
    log_index: int
    entry_id: str


class EvidencePending(Event, frozen=True, tag="evidence.pending.v1"):
    """Something could not be signed or sealed yet; it is retried and never silently unsigned."""

    what: str
    reason: str


class EvidenceSealed(Event, frozen=True, tag="evidence.sealed.v1"):
    """A pack was sealed and signed: kind is promotion or closing."""

    kind: str
    path: str
    sha256: str
    log_index: int
    entry_id: str


class GateJudged(Event, frozen=True, tag="gate.judged.v1"):
    """A verdict; `verdict_blob` is the digest of the whole verdict as it came over the wire."""

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
    step: int = 0


class RequiredGates(Event, frozen=True, tag="gates.required.v1"):
    """The plan's required gates as computed from the phase gates: pass, fail or not evaluated."""

    gates: dict[str, str]
    reasons: dict[str, str] = {}


class GoNoGoComputed(Event, frozen=True, tag="gonogo.computed.v1"):
    """The checklist of seed section 20; `blob` is the digest of the whole document."""

    go: bool
    reasons: list[str]
    headroom: dict[str, float]
    blob: str
    step: int = 0


class RiskChanged(Event, frozen=True, tag="risk.changed.v1"):
    """A risk of the register opened or closed."""

    id: str
    state: str
    rating: str
    reason: str


# -- the canary ---------------------------------------------------------------------------------------


class StepStarted(Event, frozen=True, tag="canary.step_started.v1"):
    """A promotion step towards `weight` percent began."""

    step: int
    weight: int


class StepStage(Event, frozen=True, tag="canary.stage.v1"):
    """Where a step is: preflight, scale, shift, observe, bake, decide, promote (stable replaced)."""

    step: int
    stage: str
    detail: str = ""


class WeightSeen(Event, frozen=True, tag="canary.weight.v1"):
    """Desired weight (read back from the route) beside the observed share, both in percent."""

    desired: int
    observed: float | None = None
    source: str = ""


class ReplicasSeen(Event, frozen=True, tag="canary.replicas.v1"):
    """Deployments as observed: name → [desired, ready]."""

    deployments: dict[str, list[int]]


class StableRecorded(Event, frozen=True, tag="canary.stable.v1"):
    """What stable was before the first step: replicas and image by Deployment; a rollback restores it."""

    replicas: dict[str, int]
    images: dict[str, str]
    canary: dict[str, str] = {}
    """The image of each canary Deployment, which had no pod then."""


class LookTaken(Event, frozen=True, tag="canary.look.v1"):
    """One analysis: its outcome, metrics and burn rates; `answers` is the digest of the stored look.

    `watch`: taken while something else is waited for; it can end a step and never earns one.
    """

    step: int
    look: int
    outcome: str
    critical: bool
    reason: str
    requests: float
    metrics: Metrics
    burn: dict[str, float | None]
    passes: int
    required: int
    failures: int
    answers: str
    watch: bool = False


class StepDecided(Event, frozen=True, tag="canary.decided.v1"):
    """A step's decision: advance, rollback, or inconclusive (which sticks)."""

    step: int
    weight: int
    decision: str
    reason: str


class Released(Event, frozen=True, tag="canary.released.v1"):
    """Stable runs the new digests and carries all traffic; what is left is taking the canary down."""

    version: str


# -- effects ------------------------------------------------------------------------------------------


class EffectIntended(Event, frozen=True, tag="effect.intended.v1"):
    """A mutation is about to be tried; on disk before it starts. Lane: forward or abort."""

    effect: str
    lane: str
    verb: str
    target: str
    env: str
    by: str
    detail: str = ""


class EffectDone(Event, frozen=True, tag="effect.done.v1"):
    """A mutation was acknowledged by the back end."""

    effect: str
    took_ms: float
    detail: str = ""


class EffectFailed(Event, frozen=True, tag="effect.failed.v1"):
    """A mutation was refused by the back end, or by the gate before it went out (`sent` false)."""

    effect: str
    reason: str
    sent: bool


class EffectUnknown(Event, frozen=True, tag="effect.unknown.v1"):
    """A mutation was cut off: it may or may not have happened; the world must be looked at."""

    effect: str
    reason: str


# -- people and stops ---------------------------------------------------------------------------------


class CommandReceived(Event, frozen=True, tag="control.received.v1"):
    """A front end sent a command: halt, resume, rollback, stay, note, reason."""

    command: str
    kind: str
    by: str
    reason: str
    source: str


class FrontEndSeen(Event, frozen=True, tag="control.frontend.v1"):
    """A front end with control attached or left."""

    name: str
    attached: bool


class HaltBegan(Event, frozen=True, tag="halt.began.v1"):
    """Nothing forward goes out from here on. `trigger`: key, signal, command, critical, lease, journal."""

    by: str
    trigger: str
    reason: str
    epoch: int


class HaltReason(Event, frozen=True, tag="halt.reason.v1"):
    """The reason for a HALT, given after it took effect."""

    by: str
    reason: str


class HaltEnded(Event, frozen=True, tag="halt.ended.v1"):
    """A HALT ended by resume (with a reason) or by rollback."""

    by: str
    choice: str
    reason: str


class Question(Event, frozen=True, tag="question.asked.v1"):
    """A person must decide; `options` are the answers possible."""

    question: str
    text: str
    options: list[str]


class QuestionAnswered(Event, frozen=True, tag="question.answered.v1"):
    """A question was settled: by whom (a person, or `bound` when its time ran out)."""

    question: str
    answer: str
    by: str


class RollbackStarted(Event, frozen=True, tag="rollback.started.v1"):
    """An abort began; `reason` as in Rollback v2, `cause` in words."""

    reason: str
    cause: str
    by: str


class RollbackStage(Event, frozen=True, tag="rollback.stage.v1"):
    """Where an abort is: shift, observe, drain, scale_down, verify."""

    stage: str
    detail: str = ""


class RollbackVerified(Event, frozen=True, tag="rollback.verified.v1"):
    """No request reaches the canary, it is scaled down, stable is whole; `proof` says how each was seen."""

    proof: dict[str, str]


class RollbackUnfinished(Event, frozen=True, tag="rollback.unfinished.v1"):
    """The abort could not be finished or verified: a person must act (`fallback` has the exact commands)."""

    reason: str
    fallback: list[str]


# -- lease and messages -------------------------------------------------------------------------------


class LeaseChanged(Event, frozen=True, tag="lease.changed.v1"):
    """The release lock: state is acquired, lost, released or refused; `fence` counts its holders."""

    state: str
    holder: str
    fence: int


class MessagePosted(Event, frozen=True, tag="comms.posted.v1"):
    """A macro of seed section 13 was delivered to a webhook, or not (`ok` false).

    `macro` names the message within the run, with its step where there is one a step: `start`, `breach@2`.
    """

    macro: str
    webhook: str
    ok: bool
    text: str
    reason: str = ""


class Unknown(Event, frozen=True, tag="unknown.v0"):
    """An event this version does not know; kept, shown, and never dropped."""

    kind: str
    fields: dict[str, object] = {}


AnyEvent: TypeAlias = (
    RunOpened
    | RunResumed
    | RunClosed
    | WaiverRecorded
    | Noted
    | JournalGap
    | HeadWritten
    | PhaseStarted
    | PhaseEnded
    | AgentCalled
    | AgentAnswered
    | AgentFailed
    | ArtifactWritten
    | ArtifactSigned
    | EvidencePending
    | EvidenceSealed
    | GateJudged
    | RequiredGates
    | GoNoGoComputed
    | RiskChanged
    | StepStarted
    | StepStage
    | WeightSeen
    | ReplicasSeen
    | StableRecorded
    | LookTaken
    | StepDecided
    | Released
    | EffectIntended
    | EffectDone
    | EffectFailed
    | EffectUnknown
    | CommandReceived
    | FrontEndSeen
    | HaltBegan
    | HaltReason
    | HaltEnded
    | Question
    | QuestionAnswered
    | RollbackStarted
    | RollbackStage
    | RollbackVerified
    | RollbackUnfinished
    | LeaseChanged
    | MessagePosted
    | RunReopened
    | EffectResolved
    | StopDecided
    | ApprovalRequested
    | ApprovalReceived
    | ApprovalSettled
    | StepUpSeen
    | BreakGlassUsed
    | BreakGlassRefused
    | BreakGlassReviewed
    | PolicyDecided
    | BakePaused
    | BakeExtended
    | ReverifyAsked
    | HandoverOffered
    | HandoverAccepted
    | OperatorLost
    | DecisionWaits
    | DecisionAcknowledged
    | CalendarSet
    | NotDue
    | SoakChanged
    | HardStopStage
    | StageStarted
    | StageSeen
    | StageEnded
    | TagCut
    | FlagChanged
    | KpiMeasured
    | IssueFiled
    | IncidentChanged
    | FixTrainScheduled
    | DrillRun
    | Unknown
)
