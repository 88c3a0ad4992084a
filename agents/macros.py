"""The messages of seed section 13, filled in: their words, whom they are for, and what they are to machines.

Facts come first: a message leaves out what this run does not do, and says so where a rollback is not verified.

| macro | once a | people | alert | CDEvents |
| --- | --- | --- | --- | --- |
| start | run | release, oncall | `release` begins | pipelinerun.started |
| step | step | – | – | environment.modified; with the first, service.deployed |
| breach | step | release, oncall | `breach@…` begins, `release` ends | service.rolledback, incident.detected, pipelinerun.finished |
| ga | run | release, oncall | all of the run end | service.upgraded, pipelinerun.finished |
| hard_stop | step | oncall, cab | `hard_stop@…` begins, `release` ends | incident.reported, or detected without a ticket |
| resolved | matter | release, oncall | its matter ends | incident.resolved |
| correction | text | all | – | – |

A receiver of CDEvents is a machine: it gets its events whatever its audience.
"""  # noqa: E501

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cockpit.backends import cdevents
from cockpit.backends.notices import About, Alert, Message, Occurrence, Part, ServiceFact, Severity
from cockpit.base.text import visible
from cockpit.journal.state import ReleaseState
from cockpit.plan.model import Plan, Webhook

AUDIENCE: dict[str, tuple[str, ...]] = {
    "start": ("release", "oncall"),
    "step": (),
    "breach": ("release", "oncall"),
    "ga": ("release", "oncall"),
    "hard_stop": ("oncall", "cab"),
    "resolved": ("release", "oncall"),
    "correction": ("release", "oncall", "cab"),
}
MACROS = tuple(AUDIENCE)
FACTS = ("cause", "by", "incident", "url", "of", "text", "reason", "matter")
"""What a caller may add to a message, by name."""

