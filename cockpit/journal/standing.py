"""Where a run stands, in the words people and scripts ask for: a pure function of its state and the time.

`cockpit status`, the API's `GET /v2/status` and the previews say the same because they all say this.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from cockpit.base.clock import parse_iso
from cockpit.journal.state import ReleaseState
from cockpit.journal.state_people import RequestView


class Wait(msgspec.Struct, frozen=True):
    """What is waited for: kind is halt, question, approval or handover (people), due or soak (time).

    `until` is when it ends by itself: an approval expires, a time comes.
    """

    kind: str
    id: str
    text: str
    since: str = ""
    options: list[str] = []
    until: str = ""


class Look(msgspec.Struct, frozen=True):
    """The last look at the canary."""

    outcome: str
    reason: str
    critical: bool
    at: str


class CanaryStanding(msgspec.Struct, frozen=True):
    """The canary: weights in percent, passes counted against those required."""

    step: int
    of: int
    target: int
    stage: str
    desired: int
    observed: float | None
    passes: int
    required: int
    failures: int
    looks: int
    decision: str
    last: Look | None


class WindowStanding(msgspec.Struct, frozen=True):
    """The release window; `opens_s` and `left_s` are seconds, 0 when that has passed."""

    start: str
    end: str
    open: bool
    opens_s: float
    left_s: float


class RollbackStanding(msgspec.Struct, frozen=True):
    """The abort and what began it; `fallback` has commands when it could not be finished."""

    status: str
    reason: str
    cause: str
    by: str
    stage: str
    at: str
    fallback: list[str]


class Standing(msgspec.Struct, frozen=True):
    """The whole standing. `phase` holds the phases that run; `exit` is None while the run goes on."""

    version: str
    environment: str
    run_id: str
    plan_sha256: str
    mode: str
    rehearsal: bool
    reduced: list[str]
    as_of: str
    record: int
    phase: list[str]
    phases: dict[str, str]
    gates: dict[str, str]
    go: bool | None
    no_go: list[str]
    canary: CanaryStanding
    window: WindowStanding | None
    waits: list[Wait]
    next_due: Wait | None
    operator: str
    sitting: int
    paused: bool
    """Whether the bake's clock stands still; analysis goes on."""
    front_ends: list[str]
    lease: str
    halted: bool
    breach: str
    rollback: RollbackStanding | None
    pending: list[str]
    exit: int | None
    outcome: str
    cause: str


def standing(state: ReleaseState, now: datetime) -> Standing:
    """Return where a run stands at `now`."""
    run, canary = state.run, state.canary
    return Standing(
        version=run.version if run else "",
        environment=run.environment if run else "",
        run_id=run.run_id if run else "",
        plan_sha256=run.plan_sha256 if run else "",
        mode=state.mode,
        rehearsal=bool(run and run.rehearsal),
        reduced=state.reduced,
        as_of=state.at,
        record=state.seq,
        phase=[view.phase for view in state.phases if view.status == "running"],
        phases={view.phase: view.status for view in state.phases},
        gates=dict(state.required_gates),
        go=state.go,
        no_go=list(state.no_go_reasons),
        canary=CanaryStanding(
            step=canary.step,
            of=len(run.steps) if run else 0,
            target=canary.target,
            stage=canary.stage,
            desired=canary.desired,
            observed=canary.observed,
            passes=canary.passes,
            required=canary.required,
            failures=canary.failures,
            looks=canary.looks,
            decision=canary.decision,
            last=Look(canary.last.outcome, canary.last.reason, canary.last.critical, canary.last.at)
            if canary.last
            else None,
        ),
        window=_window(run.window_start, run.window_end, now) if run else None,
        waits=_waits(state),
        next_due=_next_due(state, now),
        operator=operator_of(state),
        sitting=state.people.sitting,
        paused=state.people.paused,
        front_ends=list(state.front_ends),
        lease=state.lease,
        halted=state.halt is not None and state.halt.active,
        breach=_breach(state),
        rollback=_rollback(state),
        pending=list(state.pending),
        exit=state.closed.exit if state.closed else None,
        outcome=state.closed.outcome if state.closed else "",
        cause=state.closed.cause if state.closed else "",
    )


def operator_of(state: ReleaseState) -> str:
    """Return who operates the run: who took it over last, else who opened it."""
    return state.people.operator or (state.run.operator if state.run else "")


def _waits(state: ReleaseState) -> list[Wait]:
    if state.closed is not None:
        return []
    found = []
    if state.halt is not None and state.halt.active:
        text = f"HALT by {state.halt.by}: {state.halt.reason or 'no reason given yet'}"
        found.append(Wait("halt", f"halt-{state.halt.epoch}", text, state.halt.at))
    found += [
        Wait("question", q.question, q.text, q.at, list(q.options)) for q in state.questions if not q.answer
    ]
    people = state.people
    found += [
        Wait("approval", ask.request, _asked(ask), ask.at, ["approve", "reject"], ask.expires)
        for ask in people.requests
        if not ask.result
    ]
    if people.offered_to:
        text = f"the run is offered to {people.offered_to}, who has not taken it yet"
        found.append(Wait("handover", people.offered_to, text))
    what, due = people.not_due
    if what:
        found.append(Wait("due", what, f"{what} is not due yet", until=due))
    if people.soak is not None and people.soak.state == "running":
        found.append(Wait("soak", "soak", "the soak runs", people.soak.since, until=people.soak.until))
    return found


def _asked(ask: RequestView) -> str:
    counted = sum(one.counted and one.decision == "approve" for one in ask.statements)
    whom = f" of {', '.join(ask.groups)}" if ask.groups else ""
    return f"{ask.asked} of {ask.subject}: {counted} of {ask.threshold} approvals{whom}: {ask.text}"


def _next_due(state: ReleaseState, now: datetime) -> Wait | None:
    """Return what the clock brings next: a phase of the calendar, what waits for its time, the soak's end."""
    if state.closed is not None:
        return None
    begun = {view.phase for view in state.phases if view.status != "pending"}
    coming = [
        Wait("due", phase, f"{phase} may begin", until=when)
        for phase, when in state.people.due.items()
        if phase not in begun and _later(when, now)
    ]
    coming += [wait for wait in _waits(state) if wait.kind in ("due", "soak") and _later(wait.until, now)]
    return min(coming, key=lambda wait: wait.until, default=None)


def _later(when: str, now: datetime) -> bool:
    try:
        return parse_iso(when) > now
    except ValueError:
        return False


def _window(start: str, end: str, now: datetime) -> WindowStanding | None:
    try:
        begins, ends = parse_iso(start), parse_iso(end)
    except ValueError:
        return None
    return WindowStanding(
        start=start,
        end=end,
        open=begins <= now < ends,
        opens_s=max(0.0, (begins - now).total_seconds()),
        left_s=max(0.0, (ends - now).total_seconds()),
    )


def _breach(state: ReleaseState) -> str:
    """Return what the canary broke: the reason of the last look, where it failed."""
    last = state.canary.last
    if last is not None and last.outcome == "fail":
        return last.reason
    if state.rollback is not None and state.rollback.reason == "slo_breach":
        return state.rollback.cause
    return ""


def _rollback(state: ReleaseState) -> RollbackStanding | None:
    found = state.rollback
    if found is None:
        return None
    return RollbackStanding(
        status=found.status,
        reason=found.reason,
        cause=found.cause,
        by=found.by,
        stage=found.stage,
        at=found.at,
        fallback=list(found.fallback),
    )
