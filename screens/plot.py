"""Plots in braille dots: two by four to a character cell, several series over one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.style import Style

from cockpit.journal.projection import Point
from cockpit.screens.look import Row, Segment

# Unicode numbers the dots of a cell column by column, the fourth row added later (U+2800 block).
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
_SPARKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True, slots=True)
class Series:
    """A named line of a plot."""

    name: str
    points: Sequence[Point]
    style: Style


class Canvas:
    """A grid of `width` by `height` cells; dots count from the top left, 2·width by 4·height of them."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._bits = [[0] * width for _ in range(height)]
        self._chars: list[list[str]] = [[""] * width for _ in range(height)]
        self._styles: list[list[Style | None]] = [[None] * width for _ in range(height)]

    def dot(self, x: int, y: int, style: Style) -> None:
        """Set a dot; outside the canvas nothing happens. The latest style of a cell wins."""
        if 0 <= x < 2 * self.width and 0 <= y < 4 * self.height:
            self._bits[y // 4][x // 2] |= _DOTS[y % 4][x % 2]
            self._styles[y // 4][x // 2] = style

    def line(self, x0: int, y0: int, x1: int, y1: int, style: Style) -> None:
        """Draw a straight line between two dots."""
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        if steps > 8 * (self.width + self.height):
            return
        for step in range(steps + 1):
            self.dot(round(x0 + (x1 - x0) * step / steps), round(y0 + (y1 - y0) * step / steps), style)

    def char(self, column: int, row: int, char: str, style: Style) -> None:
        """Put a character behind the dots: it shows where no dot is."""
        if 0 <= column < self.width and 0 <= row < self.height:
            self._chars[row][column] = char
            if not self._bits[row][column]:
                self._styles[row][column] = style

    def rows(self, plain: Style) -> list[Row]:
        """Return the canvas as rows of segments, neighbours of one style joined."""
        out: list[Row] = []
        for bits, chars, styles in zip(self._bits, self._chars, self._styles, strict=True):
            row: list[Segment] = []
            text, current = "", plain
            for dots, char, style in zip(bits, chars, styles, strict=True):
                style = style or plain
                if style != current and text:
                    row.append((text, current))
                    text = ""
                current = style
                text += chr(0x2800 + dots) if dots else char or " "
            row.append((text, current))
            out.append(tuple(row))
        return out


@dataclass(frozen=True, slots=True)
class Axes:
    """What a plot spans: seconds from `begin` to `end`, values from 0 to `top`."""

    begin: float
    end: float
    top: float

    def x(self, at: float, dots: int) -> int:
        """Return the column of a moment on an axis of `dots`."""
        return round((at - self.begin) / max(self.end - self.begin, 1e-9) * (dots - 1))

    def y(self, value: float, dots: int) -> int:
        """Return the row of a value on an axis of `dots`; too large a value is drawn at the top."""
        return round((1 - min(max(value, 0.0), self.top) / self.top) * (dots - 1))


def draw(canvas: Canvas, axes: Axes, series: Sequence[Series]) -> None:
    """Draw each series; a value that could not be measured leaves a hole, never a zero."""
    wide, high = 2 * canvas.width, 4 * canvas.height
    for one in series:
        before: tuple[int, int] | None = None
        for point in one.points:
            if point.value is None or point.value != point.value:
                before = None
                continue
            here = (axes.x(point.at, wide), axes.y(point.value, high))
            if before is None:
                canvas.dot(*here, one.style)
            else:
                canvas.line(*before, *here, one.style)
            before = here


def sparkline(points: Sequence[Point], width: int) -> str:
    """Return values as `width` blocks, scaled to their own highest; holes are blanks, few are stretched."""
    count = len(points)
    recent = [points[index * count // width] for index in range(width)] if count else []
    top = max(
        (point.value for point in recent if point.value is not None and point.value == point.value),
        default=0.0,
    )
    out = ""
    for point in recent:
        if point.value is None or point.value != point.value:
            out += " "
        else:
            out += _SPARKS[min(7, int(point.value / top * 7.999))] if top > 0 else _SPARKS[0]
    return out
