"""Composes what a release asks of its surroundings (`conductor/hooks.py`) from the parts a plan names."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cockpit.agentkit.context import Handles
from cockpit.backends.device_flow import IdTokenChecker
from cockpit.backends.tls import USUAL, Tls
from cockpit.base.clock import Clock
from cockpit.base.errors import UsageError
from cockpit.base.redact import Redactor
from cockpit.conductor.acts import ActPolicy
from cockpit.conductor.approvals import ApprovalDesk
from cockpit.conductor.attention import Attention
from cockpit.conductor.breakglass import BreakGlassDesk
from cockpit.conductor.checker import SigstoreChecker
from cockpit.conductor.control import Act
from cockpit.conductor.decider import Decider
from cockpit.conductor.desks import Desks
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.facts import FactsOfRelease
from cockpit.conductor.gatekeeper import ReleaseGatekeeper
from cockpit.conductor.hardstop import HardStop
from cockpit.conductor.hooks import Hooks
from cockpit.conductor.people import People
from cockpit.conductor.permission import Permission
from cockpit.conductor.phases import Phases
from cockpit.conductor.promotion_requests import QUESTION as PROMOTE_QUESTION
from cockpit.conductor.promotion_requests import PromotionRequests
from cockpit.conductor.recorder import Recorder
from cockpit.conductor.soak import Soak
from cockpit.conductor.stages import Stages
from cockpit.conductor.step_up import SecretReader, StepUpDesk, TokenChecker
from cockpit.conductor.timetable import Timetable
from cockpit.conductor.tools import BakeClock, Handover, Reverify
from cockpit.conductor.watches import operator_lost, window_end
from cockpit.connecting import tls_of
from cockpit.control.messages import Command
from cockpit.evidence.pack import TRUSTED_ROOT
from cockpit.plan.load import LoadedPlan
from cockpit.plan.model import Plan
from cockpit.plan.people import Person
from cockpit.plan.registry import Registry
from cockpit.plan.values import SecretRef

_FLAG_ATTEMPTS = 2
_BUTLER, _COMMS = "A55", "A41"


class Closed:
    """Why prod must not be promoted now; a canary in flight may finish where the plan says so."""

    def __init__(self, plan: Plan, timetable: Timetable) -> None:
        self._plan = plan
        self._timetable = timetable
        self.in_flight: Callable[[], bool] = lambda: False

    def __call__(self) -> str:
        """Return the reason, or nothing."""
        if self._plan.on_window_end == "finish" and self.in_flight():
            return ""
        return self._timetable.promotion_problem()


@dataclass(frozen=True)
class Core:
    """The parts of a release everything else hangs on."""

    loaded: LoadedPlan
    recorder: Recorder
    clock: Clock
    effects: EffectsGate
    people: People
    phases: Phases
    gatekeeper: ReleaseGatekeeper
    timetable: Timetable
    closed: Closed
    handles: Handles
    redactor: Redactor

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.loaded.plan


class Surroundings:
    """Calendar, soak, people, policy, messages and the hard stop of one run."""

    def __init__(self, core: Core, stages: Stages, *, unattended: bool) -> None:
        plan, recorder, clock = core.plan, core.recorder, core.clock
        self._core = core
        self._stages = stages
        self._announced = False
        self._steps: asyncio.Queue[int] = asyncio.Queue()
        self.promotions = PromotionRequests(plan, recorder, clock)
        self.bake, self.handover = BakeClock(recorder), Handover(recorder)
        self.reverify = Reverify(core.phases, recorder)
        assert core.handles.decisions is not None and core.handles.metrics is not None
        decider = Decider(core.handles.decisions, recorder, deadline=plan.targets.policy.deadline)
        facts = FactsOfRelease(plan, core.loaded.sha256, recorder, clock)
        self.policy = ActPolicy(decider, facts)
        self.desks = _desks(core, self.policy, unattended=unattended)
        self.attention = Attention(
            plan=plan, sender=core.handles.webhooks, effects=core.effects, recorder=recorder, clock=clock
        )
        self._soak = Soak(plan, recorder, clock, core.handles.metrics)
        issues = plan.targets.issues
        resolves = issues is not None and issues.close_after_rollback
        self._hard_stop = HardStop(core.phases, recorder, resolves=resolves)
        self._permission = Permission(
            plan,
            recorder=recorder,
            people=core.people,
            desk=self.desks.approvals if self.desks is not None else None,
            decider=decider,
            facts=facts,
            promotions=self.promotions,
        )

    def hooks(self) -> Hooks:
        """Return what the release asks for along its way."""
        core, plan = self._core, self._core.plan
        glass = plan.approvals.break_glass if plan.approvals is not None else None
        watchers: list[Callable[[], Coroutine[Any, Any, None]]] = [
            partial(window_end, plan, core.effects, core.people, core.clock, core.closed),
            partial(operator_lost, plan, core.people, core.recorder, core.clock, self.bake),
        ]
        beside: list[Callable[[], Coroutine[Any, Any, None]]] = [self.reverify.serve, self._tell_steps]
        if self.desks is not None:
            beside.append(self.desks.watch)
        return Hooks(
            due=self._due,
            stages=self._stages.run,
            allowed=self._permission.before_step,
            baking=core.gatekeeper.watch_risks,
            advanced=self._advanced,
            aborted=self._flags_back,
            hard_stop=self._stop,
            freezing=self._hard_stop.freezing,
            closed=core.closed,
            overridden=self.overridden,
            glass_wait=plan.approvals.auto_wait if plan.approvals is not None else 0.0,
            overridable=frozenset(glass.overridable) if glass is not None else frozenset(),
            watchers=watchers,
            beside=beside,
        )

    def acts(self) -> dict[str, Act]:
        """Return what takes the operator's commands, by their kind."""
        return {
            "acknowledge": lambda c: self.attention.acknowledge(c.by, c.question),
            "promote": lambda c: self.promotions.submit(c.statement.encode(), c.by),
            "answer": self._answer,
            "pause": lambda c: self.bake.pause(True, c.by, c.reason),
            "unpause": lambda c: self.bake.pause(False, c.by, c.reason),
            "extend": lambda c: self.bake.extend(c.seconds, c.by, c.reason),
            "reverify": lambda c: self.reverify.ask(c.agent, c.by, c.reason),
            "handover": lambda c: self.handover.offer(c.by, c.to, c.reason),
            "accept": lambda c: self.handover.accept(c.by),
        }

    def _answer(self, command: Command) -> str:
        if command.question == PROMOTE_QUESTION:
            return self.promotions.answered(command.answer, command.by)
        return self._core.people.answer(command.question, command.answer, command.by, command.reason)

    def overridden(self) -> frozenset[str]:
        """Return the phase gates break-glass overrides now."""
        return frozenset() if self.desks is None else frozenset(self.desks.glass.facts().overridden)

    async def _due(self, phase: str) -> None:
        timetable, plan = self._core.timetable, self._core.plan
        if not self._announced:
            self._announced = True
            await timetable.announce()
        if phase != "P8":  # its flip is of T-0; only its figures are due a day later
            await timetable.wait_for(phase)
        if phase in ("P5", "P6", "P7", "P8") and "P4" in plan.phases:
            await self._soak.pass_or_wait()
        if phase == "P6":
            await timetable.wait_open()
            await self._permission.before_train()
        if phase == "P8" and plan.ga_flags and self._core.phases.has(_BUTLER):
            await self._permission.before_flip()

    async def _advanced(self, step: int) -> None:
        self._steps.put_nowait(step)
        plan = self._core.plan
        info = self._core.phases.find(_BUTLER)
        if info is not None and plan.auto_ramp_flags:
            weight = plan.canary.steps[step - 1]
            await self._core.phases.op("P6", info, "APPLY", params={"ramp": weight, "step": step})

    async def _tell_steps(self) -> None:
        """Post what advanced, beside the canary: a receiver that hangs must not hold a step up."""
        while True:
            step = await self._steps.get()
            info = self._core.phases.find(_COMMS)
            if info is not None:
                params = {"macro": "step", "step": step, "weight": self._core.plan.canary.steps[step - 1]}
                await self._core.phases.op("P6", info, "APPLY", params=params)

    async def _flags_back(self) -> str:
        info = self._core.phases.find(_BUTLER)
        if info is not None:  # one cut off left no record, and may have been set: it looks itself
            for _ in range(_FLAG_ATTEMPTS):
                result = await self._core.phases.op("P6", info, "ROLLBACK")
                if result.ok:
                    return ""
            return f"the flags were not taken back: {result.reason or result.status}"
        return ""

    async def _stop(self, cause: str, reason: str, gate: str) -> None:
        await self._hard_stop.run(cause, reason, gate)


