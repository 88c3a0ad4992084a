"""Events of what agents do in the world besides the canary: stages, tags, flags, KPIs, incidents, issues."""

from __future__ import annotations

from cockpit.journal.base import Event


class StageStarted(Event, frozen=True, tag="stage.started.v1"):
    """An environment before prod begins to take the digests."""

    env: str
    images: dict[str, str]


class StageSeen(Event, frozen=True, tag="stage.seen.v1"):
    """Where a stage is: deploy, canary, check or promote, with the weight of its canary."""

    env: str
    stage: str
    weight: int
    detail: str


class StageEnded(Event, frozen=True, tag="stage.ended.v1"):
    """A stage ended: result is pass or fail; `running` is what its pods run, service → digest."""

    env: str
    result: str
    reason: str
    running: dict[str, str]


class TagCut(Event, frozen=True, tag="tag.cut.v1"):
    """A signed tag was made in the repository; `kind` is rc or final."""

    tag: str
    kind: str
    commit: str
    object: str
    fingerprint: str


class FlagChanged(Event, frozen=True, tag="flag.changed.v1"):
    """A feature flag was set: `scope` is pilot, a share in percent, or all; `seen_ms` until it was seen."""

    flag: str
    was: str
    now: str
    scope: str
    by: str
    seen_ms: float


class KpiMeasured(Event, frozen=True, tag="kpi.measured.v1"):
    """A KPI after the release beside its baseline; `change` is relative. `outcome` as in gates.md."""

    name: str
    unit: str
    value: float | None
    baseline: float | None
    change: float | None
    regressed: bool
    outcome: str
    reason: str


class IssueFiled(Event, frozen=True, tag="issue.filed.v1"):
    """An issue on the forge: kind is incident, regression or fix_train; `known` when it was there already."""

    kind: str
    key: str
    number: int
    url: str
    title: str
    known: bool


class IncidentChanged(Event, frozen=True, tag="incident.changed.v1"):
    """An incident was opened, updated or resolved."""

    incident: str
    state: str
    severity: str
    title: str
    url: str


class FixTrainScheduled(Event, frozen=True, tag="fixtrain.scheduled.v1"):
    """After a hard stop: the hotfix issue and the next window that can take it; all empty: withdrawn."""

    issue: str
    window_start: str
    window_end: str


class DrillRun(Event, frozen=True, tag="drill.run.v1"):
    """A drill with its rails: kind (chaos, kill-switch, rollback), how long it took, whether it held."""

    drill: str
    kind: str
    env: str
    passed: bool
    seconds: float
    reason: str
