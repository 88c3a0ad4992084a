"""The part of the fold that is about people, time and work in the world; `fold.Fold` hands it its events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from cockpit.journal import events as ev
from cockpit.journal import events_people as people
from cockpit.journal import events_work as work
from cockpit.journal.state_people import (
    DecisionView,
    DrillView,
    FlagView,
    GlassView,
    HardStopView,
    IncidentView,
    IssueView,
    KpiView,
    PeopleView,
    RequestView,
    SoakView,
    StageView,
    StatementView,
    StepUpView,
    TagView,
    WaitView,
    WorkView,
)


class PeopleFold:
    """Folds the events of people and time."""

    def __init__(self) -> None:
        self._view = PeopleView()
        self._requests: dict[str, RequestView] = {}
        self._glasses: dict[str, GlassView] = {}
        self._decisions: dict[str, DecisionView] = {}
        self._step_ups: dict[str, StepUpView] = {}
        self._waits: dict[str, WaitView] = {}
        self._hard_stop: dict[str, HardStopView] = {}
        self.handlers: dict[type, Callable[[Any], None]] = {
            ev.RunOpened: lambda e: self._set(operator=e.operator),
            people.RunReopened: lambda e: self._set(
                sitting=e.sitting, operator=e.operator, not_due=("", ""), taken_up=0, stopped="", kind=e.kind
            ),
            ev.RunResumed: lambda e: self._set(
                sitting=self._view.sitting + 1, taken_up=self._view.taken_up + 1
            ),
            people.StopDecided: lambda e: self._set(stopped=e.cause),
            people.ApprovalRequested: self._requested,
            people.ApprovalReceived: self._received,
            people.ApprovalSettled: self._settled,
            people.StepUpSeen: self._step_up,
            people.BreakGlassUsed: self._glass,
            people.BreakGlassReviewed: self._reviewed,
            people.PolicyDecided: self._decided,
            people.BakePaused: lambda e: self._set(paused=e.paused),
            people.BakeExtended: lambda e: self._set(extended_s=self._view.extended_s + e.seconds),
            ev.StepStarted: lambda e: self._set(extended_s=0.0, paused=False),
            people.ReverifyAsked: lambda e: self._set(
                reverified={**self._view.reverified, e.agent: e.attempt},
            ),
            people.HandoverOffered: lambda e: self._set(offered_to=e.to),
            people.HandoverAccepted: lambda e: self._set(operator=e.by, offered_to=""),
            people.OperatorLost: lambda e: self._set(lost=e.then),
            ev.FrontEndSeen: self._front_end,
            people.DecisionWaits: self._waits_for,
            people.DecisionAcknowledged: self._acknowledged,
            people.CalendarSet: lambda e: self._set(due=e.phases, compressed=e.compressed),
            people.NotDue: lambda e: self._set(not_due=(e.what, e.due)),
            ev.PhaseStarted: lambda e: self._set(not_due=("", "")),
            people.SoakChanged: self._soak,
            people.HardStopStage: self._stopped,
        }

    def snapshot(self) -> PeopleView:
        """Return the view as of what was folded."""
        return replace(
            self._view,
            requests=tuple(self._requests.values()),
            glasses=tuple(self._glasses.values()),
            decisions=tuple(self._decisions.values()),
            step_ups=tuple(self._step_ups.values()),
            waits=tuple(self._waits.values()),
            hard_stop=tuple(self._hard_stop.values()),
        )

    def _set(self, **changes: Any) -> None:
        self._view = replace(self._view, **changes)

    def _requested(self, e: people.ApprovalRequested) -> None:
        self._requests[e.request] = RequestView(
            request=e.request,
            asked=e.asked,
            subject=e.subject,
            text=e.text,
            requester=e.requester,
            threshold=e.threshold,
            groups=e.groups,
            from_each=e.from_each,
            step_up=e.step_up,
            expires=e.expires,
            blob=e.blob,
            at=e.at,
        )

    def _received(self, e: people.ApprovalReceived) -> None:
        request = self._requests.get(e.request)
        if request is None:
            return
        statement = StatementView(
            by=e.by,
            identity=e.identity,
            decision=e.decision,
            reason=e.reason,
            counted=e.counted,
            problem=e.problem,
            groups=e.groups,
            blob=e.blob,
            at=e.at,
        )
        self._requests[e.request] = replace(request, statements=(*request.statements, statement))

    def _settled(self, e: people.ApprovalSettled) -> None:
        request = self._requests.get(e.request)
        if request is not None:
            self._requests[e.request] = replace(
                request, result=e.result, result_by=e.by, result_reason=e.reason, valid_until=e.valid_until
            )

    def _step_up(self, e: people.StepUpSeen) -> None:
        if e.ok:
            self._step_ups[e.by] = StepUpView(e.by, e.method, e.at, e.valid_until)

    def _glass(self, e: people.BreakGlassUsed) -> None:
        self._glasses[e.glass] = GlassView(
            glass=e.glass,
            gate=e.gate,
            by=e.by,
            second=e.second,
            reason=e.reason,
            expires=e.expires,
            review_by=e.review_by,
            at=e.at,
        )

    def _reviewed(self, e: people.BreakGlassReviewed) -> None:
        glass = self._glasses.get(e.glass)
        if glass is not None:
            self._glasses[e.glass] = replace(glass, reviewed_by=e.by, accepted=e.accepted)

    def _decided(self, e: people.PolicyDecided) -> None:
        self._decisions[e.action] = DecisionView(
            action=e.action,
            allow=e.allow,
            obligations=e.obligations,
            unmet=e.unmet,
            reasons=e.reasons,
            at=e.at,
        )

    def _front_end(self, e: ev.FrontEndSeen) -> None:
        if e.attached:
            self._set(lost="")

    def _waits_for(self, e: people.DecisionWaits) -> None:
        before = self._waits.get(e.what)
        self._waits[e.what] = WaitView(
            what=e.what, level=e.level, at=e.at, by="" if before is None else before.by
        )

    def _acknowledged(self, e: people.DecisionAcknowledged) -> None:
        wait = self._waits.get(e.what)
        if wait is None:
            wait = WaitView(what=e.what, level="", at=e.at)
        self._waits[e.what] = replace(wait, by=e.by)

    def _soak(self, e: people.SoakChanged) -> None:
        broken = 0 if self._view.soak is None else self._view.soak.broken
        self._set(
            soak=SoakView(
                state=e.state,
                since=e.since,
                until=e.until,
                reason=e.reason,
                broken=broken + (e.state == "broken"),
            )
        )

    def _stopped(self, e: people.HardStopStage) -> None:
        self._hard_stop[e.stage] = HardStopView(stage=e.stage, ok=e.ok, detail=e.detail, at=e.at)


class WorkFold:
    """Folds the events of what was done in the world besides the canary."""

    def __init__(self) -> None:
        self._stages: dict[str, StageView] = {}
        self._tags: dict[str, TagView] = {}
        self._flags: dict[str, FlagView] = {}
        self._kpis: dict[str, KpiView] = {}
        self._issues: dict[tuple[str, str], IssueView] = {}
        self._incidents: dict[str, IncidentView] = {}
        self._drills: dict[str, DrillView] = {}
        self._fix_train = ("", "", "")
        self._posted: dict[tuple[str, str], None] = {}
        self.handlers: dict[type, Callable[[Any], None]] = {
            work.StageStarted: self._stage_started,
            work.StageSeen: self._stage_seen,
            work.StageEnded: self._stage_ended,
            work.TagCut: self._tag,
            work.FlagChanged: self._flag,
            work.KpiMeasured: self._kpi,
            work.IssueFiled: self._issue,
            work.IncidentChanged: self._incident,
            work.FixTrainScheduled: self._train,
            work.DrillRun: self._drill,
            ev.MessagePosted: self._message,
        }

    def snapshot(self) -> WorkView:
        """Return the view as of what was folded."""
        return WorkView(
            stages=tuple(self._stages.values()),
            tags=tuple(self._tags.values()),
            flags=tuple(self._flags.values()),
            kpis=tuple(self._kpis.values()),
            issues=tuple(self._issues.values()),
            incidents=tuple(self._incidents.values()),
            drills=tuple(self._drills.values()),
            fix_train=self._fix_train,
            posted=tuple(self._posted),
        )

    def _stage_started(self, e: work.StageStarted) -> None:
        self._stages[e.env] = StageView(env=e.env, images=e.images)

    def _stage_seen(self, e: work.StageSeen) -> None:
        stage = self._stages.get(e.env)
        if stage is not None:
            self._stages[e.env] = replace(stage, stage=e.stage, weight=e.weight, detail=e.detail)

    def _stage_ended(self, e: work.StageEnded) -> None:
        stage = self._stages.get(e.env)
        if stage is not None:
            self._stages[e.env] = replace(stage, result=e.result, reason=e.reason, running=e.running)

    def _tag(self, e: work.TagCut) -> None:
        self._tags[e.tag] = TagView(
            tag=e.tag, kind=e.kind, commit=e.commit, object=e.object, fingerprint=e.fingerprint
        )

    def _flag(self, e: work.FlagChanged) -> None:
        self._flags[e.flag] = FlagView(flag=e.flag, now=e.now, scope=e.scope, by=e.by, at=e.at)

    def _kpi(self, e: work.KpiMeasured) -> None:
        self._kpis[e.name] = KpiView(
            name=e.name,
            unit=e.unit,
            value=e.value,
            baseline=e.baseline,
            change=e.change,
            regressed=e.regressed,
            outcome=e.outcome,
            reason=e.reason,
        )

    def _issue(self, e: work.IssueFiled) -> None:
        self._issues[(e.kind, e.key)] = IssueView(
            kind=e.kind, key=e.key, number=e.number, url=e.url, title=e.title
        )

    def _incident(self, e: work.IncidentChanged) -> None:
        self._incidents[e.incident] = IncidentView(
            incident=e.incident, state=e.state, severity=e.severity, title=e.title, url=e.url, at=e.at
        )

    def _train(self, e: work.FixTrainScheduled) -> None:
        self._fix_train = (e.issue, e.window_start, e.window_end)

    def _drill(self, e: work.DrillRun) -> None:
        self._drills[e.drill] = DrillView(
            drill=e.drill,
            kind=e.kind,
            env=e.env,
            passed=e.passed,
            seconds=e.seconds,
            reason=e.reason,
            at=e.at,
        )

    def _message(self, e: ev.MessagePosted) -> None:
        if e.ok:
            self._posted[(e.macro, e.webhook)] = None
