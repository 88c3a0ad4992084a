"""One release: lock, phases, promotion, and an ending that never leaves the canary where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cockpit.base.clock import Clock
from cockpit.base.errors import (
    BackendError,
    CockpitError,
    EffectRefused,
    JournalError,
    LockHeld,
)
from cockpit.base.tasks import alongside
from cockpit.base.text import visible
from cockpit.conductor.abort import Abort, Stable, fallback
from cockpit.conductor.bake import Analyst, Breach, Inconclusive
from cockpit.conductor.canary import Promotion, Wiring
from cockpit.conductor.dag import DEPENDS, run_graph
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.ending import (
    ApprovalMissing,
    Ending,
    PhaseFailed,
    Stopped,
    cause_text,
    exit_before_traffic,
    wire_reason,
)
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.lease import ReleaseLease
from cockpit.conductor.people import People, Stop
from cockpit.conductor.phases import Failure, Phases
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import Targets
from cockpit.journal.events import (
    Noted,
    RollbackStarted,
    RollbackUnfinished,
    RunResumed,
    WaiverRecorded,
)
from cockpit.plan.model import Plan
from cockpit.rpc.messages import Phase

_NOTARY, _QA, _CONDUCTOR, _COMMS = "A3", "A60", "A1", "A41"
_REACH_WITHIN = 60.0
"""Seconds a resumed abort tries to reach cluster and lease before it goes on without the lease."""
_REACH_PAUSE = 1.0
_LAST_IN_P6 = frozenset({_NOTARY, _QA, _CONDUCTOR, _COMMS})


class Sealer(Protocol):
    """Builds, signs and records evidence packs."""

    async def seal(self, kind: str) -> str:
        """Seal a pack of `kind` (promotion or closing); return why it could not be signed, or nothing."""
        ...


@dataclass(frozen=True)
class Parts:
    """What a release works with."""

    plan: Plan
    recorder: Recorder
    clock: Clock
    connect: Callable[[], Awaitable[None]]
    """Connects the back ends that must be; raises BackendError."""
    lease: ReleaseLease
    effects: EffectsGate
    targets: Targets
    abort_targets: Targets
    """The same objects through a client of its own that is already connected."""
    analyst: Analyst
    people: People
    phases: Phases
    gatekeeper: ReleaseGatekeeper
    sealer: Sealer
    takeover: str = ""
    """The reason for taking the lock of a holder that has gone."""


class Release:
    """Takes one release through its phases, or aborts one that was left behind."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._promotion = Promotion(
            Wiring(
                effects=parts.effects,
                targets=parts.targets,
                analyst=parts.analyst,
                gatekeeper=parts.gatekeeper,
                recorder=parts.recorder,
                plan=parts.plan,
                clock=parts.clock,
                resumed=parts.people.resumed,
                undecided=self._undecided,
            )
        )
        self._abort = Abort(
            effects=parts.effects,
            targets=parts.abort_targets,
            observer=parts.analyst,
            recorder=parts.recorder,
            plan=parts.plan,
            clock=parts.clock,
        )

    async def run(self) -> Ending:
        """Run the release to its end. Raises nothing but cancellation."""
        error: BaseException | None = None
        try:
            await self._prepare()
            await self._until_stopped(self._forward)
        except Exception as caught:  # noqa: BLE001 - every error must end in the right exit and, maybe, an abort
            error = caught
        if error is not None and self._promotion.carried and not _asked_for(error):
            # It is out and healthy; what fails behind it is trouble to look at, never a reason to redeploy.
            self._note(f"after the release: {cause_text(error)}")
            error = None
        if error is None and not self._promotion.carried:
            error = PhaseFailed([Failure("gate", "nothing was promoted")])
        if error is None:
            self._p.people.over()
            return await self._end(Ending(0, f"{self._p.plan.target_version} carries all traffic"))
        if not self._p.effects.prod_touched:
            self._p.people.over()
            return await self._end(Ending(exit_before_traffic(error), cause_text(error)))
        return await self._roll_back(error)

    async def abort_only(self, reason: str) -> Ending:
        """Take up a run whose conductor ended: look at the world and undo what may have been done."""
        self._p.people.over()
        state = self._p.recorder.state()
        canary = state.canary
        await self._p.recorder.record_abort(RunResumed(reason=reason, into="abort"))
        if canary.released and state.rollback is None:
            return await self._end(Ending(0, "released before the conductor ended"))
        stable = Stable(dict(canary.stable_replicas), dict(canary.stable_images))
        if not stable.replicas:
            # No promotion had begun: nothing of prod was changed but the fence annotation.
            return await self._end(Ending(30, reason))
        try:
            await self._reach(state.fence)
        except CockpitError as error:
            return await self._unfinished(canary.moved, f"{reason}; {cause_text(error)}", stable)
        replacing = canary.stage == "promote"
        async with alongside(self._p.lease.keep()):
            verified = await self._abort.run("crash", reason, "supervisor", stable, replacing=replacing)
        if not verified:
            return await self._end(Ending(21, reason))
        return await self._end(Ending(20 if canary.moved else 30, reason))

    async def _reach(self, fence: int) -> None:
        """Connect and take the lease again, for as long as an abort may wait; without it, go on unleased.

        An abort is refused by a foreign fence alone, and the number this run had is still its own.
        """
        self._p.lease.assume(fence)
        give_up = self._p.clock.monotonic() + _REACH_WITHIN
        while True:
            try:
                await self._p.connect()
                if await self._p.targets.highest_fence() > fence:
                    raise LockHeld(
                        "another release has changed these objects since",
                        hint="it is for its holder to abort; see `cockpit status`",
                    )
                await self._p.lease.acquire(floor=fence)
                return
            except (BackendError, JournalError) as error:
                if self._p.clock.monotonic() >= give_up:
                    self._note(f"the release lock could not be taken: {error}")
                    return
            await self._p.clock.sleep(_REACH_PAUSE)

    async def _unfinished(self, moved: bool, cause: str, stable: Stable) -> Ending:
        commands = fallback(self._p.plan, stable)
        await self._p.recorder.record_abort(RollbackStarted(reason="crash", cause=cause, by="supervisor"))
        await self._p.recorder.record_abort(RollbackUnfinished(reason=cause, fallback=commands))
        return await self._end(Ending(21 if moved else 60, cause))

    def _note(self, text: str) -> None:
        self._p.recorder.note(Noted(level="error", text=visible(text)))

    # -- forward --------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        plan = self._p.plan
        for waiver in plan.waivers:
            await self._p.recorder.record(
                WaiverRecorded(what=waiver.what, owner=waiver.owner, reason=waiver.reason)
            )
        waived = {waiver.what for waiver in plan.waivers}
        if "approvals" not in waived:
            raise ApprovalMissing(
                "the plan needs approvals, which this version cannot take",
                hint="waive them in the plan, with owner and reason",
            )
        if "standby" not in waived:
            raise PhaseFailed(
                [Failure("gate", "a plan for prod needs a standby, or a waiver of it with owner and reason")]
            )
        if plan.window_utc.end <= self._p.clock.now():
            raise EffectRefused(f"the release window ended at {plan.window_utc.end}", reason="window")
        await self._p.connect()
        floor = await self._p.targets.highest_fence()
        await self._p.lease.acquire(floor=floor, takeover=self._p.takeover)

    async def _until_stopped(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work until it ends, a person stops it, or the lock is lost."""
        async with (
            alongside(self._p.lease.keep()) as keeping,
            alongside(self._p.people.watch_halts()),
            alongside(self._p.people.stopped()) as stopped,
            alongside(_run(work)) as working,
        ):
            await asyncio.wait((working, stopped, keeping), return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                working.cancel()
                await asyncio.wait((working,))
                raise Stopped(stopped.result())
            if keeping.done():
                working.cancel()
                await asyncio.wait((working,))
                raise EffectRefused("the release lock was lost", reason="fence")
            await working

    async def _forward(self) -> None:
        for kind, name in self._p.targets.names():
            await self._p.effects.forward(
                "stamp",
                f"{kind.plural}/{name}",
                lambda kind=kind, name=name: self._p.targets.stamp(kind, name),  # type: ignore[misc]
                env=self._p.plan.environment,
                by=_CONDUCTOR,
                detail=f"fence {self._p.lease.fence}",
            )
        failures: list[Failure] = []

        async def work(phase: str) -> bool:
            name: Phase = phase  # type: ignore[assignment]
            found = await (self._release_train() if phase == "P6" else self._p.phases.run(name))
            failures.extend(found)
            return not found

        failed = await run_graph(DEPENDS, self._p.plan.phases, work)
        if failed:
            raise PhaseFailed(failures)

    async def _release_train(self) -> list[Failure]:
        """P6: risks and the rest, start message, the signed pack, its check, go/no-go, canary."""
        phases = self._p.phases
        await phases.start("P6")
        agents = {info.id: info for info in phases.agents("P6")}
        failures = await phases.side_by_side(
            "P6", [info for info in agents.values() if info.id not in _LAST_IN_P6]
        )
        for agent, params in ((_COMMS, {"macro": "start"}), (_NOTARY, {"pack": "promotion"})):
            if not failures and agent in agents:
                failures = await phases.all_ops("P6", agents[agent], params=params)
        if not failures:
            pending = await self._p.sealer.seal("promotion")
            if pending:
                failures = [Failure("unreachable", f"the promotion pack is not signed: {pending}")]
        for agent in (_QA, _CONDUCTOR):
            if not failures and agent in agents:
                failures = await phases.all_ops("P6", agents[agent], params={"pack": "promotion"})
        if not failures:
            await self._promote()
        await phases.end("P6", failures)
        return failures

    async def _promote(self) -> None:
        await self._promotion.run()
        await self._tell("ga")

    async def _undecided(self, doubt: Inconclusive) -> None:
        """Ask a person whether to try the step again; unattended, and when nobody answers, roll back."""
        answer, by = await self._p.people.ask(
            f"The step is inconclusive: {doubt}. Roll back, or look again?",
            ("rollback", "retry"),
            otherwise="rollback",
        )
        if answer != "retry":
            if by in ("--auto", "bound"):
                raise doubt
            raise Stopped(Stop("inconclusive", f"inconclusive, rolled back by {by}: {doubt}", by))

    # -- endings --------------------------------------------------------------------------------------

    async def _roll_back(self, error: BaseException) -> Ending:
        cause = cause_text(error)
        if isinstance(error, Breach) and error.critical:
            # Seed section 8: a critical breach does not ask; nothing forward goes out any more.
            self._p.people.halt(_CONDUCTOR, "critical", cause)
        self._p.people.over()
        by = error.stop.by if isinstance(error, Stopped) else _CONDUCTOR
        reason = wire_reason(error)
        replacing = self._promotion.replacing
        # The lease goes on being renewed; an abort does not stop when that fails.
        async with alongside(self._p.lease.keep()):
            verified = await self._abort.run(reason, cause, by, self._promotion.stable, replacing=replacing)
        await self._tell("breach", gate=error.gate if isinstance(error, Breach) else reason)
        if not verified:
            return await self._end(Ending(21, cause))
        code = 20 if self._p.effects.prod_shifted else exit_before_traffic(error)
        return await self._end(Ending(code, cause))

    async def _tell(self, macro: str, **params: str) -> None:
        """Have a macro of seed section 13 posted; a message that cannot be sent never holds a release up."""
        try:
            canary = self._p.recorder.state().canary
            for info in self._p.phases.agents("P6"):
                if info.id == _COMMS:
                    sent = {"macro": macro, "step": canary.step, "weight": canary.target, **params}
                    await self._p.phases.op("P6", info, "APPLY", params=sent)
        except Exception as error:  # noqa: BLE001 - see above
            self._note(f"message {macro}: {cause_text(error)}")

    async def _end(self, ending: Ending) -> Ending:
        """Sign what there is, seal the closing pack and give the lock back; trouble here is recorded."""
        for agent in (_COMMS, _NOTARY):
            await self._evidence(agent)
        try:
            # What could not be recorded in its place belongs into the pack as a gap.
            await self._p.recorder.settle_gaps()
            await self._p.sealer.seal("closing")
        except Exception as error:  # noqa: BLE001 - the ending stands whatever becomes of the pack
            self._note(f"closing pack: {cause_text(error)}")
        await self._evidence(_QA)
        await self._p.lease.release()
        return ending

    async def _evidence(self, agent: str) -> None:
        try:
            for info in self._p.phases.agents("P6"):
                if info.id == agent:
                    await self._p.phases.op("P6", info, "EVIDENCE", params={"pack": "closing"})
        except Exception as error:  # noqa: BLE001 - the ending stands whatever becomes of it
            self._note(f"closing: {agent}: {cause_text(error)}")


def _asked_for(error: BaseException) -> bool:
    """Tell whether a person asked for the rollback."""
    return isinstance(error, Stopped) and error.stop.reason in ("manual", "halt")


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()


def reduced_reasons(plan: Plan, roster_gates: Sequence[str], owing: dict[str, tuple[str, ...]]) -> list[str]:
    """Return why a plan proves less than a whole release (gates.md): missing gates, phases, owing agents."""
    reasons = []
    missing = [gate for gate in roster_gates if gate not in plan.required_gates]
    if missing:
        reasons.append(f"gates not required: {', '.join(missing)}")
    phases = [phase for phase in DEPENDS if phase not in plan.phases]
    if phases:
        reasons.append(f"phases left out: {', '.join(phases)}")
    agents = sorted(
        {agent for agents in owing.values() for agent in agents if agent not in plan.agents},
        key=lambda agent: (agent[0], int(agent[1:])),
    )
    if agents:
        reasons.append(f"agents left out that owe a verdict: {', '.join(agents)}")
    return reasons
