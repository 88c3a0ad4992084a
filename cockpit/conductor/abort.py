"""The abort: traffic off the canary, proof that none reaches it, canary down, stable whole (gates.md).

Idempotent: it looks at the world and does what is left to do, so it can be taken up again after a crash at
any point. It never scales stable down, and is never refused but by another holder's fence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, EffectRefused
from cockpit.base.text import visible
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import DeploymentSeen, Targets
from cockpit.journal.events import (
    Noted,
    ReplicasSeen,
    RollbackStage,
    RollbackStarted,
    RollbackUnfinished,
    RollbackVerified,
    WeightSeen,
)
from cockpit.journal.state import CanaryView
from cockpit.plan.model import Plan, Service

T = TypeVar("T")
_BY = "A1"
_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_UNSEEN_ENOUGH = 3


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
    canary: dict[str, str] = field(default_factory=dict)
    """The image each canary Deployment, with no pod, was to run: what is rolled back asks for it again."""

    @classmethod
    def recorded(cls, canary: CanaryView) -> Stable:
        """Return it as the journal has it."""
        return cls(dict(canary.stable_replicas), dict(canary.stable_images), dict(canary.canary_images))


class NotVerified(Exception):
    """A step of the abort did not come to the state it must within its time."""


def fallback(plan: Plan, stable: Stable) -> list[str]:
    """Return the kubectl commands that do the same by hand."""
    kubernetes = plan.targets.kubernetes
    base = f"kubectl --server {kubernetes.url} -n {kubernetes.namespace}"
    commands = [
        f"{base} get httproute {kubernetes.route} -o yaml  # set each canary backendRef's weight to 0"
    ]
    for service in plan.services:
        image = stable.images.get(service.stable_deployment)
        if image:
            commands.append(
                f"{base} set image deployment/{service.stable_deployment} {service.container}={image}"
            )
        commands.append(f"{base} scale deployment/{service.canary_deployment} --replicas 0")
    commands.append(f"{base} get pods  # no canary pod may be left")
    return commands


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

    async def run(self, reason: str, cause: str, by: str, stable: Stable, *, replacing: bool) -> bool:
        """Do the abort; tell whether it was verified. Raises nothing but cancellation.

        `replacing`: stable had begun to take the new images, so that it is no safe place for traffic until
        it has its own back.
        """
        proof: dict[str, str] = {}
        await self._recorder.record_abort(RollbackStarted(reason=reason, cause=visible(cause), by=by))
        try:
            if replacing:
                await self._restore_stable(stable)
            else:
                await self._make_room(stable)
            await self._shift(proof)
            await self._observe(proof)
            await self._scale_down()
            await self._verify(stable, proof)
        except (NotVerified, BackendError, EffectRefused) as error:
            await self._recorder.record_abort(
                RollbackUnfinished(reason=visible(str(error)), fallback=fallback(self._plan, stable))
            )
            return False
        except Exception as error:  # noqa: BLE001 - whatever it was, a person must learn that it is not done
            await self._recorder.record_abort(
                RollbackUnfinished(
                    reason=f"internal error: {type(error).__name__}: {visible(str(error))}",
                    fallback=fallback(self._plan, stable),
                )
            )
            return False
        await self._recorder.record_abort(RollbackVerified(proof=proof))
        await self._canary_as_before(stable)
        return True

    # -- the steps ------------------------------------------------------------------------------------

    async def _shift(self, proof: dict[str, str]) -> None:
        await self._stage("shift")
        await self._retry(lambda: self._do("shift", "canary weight 0", lambda: self._targets.shift(0)))

        async def at_zero() -> bool:
            weight = await self._targets.weight()
            self._recorder.note(WeightSeen(desired=weight, source="httproute"))
            return weight == 0

        await self._until(
            at_zero, self._plan.canary.drain_deadline, "the route still sends traffic to the canary"
        )
        proof["route"] = "every rule's canary weight read back as 0"

    async def _make_room(self, stable: Stable) -> None:
        """Give stable its replicas back where somebody took them; waits no longer than the plan's bound.

        Stable carries its own images and has its size, or had: what cannot be seen or done here must not keep
        traffic on the canary, and the verification tells in the end.
        """
        try:
            if await self._give_back(stable):
                await self._until(
                    lambda: self._whole(stable),
                    self._plan.canary.abort_scale_bound,
                    "stable has not got its capacity back",
                )
        except (BackendError, NotVerified) as error:
            self._recorder.note(Noted(level="warning", text=f"before the shift: {visible(str(error))}"))

    async def _give_back(self, stable: Stable) -> bool:
        """Give stable the replicas somebody took; tell whether any were missing."""
        small = [d for d in await self._targets.stable() if d.wanted < stable.replicas.get(d.name, 0)]
        for deployment in small:
            count = stable.replicas[deployment.name]
            act = partial(self._targets.scale, deployment.name, count)
            await self._do("scale", f"{deployment.name} to {count}", act)
        return bool(small)

    async def _restore_stable(self, stable: Stable) -> None:
        """Give stable its own images back before it must carry everything; frozen until it has them."""
        await self._stage("redeploy")
        # Every one is written, also where it looks right: a promotion still on its way then gets 409.
        for service in self._plan.services:
            await self._retry(partial(self._redeploy, service, stable.images[service.stable_deployment]))
        await self._retry(lambda: self._give_back(stable))
        await self._until(
            lambda: self._whole(stable),
            self._plan.canary.rollout_deadline,
            "stable has not got its previous images back",
        )

    async def _redeploy(self, service: Service, image: str) -> None:
        name = service.stable_deployment
        act = partial(self._targets.set_image, name, service.container, image)
        await self._do("redeploy", f"{name} {image}", act)

    async def _whole(self, stable: Stable) -> bool:
        return self._problem(await self._targets.stable(), stable) == ""

    async def _observe(self, proof: dict[str, str]) -> None:
        await self._stage("observe")
        window = max(4.0, 4 * self._plan.canary.interval)
        unseen = 0

        async def none() -> bool:
            nonlocal unseen
            requests = await self._observer.canary_requests(window)
            if requests is None:
                unseen += 1
                # The pods' end is the stronger proof; do not wait for metrics that are gone.
                return unseen >= _UNSEEN_ENOUGH
            unseen = 0
            return requests == 0

        try:
            await self._until(none, self._plan.canary.drain_deadline, "requests still reach the canary")
        except NotVerified as error:
            proof["requests"] = f"{error}; the canary is scaled down all the same"
        else:
            if unseen:
                proof["requests"] = "not measured: the metrics back end gave no count for the canary"
            else:
                proof["requests"] = f"counted: none in the last {window:g} s"
                self._recorder.note(WeightSeen(desired=0, observed=0.0, source="request counts"))
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
        proof["canary"] = "no canary pod exists, every canary Deployment is at 0"
        proof["stable"] = "every stable Deployment has its replicas ready, on the image it had before"

    async def _canary_as_before(self, stable: Stable) -> None:
        """Have the canary Deployments ask for what they did: nobody may scale up what was rolled back.

        Nothing runs there any more, and nothing depends on it: what fails is noted.
        """
        try:
            for service, seen in zip(self._plan.services, await self._targets.canary(), strict=True):
                image = stable.canary.get(seen.name, seen.image)
                if seen.image != image:
                    act = partial(self._targets.set_image, seen.name, service.container, image)
                    await self._do("redeploy", f"{seen.name} {image}", act)
        except (BackendError, EffectRefused) as error:
            text = f"a canary Deployment may still ask for what was rolled back: {visible(str(error))}"
            self._recorder.note(Noted(level="warning", text=text))

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
