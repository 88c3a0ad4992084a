"""The events of a promotion that was earned, step by step, to be told otherwise by tests."""

from __future__ import annotations

import json
from collections.abc import Mapping

from msgspec.structs import replace

from cockpit.journal import events as ev
from cockpit.journal.base import Event
from cockpit.journal.blobs import BlobStore
from cockpit.plan.model import Canary
from cockpit.rpc.messages import GateVerdict, GoNoGo, Judged, Query, VerdictDetails
from cockpit.rpc.validate import encode
from cockpit.verdicts.analysis import look_of
from cockpit.verdicts.questions import look_document, look_params, stable_names
from cockpit.verdicts.rules import find
from tests.unit.verdicts.samples import AT, good

CHECKLIST = GoNoGo(
    version="v3.0.0", gates={"policy": "pass"}, headroom={}, exceptions=[], risk_open=[],
    drill_recent=None, evidence_signed=True, go=True,
)  # fmt: skip


class Promotion:
    """Makes events whose blobs hold what they tell."""

    def __init__(self, blobs: BlobStore, plan_sha256: str, canary: Canary) -> None:
        self._blobs = blobs
        self._plan_sha256 = plan_sha256
        self._canary = canary
        self._kept: dict[bytes, str] = {}

    def events(self) -> list[Event]:
        """Return everything from step 1 to the release."""
        found: list[Event] = []
        for step, weight in enumerate(self._canary.steps, start=1):
            found += [
                ev.StepStarted(step=step, weight=weight),
                ev.StepStage(step=step, stage="preflight"),
                *self.decision(step),
                ev.StepStage(step=step, stage="shift"),
                *effect(f"e{step}", "forward", "shift", f"canary weight {weight}"),
                ev.StepStage(step=step, stage="bake"),
                *(self.look(step, number) for number in range(1, self._canary.required_passes + 1)),
                self.verdict(step),
                answer(step),
                ev.StepStage(step=step, stage="decide"),
                ev.StepDecided(step=step, weight=weight, decision="advance", reason="it passed"),
            ]
        last = len(self._canary.steps)
        return [
            *found[1:],  # the run they are told in has begun the first step
            *self.decision(last + 1),
            ev.StepStage(step=last, stage="promote"),
            *effect(f"e{last + 1}", "forward", "promote", "web-stable"),
            *effect(f"e{last + 2}", "forward", "shift", "canary weight 0, stable is new"),
            ev.Released(version="v3.0.0"),
        ]

    def decision(self, step: int, *, go: bool = True) -> list[Event]:
        """Return the required gates and the checklist before a step."""
        reasons = [] if go else ["risk R is open and rated high"]
        checklist = CHECKLIST.model_copy(update={"go": go, "reasons": reasons})
        blob = self._blobs.put(encode(checklist)).digest
        return [
            ev.RequiredGates(gates={"policy": "pass"}),
            ev.GoNoGoComputed(go=go, reasons=reasons, headroom={}, blob=blob, step=step),
        ]

    def look(
        self, step: int, number: int, *, window_s: float = 8, answers: Mapping[str, bytes] | None = None
    ) -> ev.LookTaken:
        """Return one look, judged from answers; a healthy one if none are given."""
        raw, weight = {**good(), **(answers or {})}, self._canary.steps[step - 1]
        carried = stable_names(self._canary) if weight == 100 else ()
        params = look_params(self._canary, window_s=window_s, weight=weight, now=AT, carried=carried)
        look = look_of(raw, params)
        digests = {name: self._keep(data) for name, data in raw.items()}
        return ev.LookTaken(
            step=step,
            look=number,
            outcome=look.outcome,
            critical=look.critical,
            reason=look.reason,
            requests=look.requests,
            metrics=look.metrics,
            burn=look.burn,
            passes=number,
            required=self._canary.required_passes,
            failures=0,
            answers=self._blobs.put(look_document(params, digests, {})).digest,
        )

    def _keep(self, data: bytes) -> str:
        if data not in self._kept:
            self._kept[data] = self._blobs.put(data).digest
        return self._kept[data]

    def verdict(self, step: int, *, ok: bool | None = True, agent: str = "A20") -> ev.GateJudged:
        """Return what the canary-phase agent judged under a step; None: it could not tell."""
        checks = [{"name": "chain", "ok": ok, "detail": "seen"}] if ok is not None else "cut off"
        raw = json.dumps({"checks": checks}).encode()
        params = {"required": ["chain"]}
        judgement = find("named_checks")({"checks": raw}, params)
        digest = self._blobs.put(raw).digest
        images = dict.fromkeys(_SERVICES, "sha256:" + "a" * 64)
        verdict = GateVerdict(
            gate="policy",
            env="prod",
            verdict="pass" if judgement.passed else "fail",
            metrics=judgement.metrics,
            thresholds=list(judgement.thresholds),
            details=VerdictDetails(
                phase_gate="audit",
                outcome=judgement.outcome,
                reason=judgement.reason,
                judged=Judged(images=images, env="prod", plan_sha256=self._plan_sha256, valid_s=86400.0),
                queries=[
                    Query(text="journal", backend="journal", asked_at="2025-09-23T08:00:00Z", answer=digest)
                ],
                rule={"name": "named_checks", "params": params, "answers": {"checks": digest}},
            ),
        )
        return ev.GateJudged(
            gate="policy",
            phase_gate="audit",
            agent=agent,
            phase="P6",
            env="prod",
            verdict=verdict.verdict,
            outcome=judgement.outcome,
            reason=judgement.reason,
            metrics=dict(judgement.metrics),
            thresholds=list(judgement.thresholds),
            images=images,
            plan_sha256=self._plan_sha256,
            valid_s=86400.0,
            verdict_blob=self._blobs.put(encode(verdict)).digest,
            step=step,
        )


