"""How things look: styles by role, icon and word by status, times and numbers in a few characters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from rich.cells import cell_len, set_cell_size
from rich.style import Style
from textual.theme import Theme

from cockpit.base.clock import parse_iso
from cockpit.base.text import visible

Segment: TypeAlias = tuple[str, Style]
Row: TypeAlias = tuple[Segment, ...]

PLAIN = Style()
_MOST_TEXT = 40_000


@dataclass(frozen=True, slots=True)
class Look:
    """Styles by meaning, made from a theme; `good`, `bad` and the like always come with icon and word."""

    text: Style
    strong: Style
    quiet: Style
    good: Style
    bad: Style
    warn: Style
    busy: Style
    mark: Style
    cursor: Style
    frame: Style

    @staticmethod
    def of(theme: Theme) -> Look:
        """Make the styles of a registered theme."""
        paper, ink = str(theme.background), str(theme.foreground)
        quiet = theme.variables.get("quiet", ink)

        def style(color: str | None, *, bold: bool = False) -> Style:
            return Style(color=color or ink, bold=bold)

        return Look(
            text=style(ink),
            strong=style(ink, bold=True),
            quiet=style(quiet),
            good=style(theme.success),
            bad=style(theme.error, bold=True),
            warn=style(theme.warning),
            busy=style(theme.primary),
            mark=style(theme.accent),
            # Reversed, not coloured: it must also be seen without any colour.
            cursor=Style(color=theme.variables.get("cursor", ink), bgcolor=paper, reverse=True),
            frame=style(theme.variables.get("frame", quiet)),
        )

    def block(self, style: Style) -> Style:
        """Return a style with the colours swapped, for badges and banners."""
        return style + Style(reverse=True, bold=True)


@dataclass(frozen=True, slots=True)
class Mark:
    """Icon, word and role of a status."""

    icon: str
    word: str
    role: str

    def style(self, look: Look) -> Style:
        """Return the style of the role."""
        style: Style = getattr(look, self.role)
        return style


_MARKS = {
    "idle": Mark("·", "waiting", "quiet"),
    "pending": Mark("·", "waiting", "quiet"),
    "skipped": Mark("–", "skipped", "quiet"),
    "not built": Mark("⊘", "not built", "quiet"),
    "running": Mark("▶", "running", "busy"),
    "ok": Mark("✓", "ok", "good"),
    "pass": Mark("✓", "pass", "good"),
    "advance": Mark("✓", "advance", "good"),
    "fail": Mark("✗", "FAIL", "bad"),
    "rollback": Mark("✗", "ROLLBACK", "bad"),
    "blocked": Mark("⊘", "blocked", "warn"),
    "needs_approval": Mark("?", "approval", "warn"),
    "invalid": Mark("✗", "INVALID", "bad"),
    "timeout": Mark("✗", "TIMEOUT", "bad"),
    "crash": Mark("✗", "CRASH", "bad"),
    "cancelled": Mark("○", "cancelled", "warn"),
    "refused": Mark("⊘", "refused", "warn"),
    "not evaluated": Mark("○", "not evaluated", "warn"),
    "no_data": Mark("?", "no data", "warn"),
    "low_traffic": Mark("?", "low traffic", "warn"),
    "provider_error": Mark("!", "provider error", "warn"),
    "inconclusive": Mark("?", "inconclusive", "warn"),
}


def mark(status: str) -> Mark:
    """Return icon, word and role; a status not known here is shown as it is, as a warning."""
    return _MARKS.get(status) or Mark("?", visible(status, limit=20), "warn")


def seconds_of(at: str) -> float | None:
    """Return the Unix seconds of a journal time, nothing when it is empty or wrong."""
    try:
        return parse_iso(at).timestamp() if at else None
    except ValueError:
        return None


def span(seconds: float) -> str:
    """Write a duration in at most six characters: `0 s`, `59 s`, `4m05`, `2h10`, `3d04h`."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def clock(seconds: float) -> str:
    """Write a duration as `h:mm:ss`."""
    whole = int(max(0.0, seconds))
    return f"{whole // 3600}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def number(value: object) -> str:
    """Write a metric's value for people: three significant digits, words for the rest."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if value != value:
            return "NaN"
        if value == int(value) and abs(value) < 1e6:
            return f"{int(value):,}"
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return visible(str(value), limit=80)


def fit(text: str, width: int) -> str:
    """Make outside text safe and exactly `width` cells wide; what is cut off shows as `…`."""
    text = visible(text, limit=400)
    if width <= 0:
        return ""
    if cell_len(text) <= width:
        return set_cell_size(text, width)
    return set_cell_size(text, width - 1) + "…"


def width_of(row: Iterable[Segment]) -> int:
    """Return the cells a row takes."""
    return sum(cell_len(text) for text, _ in row)


def spread(left: Row, right: Row, width: int) -> Row:
    """Put one part at the left edge and one at the right; the right part wins when there is no room."""
    room = width - width_of(right)
    return (*clip(left, room), *right) if room > 0 else clip(right, width)


def clip(row: Iterable[Segment], width: int) -> Row:
    """Cut or fill a row to exactly `width` cells."""
    out: list[Segment] = []
    left = width
    for text, style in row:
        size = cell_len(text)
        if size > left:
            # Only what is more than filling is missed when it is cut off.
            out.append((fit(text.rstrip(), left), style))
            left = 0
            break
        out.append((text, style))
        left -= size
    if left > 0:
        out.append((" " * left, PLAIN))
    return tuple(out)


def wrap(text: str, width: int, *, limit: int = 200) -> list[str]:
    """Break outside text into lines of at most `width` cells, at spaces if any; indentation stays."""
    lines: list[str] = []
    for paragraph in visible(text, limit=_MOST_TEXT, newlines=True).replace("\t", "    ").split("\n"):
        bare = paragraph.lstrip(" ")
        indent = min(len(paragraph) - len(bare), width // 2)
        lines += [" " * indent + line for line in _fill(bare, max(1, width - indent))]
        if len(lines) >= limit:
            return [*lines[: limit - 1], "…"]
    return lines


def _fill(text: str, width: int) -> list[str]:
    lines: list[str] = []
    line = ""
    for word in text.split(" "):
        while cell_len(word) > width:
            room = width - (cell_len(line) + 1 if line else 0)
            if room < 8 and line:
                lines.append(line)
                line, room = "", width
            head = set_cell_size(word, room).rstrip() or word[:1]
            lines.append(f"{line} {head}" if line else head)
            line, word = "", word[len(head) :]
        joined = f"{line} {word}" if line else word
        if cell_len(joined) > width:
            lines.append(line)
            joined = word
        line = joined
    return [*lines, line]
