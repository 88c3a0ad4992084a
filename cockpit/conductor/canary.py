"""The promotion: each step is preflight → scale canary → shift → observe the weight → bake → decide.

Stable keeps its full size until the 100 % bake has passed; only then is it replaced (gates.md). What ends a
promotion early is raised: `Breach` for a failed look, `Inconclusive` for one that could not be told,
`EffectRefused` and `BackendError` for what the gate or the cluster refused.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, CockpitError, EffectRefused
from cockpit.base.tasks import alongside
from cockpit.base.text import visible
from cockpit.conductor.abort import Stable
from cockpit.conductor.bake import Analyst, Bake, Inconclusive
from cockpit.conductor.drift import other_images, unchanged
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.observing import Observer
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.resume import Progress
from cockpit.conductor.targets import Targets
from cockpit.conductor.tools import BakeClock
from cockpit.journal.events import (
    Noted,
    Released,
    StableRecorded,
    StepDecided,
    StepStage,
    StepStarted,
    WeightSeen,
)
from cockpit.plan.model import Plan

_BY = "A1"


class PreflightFailed(CockpitError):
    """A step must not begin: a gate is not passed, the lock is not held, stable is not healthy."""


class Gatekeeper(Protocol):
    """What the conductor checks around a step."""

    async def preflight(self, step: int) -> list[str]:
        """Recompute go/no-go; return the reasons for a no-go, empty for a go."""
        ...

    async def under_step(self, step: int) -> None:
        """Have the canary-phase agents verify; raises Breach for what failed, Inconclusive for the untold."""
        ...


async def _nothing_else(_: int) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a promotion works with."""

    effects: EffectsGate
    targets: Targets
    analyst: Analyst
    gatekeeper: Gatekeeper
    recorder: Recorder
    plan: Plan
    clock: Clock
    resumed: Callable[[], Awaitable[None]]
    """Waits until no HALT is in force."""
    undecided: Callable[[Inconclusive], Awaitable[None]]
    """Asks a person; returns to try the step again, raises to roll back."""
    bake: BakeClock
    before: Callable[[int], Awaitable[None]]
    """What else must be so before a step moves traffic (approvals, policy); raises what stands against it."""
    after: Callable[[int], Awaitable[None]]
    """What goes along with a step that advanced (flags, messages); raises nothing."""
    closed: Callable[[], str]
    """Why prod must not be promoted now: the window, a freeze."""
    watch: Callable[[int], Coroutine[Any, Any, None]] = _nothing_else
    """What else is watched while a step bakes (the risk triggers); raises what ends the step."""


