"""The one fold: events in, `ReleaseState` out. Live, follow, replay, resume and the auditor all use it.

Inside it is a mutable reducer for speed; `snapshot()` gives frozen values. It is pure: no clock, no I/O.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

from msgspec.structs import replace

from cockpit.journal import events as ev
from cockpit.journal import events_people as people
from cockpit.journal.events import AnyEvent
from cockpit.journal.fold_people import PeopleFold, WorkFold
from cockpit.journal.state import (
    AgentView,
    ArtifactView,
    CanaryView,
    Closed,
    EffectView,
    GateView,
    HaltView,
    LookView,
    PackView,
    PhaseView,
    QuestionView,
    ReleaseState,
    RiskView,
    RollbackView,
)

_KEPT_ERRORS = 5
PHASES = ("P0", "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8")


class Fold:
    """Folds events into a state; feed it with `apply`, read it with `snapshot`."""

    def __init__(self) -> None:
        self._seq = -1
        self._at = ""
        self._run: ev.RunOpened | None = None
        self._phases: dict[str, PhaseView] = {}
        self._agents: dict[str, AgentView] = {}
        self._gates: dict[tuple[str, str, str], GateView] = {}
        self._required: dict[str, str] = {}
        self._gate_reasons: dict[str, str] = {}
        self._go: bool | None = None
        self._no_go: list[str] = []
        self._headroom: dict[str, float] = {}
        self._canary = CanaryView()
        self._shifts: set[str] = set()
        self._weighed = False
        self._open: dict[str, EffectView] = {}
        self._done = 0
        self._unknown: dict[str, EffectView] = {}
        self._halt: HaltView | None = None
        self._rollback: RollbackView | None = None
        self._questions: dict[str, QuestionView] = {}
        self._risks: dict[str, RiskView] = {}
        self._artifacts: dict[str, ArtifactView] = {}
        self._packs: list[PackView] = []
        self._pending: dict[str, str] = {}
        self._waivers: list[tuple[str, str, str]] = []
        self._lease = ""
        self._fence = 0
        self._front_ends: dict[str, int] = {}
        self._messages = 0
        self._messages_failed = 0
        self._gaps = 0
        self._errors: list[str] = []
        self._closed: Closed | None = None
        self._people = PeopleFold()
        self._work = WorkFold()
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.RunOpened: self._run_opened,
            ev.RunResumed: self._run_resumed,
            people.RunReopened: self._run_reopened,
            ev.RunClosed: self._run_closed,
            ev.WaiverRecorded: lambda e: self._waivers.append((e.what, e.owner, e.reason)),
            ev.Noted: self._noted,
            ev.JournalGap: self._gap,
            ev.PhaseStarted: self._phase_started,
            ev.PhaseEnded: self._phase_ended,
            ev.AgentCalled: self._agent_called,
            ev.AgentAnswered: self._agent_answered,
            ev.AgentFailed: self._agent_failed,
            ev.ArtifactWritten: self._artifact_written,
            ev.ArtifactSigned: self._artifact_signed,
            ev.EvidencePending: self._evidence_pending,
            ev.EvidenceSealed: self._evidence_sealed,
            ev.GateJudged: self._gate_judged,
            ev.RequiredGates: self._required_gates,
            ev.GoNoGoComputed: self._gonogo,
            ev.RiskChanged: self._risk_changed,
            ev.StepStarted: self._step_started,
            ev.StepStage: self._step_stage,
            ev.WeightSeen: self._weight_seen,
            ev.ReplicasSeen: self._replicas_seen,
            ev.StableRecorded: self._stable_recorded,
            ev.LookTaken: self._look_taken,
            ev.StepDecided: self._step_decided,
            ev.Released: self._released,
            ev.EffectIntended: self._effect_intended,
            ev.EffectDone: self._effect_done,
            ev.EffectFailed: self._effect_failed,
            ev.EffectUnknown: self._effect_unknown,
            people.EffectResolved: self._effect_resolved,
            ev.FrontEndSeen: self._front_end,
            ev.HaltBegan: self._halt_began,
            ev.HaltReason: self._halt_reason,
            ev.HaltEnded: self._halt_ended,
            ev.Question: self._question,
            ev.QuestionAnswered: self._question_answered,
            ev.RollbackStarted: self._rollback_started,
            ev.RollbackStage: self._rollback_stage,
            ev.RollbackVerified: self._rollback_verified,
            ev.RollbackUnfinished: self._rollback_unfinished,
            ev.LeaseChanged: self._lease_changed,
            ev.MessagePosted: self._message_posted,
        }
        for part in (self._people.handlers, self._work.handlers):
            for kind, handler in part.items():
                mine = self._handlers.get(kind)
                self._handlers[kind] = handler if mine is None else _both(mine, handler)

    def apply(self, event: AnyEvent) -> None:
        """Take in one event; types without a handler only move `seq` and `at`."""
        self._seq = event.seq
        self._at = event.at
        handler = self._handlers.get(type(event))
        if handler is not None:
            handler(event)

    def apply_all(self, events: Iterable[AnyEvent]) -> Fold:
        """Take in many events and return the fold."""
        handlers = self._handlers
        event: AnyEvent | None = None
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                self._at = event.at
                handler(event)
        if event is not None:
            self._seq, self._at = event.seq, event.at
        return self

    def copy(self) -> Fold:
        """Return a fold that goes on from here by itself."""
        twin = Fold()
        _copy_into(twin, self)
        _copy_into(twin._people, self._people)
        _copy_into(twin._work, self._work)
        return twin

    @property
    def mode(self) -> str:
        """Return the run's mode: opening, running, halted, rolling_back, released or closed."""
        if self._closed is not None:
            return "closed"
        if self._rollback is not None:
            return "rolling_back"
        if self._halt is not None and self._halt.active:
            return "halted"
        if self._canary.released:
            return "released"
        return "running" if self._run is not None else "opening"

    def snapshot(self) -> ReleaseState:
        """Return the state so far, frozen."""
        return ReleaseState(
            seq=self._seq,
            at=self._at,
            mode=self.mode,
            run=self._run,
            phases=tuple(self._phases.values()),
            agents=tuple(self._agents.values()),
            gates=tuple(self._gates.values()),
            required_gates=dict(self._required),
            gate_reasons=dict(self._gate_reasons),
            go=self._go,
            no_go_reasons=list(self._no_go),
            headroom=dict(self._headroom),
            canary=self._canary,
            effects_open=tuple(self._open.values()),
            effects_done=self._done,
            effects_unknown=tuple(self._unknown.values()),
            halt=self._halt,
            rollback=self._rollback,
            questions=tuple(self._questions.values()),
            risks=tuple(self._risks.values()),
            artifacts=tuple(self._artifacts.values()),
            packs=tuple(self._packs),
            pending=tuple(f"{what}: {reason}" for what, reason in self._pending.items()),
            waivers=tuple(self._waivers),
            lease=self._lease,
            fence=self._fence,
            front_ends=tuple(sorted(name for name, count in self._front_ends.items() if count > 0)),
            messages=self._messages,
            messages_failed=self._messages_failed,
            gaps=self._gaps,
            errors=tuple(self._errors),
            closed=self._closed,
            people=self._people.snapshot(),
            work=self._work.snapshot(),
        )

    # -- run ------------------------------------------------------------------------------------------

    def _run_opened(self, event: ev.RunOpened) -> None:
        self._run = event
        for phase in PHASES:
            if phase in event.phases:
                self._phases[phase] = PhaseView(phase)
            else:
                self._phases[phase] = PhaseView(phase, status="skipped", reason="not in the plan")
        for entry in event.roster:
            self._agents[entry.id] = AgentView(entry)
        self._required = dict.fromkeys(event.required_gates, "not evaluated")

    def _run_resumed(self, event: ev.RunResumed) -> None:
        # Whatever was under way when the last conductor died has no known end.
        self._closed = None
        for effect in list(self._open.values()):
            self._mark_unknown(effect, "the conductor ended before the result was recorded")
        for agent in list(self._agents.values()):
            if agent.status == "running":
                self._agents[agent.entry.id] = replace(agent, status="cancelled", notes=event.reason)
        self._front_ends.clear()

    def _run_reopened(self, event: people.RunReopened) -> None:
        self._closed = None
        if self._halt is not None:  # it ended with the sitting it was in
            self._halt = replace(self._halt, active=False)
        self._front_ends.clear()
        if not self._canary.moved:  # whatever stable is by now, it is looked at again
            self._canary = replace(
                self._canary, stable_replicas={}, stable_images={}, canary_images={}, stage=""
            )

    def _run_closed(self, event: ev.RunClosed) -> None:
        self._closed = Closed(event.exit, event.outcome, event.cause, event.at)
        for phase in [view for view in self._phases.values() if view.status == "running"]:
            ended = replace(phase, status="fail", ended_at=event.at, reason="the run ended in this phase")
            if phase.phase == "P8" and self._canary.released:
                ended = replace(phase, status="pending", reason="its figures are due later")
            self._phases[phase.phase] = ended
        for question in [view for view in self._questions.values() if not view.answer]:
            self._questions[question.question] = replace(question, answer="the run ended")

    def _noted(self, event: ev.Noted) -> None:
        if event.level == "error":
            self._errors = [*self._errors[-(_KEPT_ERRORS - 1) :], event.text]

    def _gap(self, event: ev.JournalGap) -> None:
        self._gaps += 1
        self._errors = [*self._errors[-(_KEPT_ERRORS - 1) :], f"journal gap: {event.reason}"]

    # -- phases, agents, gates ------------------------------------------------------------------------

    def _phase_started(self, event: ev.PhaseStarted) -> None:
        self._phases[event.phase] = PhaseView(event.phase, "running", started_at=event.at)

    def _phase_ended(self, event: ev.PhaseEnded) -> None:
        before = self._phases.get(event.phase) or PhaseView(event.phase)
        self._phases[event.phase] = replace(
            before, status=event.result, ended_at=event.at, reason=event.reason
        )

    def _agent(self, agent: str) -> AgentView:
        known = self._agents.get(agent)
        if known is None:
            known = AgentView(ev.RosterEntry(agent, agent, "", [], built=False, required=False))
        return known

    def _agent_called(self, event: ev.AgentCalled) -> None:
        before = self._agent(event.agent)
        self._agents[event.agent] = replace(
            before, status="running", phase=event.phase, op=event.op, at=event.at, calls=before.calls + 1
        )

    def _agent_answered(self, event: ev.AgentAnswered) -> None:
        self._agents[event.agent] = replace(
            self._agent(event.agent),
            status=event.result,
            phase=event.phase,
            op=event.op,
            notes=event.notes,
            next=event.next,
            took_ms=event.took_ms,
            at=event.at,
            response=event.response,
        )

    def _agent_failed(self, event: ev.AgentFailed) -> None:
        self._agents[event.agent] = replace(
            self._agent(event.agent),
            status=event.kind,
            phase=event.phase,
            op=event.op,
            notes=event.reason,
            next="",
            took_ms=event.took_ms,
            at=event.at,
        )

    def _artifact_written(self, event: ev.ArtifactWritten) -> None:
        self._artifacts[event.path] = ArtifactView(event.path, event.sha256, event.agent, event.kind)

    def _artifact_signed(self, event: ev.ArtifactSigned) -> None:
        known = self._artifacts.get(event.path) or ArtifactView(event.path, event.sha256, "", "evidence")
        self._artifacts[event.path] = replace(
            known, bundle=event.bundle, log_index=event.log_index, entry_id=event.entry_id
        )
        self._pending.pop(event.path, None)

    def _evidence_pending(self, event: ev.EvidencePending) -> None:
        self._pending[event.what] = event.reason

    def _evidence_sealed(self, event: ev.EvidenceSealed) -> None:
        self._packs.append(PackView(event.kind, event.path, event.sha256, event.log_index, event.entry_id))
        self._pending.pop(event.kind, None)

    def _gate_judged(self, event: ev.GateJudged) -> None:
        # P8 judges GA, never the promotion: it does not take the place of what did (gates.md).
        where = event.env if event.phase != "P8" else f"{event.env} after GA"
        self._gates[event.phase_gate, event.agent, where] = GateView(
            gate=event.gate,
            phase_gate=event.phase_gate,
            agent=event.agent,
            phase=event.phase,
            env=event.env,
            verdict=event.verdict,
            outcome=event.outcome,
            reason=event.reason,
            metrics=event.metrics,
            thresholds=event.thresholds,
            images=event.images,
            plan_sha256=event.plan_sha256,
            valid_s=event.valid_s,
            verdict_blob=event.verdict_blob,
            step=event.step,
            at=event.at,
            seq=event.seq,
        )

    def _required_gates(self, event: ev.RequiredGates) -> None:
        self._required = dict(event.gates)
        self._gate_reasons = dict(event.reasons)

    def _gonogo(self, event: ev.GoNoGoComputed) -> None:
        self._go, self._no_go, self._headroom = event.go, event.reasons, event.headroom

    def _risk_changed(self, event: ev.RiskChanged) -> None:
        self._risks[event.id] = RiskView(event.id, event.state, event.rating, event.reason, event.at)

    # -- canary ---------------------------------------------------------------------------------------

    def _step_started(self, event: ev.StepStarted) -> None:
        self._canary = replace(
            self._canary,
            step=event.step,
            target=event.weight,
            stage="",
            detail="",
            passes=0,
            required=0,
            failures=0,
            looks=0,
            last=None,
            decision="",
            reason="",
        )

    def _step_stage(self, event: ev.StepStage) -> None:
        self._canary = replace(self._canary, stage=event.stage, detail=event.detail)

    def _weight_seen(self, event: ev.WeightSeen) -> None:
        self._weighed = self._weighed or event.desired > 0
        canary = replace(
            self._canary,
            desired=event.desired,
            desired_at=event.at,
            moved=self._canary.moved or event.desired > 0,
        )
        if event.observed is not None:
            canary = replace(canary, observed=event.observed, observed_at=event.at)
        self._canary = canary

    def _replicas_seen(self, event: ev.ReplicasSeen) -> None:
        self._canary = replace(self._canary, replicas={**self._canary.replicas, **event.deployments})

    def _stable_recorded(self, event: ev.StableRecorded) -> None:
        self._canary = replace(
            self._canary,
            stable_replicas=event.replicas,
            stable_images=event.images,
            canary_images=event.canary,
        )

    def _look_taken(self, event: ev.LookTaken) -> None:
        if not event.watch:
            self._canary = replace(
                self._canary,
                looks=event.look,
                passes=event.passes,
                required=event.required,
                failures=event.failures,
            )
        self._canary = replace(
            self._canary,
            last=LookView(
                step=event.step,
                look=event.look,
                outcome=event.outcome,
                critical=event.critical,
                reason=event.reason,
                requests=event.requests,
                metrics=event.metrics,
                burn=event.burn,
                at=event.at,
                failures=event.failures,
            ),
        )

    def _step_decided(self, event: ev.StepDecided) -> None:
        self._canary = replace(self._canary, decision=event.decision, reason=event.reason)

    def _released(self, event: ev.Released) -> None:
        self._canary = replace(self._canary, released=True)

    # -- effects --------------------------------------------------------------------------------------

    def _effect_intended(self, event: ev.EffectIntended) -> None:
        self._open[event.effect] = EffectView(
            effect=event.effect,
            lane=event.lane,
            verb=event.verb,
            target=event.target,
            env=event.env,
            by=event.by,
            status="intended",
            at=event.at,
        )
        # From the intent on, traffic may have moved; that it was never sent is what takes this back.
        if event.verb == "shift" and event.lane == "forward" and event.env == "prod":
            self._shifts.add(event.effect)
            self._canary = replace(self._canary, moved=True)

    def _effect_done(self, event: ev.EffectDone) -> None:
        if self._open.pop(event.effect, None) is not None:
            self._done += 1

    def _effect_failed(self, event: ev.EffectFailed) -> None:
        self._open.pop(event.effect, None)
        if not event.sent and event.effect in self._shifts:
            self._shifts.discard(event.effect)
            if not self._shifts and not self._weighed:
                self._canary = replace(self._canary, moved=False)

    def _effect_unknown(self, event: ev.EffectUnknown) -> None:
        effect = self._open.get(event.effect)
        if effect is not None:
            self._mark_unknown(effect, event.reason)

    def _mark_unknown(self, effect: EffectView, reason: str) -> None:
        self._open.pop(effect.effect, None)
        self._unknown[effect.effect] = replace(effect, status="unknown", reason=reason)

    def _effect_resolved(self, event: people.EffectResolved) -> None:
        if self._unknown.pop(event.effect, None) is None:
            return
        if event.happened:
            self._done += 1
        elif event.effect in self._shifts:
            self._shifts.discard(event.effect)
            if not self._shifts and not self._weighed:
                self._canary = replace(self._canary, moved=False)

    # -- people and stops -----------------------------------------------------------------------------

    def _front_end(self, event: ev.FrontEndSeen) -> None:
        count = self._front_ends.get(event.name, 0) + (1 if event.attached else -1)
        self._front_ends[event.name] = max(0, count)

    def _halt_began(self, event: ev.HaltBegan) -> None:
        self._halt = HaltView(True, event.by, event.trigger, event.reason, event.epoch, event.at)

    def _halt_reason(self, event: ev.HaltReason) -> None:
        if self._halt is not None:
            self._halt = replace(self._halt, reason=event.reason)

    def _halt_ended(self, event: ev.HaltEnded) -> None:
        if self._halt is not None:
            self._halt = replace(self._halt, active=False)

    def _question(self, event: ev.Question) -> None:
        self._questions[event.question] = QuestionView(event.question, event.text, event.options, event.at)

    def _question_answered(self, event: ev.QuestionAnswered) -> None:
        known = self._questions.get(event.question)
        if known is not None:
            self._questions[event.question] = replace(known, answer=event.answer)

    def _rollback_started(self, event: ev.RollbackStarted) -> None:
        self._rollback = RollbackView("running", event.reason, event.cause, event.by, "", event.at)

    def _rollback_stage(self, event: ev.RollbackStage) -> None:
        if self._rollback is not None:
            self._rollback = replace(self._rollback, stage=event.stage)

    def _rollback_verified(self, event: ev.RollbackVerified) -> None:
        if self._rollback is not None:
            self._rollback = replace(self._rollback, status="verified", proof=event.proof)

    def _rollback_unfinished(self, event: ev.RollbackUnfinished) -> None:
        if self._rollback is not None:
            self._rollback = replace(self._rollback, status="unfinished", fallback=event.fallback)

    def _lease_changed(self, event: ev.LeaseChanged) -> None:
        self._lease = event.state
        if event.state == "acquired":  # of a refusal it is the other holder's number
            self._fence = event.fence

    def _message_posted(self, event: ev.MessagePosted) -> None:
        if event.ok:
            self._messages += 1
        else:
            self._messages_failed += 1


def _both(first: Callable[[Any], None], second: Callable[[Any], None]) -> Callable[[Any], None]:
    def both(event: Any) -> None:
        first(event)
        second(event)

    return both


_BOUND = frozenset({"_handlers", "handlers", "_people", "_work"})


def _copy_into(twin: object, original: object) -> None:
    # Containers hold frozen values only, so copying these is enough; handlers are bound to their fold.
    for name, value in vars(original).items():
        if name not in _BOUND:
            setattr(twin, name, copy.copy(value))
