"""Gates around the canary: go/no-go recomputed before each step, the canary-phase agents under each step."""

from __future__ import annotations

from collections.abc import Sequence

from cockpit.base.clock import Clock
from cockpit.conductor.bake import Breach, Inconclusive
from cockpit.conductor.calls import CallResult
from cockpit.conductor.dag import DEPENDS
from cockpit.conductor.phases import Failure, Phases, RosterInfo, failures_of, owed_failures
from cockpit.conductor.recorder import Recorder
from cockpit.journal.events import GoNoGoComputed, RequiredGates
from cockpit.plan.model import Plan
from cockpit.rpc.messages import GoNoGo
from cockpit.rpc.validate import encode
from cockpit.verdicts.approvals import GlassFacts, glass_facts
from cockpit.verdicts.gates import GateFacts, evaluate_required, owing_of
from cockpit.verdicts.gonogo import compute

_RISKS = "A4"
_RISK_LOOKS = 4
"""How often the risk triggers are judged in the course of a bake, at most once an interval."""
PROMOTION_PHASES = ("P0", "P1", "P2", "P3", "P4", "P5", "P6")


def facts_for(
    plan: Plan,
    plan_sha256: str,
    roster: Sequence[RosterInfo],
    *,
    step: int = 0,
    glass: GlassFacts | None = None,
) -> GateFacts:
    """Return what verdicts are held against: the plan's images, its digest, and who owes what by now."""
    due: list[str] = [phase for phase in PROMOTION_PHASES if phase in plan.phases]
    if step > 1:
        due.append("canary")
    listed = set(plan.agents)
    stepwise = frozenset(info.id for info in roster if "canary" in info.phases and info.id in listed)
    return GateFacts(
        images={service.name: service.image.digest for service in plan.services},
        plan_sha256=plan_sha256,
        required_gates=plan.required_gates,
        owing=owing_of(roster, listed=plan.agents, due=due),
        step=step,
        stepwise=stepwise,
        overridden=glass.overridden if glass is not None else {},
        glass_problems=glass.problems if glass is not None else (),
    )


class ReleaseGatekeeper:
    """Computes the required gates and go/no-go from the journal's state."""

    def __init__(
        self,
        plan: Plan,
        plan_sha256: str,
        roster: Sequence[RosterInfo],
        phases: Phases,
        recorder: Recorder,
        clock: Clock,
    ) -> None:
        self._plan = plan
        self._sha = plan_sha256
        self._roster = roster
        self._phases = phases
        self._recorder = recorder
        self._clock = clock

    async def preflight(self, step: int) -> list[str]:
        """Recompute go/no-go; return the reasons for a no-go, empty for a go."""
        document = self.checklist(step)
        [blob] = await self._recorder.keep_all([encode(document)])
        facts = self._facts(step)
        outcome = evaluate_required(self._recorder.state(), facts, now=self._clock.now())
        await self._recorder.record(RequiredGates(gates=dict(outcome.gates), reasons=dict(outcome.reasons)))
        await self._recorder.record(
            GoNoGoComputed(
                go=document.go,
                reasons=list(document.reasons),
                headroom=dict(document.headroom),
                blob=blob,
                step=step,
            )
        )
        return [] if document.go else list(document.reasons) or ["no-go"]

    def _glass(self) -> GlassFacts:
        return glass_facts(self._recorder.state().people.glasses, self._clock.now())

    def _facts(self, step: int) -> GateFacts:
        return facts_for(self._plan, self._sha, self._roster, step=step, glass=self._glass())

    def checklist(self, step: int) -> GoNoGo:
        """Compute the checklist of seed section 20 as of now."""
        facts = self._facts(step)
        return compute(self._recorder.state(), self._plan, facts, now=self._clock.now())

    async def record_gates(self) -> None:
        """Record where the required gates stand, for what ends before the promotion."""
        facts = self._facts(0)
        outcome = evaluate_required(self._recorder.state(), facts, now=self._clock.now())
        await self._recorder.record_abort(
            RequiredGates(gates=dict(outcome.gates), reasons=dict(outcome.reasons))
        )

    async def under_step(self, step: int) -> None:
        """Have the canary-phase agents verify; raises Breach for what failed, Inconclusive for the untold.

        A risk trigger that fired is a critical breach, and its gate says which risk (`risk_trigger:R-…`): it
        has held for its own time, so nothing is gained by another look.
        """
        failures: list[Failure] = []
        for info in self._phases.agents("canary"):
            weight = self._plan.canary.steps[step - 1]
            result = await self._phases.op("P6", info, "VERIFY", params={"step": step, "weight": weight})
            found = failures_of(result) or owed_failures(info, result)
            glass = self._glass().overridden
            failures += [one for one in found if one.gate not in glass]
            if info.id == _RISKS:
                self._no_trigger(step, result, found)
        judged_bad = [failure.text for failure in failures if failure.kind == "gate"]
        if judged_bad:
            raise Breach(f"under step {step}: {'; '.join(judged_bad)}", gate="slo")
        if failures:
            raise Inconclusive(
                f"under step {step}: {'; '.join(failure.text for failure in failures)}", agents=True
            )

    async def watch_risks(self, step: int) -> None:
        """Have the risk triggers judged while a step bakes, a few times in its length; raises Breach.

        That one cannot be told is no matter here: the step's end asks again. Runs until it is cancelled.
        """
        info = self._phases.find(_RISKS)
        if info is None or "canary" not in info.phases:
            return
        canary = self._plan.canary
        params = {"step": step, "weight": canary.steps[step - 1]}
        while True:
            await self._clock.sleep(max(canary.interval, canary.bake / _RISK_LOOKS))
            result = await self._phases.op("P6", info, "VERIFY", params=params)
            self._no_trigger(step, result, failures_of(result))

    def _no_trigger(self, step: int, result: CallResult, found: Sequence[Failure]) -> None:
        """Raise the Breach of what the Risk Officer judged bad, named for the risks whose triggers fired."""
        bad = [failure.text for failure in found if failure.kind == "gate"]
        if not bad:
            return
        risks = self._recorder.state().risks if result.response is not None else ()
        # Before the step no high risk was open, or it would not have begun: a trigger has opened these.
        opened = [risk.id for risk in risks if risk.state == "open" and risk.rating == "high"]
        gate = f"risk_trigger:{','.join(opened)}" if opened else "risk"
        raise Breach(f"under step {step}: {'; '.join(bad)}", gate=gate, critical=bool(opened))


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
