"""The gates: those the promotion requires, then the verdicts they are made of."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style

from cockpit.base.text import visible
from cockpit.journal.state import GateView
from cockpit.screens.look import Row, Segment, fit, mark, number
from cockpit.screens.view import View
from cockpit.screens.waits import overridden
from cockpit.screens.widgets.pane import Pane


def gate_key(gate: GateView) -> str:
    """Return the key of a verdict: phase gate, agent and environment."""
    return f"{gate.phase_gate}/{gate.agent}/{gate.env}"


class Gates(Pane):
    """Required gates first (pass, fail or not evaluated), then one line a verdict."""

    TITLE: ClassVar[str] = "Gates"
    SELECTS: ClassVar[bool] = True

    def title(self, view: View) -> str:
        """Return the title with go/no-go and the count of required gates passed."""
        required = view.state.required_gates
        passed = sum(1 for status in required.values() if status == "pass")
        go = {True: " · GO", False: " · NO-GO", None: ""}[view.state.go]
        return f"Gates {passed}/{len(required)} required pass{go}" if required else f"Gates{go}"

    def fresh(self, view: View) -> str:
        """Return when the last verdict came."""
        return max((gate.at for gate in view.state.gates), default="")

    def keys(self) -> list[str]:
        """Return `required/NAME` and the verdicts' keys."""
        return self._ids

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the rows."""
        look = self.look
        rows: list[Row] = []
        self._ids = []
        for name, status in view.state.required_gates.items():
            sign = mark(status)
            reason = view.state.gate_reasons.get(name, "")
            head = f"{sign.icon} {fit(name, 13)} {fit(sign.word, 14)}"
            rows.append(((head, sign.style(look) + Style(bold=True)), (fit(reason, width - 30), look.quiet)))
            self._ids.append(f"required/{name}")
        over = overridden(view)
        for gate in sorted(view.state.gates, key=_order):
            rows.append(self._verdict(gate, width, view, over))
            self._ids.append(gate_key(gate))
        if not rows:
            self._ids = [""]
            return [((" no verdict yet", look.quiet),)]
        return rows

    def _verdict(self, gate: GateView, width: int, view: View, overridden: set[str]) -> Row:
        look = self.look
        sign = mark(gate.outcome if gate.verdict != "pass" else "pass")
        step = f" step {gate.step}" if gate.step else ""
        attempts = view.state.people.reverified.get(gate.agent)
        again = f"attempt {attempts}: " if attempts else ""
        over = "OVERRIDDEN: " if gate.verdict != "pass" and gate.phase_gate in overridden else ""
        head: list[Segment] = [
            (f"  {sign.icon} {fit(sign.word, 8)}", sign.style(look)),
            (f" {fit(gate.phase_gate, 13)}", look.text),
            (f" {fit(gate.agent, 3)} ", look.quiet),
        ]
        said = gate.reason if gate.verdict != "pass" and gate.reason else _metrics(gate)
        return (
            *head,
            (
                fit(f"{over}{again}{said}{step}", width - 29),
                look.text if gate.verdict != "pass" else look.quiet,
            ),
        )


def _metrics(gate: GateView) -> str:
    return "  ".join(
        f"{visible(name, limit=30)} {number(value)}" for name, value in list(gate.metrics.items())[:6]
    )


def _order(gate: GateView) -> tuple[bool, str, str]:
    return gate.verdict == "pass", gate.phase, gate.phase_gate
