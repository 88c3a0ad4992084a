"""Figures of one benchmark run: shown as a table, kept as JSON.

Machines differ and are shared: goals that can be are ratios of two figures of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One figure; `goal` is what it should be and `met` whether it is (None: no goal)."""

    name: str
    value: float
    unit: str
    goal: str = ""
    met: bool | None = None


class Report:
    """Collects the figures of one benchmark."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.figures: list[Figure] = []

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> float:
        """Add a figure with its goal, if any, and return its value."""
        goal, met = "", None
        if at_least is not None:
            goal, met = f"≥ {_number(at_least)}", value >= at_least
        elif at_most is not None:
            goal, met = f"≤ {_number(at_most)}", value <= at_most
        self.figures.append(Figure(name, value, unit, goal, met))
        return value

    def text(self) -> str:
        """Return the table."""
        rows = [("figure", "value", "goal", "")]
        for f in self.figures:
            word = "" if f.met is None else ("met" if f.met else "MISSED")
            rows.append((f.name, f"{_number(f.value)} {f.unit}".strip(), f.goal, word))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            "  ".join(
                cell.rjust(width) if column == 1 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join([self.title, "-" * len(self.title), *lines])

    def json(self) -> str:
        """Return everything as JSON, with what it ran on."""
        return json.dumps(
            {
                "title": self.title,
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
                "load": os.getloadavg()[0],
                "figures": [asdict(figure) for figure in self.figures],
            },
            indent=2,
        )

    def finish(self, arguments: argparse.Namespace) -> int:
        """Print the table, write the JSON if asked; return 0 (1 with `--check` when a goal is missed)."""
        print(self.text())
        if arguments.json is not None:
            arguments.json.write_text(self.json() + "\n", encoding="utf-8")
        return 1 if arguments.check and any(figure.met is False for figure in self.figures) else 0


def parse_arguments(description: str) -> argparse.Namespace:
    """Return the flags every benchmark knows: `json` (a path or None) and `check`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--check", action="store_true", help="exit 1 when a goal is missed")
    return parser.parse_args()


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` percent of `values` do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * share // 100))
    return ordered[int(rank) - 1]


def _number(value: float) -> str:
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 1 else f"{value:.2f}"
