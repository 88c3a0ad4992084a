"""An agent: five operations over a context, each giving an outcome that becomes an Agent RPC v2 response."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from cockpit.agentkit.context import Context
from cockpit.rpc.messages import AgentResponse, Artifact, GateVerdict, Links, Result


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation came to. `next` is the explicit next action for whoever reads it."""

    result: Result
    notes: str
    next: str
    artifacts: tuple[Artifact, ...] = ()
    verdicts: tuple[GateVerdict, ...] = ()
    links: Links = field(default_factory=Links)


class Agent(ABC):
    """Base of all agents. An operation that is cancelled stops; an exception becomes a failed call."""

    @abstractmethod
    async def plan(self, context: Context) -> Outcome:
        """Read the world; say what APPLY would change and what it needs. Never changes anything."""

    @abstractmethod
    async def apply(self, context: Context) -> Outcome:
        """Make the change, idempotently, through `context.effects`."""

    @abstractmethod
    async def verify(self, context: Context) -> Outcome:
        """Measure the world again and give verdicts. Never changes anything."""

    @abstractmethod
    async def rollback(self, context: Context) -> Outcome:
        """Restore what APPLY recorded, then verify that it is restored."""

    @abstractmethod
    async def evidence(self, context: Context) -> Outcome:
        """Write artifacts into the run folder."""

    async def run(self, context: Context) -> Outcome:
        """Do the operation the request names."""
        operation = {
            "PLAN": self.plan,
            "APPLY": self.apply,
            "VERIFY": self.verify,
            "ROLLBACK": self.rollback,
            "EVIDENCE": self.evidence,
        }[context.request.op]
        return await operation(context)


class ReadOnlyAgent(Agent):
    """An agent that changes nothing outside the run folder: APPLY and ROLLBACK have nothing to do."""

    async def apply(self, context: Context) -> Outcome:
        """Say that there is nothing to change."""
        return Outcome("ok", "this agent only measures: nothing was changed", "run VERIFY")

    async def rollback(self, context: Context) -> Outcome:
        """Say that there is nothing to restore."""
        return Outcome("ok", "this agent changed nothing: nothing to restore", "none")


def response_of(agent_name: str, context: Context, outcome: Outcome) -> AgentResponse:
    """Return the Agent RPC v2 response for an outcome."""
    return AgentResponse(
        phase=context.request.phase,
        agent=agent_name,
        result=outcome.result,
        artifacts=list(outcome.artifacts),
        links=outcome.links,
        verdicts=list(outcome.verdicts),
        notes=outcome.notes[:4000],
        next=outcome.next[:1000],
        trace_id=context.request.trace_id,
    )
