"""The phases of the release in the shape of their dependencies."""

from __future__ import annotations

from typing import ClassVar

from cockpit.base.text import visible
from cockpit.journal.state import PhaseView
from cockpit.screens.look import PLAIN, Row, Segment, fit, mark, seconds_of, span, width_of
from cockpit.screens.view import View
from cockpit.screens.widgets.pane import Pane

# Names and order of seed sections 5 and 6; the shape is P0→P1→P2, P0→P3, (P2,P3)→P4→…→P8.
NAMES = {
    "P0": "Readiness",
    "P1": "Baselines",
    "P2": "Data",
    "P3": "Security",
    "P4": "Product",
    "P5": "Recovery",
    "P6": "Release",
    "P7": "Knowledge",
    "P8": "GA",
}
_UPPER = ("P0", "P1", "P2", "P4", "P5", "P6", "P7", "P8")
_SHORT = {"waiting": "wait", "running": "run", "skipped": "skip"}


class Phases(Pane):
    """Two lines: the upper is the long way through P1 and P2, the lower the branch through P3."""

    TITLE: ClassVar[str] = "Phases"

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.chosen = 0

    def title(self, view: View) -> str:
        """Return the title with the chosen phase, or else those at work, in words."""
        phases = {phase.phase: phase for phase in view.state.phases}
        if self.has_focus:
            phase = phases.get(f"P{self.chosen}")
            return f"Phases · {_words(phase, view)}" if phase else "Phases"
        busy = [_words(phase, view) for phase in view.state.phases if phase.status in ("running", "fail")]
        return f"Phases · {' · '.join(busy[:2])}" if busy else "Phases"

    def move(self, rows: int) -> None:
        """Choose another phase."""
        self.chosen = min(max(self.chosen + rows, 0), 8)
        if self._view is not None:
            self.show(self._view)
        self.refresh()

    def open(self) -> None:
        """Ask for the chosen phase."""
        self.post_message(self.Opened(self, f"P{self.chosen}"))

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the two lines; names are shown where there is room."""
        phases = {phase.phase: phase for phase in view.state.phases}
        gap = 2 if width < 100 else 3
        cell = (width - gap * (len(_UPPER) - 1)) // len(_UPPER)
        line = self.look.frame
        upper: list[Segment] = []
        for index, name in enumerate(_UPPER):
            if index:
                join = {1: "┬", 3: "┬"}.get(index, "─")
                dash = join + "─" * (gap - 1) if index != 3 else "─" * (gap - 1) + join
                upper.append((dash, line))
            upper += self._cell(phases.get(name), name, cell)
        # The branch leaves under the first joint and comes back under the third.
        lower: list[Segment] = [(" " * cell, PLAIN), ("└" + "─" * (gap - 1), line)]
        lower += self._cell(phases.get("P3"), "P3", cell)
        rest = 2 * gap + cell - 1
        lower.append(("─" * rest + "┘", line))
        lower += self._stages(view, width - width_of(lower))
        return [tuple(upper), tuple(lower)]

    def _stages(self, view: View, width: int) -> list[Segment]:
        """Return the environments in the order they take the release, where the plan has some before prod."""
        look, canary = self.look, view.state.canary
        if not view.state.work.stages or view.state.run is None:
            return []
        parts: list[Segment] = []
        for one in view.state.work.stages:
            sign = mark(one.result or "running")
            at = "" if one.result else f" {visible(one.stage, limit=8)} {one.weight} %"
            parts.append((f"{sign.icon} {visible(one.env, limit=10)}{at}", sign.style(look)))
        prod = "pending"
        if view.state.rollback is not None:
            prod = "fail"
        elif canary.released:
            prod = "pass"
        elif canary.step:
            prod = "running"
        sign = mark(prod)
        at = f" {canary.desired} %" if prod == "running" else ""
        parts.append((f"{sign.icon} {visible(view.state.run.environment, limit=10)}{at}", sign.style(look)))
        row: list[Segment] = []
        for index, part in enumerate(parts):
            row += [("  " if index == 0 else " → ", look.quiet), part]
        return row if width_of(row) <= width else []

    def _cell(self, phase: PhaseView | None, name: str, cell: int) -> list[Segment]:
        sign = mark(phase.status if phase else "pending")
        style = sign.style(self.look)
        word = sign.word if cell >= 14 else _SHORT.get(sign.word, sign.word)
        text = f"{sign.icon}{name} {word}" if cell < 14 else f"{sign.icon} {name} {word}"
        if cell >= 18 + len("Readiness"):
            text = f"{sign.icon} {name} {NAMES[name]} {word}"
        elif cell >= 18:
            text = f"{sign.icon} {name} {NAMES[name]}"
        shown = fit(text, min(cell, len(text)))
        if self.has_focus and name == f"P{self.chosen}":
            style = self.look.cursor
        out: list[Segment] = [(shown, style)]
        if len(shown) < cell:
            out.append(
                ("─" * (cell - len(shown)) if name != "P8" else " " * (cell - len(shown)), self.look.frame)
            )
        return out


def _words(phase: PhaseView, view: View) -> str:
    sign = mark(phase.status)
    text = f"{phase.phase} {NAMES.get(phase.phase, '')} {sign.word}"
    started, ended = seconds_of(phase.started_at), seconds_of(phase.ended_at)
    if started is not None:
        closed = seconds_of(view.state.closed.at) if view.state.closed else None
        text += f" {span((ended or closed or view.now) - started)}"
    return f"{text}: {visible(phase.reason, limit=60)}" if phase.reason else text