class Promotion:
    """Takes the release through the steps of the plan's canary."""

    def __init__(self, wiring: Wiring) -> None:
        self._w = wiring
        self._canary = wiring.plan.canary
        self._observer = Observer(
            wiring.targets, wiring.analyst, wiring.effects, wiring.recorder, wiring.plan.canary, wiring.clock
        )
        self._stable = Stable()
        self._replacing = False
        self._carried = False
        self._from = Progress()

    @property
    def stable(self) -> Stable:
        """Stable as it was before the first step."""
        return self._stable

    @property
    def replacing(self) -> bool:
        """Whether stable has begun to take the new images: a rollback must redeploy the previous ones."""
        return self._replacing

    @property
    def carried(self) -> bool:
        """Whether stable, on the new images, carries all traffic: the release is out."""
        return self._carried

    def take_up(self, progress: Progress) -> None:
        """Begin where an earlier conductor was."""
        self._from = progress
        self._stable, self._replacing, self._carried = progress.stable, progress.replacing, progress.carried

    async def run(self) -> None:
        """Promote through every step that is left and replace stable."""
        last = len(self._canary.steps)
        if self._carried:
            return await self._take_canary_down(last)
        await self._record_stable()
        for number, weight in enumerate(self._canary.steps, start=1):
            if number < self._from.step:
                continue
            if not (number == self._from.step and self._from.started):
                self._w.bake.begin()
                await self._w.recorder.record(StepStarted(step=number, weight=weight))
            if number == self._from.step and self._from.doubt:
                await self._still_in_doubt(number)
            await self._persist(number, partial(self._step, number, weight))
            async with alongside(self._guard(number)):
                await self._w.after(number)
        await self._persist(last, self._replace_stable)
        return None

    async def _still_in_doubt(self, step: int) -> None:
        """What was inconclusive stays so over a crash: a person decides (gates.md)."""
        async with alongside(self._guard(step)):
            await self._w.undecided(Inconclusive(self._from.doubt))

    async def _persist(self, step: int, stage: Callable[[], Awaitable[None]]) -> None:
        """Do a stage; a HALT holds it until resumed, an inconclusive one is put to a person."""
        while True:
            try:
                await stage()
                return
            except EffectRefused as refused:
                if refused.reason != "halt":
                    raise
                await self._wait_for_resume(step)
            except Inconclusive as doubt:
                await self._w.recorder.record(
                    StepDecided(
                        step=step, weight=self._weight(step), decision="inconclusive", reason=str(doubt)
                    )
                )
                # Where traffic is on the canary a breach is seen while the question waits.
                async with alongside(self._guard(step)):
                    await self._w.undecided(doubt)
                if doubt.agents:
                    # Their verdicts of this step do not count any more; the next look at it needs new ones.
                    await self._judged_again(step)

    async def _wait_for_resume(self, step: int) -> None:
        """Hold until the HALT ends; where traffic is on the canary, a breach still rolls back."""
        async with alongside(self._guard(step)):
            await self._w.resumed()

    async def _judged_again(self, step: int) -> None:
        while True:
            try:
                async with alongside(self._guard(step)):
                    await self._w.gatekeeper.under_step(step)
                return
            except Inconclusive as doubt:
                async with alongside(self._guard(step)):
                    await self._w.undecided(doubt)

    async def _guard(self, step: int) -> None:
        """Look for a breach for as long as the canary has traffic, whatever else is waited for."""
        bakes: dict[int, Bake] = {}
        weight = self._weight(step) if self._w.effects.prod_shifted else 0
        while True:
            try:
                weight = await self._w.targets.weight()
            except BackendError:
                pass  # it cannot be told now: what was last known holds, and the canary is looked at
            if weight > 0:
                # Judged as the step whose traffic it has, which need not be the one that waits.
                at = max(1, bisect_right(self._canary.steps, weight))
                if at not in bakes:
                    bakes[at] = Bake(self._w.analyst, self._canary, self._w.clock, self._w.recorder, at)
                await bakes[at].look_for_breach()
            await self._w.clock.sleep(self._canary.interval)

    def _weight(self, step: int) -> int:
        return self._canary.steps[step - 1]

    # -- one step -------------------------------------------------------------------------------------

    async def _step(self, step: int, weight: int) -> None:
        self._w.bake.again()
        # The step before still has its traffic: it is watched until this one bakes.
        async with alongside(self._guard(max(1, step - 1))):
            await self._preflight(step)
            asked = self._w.clock.monotonic()
            await self._w.before(step)
            if self._w.clock.monotonic() - asked > self._canary.interval:
                await self._preflight(step)  # people took their time: what was so then need not be so now
            await self._stage(step, "scale")
            await self._scale_canary(weight)
            await self._stage(step, "shift")
            await self._forward("shift", f"canary weight {weight}", partial(self._w.targets.shift, weight))
        await self._stage(step, "observe")
        async with alongside(self._guard(step)):
            await self._observer.weight_observed(weight)
        await self._stage(step, "bake")
        bake = Bake(self._w.analyst, self._canary, self._w.clock, self._w.recorder, step, self._w.bake)
        while True:
            async with (
                alongside(self._w.watch(step)),
                alongside(self._observer.watch_drift(weight, self._stable.images)),
            ):
                await bake.until_passed()
            # The agents judge what has baked; a breach in the meantime still ends the step.
            async with alongside(self._guard(step)):
                await self._w.gatekeeper.under_step(step)
            if self._w.bake.over(bake.extra):
                break  # else somebody has paused it meanwhile, or made it longer
        await self._stage(step, "decide")
        if self._w.effects.halted:
            raise EffectRefused("HALT is in force: the step is not decided", reason="halt")
        unchanged(await self._observer.drift(weight, self._stable.images))
        await self._w.recorder.record(
            StepDecided(step=step, weight=weight, decision="advance", reason=bake.summary)
        )

    async def _preflight(self, step: int) -> None:
        await self._stage(step, "preflight")
        if self._w.effects.halted:
            raise EffectRefused("HALT is in force", reason="halt")
        reasons = await self._w.gatekeeper.preflight(step)
        if closed := self._w.closed():
            raise EffectRefused(closed, reason="window")
        reasons += await self._against_stable()
        if reasons:
            raise PreflightFailed("; ".join(reasons))

    async def _against_stable(self, *, ready: bool = True) -> list[str]:
        """Return what speaks against stable as what is gone back to, or is to be replaced."""
        reasons = []
        for deployment in await self._observer.read(self._w.targets.stable):
            wanted = self._stable.replicas[deployment.name]
            if deployment.wanted < wanted or (ready and deployment.ready < wanted):
                reasons.append(
                    f"stable is not healthy: {deployment.name} has {deployment.ready} of {wanted} replicas"
                )
            if deployment.image != self._stable.images[deployment.name]:
                reasons.append(f"rollback is not feasible: {deployment.name} runs {deployment.image}")
        strangers = await self._observer.read(self._w.targets.strangers)
        return reasons + [f"somebody else keeps pods of the release: {one}" for one in strangers]

    async def _scale_canary(self, weight: int) -> None:
        for service in self._w.plan.services:
            full = self._stable.replicas[service.stable_deployment]
            replicas = max(service.canary_replicas, -(-full * weight // 100))
            name, image = service.canary_deployment, service.image.text
            await self._w.effects.forward(
                "scale",
                f"{name} to {replicas}",
                partial(self._w.targets.scale, name, replicas, container=service.container, image=image),
                env=self._w.plan.environment,
                by=_BY,
                detail=image,
            )
        new = {service.canary_deployment: service.image.text for service in self._w.plan.services}
        await self._observer.rolled_out(self._w.targets.canary, "the canary", new)

    # -- the end --------------------------------------------------------------------------------------

    async def _replace_stable(self) -> None:
        """Give stable the new images, then its traffic back, then take the canary down."""
        last = len(self._canary.steps)
        if not self._replacing or self._from.replacing:
            # The last step's verdicts must count as well before stable is given up.
            reasons = await self._w.gatekeeper.preflight(last + 1)
            if reasons:
                raise PreflightFailed("; ".join(reasons))
        if not self._replacing:
            await self._w.before(last + 1)
            # Not whether all of it is ready: the canary carries everything, and its pods are replaced now.
            reasons = await self._against_stable(ready=False)
            # A person's approval may have taken hours, in which others may have deployed.
            reasons += await self._observer.drift(self._weight(last), self._stable.images)
            if reasons:
                raise PreflightFailed("; ".join(reasons))
        await self._stage(last, "promote", "stable takes the new images")
        if self._w.effects.halted:
            raise EffectRefused("HALT is in force", reason="halt")
        self._replacing = True
        async with alongside(self._guard(last)):
            for service in self._w.plan.services:
                name, container, image = service.stable_deployment, service.container, service.image.text
                act = partial(self._w.targets.set_image, name, container, image)
                await self._forward("promote", f"{name} {image}", act)
            new = {service.stable_deployment: service.image.text for service in self._w.plan.services}
            await self._observer.rolled_out(self._w.targets.stable, "stable", new, self._stable.replicas)
        await self._stage(last, "promote", "stable carries the traffic again")
        await self._forward("shift", "canary weight 0, stable is new", partial(self._w.targets.shift, 0))
        if await self._observer.read(self._w.targets.weight) != 0:
            raise Inconclusive("the route still gives the canary traffic")
        unchanged(other_images(await self._observer.read(self._w.targets.stable), new))
        # From here on it is out: canary and stable are the same version, and stable carries everything.
        self._carried = True
        self._w.effects.out()
        self._w.recorder.note(WeightSeen(desired=0, source="httproute"))
        await self._w.recorder.record_abort(Released(version=self._w.plan.target_version))
        await self._take_canary_down(last)

    async def _take_canary_down(self, last: int) -> None:
        await self._stage(last, "promote", "the canary is scaled down")
        # Nothing reaches it any more: taking it down is no promotion, and no trouble with it a rollback.
        try:
            await self._observer.drained()
            for service in self._w.plan.services:
                name = service.canary_deployment
                act = partial(self._w.targets.scale, name, 0)
                await self._w.effects.abort(
                    "scale", f"{name} to 0", act, env=self._w.plan.environment, by=_BY
                )
            await self._observer.canary_gone()
        except (BackendError, EffectRefused, Inconclusive) as error:
            text = f"released, but the canary is not scaled down: {error}"
            await self._w.recorder.record_abort(Noted(level="error", text=visible(text)))

    async def _forward(self, verb: str, target: str, act: Callable[[], Awaitable[None]]) -> None:
        await self._w.effects.forward(verb, target, act, env=self._w.plan.environment, by=_BY)

    # -- helpers --------------------------------------------------------------------------------------

    async def _record_stable(self) -> None:
        if self._stable.replicas:
            return
        seen = await self._observer.stable()
        self._observer.see(seen)
        # Somebody's abandoned canary must not get new images under its traffic.
        weight, canary = (
            await self._observer.read(self._w.targets.weight),
            await self._observer.read(self._w.targets.canary),
        )
        left = [d.name for d in canary if d.wanted or d.total]
        if weight or left:
            raise PreflightFailed(
                f"a canary is there already: weight {weight} %, pods of {', '.join(left) or 'none'}",
                hint="roll it back first",
            )
        unfit = [
            f"{d.name} has {d.ready} of {d.wanted} replicas{'' if d.settled else ', and changes'}"
            for d in seen
            if d.wanted == 0 or d.ready < d.wanted or not d.settled
        ]
        if unfit:
            raise PreflightFailed(f"stable is not healthy: {', '.join(unfit)}")
        self._stable = Stable(
            {d.name: d.wanted for d in seen},
            {d.name: d.image for d in seen},
            {d.name: d.image for d in canary},
        )
        await self._w.recorder.record(
            StableRecorded(
                replicas=self._stable.replicas, images=self._stable.images, canary=self._stable.canary
            )
        )

    async def _stage(self, step: int, stage: str, detail: str = "") -> None:
        await self._w.recorder.record(StepStage(step=step, stage=stage, detail=detail))
