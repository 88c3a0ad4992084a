"""What people said and what agents did in the world, as views: parts of `ReleaseState`."""

from __future__ import annotations

import msgspec


class StatementView(msgspec.Struct, frozen=True):
    """A signed approval or rejection; `counted` false: it does not count, and `problem` says why."""

    by: str
    identity: str
    decision: str
    reason: str
    counted: bool
    problem: str
    groups: list[str]
    blob: str
    at: str


class RequestView(msgspec.Struct, frozen=True):
    """A request for approval; `result` is empty while it waits, else granted, rejected or expired."""

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
    at: str
    statements: tuple[StatementView, ...] = ()
    result: str = ""
    result_by: list[str] = []
    result_reason: str = ""
    valid_until: str = ""


class GlassView(msgspec.Struct, frozen=True):
    """A break-glass; `reviewed_by` is empty until somebody looked at it."""

    glass: str
    gate: str
    by: str
    second: str
    reason: str
    expires: str
    review_by: str
    at: str
    reviewed_by: str = ""
    accepted: bool = False


class DecisionView(msgspec.Struct, frozen=True):
    """The policy's last decision on an action."""

    action: str
    allow: bool
    obligations: list[str]
    unmet: list[str]
    reasons: list[str]
    at: str


class StepUpView(msgspec.Struct, frozen=True):
    """A second factor that was shown."""

    by: str
    method: str
    at: str
    valid_until: str


class WaitView(msgspec.Struct, frozen=True):
    """A decision somebody was called for: level is page or escalate; `by` once someone attends to it."""

    what: str
    level: str
    at: str
    by: str = ""


class SoakView(msgspec.Struct, frozen=True):
    """The soak: state is running, broken or done."""

    state: str
    since: str
    until: str
    reason: str
    broken: int = 0


class HardStopView(msgspec.Struct, frozen=True):
    """A stage of the hard stop and what became of it."""

    stage: str
    ok: bool
    detail: str
    at: str


class PeopleView(msgspec.Struct, frozen=True):
    """Sittings, approvals, the operator and what waits."""

    sitting: int = 1
    kind: str = "run"
    """What the sitting is for: run, rollback or kpi."""
    stopped: str = ""
    """Why it was decided to abort; empty: it was not."""
    taken_up: int = 0
    """How often a killed conductor of this sitting was replaced."""
    operator: str = ""
    offered_to: str = ""
    requests: tuple[RequestView, ...] = ()
    glasses: tuple[GlassView, ...] = ()
    decisions: tuple[DecisionView, ...] = ()
    step_ups: tuple[StepUpView, ...] = ()
    paused: bool = False
    extended_s: float = 0.0
    """By how long the bake of the present step was extended."""
    reverified: dict[str, int] = {}
    """Agent → attempts so far, where a person asked for another."""
    lost: str = ""
    """What the plan said when no operator was left: continue, halt or abort; empty: one is there."""
    waits: tuple[WaitView, ...] = ()
    due: dict[str, str] = {}
    """Phase → when it may begin."""
    compressed: bool = False
    not_due: tuple[str, str] = ("", "")
    """What waits for its time, and until when."""
    soak: SoakView | None = None
    hard_stop: tuple[HardStopView, ...] = ()


class StageView(msgspec.Struct, frozen=True):
    """An environment before prod; result is empty while it is under way."""

    env: str
    images: dict[str, str]
    stage: str = ""
    weight: int = 0
    detail: str = ""
    result: str = ""
    reason: str = ""
    running: dict[str, str] = {}


class TagView(msgspec.Struct, frozen=True):
    """A signed tag."""

    tag: str
    kind: str
    commit: str
    object: str
    fingerprint: str


class FlagView(msgspec.Struct, frozen=True):
    """A feature flag as last set."""

    flag: str
    now: str
    scope: str
    by: str
    at: str


class KpiView(msgspec.Struct, frozen=True):
    """A KPI beside its baseline."""

    name: str
    unit: str
    value: float | None
    baseline: float | None
    change: float | None
    regressed: bool
    outcome: str
    reason: str


class IssueView(msgspec.Struct, frozen=True):
    """An issue on the forge."""

    kind: str
    key: str
    number: int
    url: str
    title: str


class IncidentView(msgspec.Struct, frozen=True):
    """An incident."""

    incident: str
    state: str
    severity: str
    title: str
    url: str
    at: str


class DrillView(msgspec.Struct, frozen=True):
    """A drill and whether it held."""

    drill: str
    kind: str
    env: str
    passed: bool
    seconds: float
    reason: str
    at: str


class WorkView(msgspec.Struct, frozen=True):
    """What was done in the world besides the canary."""

    stages: tuple[StageView, ...] = ()
    tags: tuple[TagView, ...] = ()
    flags: tuple[FlagView, ...] = ()
    kpis: tuple[KpiView, ...] = ()
    issues: tuple[IssueView, ...] = ()
    incidents: tuple[IncidentView, ...] = ()
    drills: tuple[DrillView, ...] = ()
    fix_train: tuple[str, str, str] = ("", "", "")
    """The hotfix issue and the window that can take it."""
    posted: tuple[tuple[str, str], ...] = ()
    """(macro, webhook) that was delivered."""
