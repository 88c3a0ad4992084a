"""Dispatch on this machine: an agent's request is validated again on its side, worked on, and answered.

The seam for other places to run agents: a dispatch is anything that takes request bytes to an agent and
brings response bytes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cockpit.agentkit.agent import Agent, Outcome, response_of
from cockpit.agentkit.artifacts import Artifacts
from cockpit.agentkit.context import BackendMissing, Context, Effects, Handles
from cockpit.agentkit.external import ExternalAgents
from cockpit.agentkit.info import AgentInfo
from cockpit.agents.roster import find, load
from cockpit.base.clock import Clock
from cockpit.base.errors import BackendError
from cockpit.base.text import visible
from cockpit.conductor.effects import EffectsGate
from cockpit.conductor.hardstop import HARD_STOP, HARD_STOP_AGENTS
from cockpit.conductor.recorder import Recorder
from cockpit.plan.load import LoadedPlan
from cockpit.rpc.messages import AgentRequest
from cockpit.rpc.validate import check, encode
from cockpit.verdicts.gates import VALIDITY_S

T = TypeVar("T")
_CHANGING = frozenset({"APPLY", "ROLLBACK"})


class AbortMessages:
    """Effects for what belongs to an abort: its messages, the stages of a hard stop, every ROLLBACK.

    They go out under a HALT too.
    """

    def __init__(self, gate: EffectsGate) -> None:
        self._gate = gate

    async def forward(
        self,
        verb: str,
        target: str,
        act: Callable[[], Awaitable[T]],
        *,
        env: str,
        by: str,
        detail: str = "",
    ) -> T:
        """Do it in the abort lane."""
        return await self._gate.abort(verb, target, act, env=env, by=by, detail=detail)


@dataclass(frozen=True)
class LocalDispatch:
    """Runs the built-in agents in this process, and sends to others what the plan gives to others."""

    plan: LoadedPlan
    run_dir: Path
    clock: Clock
    recorder: Recorder
    handles: Handles
    effects: EffectsGate
    external: ExternalAgents | None = None

    async def call(self, agent: str, request: bytes) -> bytes:
        """Return the agent's response; raises MessageInvalid for a request that is not one."""
        message = check(AgentRequest, request)
        info = find(agent)
        if self.external is not None and agent in self.external:
            return await self._elsewhere(self.external, info, message)
        worker: Agent = load(info)
        context = Context(
            info=info,
            request=message,
            plan=self.plan.plan,
            plan_sha256=self.plan.sha256,
            base=self.plan.base,
            run_dir=self.run_dir,
            clock=self.clock,
            state=self.recorder.state,
            artifacts=Artifacts(self.run_dir),
            blobs=self.recorder,
            handles=self.handles,
            effects=self._effects(agent, message),
            valid_s=VALIDITY_S,
        )
        try:
            outcome = await worker.run(context)
        except BackendMissing as missing:
            outcome = Outcome("blocked", str(missing), "configure it in the plan's targets")
        except BackendError as error:
            # What could not be reached is neither ok nor judged bad.
            outcome = Outcome("blocked", visible(str(error)), "look at the back end, then run again")
        return encode(response_of(info.name, context, outcome))

    async def _elsewhere(self, external: ExternalAgents, info: AgentInfo, message: AgentRequest) -> bytes:
        """Call an agent that is not ours: what it changes it changes by its own means, so the call itself is
        the mutation that HALT, fence and journal hold back."""
        effects = self._effects(info.id, message)
        if effects is None:
            return await external.call(info, message)
        return await effects.forward(
            "external",
            f"{info.id} {message.op}",
            lambda: external.call(info, message),
            env=message.scope.env,
            by=info.id,
            detail="an agent that is not ours changes something",
        )

    def _effects(self, agent: str, message: AgentRequest) -> Effects | None:
        if message.op not in _CHANGING:
            return None
        # Aborts are exempt (gates.md, reading 8): neither window nor HALT may keep a ROLLBACK from restoring.
        params = message.inputs.params
        of_an_abort = params.get("macro") == "breach" or (agent in HARD_STOP_AGENTS and params.get(HARD_STOP))
        if message.op == "ROLLBACK" or of_an_abort:
            return AbortMessages(self.effects)
        return self.effects
