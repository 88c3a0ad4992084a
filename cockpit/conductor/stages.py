"""dev → stage → prod with the same digests (seed sections 5 and 9): what goes before the canary in prod.

Each stage takes the release's images and is looked at before the next begins. A stage with steps shifts its
own canary first, then replaces its stable. One that fails gets back what it ran, and nothing goes further.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from cockpit.backends.http import HttpReader
from cockpit.backends.metrics import MetricsBackend
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError, CockpitError, EffectRefused
from cockpit.base.text import visible
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.phases import Failure
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.targets import DeploymentSeen, Targets
from cockpit.journal.events_work import StageEnded, StageSeen, StageStarted
from cockpit.plan.checks import MetricCheck
from cockpit.plan.model import Plan, Service, Smoke
from cockpit.plan.operations import Stage
from cockpit.verdicts.answers import parse_answer
from cockpit.verdicts.questions import window_text
from cockpit.verdicts.thresholds import parse

_BY = "A1"
_PAUSE = 0.25
_SHORTEST_WINDOW = 2.0
_UNDO_WITHIN = 20.0
"""Seconds giving a stage back may take when the run is being ended."""


class StageFailed(CockpitError):
    """An environment before prod is not well with the release's images."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


@dataclass(frozen=True)
class Place:
    """One stage and its objects; `connect` makes its cluster reachable, `close` lets go of it."""

    stage: Stage
    targets: Targets
    abort_targets: Targets
    connect: Callable[[], Awaitable[None]]


