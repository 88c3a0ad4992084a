"""The roster: all 65 agents declared, those built loaded on demand, the others answering `blocked`."""

from __future__ import annotations

import importlib

from cockpit.agentkit.agent import Agent, Outcome
from cockpit.agentkit.context import Context
from cockpit.agentkit.info import AgentInfo
from cockpit.agents.declared import build, govern, run
from cockpit.base.errors import UsageError

ROSTER: tuple[AgentInfo, ...] = (*build.ENTRIES, *run.ENTRIES, *govern.ENTRIES)
"""Every agent of seed sections 4 and 19, in their order."""

BY_ID: dict[str, AgentInfo] = {info.id: info for info in ROSTER}


def find(agent_id: str) -> AgentInfo:
    """Return the entry of `agent_id`; raises UsageError when the roster has none."""
    try:
        return BY_ID[agent_id]
    except KeyError:
        raise UsageError(
            f"there is no agent {agent_id!r}", hint="`cockpit agents` lists all of them"
        ) from None


def load(info: AgentInfo) -> Agent:
    """Return the agent that does the work of `info`; one that is not built blocks every operation."""
    if not info.built:
        return NotBuilt(info)
    module, _, name = info.implementation.partition(":")
    made = getattr(importlib.import_module(module), name)()
    if not isinstance(made, Agent):
        raise TypeError(f"{info.implementation} is not an agent")
    return made


class NotBuilt(Agent):
    """Stands for an agent that is declared and not built: `blocked`, whatever is asked of it."""

    def __init__(self, info: AgentInfo) -> None:
        self._info = info

    def _blocked(self) -> Outcome:
        return Outcome(
            "blocked",
            f"{self._info.id} {self._info.name} is not built in this version",
            f"leave {self._info.id} out of the plan's agents, or give it as a command or URL of your own",
        )

    async def plan(self, context: Context) -> Outcome:
        """Answer `blocked`."""
        return self._blocked()

    async def apply(self, context: Context) -> Outcome:
        """Answer `blocked`."""
        return self._blocked()

    async def verify(self, context: Context) -> Outcome:
        """Answer `blocked`."""
        return self._blocked()

    async def rollback(self, context: Context) -> Outcome:
        """Answer `blocked`."""
        return self._blocked()

    async def evidence(self, context: Context) -> Outcome:
        """Answer `blocked`."""
        return self._blocked()


def table() -> str:
    """Return the roster as the Markdown of `docs/agents.md`."""
    lines = [
        "# Agents",
        "",
        f"{len(ROSTER)} agents are declared, {sum(info.built for info in ROSTER)} of them are built. "
        "Each answers Agent RPC v2 with PLAN, APPLY, VERIFY, ROLLBACK and EVIDENCE; one that is not built "
        "answers `blocked` to all five.",
    ]
    domain = ""
    for info in ROSTER:
        if info.domain != domain:
            domain = info.domain
            lines += [
                "",
                f"## {domain}",
                "",
                "| id | agent | RACI | phases | what it does | gates | artifacts | undo | built |",
                "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
            ]
        cells = (
            info.id,
            info.name,
            info.raci,
            ", ".join(info.phases),
            info.summary,
            ", ".join(info.gates) or "–",
            ", ".join(f"`{path}`" for path in info.artifacts),
            info.undo,
            "yes" if info.built else "no",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
