"""The roster: 65 agents, those that matter first."""

from __future__ import annotations

from typing import ClassVar

from cockpit.journal.state import AgentView
from cockpit.screens.look import Row, fit, mark
from cockpit.screens.view import View
from cockpit.screens.widgets.pane import Pane

_BAD = ("fail", "invalid", "timeout", "crash", "refused", "cancelled")


def shown_status(agent: AgentView) -> str:
    """Return the status to show: an agent that does not exist yet says so, whatever it answered."""
    if not agent.entry.built and agent.status in ("idle", "blocked"):
        return "not built"
    return agent.status


def _rank(agent: AgentView) -> tuple[int, str, int]:
    status = shown_status(agent)
    if status in _BAD:
        rank = 0
    elif status == "needs_approval":
        rank = 1
    elif status == "running":
        rank = 2
    elif agent.entry.required:
        rank = 3
    elif status == "not built":
        rank = 6
    else:
        rank = 4 if status != "idle" else 5
    return rank, agent.entry.id[:1], int(agent.entry.id[1:]) if agent.entry.id[1:].isdigit() else 0


def matches(agent: AgentView, wanted: str) -> bool:
    """Tell whether an agent's line contains the filter text."""
    text = " ".join((agent.entry.id, agent.entry.name, shown_status(agent), agent.op, agent.notes))
    return wanted.casefold() in text.casefold()


class Agents(Pane):
    """A line an agent: id, name, status, operation, note."""

    TITLE: ClassVar[str] = "Agents"
    SELECTS: ClassVar[bool] = True

    filter = ""

    def title(self, view: View) -> str:
        """Return the title with the counts that matter."""
        agents = view.state.agents
        running = sum(1 for agent in agents if agent.status == "running")
        bad = sum(1 for agent in agents if agent.status in _BAD)
        parts = [f"Agents {len(agents)}"]
        parts += [f"{running} running"] if running else []
        parts += [f"{bad} failed"] if bad else []
        parts += [f"filter “{fit(self.filter, min(20, len(self.filter)))}”"] if self.filter else []
        return " · ".join(parts)

    def fresh(self, view: View) -> str:
        """Return when an agent last answered or was called."""
        return max((agent.at for agent in view.state.agents), default="")

    def keys(self) -> list[str]:
        """Return the agents' ids."""
        return self._ids

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return a row an agent."""
        agents = [agent for agent in view.state.agents if not self.filter or matches(agent, self.filter)]
        agents.sort(key=_rank)
        self._ids = [agent.entry.id for agent in agents]
        if not agents:
            text = "no agent matches the filter" if self.filter else "the roster is not known yet"
            self._ids = [""]
            return [((f" {text}", self.look.quiet),)]
        return [self._row(agent, width) for agent in agents]

    def _row(self, agent: AgentView, width: int) -> Row:
        look, status = self.look, shown_status(agent)
        sign = mark(status)
        quiet = status in ("not built", "idle")
        name = min(24, max(12, width // 4))
        star = "*" if agent.entry.required else " "
        return (
            (f"{star}{fit(agent.entry.id, 3)} ", look.quiet),
            (fit(agent.entry.name, name), look.quiet if quiet else look.text),
            (f" {sign.icon} {fit(sign.word, 9)} ", sign.style(look)),
            (fit(agent.op, 8), look.quiet),
            (" " + agent_note(agent, width - name - 27), look.quiet if quiet else look.text),
        )


def agent_note(agent: AgentView, width: int) -> str:
    """Return the agent's note cut to a width."""
    return fit(agent.notes, width) if width > 0 else ""
