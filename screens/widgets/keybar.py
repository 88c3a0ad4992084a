"""The bottom line: the keys, HALT and ROLLBACK always first; a click does what the key does."""

from __future__ import annotations

from textual import events
from textual.message import Message

from cockpit.control.actions import Action
from cockpit.screens.look import Row, Segment
from cockpit.screens.view import View
from cockpit.screens.widgets.line import Lines


class KeyBar(Lines):
    """As many actions as fit, in order of importance."""

    class Chosen(Message):
        """An action was clicked."""

        def __init__(self, action: str) -> None:
            super().__init__()
            self.action = action

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the one line."""
        look = self.look
        row: list[Segment] = []
        used = 0
        self._spans: list[tuple[int, int, str]] = []
        for action in view.keys.bar(view.mode):
            text = _text(action)
            if used + len(text) + 1 > width:
                continue
            if action.id in ("halt", "rollback"):
                row.append((text, look.block(look.bad if _can(view) else look.quiet)))
            else:
                row += [(f" {action.shown} ", look.strong), (f"{action.label} ", look.quiet)]
            self._spans.append((used, used + len(text), action.id))
            row.append((" ", look.text))
            used += len(text) + 1
        return [tuple(row)]

    def on_click(self, event: events.Click) -> None:
        """Do what was clicked."""
        for start, end, action in getattr(self, "_spans", []):
            if start <= event.x < end:
                self.post_message(self.Chosen(action))


def _can(view: View) -> bool:
    return view.mode != "replay" and view.desk.control and view.state.closed is None


def _text(action: Action) -> str:
    return f" {action.shown} {action.label} "