class Stages:
    """Takes the release through the environments before prod."""

    def __init__(
        self,
        plan: Plan,
        places: Sequence[Place],
        effects: EffectsGate,
        metrics: MetricsBackend,
        http: HttpReader,
        recorder: Recorder,
        clock: Clock,
        resumed: Callable[[], Awaitable[None]],
    ) -> None:
        self._plan = plan
        self._places = places
        self._effects = effects
        self._metrics = metrics
        self._http = http
        self._recorder = recorder
        self._clock = clock
        self._resumed = resumed

    async def run(self) -> list[Failure]:
        """Take every stage that has not passed with these images; return what failed, which ends it."""
        images = {service.name: service.image.digest for service in self._plan.services}
        for place in self._places:
            env = place.stage.environment
            done = {one.env: one for one in self._recorder.state().work.stages}.get(env)
            if done is not None and done.result == "pass" and done.images == images:
                continue
            await self._recorder.record(StageStarted(env=env, images=images))
            try:
                failure = await self._take(place)
            except BackendError as error:
                failure = Failure("unreachable", f"{env}: {error}")
            running = await self._running(place)
            if failure is None and running != images:
                failure = Failure("gate", f"{env} does not run what is released: {running}")
            await self._recorder.record(
                StageEnded(
                    env=env,
                    result="fail" if failure else "pass",
                    reason=visible(failure.text, limit=1000) if failure else "",
                    running=running,
                )
            )
            if failure is not None:
                return [failure]
        return []

    async def _take(self, place: Place) -> Failure | None:
        await place.connect()
        before = await place.targets.stable()
        while True:
            try:
                await self._deploy(place, before)
                return None
            except StageFailed as failed:
                await self._undo(place, before)
                return failed.failure
            except BackendError:
                await self._undo(place, before)
                raise
            except asyncio.CancelledError:
                # The run is being ended: no traffic of prod has moved, so there is a moment for this.
                await asyncio.wait((asyncio.ensure_future(self._undo(place, before)),), timeout=_UNDO_WITHIN)
                raise
            except EffectRefused as refused:
                await self._undo(place, before)
                if refused.reason != "halt":
                    raise
                await self._resumed()

    async def _deploy(self, place: Place, before: Sequence[DeploymentSeen]) -> None:
        stage = place.stage
        full = {one.name: one.wanted for one in before}
        for weight in stage.steps:
            self._at(stage, "canary", weight, "")
            for service in self._plan.services:
                replicas = max(1, -(-full.get(service.stable_deployment, 1) * weight // 100))
                await self._scale(place, service, replicas)
            await self._rolled_out(stage, place.targets.canary, "the canary")
            await self._forward(
                stage, "shift", f"canary weight {weight}", partial(place.targets.shift, weight)
            )
            await self._clock.sleep(stage.bake)
            await self._look(place, weight)
        self._at(stage, "deploy", 0, "stable takes the images")
        for service in self._plan.services:
            name, image = service.stable_deployment, service.image.text
            act = partial(place.targets.set_image, name, service.container, image)
            await self._forward(stage, "promote", f"{name} {image}", act)
        await self._rolled_out(stage, place.targets.stable, "stable")
        if stage.steps:
            await self._forward(stage, "shift", "canary weight 0", partial(place.targets.shift, 0))
            await self._canary_down(place)
        await self._smoke(place)

    async def _scale(self, place: Place, service: Service, replicas: int) -> None:
        name, image = service.canary_deployment, service.image.text
        act = partial(place.targets.scale, name, replicas, container=service.container, image=image)
        await self._forward(place.stage, "scale", f"{name} to {replicas}", act)

    async def _canary_down(self, place: Place) -> None:
        for service in self._plan.services:
            name = service.canary_deployment
            act = partial(place.abort_targets.scale, name, 0)
            await self._effects.abort("scale", f"{name} to 0", act, env=place.stage.environment, by=_BY)

    async def _undo(self, place: Place, before: Sequence[DeploymentSeen]) -> None:
        """Give the stage back what it ran; what cannot be undone is on record as an effect that failed."""
        stage, targets = place.stage, place.abort_targets
        acts: list[tuple[str, str, Callable[[], Awaitable[None]]]] = []
        if stage.steps:
            acts.append(("shift", "canary weight 0", partial(targets.shift, 0)))
        images = {one.name: one.image for one in before}
        for service in self._plan.services:
            name = service.stable_deployment
            if name in images:
                redeploy = partial(targets.set_image, name, service.container, images[name])
                acts.append(("redeploy", f"{name} {images[name]}", redeploy))
            if stage.steps:
                canary = service.canary_deployment
                acts.append(("scale", f"{canary} to 0", partial(targets.scale, canary, 0)))
        for verb, target, act in acts:
            try:
                await self._effects.abort(verb, target, act, env=stage.environment, by=_BY)
            except (BackendError, EffectRefused) as error:
                self._at(stage, "undo", 0, f"{verb} {target}: {error}")

    async def _forward(
        self, stage: Stage, verb: str, target: str, act: Callable[[], Awaitable[None]]
    ) -> None:
        await self._effects.forward(verb, target, act, env=stage.environment, by=_BY)

    async def _rolled_out(
        self, stage: Stage, read: Callable[[], Awaitable[list[DeploymentSeen]]], what: str
    ) -> None:
        give_up = self._clock.monotonic() + stage.rollout_deadline
        while True:
            waiting = [one for one in await read() if not one.settled or one.ready < one.wanted]
            if not waiting:
                return
            if self._clock.monotonic() >= give_up:
                names = ", ".join(f"{one.name} {one.ready}/{one.wanted}" for one in waiting)
                raise StageFailed(
                    Failure("gate", f"{stage.environment}: {what} was not ready in time: {names}")
                )
            await self._clock.sleep(_PAUSE)

    # -- looking --------------------------------------------------------------------------------------

    async def _look(self, place: Place, weight: int) -> None:
        """Hold each check against its threshold; what has no answer yet is asked again for a while."""
        stage = place.stage
        give_up = self._clock.monotonic() + stage.rollout_deadline
        while True:
            found = await asyncio.gather(*(self._measure(stage, check) for check in stage.checks))
            said = "; ".join(text for _, text in found)
            self._at(stage, "check", weight, said)
            kinds = {kind for kind, _ in found}
            if kinds <= {""}:
                return
            if "gate" in kinds or self._clock.monotonic() >= give_up:
                kind = "gate" if "gate" in kinds else sorted(kinds - {""})[0]
                text = f"{stage.environment} at {weight} %: {said}"
                raise StageFailed(Failure(kind, text, gate=""))  # type: ignore[arg-type]
            await self._clock.sleep(1.0)

    async def _measure(self, stage: Stage, check: MetricCheck) -> tuple[str, str]:
        """Return how a check failed (`""` when it holds) and what was measured."""
        window = window_text(max(stage.bake, _SHORTEST_WINDOW))
        threshold = parse(check.threshold)
        try:
            answer = await self._metrics.query(
                check.query.replace("{window}", window), deadline=self._plan.canary.query_deadline
            )
            samples, warnings = parse_answer(answer.raw)
        except BackendError as error:
            return "unreachable", f"{check.metric}: {error}"
        values = [sample.value for sample in samples]
        worst = threshold.worst(values)
        if warnings or worst is None or worst != worst:
            return "inconclusive", f"{check.metric}: no measurement ({len(values)} series)"
        return ("" if threshold.holds(worst) else "gate"), f"{check.metric}={worst:.4g} ({threshold})"

    async def _smoke(self, place: Place) -> None:
        stage = place.stage
        if stage.entry_url is None:
            return
        base = stage.entry_url.rstrip("/")
        for path in self._plan.targets.smoke:
            wrong = await self._read(base, path)
            if wrong:
                raise StageFailed(Failure("gate", f"{stage.environment}: {path.name}: {wrong}"))
        self._at(stage, "check", 0, f"{len(self._plan.targets.smoke)} smoke paths answer as they must")

    async def _read(self, base: str, path: Smoke) -> str:
        answer = await self._http.get(base + path.path)
        if answer.status != path.status:
            return f"status {answer.status} instead of {path.status}"
        found = path.contains.encode() in answer.body
        return "" if found else f"the answer does not contain {path.contains!r}"

    async def _running(self, place: Place) -> dict[str, str]:
        """Return service → digest as its stable Deployment asks for it; empty where it cannot be told."""
        try:
            seen: Mapping[str, DeploymentSeen] = {one.name: one for one in await place.targets.stable()}
        except BackendError:
            return {}
        return {
            service.name: seen[service.stable_deployment].image.partition("@")[2]
            for service in self._plan.services
            if service.stable_deployment in seen
        }

    def _at(self, stage: Stage, where: str, weight: int, detail: str) -> None:
        self._recorder.note(
            StageSeen(env=stage.environment, stage=where, weight=weight, detail=visible(detail, limit=1000))
        )
