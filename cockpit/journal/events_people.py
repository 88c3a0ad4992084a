"""Events of people and time: approvals, break-glass, the operator's tools, calendar, sittings."""

from __future__ import annotations

from cockpit.journal.base import Event


class RunReopened(Event, frozen=True, tag="run.reopened.v1"):
    """Another sitting of a run whose last sitting had closed; `sitting` counts from 1."""

    sitting: int
    why: str
    operator: str
    host: str
    kind: str = "run"
    """What it is for: run, rollback or kpi."""


class EffectResolved(Event, frozen=True, tag="effect.resolved.v1"):
    """The world was looked at for an effect without a result: it `happened`, or it did not."""

    effect: str
    happened: bool
    detail: str


class StopDecided(Event, frozen=True, tag="stop.decided.v1"):
    """It is decided that the run ends by an abort; a conductor that is killed now must not go on."""

    reason: str
    cause: str
    by: str


# -- approvals ----------------------------------------------------------------------------------------


class ApprovalRequested(Event, frozen=True, tag="approval.requested.v1"):
    """People are asked. `blob` is the digest of the request as they sign it (canonical JSON)."""

    request: str
    asked: str
    subject: str
    text: str
    requester: str
    threshold: int
    groups: list[str]
    from_each: bool
    step_up: str
    expires: str
    blob: str


class ApprovalReceived(Event, frozen=True, tag="approval.received.v1"):
    """A signed statement came. `counted` false: it does not count, and `problem` says why."""

    request: str
    by: str
    identity: str
    decision: str
    reason: str
    counted: bool
    problem: str
    groups: list[str]
    blob: str


class ApprovalSettled(Event, frozen=True, tag="approval.settled.v1"):
    """A request ended: result is granted, rejected or expired; a grant counts until `valid_until`."""

    request: str
    result: str
    by: list[str]
    reason: str
    valid_until: str = ""


class StepUpSeen(Event, frozen=True, tag="approval.step_up.v1"):
    """A second factor was shown (`ok`) or refused; method is totp or oidc."""

    by: str
    method: str
    ok: bool
    reason: str
    valid_until: str = ""


class BreakGlassUsed(Event, frozen=True, tag="breakglass.used.v1"):
    """A failed phase gate was overridden until `expires`; its verdict stays what it is."""

    glass: str
    gate: str
    by: str
    second: str
    reason: str
    expires: str
    review_by: str
    blob: str


class BreakGlassRefused(Event, frozen=True, tag="breakglass.refused.v1"):
    """Break-glass was asked for and not granted."""

    gate: str
    by: str
    reason: str
    problem: str


class BreakGlassReviewed(Event, frozen=True, tag="breakglass.reviewed.v1"):
    """A second person looked at a break-glass after it."""

    glass: str
    by: str
    reason: str
    accepted: bool


class PolicyDecided(Event, frozen=True, tag="policy.decided.v1"):
    """The policy engine decided on an action; `unmet` obligations stand in its way. `blob` is the answer."""

    decision: str
    action: str
    allow: bool
    obligations: list[str]
    unmet: list[str]
    reasons: list[str]
    engine: str
    blob: str


# -- the operator -------------------------------------------------------------------------------------


class BakePaused(Event, frozen=True, tag="bake.paused.v1"):
    """The bake's clock stands still (or, `paused` false, goes on); analysis goes on in both."""

    paused: bool
    by: str
    reason: str


class BakeExtended(Event, frozen=True, tag="bake.extended.v1"):
    """The bake of this step lasts longer by `seconds`."""

    seconds: float
    by: str
    reason: str


class ReverifyAsked(Event, frozen=True, tag="gate.reverify.v1"):
    """A person had an agent verify again; `attempt` counts from 2."""

    agent: str
    phase: str
    attempt: int
    by: str
    reason: str


class HandoverOffered(Event, frozen=True, tag="operator.offered.v1"):
    """The operator offers the run to someone."""

    by: str
    to: str
    reason: str


class HandoverAccepted(Event, frozen=True, tag="operator.accepted.v1"):
    """Someone took the run over; from here on they are its operator."""

    by: str
    of: str


class OperatorLost(Event, frozen=True, tag="operator.lost.v1"):
    """No front end with control was there for `seconds`; the plan's `then`: continue, halt, abort."""

    seconds: float
    then: str


class DecisionWaits(Event, frozen=True, tag="attention.waits.v1"):
    """A decision waits and somebody was called: level is page or escalate."""

    what: str
    level: str
    text: str


class DecisionAcknowledged(Event, frozen=True, tag="attention.acknowledged.v1"):
    """Somebody attends to the decision that waits."""

    what: str
    by: str


# -- calendar -----------------------------------------------------------------------------------------


class CalendarSet(Event, frozen=True, tag="calendar.set.v1"):
    """When each phase may begin (RFC 3339 UTC); `day` is the length of a day, compressed in a rehearsal."""

    day_s: float
    phases: dict[str, str]
    compressed: bool


class NotDue(Event, frozen=True, tag="calendar.not_due.v1"):
    """Something waits for its time: a phase, the soak's end, or a window."""

    what: str
    due: str
    reason: str


class SoakChanged(Event, frozen=True, tag="calendar.soak.v1"):
    """The soak is running, was broken (it starts again), or is done; `blob` holds the answers that say so."""

    state: str
    since: str
    until: str
    reason: str
    blob: str = ""


# -- hard stop ----------------------------------------------------------------------------------------


class HardStopStage(Event, frozen=True, tag="hardstop.stage.v1"):
    """A stage of seed section 8 after the rollback: incident, evidence, notify, fix_train; done or not."""

    stage: str
    ok: bool
    detail: str
