"""The base of every live pane: fixed in place, painted by line, repainted only where something changed."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment as RichSegment
from textual import events
from textual.content import Content
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from cockpit.screens.look import Look, Row, clip
from cockpit.screens.view import View


class Pane(ScrollView, can_focus=True, inherit_bindings=False):
    """A titled box of rows. Subclasses say what the rows are; this class scrolls, selects and paints them.

    Rows are compared before painting, so an unchanged line costs nothing.
    """

    TITLE: ClassVar[str] = ""
    SELECTS: ClassVar[bool] = False
    """Whether single rows can be chosen; else the pane is opened as a whole."""

    class Opened(Message):
        """A row (its key) or a pane as a whole (empty key) shall be shown in full."""

        def __init__(self, pane: Pane, key: str) -> None:
            super().__init__()
            self.pane = pane
            self.key = key

    def __init__(self, look: Look, *, id: str) -> None:
        super().__init__(id=id)
        self.look = look
        self.cursor = 0
        self.cursor_key = ""
        self._view: View | None = None
        self._rows: list[Row] = []
        self._keys: list[str] = []
        self._painted: dict[int, tuple[Row, bool, int, Strip]] = {}
        self._titles = ("", "")
        self.border_title = self.TITLE

    # -- what subclasses say ----------------------------------------------------------------------------

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the rows for a view at an inner size in cells."""
        raise NotImplementedError

    def keys(self) -> list[str]:
        """Return a key for each row of the last `rows`, when rows can be chosen."""
        return []

    def fresh(self, view: View) -> str:
        """Return the time of the newest data shown, as journaled; empty when there is none."""
        return view.state.at

    def title(self, view: View) -> str:
        """Return the title at the left of the border."""
        return self.TITLE

    # -- showing ----------------------------------------------------------------------------------------

    def show(self, view: View) -> None:
        """Take a new view and repaint what differs."""
        self._view = view
        size = self.scrollable_content_region.size
        if not size.width or not size.height:
            return
        rows = self.rows(view, size.width, size.height)
        keys = self.keys() if self.SELECTS else []
        titles = (self.title(view), view.age(self.fresh(view)))
        if titles != self._titles:
            self._titles = titles
            self.border_title, self.border_subtitle = Content(titles[0]), Content(titles[1])
        before, self._rows, self._keys = self._rows, rows, keys
        moved = self._follow_cursor()
        extent = Size(size.width, len(rows))
        if extent != self.virtual_size:
            self.virtual_size = extent
            self._painted.clear()
            self.refresh()
            self.call_after_refresh(self._place_scrollbar)
            return
        if moved:
            self.refresh()
            return
        changed = [y for y, (old, new) in enumerate(zip(before, rows, strict=False)) if old != new]
        top = self.scroll_offset.y
        for y in changed:
            if 0 <= y - top < size.height:
                self.refresh(Region(0, y - top, size.width, 1))

    def _place_scrollbar(self) -> None:
        # The bar may have come up only after the rows were scrolled.
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.position = self.scroll_y

    def restyle(self, look: Look) -> None:
        """Take a new look after the theme changed."""
        self.look = look
        self._painted.clear()
        if self._view is not None:
            self.show(self._view)
        self.refresh()

    def on_resize(self) -> None:
        """Lay the rows out for the new size."""
        self._painted.clear()
        if self._view is not None:
            self.show(self._view)

    def render_line(self, y: int) -> Strip:
        """Return one visible line, from the cache when its row has not changed."""
        width = self.scrollable_content_region.width
        at = y + self.scroll_offset.y
        if at >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        row, chosen = self._rows[at], self.SELECTS and self.has_focus and at == self.cursor
        known = self._painted.get(at)
        if known is not None and known[0] == row and known[1] == chosen and known[2] == width:
            return known[3]
        segments = [RichSegment(text, style) for text, style in clip(row, width)]
        if chosen:
            segments = [RichSegment(text, self.look.cursor) for text, _, _ in segments]
        strip = Strip(segments, width).apply_style(self.rich_style)
        if len(self._painted) > 500:
            self._painted.clear()
        self._painted[at] = (row, chosen, width, strip)
        return strip

    # -- moving -----------------------------------------------------------------------------------------

    def _follow_cursor(self) -> bool:
        """Keep the chosen row chosen when rows move; says whether its place changed."""
        before = self.cursor
        if self.cursor_key and self.cursor_key in self._keys:
            self.cursor = self._keys.index(self.cursor_key)
        self.cursor = max(0, min(self.cursor, len(self._rows) - 1))
        return before != self.cursor and self.has_focus

    def move(self, rows: int) -> None:
        """Move the choice, or scroll where rows cannot be chosen."""
        if not self.SELECTS:
            self.scroll_to(y=self.scroll_offset.y + rows, animate=False, force=True)
            return
        before = self.cursor
        self.cursor = max(0, min(self.cursor + rows, len(self._rows) - 1))
        self.cursor_key = self._keys[self.cursor] if self.cursor < len(self._keys) else ""
        self.refresh_line(before)
        self.refresh_line(self.cursor)
        self.reveal()

    def reveal(self) -> None:
        """Scroll so that the chosen row is seen."""
        height, top = self.scrollable_content_region.height, self.scroll_offset.y
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False, force=True)
        elif self.cursor >= top + height:
            self.scroll_to(y=self.cursor - height + 1, animate=False, force=True)

    @property
    def page(self) -> int:
        """The rows of a page."""
        return max(1, self.scrollable_content_region.height - 1)

    def open(self) -> None:
        """Ask for the chosen row, or the pane, to be shown in full."""
        self.post_message(self.Opened(self, self.chosen_key))

    @property
    def chosen_key(self) -> str:
        """The key of the chosen row; empty where rows cannot be chosen."""
        return self._keys[self.cursor] if self.SELECTS and self.cursor < len(self._keys) else ""

    def on_focus(self) -> None:
        """Show the choice."""
        self.refresh()

    def on_blur(self) -> None:
        """Hide the choice."""
        self.refresh()

    def on_click(self, event: events.Click) -> None:
        """Choose the row under the pointer; open it when it was chosen already or on a double click."""
        if not self.SELECTS:
            if event.chain > 1:
                self.open()
            return
        offset = event.get_content_offset(self)
        if offset is None:
            return
        at = offset.y + self.scroll_offset.y
        if at < len(self._rows):
            again = at == self.cursor and event.chain > 1
            self.move(at - self.cursor)
            if again:
                self.open()
