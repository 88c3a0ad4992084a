"""The journal's tail."""

from __future__ import annotations

from typing import ClassVar

from rich.style import Style

from cockpit.journal.projection import TailLine
from cockpit.screens.look import Look, Row, fit
from cockpit.screens.view import View
from cockpit.screens.widgets.pane import Pane

_BAD = ("halt.began", "rollback.unfinished", "agent.failed", "effect.failed", "effect.unknown", "journal.gap")
_MARKED = (
    "run.opened",
    "run.closed",
    "run.resumed",
    "canary.released",
    "rollback.verified",
    "evidence.sealed",
)


class JournalTail(Pane):
    """A line a record, the newest last; it follows what comes while the last line is chosen."""

    TITLE: ClassVar[str] = "Journal"
    SELECTS: ClassVar[bool] = True

    filter = ""
    following = True

    def __init__(self, look: Look, *, id: str) -> None:
        super().__init__(look, id=id)
        self._made: dict[int, tuple[TailLine, Row]] = {}
        self._made_for: tuple[int, Look] = (0, look)

    def title(self, view: View) -> str:
        """Return the title with the last sequence number and how it is followed."""
        parts = [f"Journal #{view.state.seq}" if view.state.seq >= 0 else "Journal"]
        parts += [] if self.following else ["standing still, G follows"]
        parts += [f"filter “{fit(self.filter, min(20, len(self.filter)))}”"] if self.filter else []
        return " · ".join(parts)

    def keys(self) -> list[str]:
        """Return the records' sequence numbers, or `break` for the break in the chain."""
        return self._ids

    def rows(self, view: View, width: int, height: int) -> list[Row]:
        """Return the lines kept, those the filter leaves, and a mark where the chain is broken."""
        lines = list(view.projection.tail)
        if self.filter:
            wanted = self.filter.casefold()
            lines = [line for line in lines if wanted in f"#{line.seq} {line.kind} {line.text}".casefold()]
        self._ids = [str(line.seq) for line in lines]
        rows = [self._known(line, width) for line in lines]
        playback = view.playback
        if view.chain.checked == "broken" and (playback is None or playback.position >= playback.length):
            text = f" ✗ {view.chain.verdict}: {view.chain.text}"
            rows.append(((fit(text, width), self.look.block(self.look.bad)),))
            self._ids.append("break")
        if not rows:
            self._ids = [""]
            text = "no record matches the filter" if self.filter else "no record yet"
            return [((f" {text}", self.look.quiet),)]
        return rows

    def show(self, view: View) -> None:
        """Take a new view; follow its end unless a line further up was chosen."""
        if self.following:
            self.cursor_key = ""
        super().show(view)
        if self.following:
            self.cursor = max(0, len(self._rows) - 1)
            bottom = max(0, len(self._rows) - self.scrollable_content_region.height)
            if self.scroll_offset.y != bottom:
                self.scroll_to(y=bottom, animate=False, force=True)
                self.refresh()

    def move(self, rows: int) -> None:
        """Move the choice; reaching the last line follows again."""
        super().move(rows)
        self.following = self.cursor >= len(self._rows) - 1

    def _known(self, line: TailLine, width: int) -> Row:
        # A record's line never changes: it is made once for a width and a look.
        if self._made_for != (width, self.look) or len(self._made) > 5000:
            self._made, self._made_for = {}, (width, self.look)
        made = self._made.get(line.seq)
        if made is None or made[0] is not line:
            made = self._made[line.seq] = (line, self._row(line, width))
        return made[1]

    def _row(self, line: TailLine, width: int) -> Row:
        look = self.look
        clock = line.at[11:19]
        return (
            (f"{line.seq:>6} ", look.quiet),
            (f"{fit(clock, 8)} ", look.quiet),
            (fit(line.kind, 20) + " ", kind_style(line.kind, line.text, look)),
            (fit(line.text, width - 37), look.text),
        )


def kind_style(kind: str, text: str, look: Look) -> Style:
    """Return the style of a record's type."""
    if kind in _BAD or (kind == "log.noted" and text.startswith("level=error")):
        return look.bad
    if kind.startswith(("halt.", "rollback.", "question.")):
        return look.warn
    if kind in _MARKED:
        return look.mark
    return look.busy if kind.startswith("canary.") else look.quiet
