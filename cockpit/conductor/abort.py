"""The abort: traffic off the canary, proof that none reaches it, canary down, stable whole (gates.md).

Idempotent: it looks at the world and does what is left to do, so it can be taken up again after a crash at
any point. It never scales stable down, and is never refused but by another holder's fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import DeploymentSeen, Targets
from cockpit.journal.events import (
    ReplicasSeen,
    RollbackStage,
    RollbackStarted,
    RollbackUnfinished,
    RollbackVerified,
    WeightSeen,
)
from cockpit.plan.model import Plan

T = TypeVar("T")
_BY = "A1"
_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


class TrafficObserver(Protocol):
    """Sees how many requests reach the canary."""

    async def canary_requests(self, window_s: float) -> float | None:
        """Return the canary's requests in the last `window_s` seconds; None when it cannot be measured."""
        ...


@dataclass(frozen=True, slots=True)
class Stable:
    """Stable as it was before the first step: replicas and image by Deployment."""

    replicas: dict[str, int] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


class NotVerified(Exception):
    """A step of the abort did not come to the state it must within its time."""


class Abort:
    """Rolls the canary back and verifies it."""

    def __init__(
        self,
        *,
        effects: EffectsGate,
        targets: Targets,
        observer: TrafficObserver,
        recorder: Recorder,
        plan: Plan,
        clock: Clock,
    ) -> None:
        self._effects = effects
        self._targets = targets
        self._observer = observer
        self._recorder = recorder
        self._plan = plan
        self._clock = clock

    async def run(self, reason: str, cause: str, by: str, stable: Stable) -> bool:
        """Do the abort; tell whether it was verified. Raises nothing but cancellation."""
        proof: dict[str, str] = {}
        await self._recorder.record_abort(RollbackStarted(reason=reason, cause=visible(cause), by=by))
        try:
            await self._shift(stable, proof)
            await self._observe(proof)
            await self._scale_down()
            await self._verify(stable, proof)
        except (NotVerified, BackendError, EffectRefused) as error:
            await self._recorder.record_abort(
                RollbackUnfinished(reason=visible(str(error)), fallback=self.fallback(stable))
            )
            return False
        except Exception as error:  # noqa: BLE001 - whatever it was, a person must learn that it is not done
            await self._recorder.record_abort(
                RollbackUnfinished(
                    reason=f"internal error: {type(error).__name__}: {visible(str(error))}",
                    fallback=self.fallback(stable),
                )
            )
            return False
        await self._recorder.record_abort(RollbackVerified(proof=proof))
        return True

    def fallback(self, stable: Stable) -> list[str]:
        """Return the kubectl commands that do the same by hand."""
        kubernetes = self._plan.targets.kubernetes
        base = f"kubectl --server {kubernetes.url} -n {kubernetes.namespace}"
        commands = [
            f"{base} get httproute {kubernetes.route} -o yaml  # set each canary backendRef's weight to 0"
        ]
        for service in self._plan.services:
            image = stable.images.get(service.stable_deployment)
            if image:
                commands.append(
                    f"{base} set image deployment/{service.stable_deployment} {service.container}={image}"
                )
            commands.append(f"{base} scale deployment/{service.canary_deployment} --replicas 0")
        commands.append(f"{base} get pods  # no canary pod may be left")
        return commands

    # -- the steps ------------------------------------------------------------------------------------

    async def _shift(self, stable: Stable, proof: dict[str, str]) -> None:
        await self._stage("shift")
        await self._restore_stable(stable)
        await self._retry(lambda: self._do("shift", "canary weight 0", lambda: self._targets.shift(0)))

        async def at_zero() -> bool:
            weight = await self._targets.weight()
            self._recorder.note(WeightSeen(desired=weight, source="httproute"))
            return weight == 0

        await self._until(
            at_zero, self._plan.canary.drain_deadline, "the route still sends traffic to the canary"
        )
        proof["route"] = "every rule's canary weight read back as 0"

    async def _restore_stable(self, stable: Stable) -> None:
        """Give stable its capacity and its own images back, before it must carry everything."""
        seen = {d.name: d for d in await self._retry(self._targets.stable)}
        wrong = [n for n, image in stable.images.items() if n in seen and seen[n].image != image]
        small = [n for n, count in stable.replicas.items() if n in seen and seen[n].wanted < count]
        if not wrong and not small:
            return
        container = {s.stable_deployment: s.container for s in self._plan.services}
        for name in small:
            count = stable.replicas[name]
            await self._retry(
                lambda name=name, count=count: self._do(  # type: ignore[misc]
                    "scale", f"{name} to {count}", lambda: self._targets.scale(name, count)
                )
            )
        for name in wrong:
            image = stable.images[name]
            await self._retry(
                lambda name=name, image=image: self._do(  # type: ignore[misc]
                    "redeploy",
                    f"{name} {image}",
                    lambda: self._targets.set_image(name, container[name], image),
                )
            )
        bound = self._plan.canary.rollout_deadline if wrong else self._plan.canary.abort_scale_bound

        async def whole() -> bool:
            return self._problem(await self._targets.stable(), stable) == ""

        try:
            await self._until(whole, bound, "stable has not got its capacity back")
        except NotVerified:
            if wrong:
                raise  # stable is half one version, half the other: freeze, and ask a person
            # Only short of capacity: the plan's bound says to wait no longer.

    async def _observe(self, proof: dict[str, str]) -> None:
        await self._stage("observe")
        window = max(2.0, 2 * self._plan.canary.interval)
        seen: list[str] = []

        async def none() -> bool:
            requests = await self._observer.canary_requests(window)
            if requests is None:
                seen.append("not measured")
                # The pods' end is the stronger proof; do not wait for metrics that are gone.
                return len(seen) >= 3
            seen.clear()
            return requests == 0

        try:
            await self._until(none, self._plan.canary.drain_deadline, "requests still reach the canary")
        except NotVerified as error:
            proof["requests"] = f"{error}; the canary is scaled down all the same"
        else:
            proof["requests"] = (
                "not measured: the metrics back end did not answer" if seen else f"none in {window:g} s"
            )
        await self._stage("drain")
        await self._clock.sleep(self._plan.canary.drain)

    async def _scale_down(self) -> None:
        await self._stage("scale_down")

        async def down(name: str) -> None:
            await self._retry(lambda: self._do("scale", f"{name} to 0", lambda: self._targets.scale(name, 0)))

        names = [service.canary_deployment for service in self._plan.services]
        # One that fails must not keep the others up.
        ended = await asyncio.gather(*map(down, names), return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException):
                raise error

    async def _verify(self, stable: Stable, proof: dict[str, str]) -> None:
        await self._stage("verify")
        problem = "not looked at"

        async def done() -> bool:
            nonlocal problem
            canary = await self._targets.canary()
            now = await self._targets.stable()
            self._recorder.note(
                ReplicasSeen(deployments={d.name: [d.wanted, d.ready] for d in (*canary, *now)})
            )
            pods = await self._targets.canary_pods()
            weight = await self._targets.weight()
            left = [d.name for d in canary if not d.gone]
            problem = self._problem(now, stable)
            if weight:
                problem = f"the route gives the canary {weight} %"
            elif left or pods:
                problem = f"{pods} canary pods are left ({', '.join(left) or 'being deleted'})"
            return not problem

        try:
            await self._until(done, self._plan.canary.drain_deadline, "not verified")
        except NotVerified as error:
            raise NotVerified(f"{error}: {problem}") from None
        self._recorder.note(WeightSeen(desired=0, observed=0.0, source="no canary pods"))
        proof["canary"] = "no canary pod exists, every canary Deployment is at 0"
        proof["stable"] = "every stable Deployment has its replicas ready, on the image it had before"

    def _problem(self, now: list[DeploymentSeen], stable: Stable) -> str:
        for deployment in now:
            wanted = stable.replicas.get(deployment.name)
            image = stable.images.get(deployment.name)
            if wanted is not None and deployment.wanted < wanted:
                return f"{deployment.name} wants {deployment.wanted} of {wanted} replicas"
            if deployment.ready < deployment.wanted or not deployment.settled:
                return f"{deployment.name} has {deployment.ready} of {deployment.wanted} replicas ready"
            if image is not None and deployment.image != image:
                return f"{deployment.name} runs {deployment.image}"
        return ""

    # -- helpers --------------------------------------------------------------------------------------

    async def _stage(self, stage: str) -> None:
        self._recorder.note(RollbackStage(stage=stage))

    async def _do(self, verb: str, target: str, act: Callable[[], Awaitable[None]]) -> None:
        await self._effects.abort(verb, target, act, env=self._plan.environment, by=_BY)

    async def _retry(self, act: Callable[[], Awaitable[T]]) -> T:
        """Try until it works, with growing pauses, for as long as the drain deadline."""
        give_up = self._clock.monotonic() + self._plan.canary.drain_deadline
        pause = _PAUSE
        while True:
            try:
                return await act()
            except BackendError:
                if self._clock.monotonic() + pause > give_up:
                    raise
            await self._clock.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _until(self, check: Callable[[], Awaitable[bool]], deadline: float, problem: str) -> None:
        """Look until `check` is true; raise NotVerified with `problem` after `deadline` seconds."""
        give_up = self._clock.monotonic() + deadline
        trouble = ""
        while True:
            try:
                if await check():
                    return
                trouble = ""
            except BackendError as error:
                trouble = f" ({error})"
            if self._clock.monotonic() >= give_up:
                raise NotVerified(f"{problem} after {deadline:g} s{trouble}")
            await self._clock.sleep(_PAUSE)
