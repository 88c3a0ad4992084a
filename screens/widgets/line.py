"""A widget of a few fixed lines without border or scrolling: header, banners, key bar, replay bar."""

from __future__ import annotations

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from cockpit.screens.look import Look, Row, clip
from cockpit.screens.view import View


class Lines(Widget):
    """Paints rows given by `rows`; only changed lines are repainted."""

    def __init__(self, look: Look, *, id: str) -> None:
        super().__init__(id=id)
        self.look = look
        self._view: View | None = None
        self._rows: list[Row] = []

    def rows(self, view: View, width: int) -> list[Row]:
        """Return the rows for a view at a width in cells."""
        raise NotImplementedError

    def show(self, view: View) -> None:
        """Take a new view and repaint what differs."""
        self._view = view
        width = self.size.width
        if not width:
            return
        before, self._rows = self._rows, self.rows(view, width)
        if len(before) != len(self._rows):
            self.refresh()
            return
        for y, (old, new) in enumerate(zip(before, self._rows, strict=True)):
            if old != new:
                self.refresh(Region(0, y, width, 1))

    def restyle(self, look: Look) -> None:
        """Take a new look after the theme changed."""
        self.look = look
        self.on_resize()
        self.refresh()

    def on_resize(self) -> None:
        """Lay the rows out for the new size."""
        if self._view is not None:
            self.show(self._view)

    def render_line(self, y: int) -> Strip:
        """Return one line."""
        width = self.size.width
        if y >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        segments = [Segment(text, style) for text, style in clip(self._rows[y], width)]
        return Strip(segments, width).apply_style(self.rich_style)
