"""What a promotion waits to see: replicas, weights and requests as the cluster and the metrics have them.

Everything is read patiently: one failed request is no reason to roll back, many for the plan's grace are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TypeVar

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendUnreachable, Conflict, EffectRefused
from cockpit.conductor.bake import Analyst, Breach, Inconclusive
from cockpit.conductor.drift import drift, other_images, unchanged, watch_drift
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import DeploymentSeen, Targets
from cockpit.journal.events import ReplicasSeen, WeightSeen
from cockpit.plan.model import Canary
from cockpit.verdicts.analysis import weight_agrees

T = TypeVar("T")
_LOOK_PAUSE = 0.25
_OBSERVED_WITHIN = 10.0


class Observer:
    """Reads the world for a promotion, and waits until it is as the promotion has set it."""

    def __init__(
        self,
        targets: Targets,
        analyst: Analyst,
        effects: EffectsGate,
        recorder: Recorder,
        canary: Canary,
        clock: Clock,
    ) -> None:
        self._targets = targets
        self._analyst = analyst
        self._effects = effects
        self._recorder = recorder
        self._canary = canary
        self._clock = clock

    async def read(self, read: Callable[[], Awaitable[T]]) -> T:
        """Read the world; one failed request is no reason to roll back, many for the grace period are."""
        give_up = self._clock.monotonic() + self._canary.provider_grace
        while True:
            try:
                return await read()
            except (BackendUnreachable, Conflict):
                if self._clock.monotonic() >= give_up:
                    raise
            await self._clock.sleep(_LOOK_PAUSE)

    def see(self, deployments: list[DeploymentSeen]) -> None:
        """Record the replicas of Deployments."""
        self._recorder.note(ReplicasSeen(deployments={d.name: [d.wanted, d.ready] for d in deployments}))

    async def stable(self) -> list[DeploymentSeen]:
        """Return stable once its controller has observed it: our own stamp makes a new generation of it."""
        give_up = self._clock.monotonic() + _OBSERVED_WITHIN
        while True:
            seen = await self.read(self._targets.stable)
            if all(d.settled for d in seen) or self._clock.monotonic() >= give_up:
                return seen
            await self._clock.sleep(_LOOK_PAUSE)

    async def rolled_out(
        self,
        read: Callable[[], Awaitable[list[DeploymentSeen]]],
        what: str,
        images: Mapping[str, str],
        least: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """Wait until all wanted replicas are ready, and no fewer than `least` by Deployment.

        Raises Inconclusive when one does not ask for its image of `images` any more.
        """
        give_up = self._clock.monotonic() + self._canary.rollout_deadline
        while True:
            seen = await self.read(read)
            self.see(seen)
            unchanged(other_images(seen, images))
            full = {d.name: max(d.wanted, least.get(d.name, 0)) for d in seen}
            waiting = [d for d in seen if not d.settled or d.ready < full[d.name]]
            if not waiting:
                return
            if self._clock.monotonic() >= give_up:
                names = ", ".join(f"{d.name} {d.ready}/{full[d.name]}" for d in waiting)
                raise Breach(
                    f"{what} was not ready within {self._canary.rollout_deadline:g} s: {names}", gate="slo"
                )
            if self._effects.halted:
                raise EffectRefused(f"HALT is in force while {what} rolls out", reason="halt")
            await self._clock.sleep(_LOOK_PAUSE)

    async def weight_observed(self, weight: int) -> None:
        """Wait until the observed share of requests agrees with the weight; the step's clock waits."""
        give_up = self._clock.monotonic() + self._canary.weight_deadline
        window = max(3.0, 3 * self._canary.interval)
        while True:
            desired = await self.read(self._targets.weight)
            seen = await self._analyst.share(window)
            self._recorder.note(
                WeightSeen(
                    desired=desired,
                    observed=None if seen.share is None else round(100 * seen.share, 2),
                    source="request shares",
                )
            )
            if desired == weight and weight_agrees(seen.share, weight, self._canary.weight_tolerance):
                return
            if self._clock.monotonic() >= give_up:
                what = "nothing" if seen.share is None else f"{100 * seen.share:.1f} %"
                raise Inconclusive(
                    f"after {self._canary.weight_deadline:g} s the route says {desired} %, the requests "
                    f"{what}, where {weight} % is wanted: {seen.problem or 'the shares do not agree'}"
                )
            await self._clock.sleep(min(self._canary.interval, 1.0))

    async def drained(self) -> None:
        """Wait until no request reaches the canary; raises Inconclusive at the plan's deadline."""
        give_up = self._clock.monotonic() + self._canary.drain_deadline
        window = max(4.0, 4 * self._canary.interval)
        while True:
            desired = await self.read(self._targets.weight)
            requests = await self._analyst.canary_requests(window)
            if desired == 0 and requests == 0:
                self._recorder.note(WeightSeen(desired=0, observed=0.0, source="request counts"))
                break
            if self._clock.monotonic() >= give_up:
                raise Inconclusive(f"requests still reach the canary after {self._canary.drain_deadline:g} s")
            await self._clock.sleep(_LOOK_PAUSE)
        await self._clock.sleep(self._canary.drain)

    async def canary_gone(self) -> None:
        """Wait until no pod of the canary is left; raises Inconclusive at the plan's deadline."""
        give_up = self._clock.monotonic() + self._canary.drain_deadline
        while True:
            canary = await self.read(self._targets.canary)
            self.see(canary)
            pods = await self.read(self._targets.canary_pods)
            if all(deployment.gone for deployment in canary) and pods == 0:
                return
            if self._clock.monotonic() >= give_up:
                raise Inconclusive(f"canary pods are left after {self._canary.drain_deadline:g} s")
            await self._clock.sleep(_LOOK_PAUSE)

    async def drift(self, weight: int, images: Mapping[str, str]) -> list[str]:
        """Return what somebody else has changed of a step of `weight` percent; `images`: stable's."""
        return await self.read(lambda: drift(self._targets, weight, images))

    async def watch_drift(self, weight: int, images: Mapping[str, str]) -> None:
        """Look for drift until cancelled; raises Inconclusive."""
        await watch_drift(self._targets, self._canary, self._clock, weight, images)
