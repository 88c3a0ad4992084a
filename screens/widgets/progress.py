"""The replay's progress: a bar, the record, the time, the speed."""

from __future__ import annotations

from textual import events
from textual.message import Message

from cockpit.screens.look import Row, clock
from cockpit.screens.view import View
from cockpit.screens.widgets.canary import bar
from cockpit.screens.widgets.line import Lines


class Progress(Lines):
    """One line; a click on the bar seeks."""

    class Sought(Message):
        """A place of the bar was clicked: a share from 0 to 1."""

        def __init__(self, share: float) -> None:
            super().__init__()
            self.share = share

    _bar = (0, 1)

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the one line, nothing when this is no replay."""
        at, look = view.playback, self.look
        if at is None:
            return []
        word = "▶ playing" if at.playing else "■ at end " if at.position >= at.length else "■ paused "
        left = f" {word} {at.speed_word:<4} "
        loading = " loading" if at.loading else ""
        passed, total = max(0.0, view.now - at.begin), max(0.0, at.finish - at.begin)
        right = f" #{at.position - 1}/{at.length - 1}  {clock(passed)} / {clock(total)}{loading} "
        room = max(4, width - len(left) - len(right))
        done, rest = bar(at.position / at.length if at.length else 0.0, room)
        self._bar = (len(left), room)
        return [((left, look.strong), (done, look.mark), (rest, look.frame), (right, look.text))]

    def on_click(self, event: events.Click) -> None:
        """Seek to the place clicked."""
        start, room = self._bar
        if start <= event.x < start + room:
            self.post_message(self.Sought((event.x - start) / room))