_SERVICES = ("gateway", "web", "search", "realtime", "reports", "ingest")


def effect(name: str, lane: str, verb: str, target: str) -> list[Event]:
    """Return a mutation of prod that was acknowledged."""
    return [
        ev.EffectIntended(effect=name, lane=lane, verb=verb, target=target, env="prod", by="A1"),
        ev.EffectDone(effect=name, took_ms=1.0),
    ]


def answer(step: int) -> ev.AgentAnswered:
    """Return the canary-phase agent's answer under a step."""
    return ev.AgentAnswered(
        call=f"c{step}", agent="A20", phase="P6", op="VERIFY", result="ok", notes="", next="", took_ms=1.0
    )


# -- telling it otherwise -----------------------------------------------------------------------------


def index_of(events: list[Event], kind: type[Event], **fields: object) -> int:
    """Return where the first event of a kind with these fields is; raises ValueError without one."""
    for at, event in enumerate(events):
        if type(event) is kind and all(getattr(event, name) == value for name, value in fields.items()):
            return at
    raise ValueError(f"no {kind.__name__} with {fields}")


def without(events: list[Event], kind: type[Event], **fields: object) -> list[Event]:
    """Leave out every event of a kind with these fields."""
    first = index_of(events, kind, **fields)
    rest = [
        event
        for event in events[first:]
        if type(event) is not kind or any(getattr(event, name) != value for name, value in fields.items())
    ]
    return events[:first] + rest


def before(events: list[Event], new: list[Event], kind: type[Event], **fields: object) -> list[Event]:
    """Put events before the first of a kind with these fields."""
    at = index_of(events, kind, **fields)
    return [*events[:at], *new, *events[at:]]


def instead(events: list[Event], new: list[Event], kind: type[Event], **fields: object) -> list[Event]:
    """Put events in the place of the first of a kind with these fields."""
    at = index_of(events, kind, **fields)
    return [*events[:at], *new, *events[at + 1 :]]


def but(events: list[Event], kind: type[Event], said: dict[str, object], **fields: object) -> list[Event]:
    """Have the first event of a kind with these fields say something else."""
    at = index_of(events, kind, **fields)
    return [*events[:at], replace(events[at], **said), *events[at + 1 :]]