_ONE_A_STEP = frozenset({"step", "breach", "hard_stop"})
_ASKED_FOR = frozenset({"manual", "halt", "signal", "crash"})
"""Reasons of a rollback that are no breach."""
_RELEASE = "release"
_MAX_KEY = 200
_TITLES = {
    "slo": "SLO",
    "perf": "Perf",
    "supply_chain": "SupplyChain",
    "migrations": "Migrations",
    "policy": "Policy",
    "dr": "DR",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """A macro that is to be posted: `weight` in percent, `facts` by the names in FACTS."""

    macro: str
    step: int = 0
    weight: int = 0
    gate: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return what tells it from every other message of the run: `start`, `breach@2`."""
        if self.macro in _ONE_A_STEP:
            return f"{self.macro}@{self.step}"
        if self.macro == "resolved":
            return f"resolved-{self.facts.get('matter') or 'all'}"
        if self.macro == "correction":
            said = f"{self.facts.get('of', '')}\0{self.facts.get('text', '')}"
            return f"correction-{hashlib.sha256(said.encode('utf-8', 'replace')).hexdigest()[:12]}"
        return self.macro


def notice_of(macro: str, params: Mapping[str, Any]) -> Notice:
    """Return the notice a request's parameters describe; texts are bounded and made visible."""
    step, weight = params.get("step", 0), params.get("weight", 0)
    return Notice(
        macro=macro,
        step=step if isinstance(step, int) else 0,
        weight=weight if isinstance(weight, int) else 0,
        gate=visible(str(params.get("gate", "")), limit=100),
        facts={name: visible(str(params[name]), limit=500) for name in FACTS if params.get(name)},
    )


def receivers(plan: Plan, macro: str) -> tuple[Webhook, ...]:
    """Return the webhooks a macro is for."""
    wanted = set(AUDIENCE[macro])
    return tuple(
        hook
        for hook in plan.targets.webhooks
        if (hook.kind == "cdevents" and macro != "correction") or wanted & set(hook.audience)
    )


def about(plan: Plan, state: ReleaseState, run_id: str) -> About:
    """Return which release and run a message is of."""
    before = state.canary.stable_images
    return About(
        run_id=run_id,
        repo=plan.repo,
        version=plan.target_version,
        environment=plan.environment,
        rehearsal=plan.rehearsal,
        services=tuple(
            ServiceFact(one.name, one.image.text, before.get(one.stable_deployment, ""))
            for one in plan.services
        ),
    )


def message(
    plan: Plan,
    state: ReleaseState,
    notice: Notice,
    *,
    run_id: str,
    webhook: str,
    at: str,
    trace_id: str,
    matters: tuple[str, ...] = (),
) -> Message:
    """Return a notice as a message to one webhook; `matters` are those still open there.

    The key is made of run, macro, step and webhook: it is the same whoever makes it, and whenever.
    """
    which = about(plan, state, run_id)
    return Message(
        key=key_of(run_id, notice, webhook),
        kind=notice.macro,
        parts=parts(plan, state, notice),
        about=which,
        at=at,
        step=notice.step,
        weight=notice.weight,
        gate=notice.gate,
        trace_id=trace_id,
        alerts=_alerts(notice, state, at, matters),
        occurrences=_occurrences(which, notice, state),
        facts=dict(notice.facts),
    )


def key_of(run_id: str, notice: Notice, webhook: str) -> str:
    """Return the idempotency key of a notice to a webhook."""
    key = f"{run_id}:{notice.name}:{webhook}"
    if len(key) <= _MAX_KEY and key.isascii() and key.isprintable():
        return key
    return f"{run_id}:{hashlib.sha256(key.encode('utf-8', 'replace')).hexdigest()}"


# -- words --------------------------------------------------------------------------------------------


def parts(plan: Plan, state: ReleaseState, notice: Notice) -> tuple[Part, ...]:
    """Return the words of a notice."""
    version = plan.target_version
    weight = Part(f"{notice.weight or notice.step}%", "bold")
    match notice.macro:
        case "start":
            return _start(plan)
        case "step":
            many = len(plan.canary.steps)
            said = f" (step {notice.step} of {many})."
            return (Part("Canary of "), Part(version, "code"), Part(" at "), weight, Part(said))
        case "breach":
            return _breach(plan, state, notice, weight)
        case "ga":
            words = f" at 100%. {_flags(plan, state)} Evidence attached; {_kpi(plan)}."
            return (Part(version, "bold"), Part(words))
        case "hard_stop":
            return _hard_stop(plan, state, notice, weight)
        case "resolved":
            matter = notice.facts.get("matter") or "every open matter"
            why = _outside(notice.facts.get("reason", ""), before=" ", after=".")
            return (
                Part("Resolved: "),
                Part(matter, "outside"),
                Part(" of "),
                Part(version, "code"),
                Part("."),
                *why,
            )
        case _:
            said = notice.facts.get("of") or "last"
            head = (Part("Correction", "bold"), Part(" to the "), Part(said, "outside"), Part(" message of "))
            return (*head, Part(version, "code"), Part(": "), Part(notice.facts.get("text", ""), "outside"))


def _start(plan: Plan) -> tuple[Part, ...]:
    gates = "/".join(_TITLES[gate] for gate in plan.required_gates)
    stage = next((one for one in plan.stages if one.environment == "stage"), None)
    # A run without an environment before prod must not claim a canary there.
    where = "" if stage is None else " — stage canary" if stage.steps else " — stage"
    rest = f"{where}. Gates: {gates}. Evidence to follow. On-call: {','.join(plan.oncall)}."
    return (Part("Cutting "), Part(plan.target_version, "code"), Part(rest))


def _breach(plan: Plan, state: ReleaseState, notice: Notice, weight: Part) -> tuple[Part, ...]:
    reason = state.rollback.reason if state.rollback is not None else ""
    unfinished = _unfinished(state)
    if reason in _ASKED_FOR:
        by = state.rollback.by if state.rollback is not None else ""
        said = (Part("Canary of "), Part(plan.target_version, "code"), Part(" taken back from "), weight)
        why = (Part(" — "), Part("rollback", "bold"), Part(f", no breach: {reason} by "), Part(by, "outside"))
        return (*said, *why, Part("."), *unfinished, Part(" Evidence + traces attached."))
    head = (Part("Canary breach at "), weight, Part(" — "), Part("auto-rollback", "bold"), Part(". Gate: "))
    gate = Part(notice.gate or "unknown", "outside")
    return (*head, gate, Part("."), *unfinished, Part(" Evidence + traces attached."))


def _hard_stop(plan: Plan, state: ReleaseState, notice: Notice, weight: Part) -> tuple[Part, ...]:
    where = (Part(" at "), weight) if notice.weight or notice.step else ()
    cause = notice.facts.get("cause") or (state.rollback.cause if state.rollback is not None else "")
    incident = " ".join(filter(None, (notice.facts.get("incident"), notice.facts.get("url"))))
    return (
        Part("Hard stop", "bold"),
        Part(" of "),
        Part(plan.target_version, "code"),
        *where,
        *_outside(cause, before=": ", after=""),
        Part(f". HALT → ROLLBACK: {_rollback(state)}."),
        *_outside(incident, before=" Incident: ", after="."),
        Part(f" On-call: {','.join(plan.oncall)}."),
        *((Part(f" CAB: {','.join(plan.cab)}."),) if plan.cab else ()),
    )


def _outside(text: str, *, before: str, after: str) -> tuple[Part, ...]:
    return (Part(before), Part(text, "outside"), Part(after)) if text else ()


def _rollback(state: ReleaseState) -> str:
    known = {
        "verified": "done and verified",
        "running": "under way",
        "unfinished": "NOT finished, a person must act",
    }
    return "not begun" if state.rollback is None else known.get(state.rollback.status, state.rollback.status)


def _unfinished(state: ReleaseState) -> tuple[Part, ...]:
    if state.rollback is None or state.rollback.status != "unfinished":
        return ()
    return (Part(" The rollback is "), Part("NOT finished", "bold"), Part(": a person must act."))


def _flags(plan: Plan, state: ReleaseState) -> str:
    flags = ",".join(plan.ga_flags)
    scopes = {one.flag: one.scope for one in state.work.flags}
    # The message must not say more than this run has done so far.
    if flags and all(scopes.get(flag) == "all" for flag in plan.ga_flags):
        return f"GA flags flipped: {flags}."
    if "P8" in plan.phases and "A55" in plan.agents:
        return f"GA flags to be flipped in P8: {flags}."
    return f"GA flags not flipped by this run: {flags}."


def _kpi(plan: Plan) -> str:
    scheduled = plan.kpis is not None and "P8" in plan.phases and "A43" in plan.agents
    return "+24h KPI scheduled" if scheduled else "+24h KPI not part of this run"


# -- to machines --------------------------------------------------------------------------------------


def _alerts(notice: Notice, state: ReleaseState, at: str, matters: tuple[str, ...]) -> tuple[Alert, ...]:
    over = tuple(_alert(matter, at, over=True) for matter in matters)
    match notice.macro:
        case "start":
            return (_alert(_RELEASE, at),)
        case "breach" if state.rollback is not None and state.rollback.reason in _ASKED_FOR:
            return (_alert(_RELEASE, at, over=True),)
        case "breach" | "hard_stop":
            return (_alert(notice.name, at), _alert(_RELEASE, at, over=True))
        case "ga":
            return (_alert(_RELEASE, at, over=True), *over)
        case "resolved":
            wanted = notice.facts.get("matter")
            return (_alert(wanted, at, over=True),) if wanted else over
    return ()


def _alert(matter: str, at: str, *, over: bool = False) -> Alert:
    names = {"breach": "ReleaseBreach", "hard_stop": "ReleaseHardStop"}
    name = names.get(matter.partition("@")[0], "ReleaseInProgress")
    severity: Severity = "info" if name == "ReleaseInProgress" else "critical"
    # When it began the receiver knows; an end needs a beginning that is not after it.
    return Alert(matter, name, severity, "resolved" if over else "firing", at)


def open_matters(posted: tuple[tuple[str, str], ...], webhook: str) -> tuple[str, ...]:
    """Return the matters a webhook was told the beginning of, and not yet the end, by what was posted."""
    names = [name for name, hook in posted if hook == webhook]
    if "resolved-all" in names:
        return ()
    begun = [name for name in names if name.startswith(("breach@", "hard_stop@"))]
    return tuple(name for name in begun if f"resolved-{name}" not in names)


def _occurrences(which: About, notice: Notice, state: ReleaseState) -> tuple[Occurrence, ...]:
    match notice.macro:
        case "start":
            return (cdevents.started(which),)
        case "step":
            deployed = [cdevents.service(which, "deployed", one, one.image) for one in which.services]
            return (*(deployed if notice.step == 1 else ()), cdevents.modified(which))
        case "breach":
            return _rolled_back(which, notice, state)
        case "ga":
            upgraded = [cdevents.service(which, "upgraded", one, one.image) for one in which.services]
            return (*upgraded, cdevents.finished(which, "success"))
        case "hard_stop":
            cause = notice.facts.get("cause", "hard stop")
            ticket = notice.facts.get("url", "")
            kind = "reported" if ticket.startswith(("http://", "https://")) else "detected"
            return (cdevents.incident(which, kind, _incident(which, notice), cause, ticket),)
        case "resolved":
            why = notice.facts.get("reason", "resolved")
            return (cdevents.incident(which, "resolved", _incident(which, notice), why),)
    return ()


def _rolled_back(which: About, notice: Notice, state: ReleaseState) -> tuple[Occurrence, ...]:
    found: list[Occurrence] = []
    rollback = state.rollback
    if rollback is not None and rollback.status == "verified":
        # Nobody is told of a rollback that was not seen to have happened, nor of an image nobody knows.
        known = [one for one in which.services if one.before]
        found += [cdevents.service(which, "rolledback", one, one.before) for one in known]
    if rollback is None or rollback.reason not in _ASKED_FOR:
        said = f"canary breach at {notice.weight}%, gate {notice.gate or 'unknown'}"
        found.append(cdevents.incident(which, "detected", _incident(which, notice), said))
    why = notice.gate or (rollback.reason if rollback is not None else "rolled back")
    return (*found, cdevents.finished(which, "failure", why))


def _incident(which: About, notice: Notice) -> str:
    return notice.facts.get("incident") or f"{which.run_id}/{notice.facts.get('matter') or notice.name}"
