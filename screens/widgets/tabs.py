"""The tabs of a small terminal."""

from __future__ import annotations

from textual import events
from textual.message import Message

from cockpit.screens.look import Row, Segment
from cockpit.screens.view import View
from cockpit.screens.widgets.line import Lines

TABS: tuple[tuple[str, str, str], ...] = (
    ("flight", "1", "Canary & burn rate"),
    ("gates", "3", "Gates"),
    ("agents", "4", "Agents"),
    ("journal", "5", "Journal"),
)


class Tabs(Lines):
    """One line; the tab shown is reversed."""

    class Picked(Message):
        """A tab was clicked; `key` is the digit of its pane."""

        def __init__(self, key: str) -> None:
            super().__init__()
            self.key = key

    tab = "flight"

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the one line."""
        row: list[Segment] = []
        for tab, key, label in TABS:
            text = f" {key} {label} "
            chosen = tab == self.tab
            row += [
                (text, self.look.block(self.look.busy) if chosen else self.look.quiet),
                (" ", self.look.text),
            ]
        return [tuple(row)]

    def on_click(self, event: events.Click) -> None:
        """Show the tab clicked."""
        start = 0
        for _, key, label in TABS:
            end = start + len(label) + 4
            if start <= event.x < end:
                self.post_message(self.Picked(key))
            start = end + 1
