"""One release: lock, phases, promotion, and an ending that never leaves the canary where it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

from cockpit.backends.cluster import Kind
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
from cockpit.conductor.aftermath import Aftermath
from cockpit.conductor.bake import Breach
from cockpit.conductor.canary import Promotion, Wiring
from cockpit.conductor.dag import DEPENDS, run_graph
from cockpit.conductor.ending import (
    ApprovalMissing,
    Ending,
    PhaseFailed,
    Stopped,
    cause_text,
    exit_before_traffic,
    wire_reason,
)
from cockpit.conductor.hardstop import is_hard_stop
from cockpit.conductor.parts import Parts
from cockpit.conductor.people import WireReason
from cockpit.conductor.phases import Failure
from cockpit.conductor.resume import Progress, resolve
from cockpit.conductor.targets import DeploymentSeen
from cockpit.conductor.train import ReleaseTrain
from cockpit.journal.events import (
    Noted,
    RollbackStarted,
    RollbackUnfinished,
    RunResumed,
    WaiverRecorded,
)
from cockpit.journal.state import ReleaseState
from cockpit.rpc.messages import Phase

_NOTARY, _QA, _CONDUCTOR, _COMMS = "A3", "A60", "A1", "A41"
_REACH_WITHIN = 60.0
"""Seconds a resumed abort tries to reach cluster and lease before it goes on without the lease."""
_REACH_PAUSE = 1.0


class Release:
    """Takes one release through its phases, or aborts one that was left behind."""

    def __init__(self, parts: Parts) -> None:
        self._p = parts
        self._train = ReleaseTrain(parts, lambda: self._promotion.run())
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
                undecided=self._train.undecided,
                bake=parts.bake,
                before=parts.hooks.allowed,
                after=self._advanced,
                closed=parts.hooks.closed,
                watch=parts.hooks.baking,
            )
        )
        self._from = Progress()
        self._aftermath = Aftermath(parts.plan, parts.phases, parts.recorder, parts.clock)
        self._abort = Abort(
            effects=parts.effects,
            targets=parts.abort_targets,
            observer=parts.analyst,
            recorder=parts.recorder,
            plan=parts.plan,
            clock=parts.clock,
        )

    async def run(self, progress: Progress | None = None) -> Ending:
        """Run the release to its end, from where it was. Raises nothing but cancellation."""
        error: BaseException | None = None
        if progress is not None:
            self._from = progress
            self._promotion.take_up(progress)
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
        stop = self._p.people.stop_decided
        if error is None and stop is not None and _asked_for(Stopped(stop)):
            error = Stopped(stop)  # it came in the last moment
        if error is None:
            self._p.people.over()
            # After P8, so that it says what is so: flags flipped, or still to be.
            async with alongside(self._p.lease.keep()):
                await self._tell("ga")
            return await self._end(Ending(0, f"{self._p.plan.target_version} carries all traffic"))
        if not self._p.effects.prod_touched:
            self._p.people.over()
            return await self._end(Ending(exit_before_traffic(error), cause_text(error)))
        return await self._roll_back(error)

    async def go_on(self, reason: str, progress: Progress) -> Ending:
        """Take up a run whose conductor ended, where it was. What was cut off is looked up in the world."""
        self._p.lease.assume(self._p.recorder.state().fence)
        await self._p.recorder.record_abort(RunResumed(reason=reason, into="continue"))
        return await self.run(progress)

    async def measure(self) -> Ending:
        """P8's figures of a release that is out (`cockpit kpi`): KPIs and the error budget."""
        try:
            await self._p.connect()
            await self._ours()
            await self._p.lease.acquire(floor=await self._p.targets.highest_fence())
            await self._until_stopped(self._measured)
            cause = "released; the KPIs were measured"
        except Stopped as stopped:
            if _asked_for(stopped):
                return await self.undo(stopped.stop.reason, stopped.stop.cause, stopped.stop.by)
            cause = f"released; the KPIs were not measured: {stopped.stop.cause}"
        except Exception as error:  # noqa: BLE001 - what could not be measured is on record
            cause = f"released; the KPIs were not measured: {cause_text(error)}"
            self._note(cause)
        self._p.people.over()
        return await self._end(Ending(0, cause))

    async def _measured(self) -> None:
        if failures := await self._aftermath.measure():
            self._note(f"KPIs: {'; '.join(failure.text for failure in failures)}")

    async def _ours(self) -> list[DeploymentSeen]:
        """Return stable; raises LockHeld when it does not run this release's images any more."""
        seen = await self._p.targets.stable()
        images = {service.stable_deployment: service.image.text for service in self._p.plan.services}
        other = [f"{one.name} runs {one.image}" for one in seen if one.image != images.get(one.name)]
        if other:
            raise LockHeld(
                f"another release, or somebody, has changed stable since: {'; '.join(other)}",
                hint="this release is not what runs: see `cockpit status` of the later one",
            )
        return seen

    async def _as_left(self, stable: Stable) -> Stable:
        """Return what is to be given back of a release that was out; all of it where it cannot be seen."""
        try:
            seen = await self._p.abort_targets.stable()
        except BackendError as error:
            self._note(f"how many replicas stable has cannot be seen: {error}")
            return stable
        return _as_many_as(stable, {one.name: one.wanted for one in seen})

    async def undo(self, reason: WireReason, cause: str, by: str) -> Ending:
        """Roll back a release that is out: stable gets the images it had before (seed section 7)."""
        self._p.people.over()
        state = self._p.recorder.state()
        canary = state.canary
        stable = Stable.recorded(canary)
        if not canary.released or not stable.images:
            return await self._end(Ending(64, "nothing was released that could be rolled back"))
        try:
            await self._reach(state.fence, superseding=True)
            present = {one.name: one.wanted for one in await self._ours()}
        except LockHeld as held:
            return await self._end(Ending(60, f"{cause}; {cause_text(held)}"))
        except CockpitError as error:
            return await self._unfinished(True, f"{cause}; {cause_text(error)}", stable)
        stable = _as_many_as(stable, present)
        verified = await self._aborted(reason, cause, by, stable, True)
        await self._hard_stop(cause, reason, "")
        return await self._end(Ending(20 if verified else 21, cause))

    async def abort_only(self, reason: str) -> Ending:
        """Take up a run whose conductor ended: look at the world and undo what may have been done."""
        self._p.people.over()
        state = self._p.recorder.state()
        canary = state.canary
        await self._p.recorder.record_abort(RunResumed(reason=reason, into="abort"))
        undoing = state.people.kind == "rollback"
        if undoing and state.rollback is None:
            return await self.undo("manual", reason, "supervisor")
        if canary.released and state.rollback is None:
            await self._take_canary_down(state)
            return await self._end(Ending(0, "released before the conductor ended"))
        stable = Stable.recorded(canary)
        if not stable.replicas:
            # No promotion had begun: nothing of prod was changed but the fence annotation.
            return await self._end(Ending(30, reason))
        try:
            await self._reach(state.fence, superseding=undoing)
        except CockpitError as error:
            return await self._unfinished(canary.moved, f"{reason}; {cause_text(error)}", stable)
        if undoing:
            stable = await self._as_left(stable)
        # What had begun to replace stable, or was out already, is undone by giving stable its images back.
        replacing = canary.stage == "promote" or canary.released
        verified = await self._aborted("crash", reason, "supervisor", stable, replacing)
        if canary.moved:
            await self._hard_stop(reason, "crash", "")
        if not verified:
            return await self._end(Ending(21, reason))
        return await self._end(Ending(20 if canary.moved else 30, reason))

    async def _take_canary_down(self, state: ReleaseState) -> None:
        """Take down what is left of the canary of a release that is out: it carries nothing any more.

        Else the next release would find a canary there already. Trouble with it is on record, no more.
        """
        names = [service.canary_deployment for service in self._p.plan.services]
        if all(state.canary.replicas.get(name) == [0, 0] for name in names):
            return
        self._promotion.take_up(Progress(carried=True))
        try:
            await self._reach(state.fence)
            async with alongside(self._p.lease.keep()):
                await self._promotion.run()
        except CockpitError as error:
            self._note(f"released, but the canary may still be there: {cause_text(error)}")

    async def _reach(self, fence: int, *, superseding: bool = False) -> None:
        """Connect and take the lease again, for as long as an abort may wait; without it, go on unleased.

        An abort is refused by a foreign fence alone, and the number this run had is still its own.
        `superseding`: a release that is out is looked at by what runs; who tried something since and did not
        get that far does not keep it from being rolled back.
        """
        self._p.lease.assume(fence)
        give_up = self._p.clock.monotonic() + _REACH_WITHIN
        while True:
            try:
                await self._p.connect()
                highest = await self._p.targets.highest_fence()
                if highest > fence and not superseding:
                    raise LockHeld(
                        "another release has changed these objects since",
                        hint="it is for its holder to abort; see `cockpit status`",
                    )
                await self._p.lease.acquire(floor=max(fence, highest))
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
        return await self._end(Ending(21, cause))

    def _note(self, text: str) -> None:
        self._p.recorder.note(Noted(level="error", text=visible(text)))

    # -- forward --------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        plan = self._p.plan
        known = {what for what, _, _ in self._p.recorder.state().waivers}
        for waiver in plan.waivers:
            if waiver.what in known:
                continue
            await self._p.recorder.record(
                WaiverRecorded(what=waiver.what, owner=waiver.owner, reason=waiver.reason)
            )
        waived = {waiver.what for waiver in plan.waivers}
        if "approvals" not in waived and plan.approvals is None:
            raise ApprovalMissing(
                "a plan for prod needs `approvals`", hint="or a waiver of them, with owner and reason"
            )
        if "standby" not in waived:
            raise PhaseFailed(
                [Failure("gate", "a plan for prod needs a standby, or a waiver of it with owner and reason")]
            )
        in_flight = bool(self._from.stable.replicas) and plan.on_window_end == "finish"
        if plan.window_utc.end <= self._p.clock.now() and not in_flight and not self._from.carried:
            raise EffectRefused(f"the release window ended at {plan.window_utc.end}", reason="window")
        await self._p.connect()
        floor = await self._p.targets.highest_fence()
        before = self._p.recorder.state()
        if self._from.stable.replicas and floor > before.fence:
            raise LockHeld("another release has changed these objects since", hint="see `cockpit status`")
        await self._p.lease.acquire(floor=floor, takeover=self._p.takeover)
        await resolve(self._p.recorder, self._p.targets, before, plan.environment)

    async def _until_stopped(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do the work until it ends, a person stops it, or the lock is lost."""
        async with AsyncExitStack() as beside:
            for watcher in self._p.hooks.watchers:
                await beside.enter_async_context(alongside(watcher()))
            for work_beside in self._p.hooks.beside:
                await beside.enter_async_context(alongside(self._kept_going(work_beside)))
            await self._first_to_end(work)

    async def _kept_going(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do what goes on beside the release; its errors are on record and never end the release."""
        while True:
            try:
                await work()
                return
            except Exception as error:  # noqa: BLE001 - see above
                self._note(f"beside the release: {cause_text(error)}")
            await self._p.clock.sleep(_REACH_PAUSE)

    async def _first_to_end(self, work: Callable[[], Awaitable[None]]) -> None:
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
            await self._stamp(kind, name)
        failures: list[Failure] = []

        async def work(phase: str) -> bool:
            name: Phase = phase  # type: ignore[assignment]
            if phase in self._from.passed and phase != "P6":
                return True
            if not (phase == "P6" and self._from.stable.replicas):  # with a canary in flight nothing waits
                await self._p.hooks.due(phase)
            if phase == "P6":
                found = await self._train.run(promoting=self._from.promoting)
            elif phase == "P8":
                found = await self._aftermath.run()
            else:
                found = await self._p.phases.run(name, self._train.remedy)
            failures.extend(found)
            return not found

        failed = await run_graph(DEPENDS, self._p.plan.phases, work)
        if failed:
            raise PhaseFailed(failures)

    async def _stamp(self, kind: Kind, name: str) -> None:
        while True:
            try:
                await self._p.effects.forward(
                    "stamp",
                    f"{kind.plural}/{name}",
                    lambda: self._p.targets.stamp(kind, name),
                    env=self._p.plan.environment,
                    by=_CONDUCTOR,
                    detail=f"fence {self._p.lease.fence}",
                )
                return
            except EffectRefused as refused:
                if refused.reason != "halt":
                    raise
                await self._p.people.resumed()

    async def _advanced(self, step: int) -> None:
        try:
            await self._p.hooks.advanced(step)
        except Exception as error:  # noqa: BLE001 - what goes along with a step never holds it up
            self._note(f"after step {step}: {cause_text(error)}")

    # -- endings --------------------------------------------------------------------------------------

    async def _roll_back(self, error: BaseException) -> Ending:
        cause = cause_text(error)
        if isinstance(error, Breach) and error.critical:
            # Seed section 8: a critical breach does not ask; nothing forward goes out any more.
            self._p.people.halt(_CONDUCTOR, "critical", cause)
        self._p.people.over()
        by = error.stop.by if isinstance(error, Stopped) else _CONDUCTOR
        reason = wire_reason(error)
        gate = error.gate if isinstance(error, Breach) else reason
        replacing = self._promotion.replacing
        verified = await self._aborted(reason, cause, by, self._promotion.stable, replacing, gate=gate)
        await self._tell("breach", gate=gate)
        if is_hard_stop(error, shifted=self._p.effects.prod_shifted):
            await self._hard_stop(cause, reason, gate)
        if not verified:
            return await self._end(Ending(21, cause))
        code = 20 if self._p.effects.prod_shifted else exit_before_traffic(error)
        return await self._end(Ending(code, cause))

    async def _aborted(
        self, reason: str, cause: str, by: str, stable: Stable, replacing: bool, *, gate: str = ""
    ) -> bool:
        """Abort, and take back what went along with the steps; tell whether it was verified."""
        # The lease goes on being renewed; an abort does not stop when that fails.
        async with alongside(self._p.lease.keep()):
            verified: bool | None = None
            try:
                if self._p.effects.prod_shifted:
                    async with self._p.hooks.freezing(cause, reason, gate):
                        verified = await self._abort.run(reason, cause, by, stable, replacing=replacing)
            except Exception as error:  # noqa: BLE001 - what captures the moment never stands before the abort
                self._note(f"beside the abort: {cause_text(error)}")
            if verified is None:
                verified = await self._abort.run(reason, cause, by, stable, replacing=replacing)
            try:
                left = await self._p.hooks.aborted()
            except Exception as error:  # noqa: BLE001 - it is on record, and the run does not end as if all were well
                left = cause_text(error)
            if left:
                await self._p.recorder.record_abort(
                    RollbackUnfinished(reason=left, fallback=fallback(self._p.plan, stable))
                )
        return verified and not left

    async def _hard_stop(self, cause: str, reason: str, gate: str) -> None:
        """Seed section 8 after the rollback; what fails of it is on record and never changes the ending."""
        try:
            await self._p.hooks.hard_stop(cause, reason, gate)
        except Exception as error:  # noqa: BLE001 - see above
            self._note(f"hard stop: {cause_text(error)}")

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
        for agent in (_CONDUCTOR, _COMMS, _NOTARY):
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


def _as_many_as(stable: Stable, present: dict[str, int]) -> Stable:
    """Return stable with no more replicas than there are: scaling it down since was for others to decide."""
    replicas = {name: min(count, present.get(name, count)) for name, count in stable.replicas.items()}
    return replace(stable, replicas=replicas)


def _asked_for(error: BaseException) -> bool:
    """Tell whether a person asked for the rollback."""
    if not isinstance(error, Stopped) or error.stop.by in ("plan", "bound", "--auto"):
        return False
    return error.stop.reason not in ("signal", "crash", "inconclusive")


async def _run(work: Callable[[], Awaitable[None]]) -> None:
    await work()
