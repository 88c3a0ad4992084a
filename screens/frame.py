"""What every full screen has: header, banners, key bar, and a plain view when the terminal is too small."""

from __future__ import annotations

from collections.abc import Iterable

from textual import events
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget

from cockpit.screens.look import Look
from cockpit.screens.view import View
from cockpit.screens.widgets.banner import Banner
from cockpit.screens.widgets.header import Header
from cockpit.screens.widgets.keybar import KeyBar
from cockpit.screens.widgets.line import Lines
from cockpit.screens.widgets.pane import Pane
from cockpit.screens.widgets.small import TooSmall

MIN_WIDTH, MIN_HEIGHT = 80, 24
_COMPACT_BELOW = (110, 34)
_WIDE_FROM = (150, 48)


class Frame(Screen[None], inherit_bindings=False):
    """A full screen; `show` hands a view to each part that is on display."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look
        self.view: View | None = None

    def body(self) -> Iterable[Widget]:
        """Return what lies between the banners and the key bar."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """Put the parts."""
        yield Header(self.look, id="header")
        yield Banner(self.look, id="banner")
        yield from self.body()
        yield KeyBar(self.look, id="keybar")
        yield TooSmall(self.look, id="small")

    def parts(self) -> list[Lines | Pane]:
        """Return the parts that paint a view."""
        return [*self.query(Lines), *self.query(Pane)]

    def show(self, view: View) -> None:
        """Paint a view."""
        self.view = view
        for part in self.parts():
            if part.display and part.is_attached:
                part.show(view)
        # A banner without alerts is hidden and must still hear of new ones.
        for banner in self.query(Banner):
            if not banner.display:
                banner.show(view)

    def restyle(self, look: Look) -> None:
        """Take a new look after the theme changed."""
        self.look = look
        for part in self.parts():
            part.restyle(look)

    def on_resize(self, event: events.Resize) -> None:
        """Choose the layout for the size."""
        width, height = event.size
        self.set_class(width < MIN_WIDTH or height < MIN_HEIGHT, "too-small")
        self.set_class(width < _COMPACT_BELOW[0] or height < _COMPACT_BELOW[1], "compact")
        self.set_class(width >= _WIDE_FROM[0] and height >= _WIDE_FROM[1], "wide")
        if self.view is not None:
            self.call_after_refresh(self.show, self.view)
