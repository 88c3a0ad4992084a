"""Rows of labelled facts: what a detail view is written on, and what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich.cells import cell_len

from cockpit.base.text import visible
from cockpit.screens.look import Look, Row, mark, number, wrap

LABEL = 15


@dataclass(frozen=True, slots=True)
class Subject:
    """What is shown: kind is agent, gate, phase, record, canary, alerts or a page; `key` says which."""

    kind: str
    key: str = ""


@dataclass(frozen=True, slots=True)
class Stored:
    """What was read from the run folder for the subject: a title and text, or why there is none."""

    title: str
    text: str


class Sheet:
    """Collects rows of labelled facts at a width."""

    def __init__(self, look: Look, width: int) -> None:
        self.look = look
        self.width = max(30, width)
        self.rows: list[Row] = []

    def head(self, text: str) -> None:
        """Add a heading."""
        if self.rows:
            self.rows.append(())
        self.rows += [((f" {line}", self.look.strong),) for line in wrap(text, self.width - 2)]

    def fact(self, label: str, value: object, style: str = "text") -> None:
        """Add a labelled value; nothing when it is empty."""
        text = value if isinstance(value, str) else number(value)
        if not text:
            return
        if cell_len(label) > LABEL:
            self.rows.append(((f" {visible(label, limit=200)}", self.look.quiet),))
            label = ""
        lines = wrap(text, self.width - LABEL - 3)
        for index, line in enumerate(lines):
            name = label if index == 0 else ""
            self.rows.append(((f" {name:<{LABEL}} ", self.look.quiet), (line, getattr(self.look, style))))

    def status(self, label: str, status: str) -> None:
        """Add a status with icon and word."""
        sign = mark(status)
        self.rows.append(
            ((f" {label:<{LABEL}} ", self.look.quiet), (f"{sign.icon} {sign.word}", sign.style(self.look)))
        )

    def text(self, text: str, style: str = "text") -> None:
        """Add free text."""
        self.rows += [
            ((f" {line}", getattr(self.look, style)),) for line in wrap(text, self.width - 2, limit=2000)
        ]

    def table(self, values: Mapping[str, object]) -> None:
        """Add names and values."""
        for name, value in values.items():
            self.fact(name, value)
