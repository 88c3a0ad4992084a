"""The themes, and the filters that leave out colours (`NO_COLOR`) or everything beyond ASCII (`--ascii`)."""

from __future__ import annotations

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.theme import Theme


def _theme(name: str, *, dark: bool = True, **colours: str) -> Theme:
    quiet, frame, cursor = colours.pop("quiet"), colours.pop("frame"), colours.pop("cursor")
    variables = {
        "quiet": quiet,
        "frame": frame,
        "cursor": cursor,
        "border": frame,
        "input-cursor-background": colours["foreground"],
        "scrollbar": frame,
        "scrollbar-background": colours["background"],
        "scrollbar-corner-color": colours["background"],
    }
    return Theme(
        name=name,
        dark=dark,
        variables=variables,
        primary=colours["primary"],
        secondary=colours["accent"],
        accent=colours["accent"],
        foreground=colours["foreground"],
        background=colours["background"],
        surface=colours["surface"],
        panel=colours["panel"],
        success=colours["success"],
        warning=colours["warning"],
        error=colours["error"],
    )


THEMES: tuple[Theme, ...] = (
    _theme(
        "cockpit-dark",
        background="#0e131a",
        surface="#141b24",
        panel="#1c2531",
        foreground="#d5dce5",
        quiet="#7f8c9c",
        frame="#2f3b49",
        cursor="#b9c6d6",
        primary="#62aef0",
        accent="#b99af5",
        success="#62c48a",
        warning="#e3b65b",
        error="#ff6b74",
    ),
    _theme(
        "cockpit-light",
        dark=False,
        background="#fafbfc",
        surface="#f0f2f5",
        panel="#e3e7ec",
        foreground="#1d2733",
        quiet="#5d6a79",
        frame="#b4bdc8",
        cursor="#33465c",
        primary="#0b62b0",
        accent="#6a3fb5",
        success="#176b3a",
        warning="#8a5a00",
        error="#b3141f",
    ),
    # The colours of Okabe and Ito, chosen so that all common kinds of colour blindness tell them apart.
    _theme(
        "cockpit-colour-blind",
        background="#0e131a",
        surface="#141b24",
        panel="#1c2531",
        foreground="#e6e9ee",
        quiet="#8e99a8",
        frame="#36424f",
        cursor="#c6d0dc",
        primary="#cc79a7",
        accent="#f0f0f0",
        success="#56b4e9",
        warning="#f0e442",
        error="#e8701a",
    ),
    _theme(
        "cockpit-contrast",
        background="#000000",
        surface="#000000",
        panel="#1a1a1a",
        foreground="#ffffff",
        quiet="#cfcfcf",
        frame="#9a9a9a",
        cursor="#ffffff",
        primary="#4de1ff",
        accent="#ffb3ff",
        success="#3dff7a",
        warning="#ffee33",
        error="#ff7b7b",
    ),
)


class NoColour(LineFilter):
    """Drops every colour; bold, reverse and underline stay and carry the meaning, with icon and word."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments without colours."""
        return [Segment(text, _colourless(style), control) for text, style, control in segments]


def _colourless(style: Style | None) -> Style | None:
    if style is None:
        return None
    return Style(
        bold=style.bold, dim=style.dim, italic=style.italic, underline=style.underline, reverse=style.reverse
    ) + Style.from_meta(style.meta)


_ASCII = str.maketrans(
    {
        "✓": "+", "✗": "x", "●": "*", "○": "o", "▶": ">", "▷": ">", "■": "#", "⊘": "%", "·": ".", "–": "-",
        "—": "-", "…": "~", "×": "x", "≤": "<", "≥": ">", "→": ">", "←": "<", "↑": "^", "↓": "v", "⇧": "^",
        "½": "5", "─": "-", "│": "|", "┌": "+", "┐": "+", "└": "+", "┘": "+", "├": "+", "┤": "+", "┬": "+",
        "┴": "+", "┼": "+", "╭": "+", "╮": "+", "╰": "+", "╯": "+", "━": "=", "┃": "|", "╌": "-", "╎": ":",
        "█": "#", "▌": "#", "▐": "#", "▉": "#", "▊": "#", "▋": "#", "▍": "|", "▎": "|", "▏": "|", "░": ".",
        "▒": ":", "▓": "#", "▔": "-", "▁": "_", "▂": "_", "▃": ".", "▄": "-", "▅": "=", "▆": "=", "▇": "#",
        "▀": "-", "┄": "-", "┆": ":", "’": "'", "“": '"', "”": '"', "║": "|", "═": "=", "⏸": "=",
    }
)  # fmt: skip


class Ascii(LineFilter):
    """Puts an ASCII character for every cell, whatever drew it: panes, borders, scroll bars, outside text."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """Return the segments in ASCII; widths stay as they were."""
        return [Segment(to_ascii(text), style, control) for text, style, control in segments]


def to_ascii(text: str) -> str:
    """Return text in ASCII of the same width in cells."""
    if text.isascii():
        return text
    return "".join(
        char if char.isascii() else _braille(char) or "?" * cell_len(char) for char in text.translate(_ASCII)
    )


def _braille(char: str) -> str:
    dots = ord(char) - 0x2800
    if not 0 <= dots <= 0xFF:
        return ""
    upper, lower = dots & 0b00011011, dots & 0b11100100
    return ":" if upper and lower else "'" if upper else "." if lower else " "
