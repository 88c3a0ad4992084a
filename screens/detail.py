"""The detail and the help screen: one thing in full, kept up to date while it is open."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from textual.widget import Widget

from cockpit.screens.facts import facts, title_of
from cockpit.screens.frame import Frame
from cockpit.screens.look import Look, Row
from cockpit.screens.sheet import Sheet, Stored, Subject
from cockpit.screens.view import View
from cockpit.screens.widgets.pane import Pane

_GROUPS = {
    "stop": "Stopping",
    "decide": "Deciding",
    "release": "The release",
    "look": "Looking",
    "replay": "Replay",
    "move": "Moving",
    "screen": "The screen",
}


class Facts(Pane):
    """Everything about one subject."""

    TITLE: ClassVar[str] = "Detail"

    def __init__(self, look: Look, subject: Subject, *, id: str) -> None:
        super().__init__(look, id=id)
        self.subject = subject
        self.stored: Stored | None = None

    def title(self, view: View) -> str:
        """Return the subject's title."""
        return f"{title_of(self.subject)} · Esc goes back"

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the facts."""
        return facts(view, self.subject, self.stored, self.look, width)


class Detail(Frame):
    """A subject in full."""

    def __init__(self, look: Look, subject: Subject) -> None:
        super().__init__(look)
        self.subject = subject

    def body(self) -> Iterable[Widget]:
        """Return the one pane."""
        yield Facts(self.look, self.subject, id="detail")

    def on_mount(self) -> None:
        """Give the pane the keys."""
        self.query_one(Facts).focus()

    def add(self, stored: Stored) -> None:
        """Take in what was read from the run folder."""
        pane = self.query_one(Facts)
        pane.stored = stored
        if self.view is not None:
            pane.show(self.view)


class Keys(Pane):
    """All actions with their keys."""

    TITLE: ClassVar[str] = "Help · Esc goes back"

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the registry as lines, grouped."""
        sheet = Sheet(self.look, width)
        for group, title in _GROUPS.items():
            actions = [one for one in view.keys.actions if one.group == group and one.in_mode(view.mode)]
            if actions:
                sheet.head(title)
            for action in actions:
                sheet.fact(
                    f"{action.shown:<6}", f"{action.label}: {action.help}", "bad" if action.danger else "text"
                )
        sheet.head("Signs")
        sheet.text(
            "✓ pass or ok   ✗ failed   ▶ running   · waiting   ○ not evaluated   ⊘ blocked   ? person or data"
        )
        sheet.text(
            "* an agent the plan requires   Each pane says at its lower edge how old its newest data is."
        )
        return sheet.rows


class Help(Frame):
    """The help screen."""

    def body(self) -> Iterable[Widget]:
        """Return the one pane."""
        yield Keys(self.look, id="keys")

    def on_mount(self) -> None:
        """Give the pane the keys."""
        self.query_one(Keys).focus()
