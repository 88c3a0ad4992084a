"""A release in the middle of its 50 % step with people around it: what waits, broken glass, a stop."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from msgspec.structs import replace

from cockpit.base.clock import iso, parse_iso
from cockpit.journal import events as ev
from cockpit.journal import events_people as people
from cockpit.journal import events_work as work
from cockpit.journal.blobs import BlobStore
from cockpit.journal.events import AnyEvent
from tests.ui import sample

PLAN = """
ga_flags: [search, reports]
phases: [P0, P1, P4, P6]
promote_on: gates
canary:
  steps: [10, 50, 100]
  bake: 8s
  interval: 1s
  required_passes: 4
  failure_limit: 2
  checks:
    - {metric: p95_ms, threshold: p95_ms<=150, critical: true}
services:
  - {name: web, image: "registry.invalid/web@sha256:ab"}
stages:
  - {environment: dev}
  - {environment: stage, steps: [50, 100]}
approvals:
  people:
    - {id: anna, identity: anna@example.org, groups: [sre]}
    - {id: bela, identity: bela@example.org, groups: [sre]}
    - {id: cora, identity: cora@example.org, groups: [cab]}
  rules:
    - {asked: promote, threshold: 2, groups: [cab, sre]}
  break_glass: {overridable: [perf, dr], expires: 30m}
"""


def later(seconds: float) -> str:
    """Return a moment after the sample's last."""
    return iso(parse_iso(sample.halfway()[-1].at) + timedelta(seconds=seconds))


def with_plan(folder: Path, *more: AnyEvent, plan: str = PLAN) -> list[AnyEvent]:
    """Return the release at its 50 % step with a stored plan, followed by more events."""
    blob = BlobStore(folder / "blobs").put(plan.encode(), salted=True)
    events = sample.halfway()
    events[0] = sample.opened(plan_blob=blob.digest, seq=0, at=events[0].at)
    return then(events, *more)


def then(events: list[AnyEvent], *more: AnyEvent) -> list[AnyEvent]:
    """Return events followed by more, a millisecond apart."""
    at = parse_iso(events[-1].at)
    rest = [
        replace(event, seq=len(events) + index, at=iso(at + timedelta(milliseconds=1 + index)))
        for index, event in enumerate(more)
    ]
    return [*events, *rest]


def asked(request: str = "r1", *, text: str = "promote v3.0.0 to prod", step_up: str = "none") -> AnyEvent:
    """Return a request for two approvals, by anna, open for ten minutes."""
    return people.ApprovalRequested(
        request=request,
        asked="promote",
        subject="5b" * 32,
        text=text,
        requester="anna",
        threshold=2,
        groups=["cab", "sre"],
        from_each=True,
        step_up=step_up,
        expires=later(600),
        blob="",
    )


def said(by: str, decision: str = "approve", *, problem: str = "", request: str = "r1") -> AnyEvent:
    """Return a statement on a request."""
    return people.ApprovalReceived(
        request=request,
        by=by,
        identity=f"{by}@example.org",
        decision=decision,
        reason="looked at the gates",
        counted=not problem,
        problem=problem,
        groups=["cab"],
        blob="",
    )


def failed_perf() -> AnyEvent:
    """Return a verdict against the phase gate perf."""
    return ev.GateJudged(
        gate="perf",
        phase_gate="perf",
        agent="A27",
        phase="P1",
        env="prod",
        verdict="fail",
        outcome="fail",
        reason="headroom 0.12 at search",
        metrics={"headroom": 0.12},
        thresholds=["headroom>=0.20"],
        images={},
        plan_sha256=sample.PLAN_SHA,
        valid_s=86400.0,
        verdict_blob="",
    )


def broken_glass() -> AnyEvent:
    """Return perf overridden for half an hour by two people."""
    return people.BreakGlassUsed(
        glass="glass-1",
        gate="perf",
        by="anna",
        second="cora",
        reason="the load test ran beside another",
        expires=later(1800),
        review_by="",
        blob="",
    )


def busy() -> list[AnyEvent]:
    """Return what people and agents do around a release, most of it at once."""
    images = {"web": "sha256:ab"}
    return [
        work.StageStarted(env="dev", images=images),
        work.StageEnded(env="dev", result="pass", reason="", running=images),
        work.StageStarted(env="stage", images=images),
        work.StageSeen(env="stage", stage="canary", weight=50, detail="baking"),
        asked(),
        said("cora"),
        said("mallory", problem="not a person of the plan"),
        failed_perf(),
        broken_glass(),
        people.PolicyDecided(
            decision="d1",
            action="promote",
            allow=False,
            obligations=["two approvals", "step-up"],
            unmet=["step-up"],
            reasons=["a second factor is missing"],
            engine="opa",
            blob="",
        ),
        people.CalendarSet(day_s=86400.0, phases={"P8": later(7200)}, compressed=True),
        people.SoakChanged(state="running", since=later(-60), until=later(3600), reason=""),
        people.BakePaused(paused=True, by="anna", reason="the pager rang"),
        people.BakeExtended(seconds=90.0, by="anna", reason="low traffic"),
        people.ReverifyAsked(agent="A27", phase="P1", attempt=2, by="anna", reason="another load test ran"),
        people.DecisionWaits(what="request:r1", level="escalate", text="promote"),
        people.HandoverOffered(by="anna", to="bela", reason="end of shift"),
        work.FlagChanged(flag="search", was="off", now="on", scope="pilot", by="A55", seen_ms=40.0),
        work.KpiMeasured(
            name="results_per_search",
            unit="results",
            value=2.1,
            baseline=3.0,
            change=-0.3,
            regressed=True,
            outcome="fail",
            reason="30 % lower",
        ),
        work.IncidentChanged(
            incident="INC-7", state="open", severity="sev2", title="p95 rises", url="https://inc.invalid/7"
        ),
        work.IssueFiled(
            kind="incident", key="k", number=77, url="https://forge.invalid/77", title="p95", known=False
        ),
        work.DrillRun(
            drill="kill-switch", kind="rollback", env="stage", passed=True, seconds=31.0, reason=""
        ),
        work.TagCut(tag="v3.0.0-rc.1", kind="rc", commit="ab12", object="cd34", fingerprint="SHA256:xyz"),
    ]


def stopped() -> list[AnyEvent]:
    """Return a release rolled back with its hard stop half done."""
    events = sample.rolled_back()[:-1]
    return then(
        events,
        people.HardStopStage(stage="incident", ok=True, detail="INC-7"),
        people.HardStopStage(stage="evidence", ok=False, detail="the world could not be frozen: time-out"),
        work.FixTrainScheduled(issue="#78", window_start=later(86400), window_end=later(90000)),
    )