def _desks(core: Core, policy: ActPolicy, *, unattended: bool) -> Desks | None:
    plan, recorder, clock = core.plan, core.recorder, core.clock
    if plan.approvals is None:
        return None
    registry = Registry(plan.approvals, plan.targets.signing.issuer)
    checker = SigstoreChecker(plan, registry, recorder.run_dir / TRUSTED_ROOT)
    approvals = ApprovalDesk(
        plan, core.loaded.sha256, recorder, clock, checker, policy=policy, unattended=unattended
    )
    glass = BreakGlassDesk(plan, core.loaded.sha256, recorder, checker, approvals, policy)
    secrets = _secrets(core.loaded.base, core.redactor)
    step_up = StepUpDesk(
        registry,
        recorder,
        clock,
        secrets,
        checker_of_logins(registry, clock, lambda: tls_of(plan, core.loaded.base)),
    )
    return Desks(approvals, glass, step_up, recorder, clock)


def checker_of_logins(
    registry: Registry, clock: Clock, tls: Callable[[], Tls] = lambda: USUAL
) -> TokenChecker:
    """Return what checks that a person of the plan has just logged in, each login once.

    `tls` is asked at each login: where it raises UsageError the login cannot be checked.
    """
    logins = IdTokenChecker(clock=clock)

    async def check(token: str, person: Person) -> str:
        return await logins.check(
            token,
            registry.issuer_of(person),
            person.identity,
            broker=registry.login_of(person),
            tls=tls(),
        )

    return check


def _secrets(base: Path, redactor: Redactor) -> SecretReader:
    def read(reference: SecretRef) -> str:
        try:
            value = reference.read(base)
        except LookupError as error:
            raise UsageError(str(error), where=reference.ref, hint="the plan refers to this secret") from None
        redactor.add(value)
        return value

    return read
